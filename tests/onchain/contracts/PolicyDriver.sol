// SPDX-License-Identifier: MIT
pragma solidity 0.8.30;

interface IActionPolicy {
    function initializeWithMultiplexer(address account, bytes32 configId, bytes calldata initData) external;
    function checkAction(bytes32 id, address account, address target, uint256 value, bytes calldata data)
        external
        returns (uint256);
}

interface ITimedPolicy {
    function check1271SignedAction(
        bytes32 id,
        address requestSender,
        address account,
        bytes32 hash,
        bytes calldata signature
    ) external view returns (bool);
}

/// @title Runs a sequence of enablings and operations against policy contracts, in one call
/// @notice Stands where the session contract stands: it keeps each session's actions, finds the policies of a call as
///         policies.md 1 has it, and is the caller that the policies keep their state for. A step that fails is undone
///         as a whole. A window that a policy reports is held by the policy's own ERC-1271 form, which the session
///         contract leaves out. Written for `eth_call`: nothing of a sequence stays.
contract PolicyDriver {
    struct Policy {
        address policy;
        bytes initData;
    }

    struct Action {
        address target;
        bytes4 selector;
        Policy[] policies;
    }

    struct Execution {
        address target;
        uint256 value;
        bytes data;
    }

    /// @dev An operation, or with `enabling` the (further) enabling of a session.
    struct Step {
        bool enabling;
        address account;
        bytes32 permissionId;
        Action[] actions;
        Execution[] executions;
    }

    /// @dev A question that is asked after each step.
    struct Probe {
        address target;
        bytes data;
    }

    /// @dev `seen`: for each probe 01 and the answer, or 00.
    struct Outcome {
        bool passed;
        bytes revertData;
        bytes seen;
    }

    address private constant SENTINEL = address(1);
    bytes4 private constant FALLBACK = 0x00000001;
    bytes4 private constant EXECUTE = 0xe9ae5c53;
    /// @dev Ten times what the largest enabling takes. A step that runs out of stack burns all it has.
    uint256 private constant STEP_GAS = 200_000_000;

    mapping(bytes32 configId => address[]) private _policies;

    error OnlyItself();
    error EmptyOperation();
    error NestedExecute();
    error ReservedTarget();
    error NoPolicies();
    error Refused(address policy, uint256 result);
    error OutsideWindow(address policy);

    function run(Step[] calldata steps, Probe[] calldata probes)
        external
        returns (uint256 timestamp, Outcome[] memory outcomes)
    {
        outcomes = new Outcome[](steps.length);
        for (uint256 i; i < steps.length; ++i) {
            try this.take{gas: STEP_GAS}(steps[i]) {
                outcomes[i].passed = true;
            } catch (bytes memory why) {
                outcomes[i].revertData = why;
            }
            outcomes[i].seen = _ask(probes);
        }
        timestamp = block.timestamp;
    }

    function take(Step calldata step) external {
        if (msg.sender != address(this)) revert OnlyItself();
        if (step.enabling) {
            for (uint256 i; i < step.actions.length; ++i) {
                _enable(step.account, step.permissionId, step.actions[i]);
            }
            return;
        }
        if (step.executions.length == 0) revert EmptyOperation();
        for (uint256 i; i < step.executions.length; ++i) {
            _check(step.account, step.permissionId, step.executions[i]);
        }
    }

    function _enable(address account, bytes32 permissionId, Action calldata action) private {
        bytes32 id = _configId(account, permissionId, action.target, action.selector);
        address[] storage known = _policies[id];
        for (uint256 i; i < action.policies.length; ++i) {
            address policy = action.policies[i].policy;
            bool found;
            for (uint256 j; j < known.length; ++j) found = found || known[j] == policy;
            if (!found) known.push(policy);
            IActionPolicy(policy).initializeWithMultiplexer(account, id, action.policies[i].initData);
        }
    }

    function _check(address account, bytes32 permissionId, Execution calldata call) private {
        bytes4 selector = call.data.length < 4 ? bytes4(0xffffffff) : bytes4(call.data[:4]);
        if (call.target == account && selector == EXECUTE) revert NestedExecute();
        if (call.target == SENTINEL || call.target == address(this)) revert ReservedTarget();
        bytes32 id = _configId(account, permissionId, call.target, selector);
        if (_policies[id].length == 0) id = _configId(account, permissionId, SENTINEL, FALLBACK);
        address[] storage policies = _policies[id];
        if (policies.length == 0) revert NoPolicies();
        for (uint256 i; i < policies.length; ++i) {
            address policy = policies[i];
            uint256 result = IActionPolicy(policy).checkAction(id, account, call.target, call.value, call.data);
            if (uint160(result) != 0) revert Refused(policy, result);
            if (result != 0 && !ITimedPolicy(policy).check1271SignedAction(id, address(this), account, 0, "")) {
                revert OutsideWindow(policy);
            }
        }
    }

    function _configId(address account, bytes32 permissionId, address target, bytes4 selector)
        private
        pure
        returns (bytes32)
    {
        bytes32 actionId = keccak256(bytes.concat(bytes20(target), selector));
        return keccak256(bytes.concat(bytes20(account), keccak256(bytes.concat(permissionId, actionId))));
    }

    function _ask(Probe[] calldata probes) private view returns (bytes memory seen) {
        for (uint256 i; i < probes.length; ++i) {
            (bool ok, bytes memory answer) = probes[i].target.staticcall(probes[i].data);
            seen = ok ? bytes.concat(seen, hex"01", answer) : bytes.concat(seen, hex"00");
        }
    }
}
