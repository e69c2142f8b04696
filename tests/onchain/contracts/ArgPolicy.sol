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

struct Tree {
    uint8 root;
    Rule[] rules;
    uint256[] nodes;
}

struct Config {
    uint256 valuePerUse;
    Tree tree;
}

/// @title arg-policy by policies.md 2: a stand-in, for where the public contract is not at hand
/// @dev The mapping is in slot 0 and the structs are laid out as in the public contract: the sums are read from storage.
contract ArgPolicy {
    mapping(bytes32 => mapping(address => mapping(address => Config))) private _configs;

    error NoRules();
    error TooMuchValue();
    error OutOfRange();

    function initializeWithMultiplexer(address account, bytes32 id, bytes calldata initData) external {
        Config memory given = abi.decode(initData, (Config));
        uint256 nodes = given.tree.nodes.length;
        uint256 rules = given.tree.rules.length;
        if (given.tree.root >= nodes || rules > 128 || nodes > 255) revert OutOfRange();
        Config storage config = _configs[id][msg.sender][account];
        delete config.tree;
        config.valuePerUse = given.valuePerUse;
        config.tree.root = given.tree.root;
        for (uint256 i; i < rules; ++i) config.tree.rules.push(given.tree.rules[i]);
        for (uint256 i; i < nodes; ++i) {
            uint256 node = given.tree.nodes[i];
            uint256 kind = node & 3;
            if (kind == 0 ? _byte(node, 2) >= rules : _byte(node, 10) >= nodes) revert OutOfRange();
            if (kind > 1 && _byte(node, 18) >= nodes) revert OutOfRange();
            config.tree.nodes.push(node);
        }
    }

    function checkAction(bytes32 id, address account, address, uint256 value, bytes calldata data)
        external
        returns (uint256)
    {
        Config storage config = _configs[id][msg.sender][account];
        if (config.tree.rules.length == 0) revert NoRules();
        if (value > config.valuePerUse) revert TooMuchValue();
        return _true(config.tree, config.tree.root, data) ? 0 : 1;
    }

    function _true(Tree storage tree, uint256 index, bytes calldata data) private returns (bool) {
        uint256 node = tree.nodes[index];
        uint256 kind = node & 3;
        if (kind == 0) return _holds(tree.rules[_byte(node, 2)], data);
        bool left = _true(tree, _byte(node, 10), data);
        if (kind == 1) return !left;
        return left == (kind == 2) ? _true(tree, _byte(node, 18), data) : left;
    }

    function _byte(uint256 node, uint256 shift) private pure returns (uint256) {
        return uint8(node >> shift);
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
