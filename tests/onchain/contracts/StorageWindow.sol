// SPDX-License-Identifier: MIT
pragma solidity 0.8.30;

/// @title A policy contract whose storage can be read within a call
/// @notice Everything is delegated to the contract whose address is in `IMPLEMENTATION`, so that the policy sees the same
///         caller and keeps its state here; except a question of two words that starts with `READ`, which is answered
///         with the content of the slot that the second one names. Some policies' sums have no getter.
contract StorageWindow {
    bytes32 private constant READ = keccak256("session-executor: read a slot");
    bytes32 private constant IMPLEMENTATION = keccak256("session-executor: implementation");

    fallback(bytes calldata input) external returns (bytes memory output) {
        bytes32 word;
        if (input.length == 64 && bytes32(input[:32]) == READ) {
            bytes32 slot = bytes32(input[32:]);
            assembly {
                word := sload(slot)
            }
            return bytes.concat(word);
        }
        bytes32 place = IMPLEMENTATION;
        assembly {
            word := sload(place)
        }
        bool ok;
        (ok, output) = address(uint160(uint256(word))).delegatecall(input);
        if (!ok) {
            assembly {
                revert(add(output, 32), mload(output))
            }
        }
    }
}
