// SPDX-License-Identifier: MIT
pragma solidity 0.8.30;

/// @title usage-limit by policies.md 2: a stand-in, for where the public contract is not at hand
contract UsageLimitPolicy {
    struct Uses {
        uint128 most;
        uint128 done;
    }

    mapping(bytes32 => mapping(address => mapping(address => Uses))) private _uses;

    function initializeWithMultiplexer(address account, bytes32 id, bytes calldata initData) external {
        uint128 most = uint128(bytes16(initData[:16]));
        require(most > 0);
        _uses[id][msg.sender][account] = Uses(most, 0);
    }

    function checkAction(bytes32 id, address account, address, uint256, bytes calldata)
        external
        returns (uint256)
    {
        Uses storage uses = _uses[id][msg.sender][account];
        if (uses.done >= uses.most) return 1;
        ++uses.done;
        return 0;
    }

    function getUsageLimit(bytes32 id, address multiplexer, address account) external view returns (uint128) {
        return _uses[id][multiplexer][account].most;
    }

    function getUsed(bytes32 id, address multiplexer, address account) external view returns (uint128) {
        return _uses[id][multiplexer][account].done;
    }
}
