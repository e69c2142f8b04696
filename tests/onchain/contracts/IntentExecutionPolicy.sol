// SPDX-License-Identifier: MIT
pragma solidity 0.8.30;

/// @title intent-execution by policies.md 2, owned by everybody: a stand-in, for where the public contract is not at hand
contract IntentExecutionPolicy {
    address public paymaster;
    mapping(address => bool) public whitelistedTargets;

    function setPaymaster(address listed) external {
        paymaster = listed;
    }

    function setWhitelistedTarget(address target, bool allowed) external {
        whitelistedTargets[target] = allowed;
    }

    function initializeWithMultiplexer(address, bytes32, bytes calldata) external pure {}

    function checkAction(bytes32, address, address target, uint256, bytes calldata data)
        external
        view
        returns (uint256)
    {
        if (whitelistedTargets[target]) return 0;
        if (data.length < 36 || bytes4(data[:4]) != 0x095ea7b3) return 1;
        address spender = address(bytes20(data[16:36]));
        return spender == paymaster || whitelistedTargets[spender] ? 0 : 1;
    }
}
