// SPDX-License-Identifier: MIT
pragma solidity 0.8.30;

import {Call, DevAccount} from "./DevAccount.sol";

/// @notice Tokens for a fill; the zero address is the native currency.
struct Delivery {
    address token;
    uint256 amount;
}

interface IERC20 {
    function transferFrom(address from, address to, uint256 value) external returns (bool);
}

/// @title A stand-in for the Intent Executor
/// @notice Put at the production address. It executes an intent once per (account, nonce): first the enabling of the
///         session, when the signature carries it, then all ops, atomically. The real executor asks the emissary to
///         verify signature and policies; here the devnet's orchestrator does that before it sends the transaction,
///         so only its relayer may call. The relayer's address is storage slot 0, written when the code is put.
contract DevExecutor {
    address public constant EMISSARY = 0xad568B3F825A8d5FFc06DD3253526B64D810Ae89;
    address public constant BRIDGE_ARBITER = 0x28a4D41776968c1201A807ec51fFB405362B8882;
    address public constant SWAP_ARBITER = 0x000000000006e2569CaF8Ff021810790e0A0D740;

    address public relayer;
    mapping(address => mapping(uint256 => bool)) public isNonceUsed;

    event IntentExecuted(address indexed account, uint256 indexed nonce);

    error OnlyRelayer();
    error OnlyArbiter();
    error NonceUsed(address account, uint256 nonce);

    modifier onlyRelayer() {
        if (msg.sender != relayer) revert OnlyRelayer();
        _;
    }

    /// @param setConfigCall calldata for the emissary's `setConfig`, or empty. It is sent from this contract, not from
    ///        the account, so the emissary checks the owner's signature.
    function execute(address payable account, uint256 nonce, bytes calldata setConfigCall, Call[] calldata calls)
        external
        onlyRelayer
    {
        _execute(account, nonce, setConfigCall, calls);
    }

    /// @notice What a filler does on the target chain: pays the recipient out of its own pocket, then makes the calls.
    function fill(
        address payable account,
        uint256 nonce,
        bytes calldata setConfigCall,
        Call[] calldata calls,
        address payable recipient,
        Delivery[] calldata deliveries
    ) external payable onlyRelayer {
        for (uint256 i; i < deliveries.length; ++i) {
            Delivery calldata delivery = deliveries[i];
            if (delivery.token == address(0)) {
                (bool ok,) = recipient.call{value: delivery.amount}("");
                require(ok, "native delivery failed");
            } else {
                require(IERC20(delivery.token).transferFrom(msg.sender, recipient, delivery.amount));
            }
        }
        _execute(account, nonce, setConfigCall, calls);
    }

    /// @notice Calls of the account on a source chain, before the arbiter claims. Permit2's nonce makes it happen once.
    function preClaim(address payable account, bytes calldata setConfigCall, Call[] calldata calls) external {
        if (msg.sender != BRIDGE_ARBITER && msg.sender != SWAP_ARBITER) revert OnlyArbiter();
        _enable(setConfigCall);
        DevAccount(account).executeFromExecutor(calls);
    }

    function _execute(address payable account, uint256 nonce, bytes calldata setConfigCall, Call[] calldata calls)
        private
    {
        if (isNonceUsed[account][nonce]) revert NonceUsed(account, nonce);
        isNonceUsed[account][nonce] = true;
        _enable(setConfigCall);
        DevAccount(account).executeFromExecutor(calls);
        emit IntentExecuted(account, nonce);
    }

    /// @notice The real executor's name for the same question.
    function isStandaloneIntentNonceConsumed(uint256 nonce, address account) external view returns (bool) {
        return isNonceUsed[account][nonce];
    }

    function _enable(bytes calldata setConfigCall) private {
        if (setConfigCall.length == 0) return;
        (bool ok, bytes memory result) = EMISSARY.call(setConfigCall);
        if (!ok) {
            assembly ("memory-safe") {
                revert(add(result, 32), mload(result))
            }
        }
    }

    /// @notice Sets a fresh account up. Stands in for the account's factory.
    function configureAccount(
        address payable account,
        DevAccount.Kind kind,
        uint256 threshold,
        address[] calldata owners
    ) external onlyRelayer {
        DevAccount(account).configure(kind, threshold, owners);
    }
}
