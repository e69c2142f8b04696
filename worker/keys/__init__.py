"""Where session keys live: Vault, or encrypted keystore files on a laptop."""
