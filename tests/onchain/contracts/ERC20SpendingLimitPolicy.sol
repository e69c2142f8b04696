// SPDX-License-Identifier: MIT
pragma solidity 0.8.30;

/// @title spending-limits by policies.md 2: a stand-in, for where the public contract is not at hand
contract ERC20SpendingLimitPolicy {
    struct Token {
        uint256 limit;
        uint256 spent;
        uint256 approved;
    }

    /// @dev A new enabling starts a new round, so that nothing of an older one is left.
    mapping(bytes32 => mapping(address => mapping(address => uint256))) private _round;
    mapping(bytes32 => mapping(address => Token)) private _tokens;

    error NoToken();
    error UnequalLists();

    function initializeWithMultiplexer(address account, bytes32 id, bytes calldata initData) external {
        (address[] memory tokens, uint256[] memory limits) = abi.decode(initData, (address[], uint256[]));
        if (tokens.length != limits.length) revert UnequalLists();
        ++_round[id][msg.sender][account];
        for (uint256 i; i < tokens.length; ++i) {
            if (tokens[i] == address(0) || limits[i] == 0) revert NoToken();
            _token(id, msg.sender, account, tokens[i]).limit = limits[i];
        }
    }

    function checkAction(bytes32 id, address account, address target, uint256 value, bytes calldata data)
        external
        returns (uint256)
    {
        if (value > 0) return 1;
        bytes4 selector = bytes4(data[:4]);
        uint256 amount;
        bool approving = selector == 0x095ea7b3 || selector == 0x39509351;
        if (approving || selector == 0xa9059cbb) {
            (, amount) = abi.decode(data[4:], (address, uint256));
        } else if (selector == 0x23b872dd) {
            address to;
            (, to, amount) = abi.decode(data[4:], (address, address, uint256));
            if (to == account) amount = 0;
        } else {
            return 1;
        }
        if (target == address(0)) revert NoToken();
        Token storage token = _token(id, msg.sender, account, target);
        uint256 spent = approving ? token.spent : token.spent + amount;
        uint256 approved = approving ? token.approved + amount : token.approved;
        if (spent + approved > token.limit) return 1;
        (token.spent, token.approved) = (spent, approved);
        return 0;
    }

    function getPolicyData(bytes32 id, address multiplexer, address token, address account)
        external
        view
        returns (uint256, uint256, uint256)
    {
        Token storage found = _token(id, multiplexer, account, token);
        if (found.limit == 0) revert NoToken();
        return (found.limit, found.spent, found.approved);
    }

    function _token(bytes32 id, address multiplexer, address account, address token)
        private
        view
        returns (Token storage)
    {
        return _tokens[keccak256(abi.encode(id, multiplexer, account, _round[id][multiplexer][account]))][token];
    }
}
