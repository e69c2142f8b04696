// SPDX-License-Identifier: MIT
pragma solidity 0.8.30;

import {Call} from "./DevAccount.sol";
import {DevExecutor} from "./DevExecutor.sol";
import {DevPermit2} from "./DevPermit2.sol";

struct Token {
    address token;
    uint256 amount;
}

struct Target {
    address recipient;
    Token[] tokenOut;
    uint256 targetChain;
    uint256 fillExpiry;
}

struct Op {
    bytes32 vt;
    Call[] ops;
}

struct Mandate {
    Target target;
    uint128 minGas;
    Op originOps;
    Op destOps;
    bytes32 q;
}

/// @title A stand-in for the arbiter of a settlement layer
/// @notice Put at a production address. It claims on the source chain what the relayer has paid for on the target chain:
///         it makes the account's own calls that come before, then takes the tokens by Permit2, with the hash of the
///         mandate as the witness. All of it or nothing, and once: Permit2 takes the nonce once. That the fill has
///         happened is the relayer's word; the real arbiter has a proof from the settlement layer.
contract DevArbiter {
    DevExecutor public constant EXECUTOR = DevExecutor(0x00000000005aD9ce1f5035FD62CA96CEf16AdAAF);
    DevPermit2 public constant PERMIT2 = DevPermit2(0x000000000022D473030F116dDEE9F6B43aC78BA3);

    string private constant OP = "Op(bytes32 vt,Ops[] ops)";
    string private constant OPS = "Ops(address to,uint256 value,bytes data)";
    string private constant TARGET =
        "Target(address recipient,Token[] tokenOut,uint256 targetChain,uint256 fillExpiry)";
    string private constant TOKEN = "Token(address token,uint256 amount)";
    string private constant MANDATE = "Mandate(Target target,uint128 minGas,Op originOps,Op destOps,bytes32 q)";

    event Claimed(address indexed account, uint256 indexed nonce);

    error OnlyRelayer();

    /// @param setConfigCall as in the executor: enables the session before its calls are made.
    function claim(
        address payable account,
        bytes calldata setConfigCall,
        DevPermit2.PermitBatchTransferFrom calldata permit,
        Mandate calldata mandate,
        bytes calldata signature
    ) external {
        if (msg.sender != EXECUTOR.relayer()) revert OnlyRelayer();
        EXECUTOR.preClaim(account, setConfigCall, mandate.originOps.ops);
        DevPermit2.SignatureTransferDetails[] memory details =
            new DevPermit2.SignatureTransferDetails[](permit.permitted.length);
        for (uint256 i; i < details.length; ++i) {
            details[i] = DevPermit2.SignatureTransferDetails(msg.sender, permit.permitted[i].amount);
        }
        PERMIT2.permitWitnessTransferFrom(
            permit,
            details,
            account,
            mandateHash(mandate),
            string.concat(
                "Mandate mandate)", MANDATE, OP, OPS, TARGET, TOKEN, "TokenPermissions(address token,uint256 amount)"
            ),
            signature
        );
        emit Claimed(account, permit.nonce);
    }

    /// @notice EIP-712 struct hash of the witness.
    function mandateHash(Mandate calldata mandate) public pure returns (bytes32) {
        return keccak256(
            abi.encode(
                keccak256(bytes(string.concat(MANDATE, OP, OPS, TARGET, TOKEN))),
                _target(mandate.target),
                mandate.minGas,
                _op(mandate.originOps),
                _op(mandate.destOps),
                mandate.q
            )
        );
    }

    function _target(Target calldata target) private pure returns (bytes32) {
        bytes32[] memory hashes = new bytes32[](target.tokenOut.length);
        for (uint256 i; i < hashes.length; ++i) {
            hashes[i] = keccak256(abi.encode(keccak256(bytes(TOKEN)), target.tokenOut[i]));
        }
        return keccak256(
            abi.encode(
                keccak256(bytes(string.concat(TARGET, TOKEN))),
                target.recipient,
                keccak256(abi.encodePacked(hashes)),
                target.targetChain,
                target.fillExpiry
            )
        );
    }

    function _op(Op calldata op) private pure returns (bytes32) {
        bytes32[] memory hashes = new bytes32[](op.ops.length);
        for (uint256 i; i < hashes.length; ++i) {
            Call calldata call = op.ops[i];
            hashes[i] = keccak256(abi.encode(keccak256(bytes(OPS)), call.to, call.value, keccak256(call.data)));
        }
        return keccak256(
            abi.encode(keccak256(bytes(string.concat(OP, OPS))), op.vt, keccak256(abi.encodePacked(hashes)))
        );
    }
}
