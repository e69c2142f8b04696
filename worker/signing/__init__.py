"""Pure functions over bytes: EIP-712, emissary and ERC-1271 packing, FastLZ, owner signatures."""
