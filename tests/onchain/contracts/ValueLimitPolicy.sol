// SPDX-License-Identifier: MIT
pragma solidity 0.8.30;

/// @title value-limit by policies.md 2: a stand-in, for where the public contract is not at hand
contract ValueLimitPolicy {
    mapping(bytes32 => mapping(address => mapping(address => uint256[2]))) private _mostAndSent;

    function initializeWithMultiplexer(address account, bytes32 id, bytes calldata initData) external {
        uint256 most = uint256(bytes32(initData[:32]));
        require(most > 0);
        _mostAndSent[id][msg.sender][account] = [most, 0];
    }

    function checkAction(bytes32 id, address account, address, uint256 value, bytes calldata)
        external
        returns (uint256)
    {
        uint256[2] storage state = _mostAndSent[id][msg.sender][account];
        uint256 sum = state[1] + value;
        if (sum > state[0]) return 1;
        state[1] = sum;
        return 0;
    }

    function getValueLimit(bytes32 id, address multiplexer, address account) external view returns (uint256) {
        return _mostAndSent[id][multiplexer][account][0];
    }

    function getUsed(bytes32 id, address multiplexer, address account) external view returns (uint256) {
        return _mostAndSent[id][multiplexer][account][1];
    }
}
