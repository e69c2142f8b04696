// SPDX-License-Identifier: MIT
pragma solidity 0.8.30;

struct Rule {
    uint8 condition;
    uint64 offset;
    bool limited;
    uint256 ref;
    uint256 limit;
    uint256 used;
}

struct Rules {
    uint256 count;
    Rule[16] list;
}

struct Config {
    uint256 valuePerUse;
    Rules rules;
}

/// @title universal-action by policies.md 2: a stand-in, for where the public contract is not at hand
/// @dev The mapping is in slot 0 and the structs are laid out as in the public contract: the sums are read from storage.
contract UniActionPolicy {
    mapping(bytes32 => mapping(address => mapping(address => Config))) private _configs;

    error NoRules();
    error TooMuchValue();

    function initializeWithMultiplexer(address account, bytes32 id, bytes calldata initData) external {
        Config memory given = abi.decode(initData, (Config));
        Config storage config = _configs[id][msg.sender][account];
        config.valuePerUse = given.valuePerUse;
        config.rules.count = given.rules.count;
        for (uint256 i; i < given.rules.count; ++i) config.rules.list[i] = given.rules.list[i];
    }

    function checkAction(bytes32 id, address account, address, uint256 value, bytes calldata data)
        external
        returns (uint256)
    {
        Config storage config = _configs[id][msg.sender][account];
        uint256 count = config.rules.count;
        if (count == 0) revert NoRules();
        if (value > config.valuePerUse) revert TooMuchValue();
        for (uint256 i; i < count; ++i) {
            if (!_holds(config.rules.list[i], data)) return 1;
        }
        return 0;
    }

    function _holds(Rule storage rule, bytes calldata data) private returns (bool) {
        uint256 start = uint256(rule.offset) + 4;
        uint256 word = uint256(bytes32(data[start:start + 32]));
        uint256 ref = rule.ref;
        uint8 condition = rule.condition;
        bool holds;
        if (condition == 0) holds = word == ref;
        else if (condition == 1) holds = word > ref;
        else if (condition == 2) holds = word < ref;
        else if (condition == 3) holds = word >= ref;
        else if (condition == 4) holds = word <= ref;
        else if (condition == 5) holds = word != ref;
        else holds = word >= ref >> 128 && word <= uint128(ref);
        if (!holds || !rule.limited) return holds;
        uint256 sum = rule.used + word;
        if (sum > rule.limit) return false;
        rule.used = sum;
        return true;
    }
}
