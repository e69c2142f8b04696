// SPDX-License-Identifier: MIT
pragma solidity 0.8.30;

import {DevSignatures} from "./DevSignatures.sol";

struct PolicyData {
    address policy;
    bytes initData;
}

struct ActionData {
    bytes4 actionTargetSelector;
    address actionTarget;
    PolicyData[] actionPolicies;
}

struct ERC7739Context {
    bytes32 appDomainSeparator;
    string[] contentNames;
}

struct ERC7739Data {
    ERC7739Context[] allowedERC7739Content;
    PolicyData[] erc1271Policies;
}

struct Session {
    address sessionValidator;
    bytes sessionValidatorInitData;
    bytes32 salt;
    ActionData[] actions;
    PolicyData[] claimPolicies;
    ERC7739Data erc7739Policies;
}

struct ChainDigest {
    uint64 chainId;
    bytes32 sessionDigest;
}

struct EnableSession {
    uint8 chainDigestIndex;
    ChainDigest[] hashesAndChainIds;
    Session sessionToEnable;
}

struct EmissaryConfig {
    uint8 scope;
    uint8 resetPeriod;
    address allocator;
    bytes32 permissionId;
}

struct EmissaryEnable {
    bytes allocatorSig;
    bytes userSig;
    uint256 expires;
    EnableSession session;
}

struct DisableSession {
    uint8 chainDigestIndex;
    ChainDigest[] hashesAndChainIds;
}

struct EmissaryDisable {
    bytes allocatorSig;
    bytes userSig;
    uint256 expires;
    DisableSession session;
}

interface IERC1271 {
    function isValidSignature(bytes32 digest, bytes calldata signature) external view returns (bytes4);
}

/// @title A stand-in for the Smart Session Emissary
/// @notice Put at the production address, with the real ABI of what a session executor calls. Enabling is verified in
///         full on chain: entry's chain id, session digest recomputed from the session, permission id, nonce, expiry,
///         and the owner's signature (ERC-1271, or ecrecover for an account without code).
///         ERC-1271 signatures of sessions are verified on chain, too: mode 0x00, the Ownable validator, and only for
///         sessions that may sign any content.
///         Left out: allocators and lock tags (must be zero, so claim policies are signed but not stored, as in
///         the real one), `verifyExecution` and the policy contracts (the devnet's orchestrator checks session
///         signatures and policies itself, from the sessions in this contract's `ConfigSet` events), and removal by
///         anyone but the account.
contract DevEmissary {
    bytes32 private constant DOMAIN_TYPE = keccak256("EIP712Domain(string name,string version)");
    bytes private constant POLICY_DATA = "PolicyData(address policy,bytes initData)";
    bytes private constant ACTION_DATA =
        "ActionData(bytes4 actionTargetSelector,address actionTarget,PolicyData[] actionPolicies)";
    bytes private constant CONTEXT = "ERC7739Context(bytes32 appDomainSeparator,string[] contentName)";
    bytes private constant ERC7739 =
        "ERC7739Data(ERC7739Context[] allowedERC7739Content,PolicyData[] erc1271Policies)";
    bytes private constant LOCK_TAG = "LockTagData(bytes12 lockTag,PolicyData[] claimPolicies)";
    bytes private constant PERMISSIONS =
        "SignedPermissions(ActionData[] actions,ERC7739Data erc7739Policies,LockTagData lockTagPolicies,bool permitGenericPolicy)";
    bytes private constant SIGNED_SESSION =
        "SignedSession(address account,uint256 expires,uint256 nonce,SignedPermissions permissions,bytes32 salt,address sessionValidator,bytes sessionValidatorInitData,address smartSessionEmissary)";
    bytes private constant CHAIN_SESSION = "ChainSession(uint64 chainId,SignedSession session)";
    bytes private constant MULTI = "MultiChainSession(ChainSession[] sessionsAndChainIds)";
    bytes32 private constant DISABLE_TYPE = 0x098b3120e60a8adc9d970dec9c1f8796974a3ab6154f995ad56ee7b9a38d8836;

    address private constant OWNABLE_VALIDATOR = 0x000000000013fdB5234E4E3162a810F54d9f7E98;
    address private constant SUDO = 0x0000003111cD8e92337C100F22B7A9dbf8DEE301;
    address private constant SUDO_OF_2 = 0x0000000000FEEc8D74e3143fBaBbca515358d869;
    address private constant FALLBACK_TARGET = address(1);
    bytes4 private constant FALLBACK_SELECTOR = 0x00000001;

    mapping(address => mapping(bytes12 => uint256)) private _nonce;
    mapping(address => mapping(bytes32 => bool)) private _enabled;
    mapping(address => mapping(bytes32 => Signer)) private _signer;

    struct Signer {
        address validator;
        bytes initData;
        bool anyContent;
    }

    /// @notice `session` is `abi.encode(Session)`: what the devnet's orchestrator builds its policy table from.
    event ConfigSet(address indexed account, bytes32 indexed permissionId, bytes session);
    event ConfigRemoved(address indexed account, bytes32 indexed permissionId);

    error HashMismatch();
    error ChainIdMismatch();
    error InvalidUserSignature();
    error InvalidPermissionId();
    error InvalidEmissaryEnableData();
    error InvalidActionTarget();
    error UnsupportedOnDevnet();

    function getNonce(address account, bytes12 lockTag) external view returns (uint256) {
        return _nonce[account][lockTag];
    }

    function isPermissionEnabled(address account, bytes32 permissionId) external view returns (bool) {
        return _enabled[account][permissionId];
    }

    function setConfig(address account, EmissaryConfig calldata config, EmissaryEnable calldata data) external {
        if (config.allocator != address(0)) revert UnsupportedOnDevnet();
        if (data.expires < block.timestamp) revert InvalidEmissaryEnableData();
        EnableSession calldata enable = data.session;
        _checkEntry(
            enable.chainDigestIndex,
            enable.hashesAndChainIds,
            sessionDigest(account, data.expires, _nonce[account][0], enable.sessionToEnable)
        );
        Session calldata session = enable.sessionToEnable;
        bytes32 permissionId =
            keccak256(abi.encode(session.sessionValidator, session.sessionValidatorInitData, session.salt));
        if (permissionId != config.permissionId) revert InvalidPermissionId();
        if (msg.sender != account) _checkUser(account, enable.hashesAndChainIds, data.userSig);
        for (uint256 i; i < session.actions.length; ++i) {
            address target = session.actions[i].actionTarget;
            if (target == address(0) || target == address(this)) revert InvalidActionTarget();
            // the action that would let a session call this contract
            if (target == FALLBACK_TARGET && session.actions[i].actionTargetSelector == 0x00000002) {
                revert InvalidActionTarget();
            }
        }
        ++_nonce[account][0];
        _enabled[account][permissionId] = true;
        Signer storage signer = _signer[account][permissionId];
        if (signer.validator == address(0)) {
            signer.validator = session.sessionValidator;
            signer.initData = session.sessionValidatorInitData;
        }
        if (_allowsAnyContent(session.erc7739Policies)) signer.anyContent = true;
        emit ConfigSet(account, permissionId, abi.encode(session));
    }

    /// @notice From the account itself only, with empty signatures. Removing twice does not revert.
    function removeConfig(address account, EmissaryConfig calldata config, EmissaryDisable calldata data) external {
        if (config.allocator != address(0) || msg.sender != account) revert UnsupportedOnDevnet();
        if (data.expires < block.timestamp) revert InvalidEmissaryEnableData();
        _checkEntry(
            data.session.chainDigestIndex,
            data.session.hashesAndChainIds,
            keccak256(
                abi.encode(
                    DISABLE_TYPE, account, config.permissionId, bytes12(0), data.expires, _nonce[account][0]
                )
            )
        );
        ++_nonce[account][0];
        _enabled[account][config.permissionId] = false;
        emit ConfigRemoved(account, config.permissionId);
    }

    /// @notice The answer for an account (the caller) that was asked about a signature of a session.
    /// @dev `data`: 0x00, permission id, offset of what follows the signatures (counted from behind the mode byte),
    ///      signatures, data for claim policies. With a zero lock tag no claim policy is stored, so that data is not read.
    function isValidSignatureWithSender(address, bytes32 digest, bytes calldata data) external view returns (bytes4) {
        if (data.length < 65 || data[0] != 0x00) return 0xffffffff;
        bytes32 permissionId = bytes32(data[1:33]);
        uint256 end = uint256(bytes32(data[33:65]));
        Signer storage signer = _signer[msg.sender][permissionId];
        if (end < 64 || end >= data.length || !_enabled[msg.sender][permissionId] || !signer.anyContent) {
            return 0xffffffff;
        }
        if (signer.validator != OWNABLE_VALIDATOR) return 0xffffffff;
        (uint256 threshold, address[] memory owners) = abi.decode(signer.initData, (uint256, address[]));
        bytes32 wrapped = keccak256(
            abi.encodePacked("\x19Ethereum Signed Message:\n64", uint256(uint160(msg.sender)), digest)
        );
        bool ok = DevSignatures.signedBy(owners, threshold, wrapped, data[65:end + 1]);
        return ok ? bytes4(0x1626ba7e) : bytes4(0xffffffff);
    }

    /// @notice EIP-712 struct hash of `SignedSession`, without the domain.
    function sessionDigest(address account, uint256 expires, uint256 nonce, Session calldata session)
        public
        view
        returns (bytes32)
    {
        return keccak256(
            abi.encode(
                keccak256(
                    bytes.concat(
                        SIGNED_SESSION, ACTION_DATA, CONTEXT, ERC7739, LOCK_TAG, POLICY_DATA, PERMISSIONS
                    )
                ),
                account,
                expires,
                nonce,
                _permissions(session),
                session.salt,
                session.sessionValidator,
                keccak256(session.sessionValidatorInitData),
                address(this)
            )
        );
    }

    /// @notice The digest that the owner signs.
    function multiChainDigest(ChainDigest[] calldata entries) public pure returns (bytes32) {
        bytes memory tail = bytes.concat(
            ACTION_DATA, CHAIN_SESSION, CONTEXT, ERC7739, LOCK_TAG
        );
        tail = bytes.concat(tail, POLICY_DATA, PERMISSIONS, SIGNED_SESSION);
        bytes32 chainType = keccak256(
            bytes.concat(
                CHAIN_SESSION, ACTION_DATA, CONTEXT, ERC7739, LOCK_TAG, POLICY_DATA, PERMISSIONS, SIGNED_SESSION
            )
        );
        bytes32[] memory hashes = new bytes32[](entries.length);
        for (uint256 i; i < entries.length; ++i) {
            hashes[i] = keccak256(abi.encode(chainType, uint256(entries[i].chainId), entries[i].sessionDigest));
        }
        bytes32 message = keccak256(
            abi.encode(keccak256(bytes.concat(MULTI, tail)), keccak256(abi.encodePacked(hashes)))
        );
        bytes32 domain = keccak256(abi.encode(DOMAIN_TYPE, keccak256("SmartSessionEmissary"), keccak256("1")));
        return keccak256(abi.encodePacked(hex"1901", domain, message));
    }

    function _checkEntry(uint8 index, ChainDigest[] calldata entries, bytes32 digest) private view {
        if (index >= entries.length) revert InvalidEmissaryEnableData();
        if (entries[index].chainId != block.chainid) revert ChainIdMismatch();
        if (entries[index].sessionDigest != digest) revert HashMismatch();
    }

    function _checkUser(address account, ChainDigest[] calldata entries, bytes calldata signature) private view {
        bytes32 digest = multiChainDigest(entries);
        if (account.code.length != 0) {
            (bool ok, bytes memory result) =
                account.staticcall(abi.encodeCall(IERC1271.isValidSignature, (digest, signature)));
            if (!ok || result.length < 32 || bytes4(abi.decode(result, (bytes32))) != 0x1626ba7e) {
                revert InvalidUserSignature();
            }
        } else {
            if (signature.length != 65) revert InvalidUserSignature();
            address signer =
                ecrecover(digest, uint8(signature[64]), bytes32(signature[:32]), bytes32(signature[32:64]));
            if (signer == address(0) || signer != account) revert InvalidUserSignature();
        }
    }

    /// @dev Content "" of the zero domain, with sudo as the only policy: what an unrestricted session asks for.
    function _allowsAnyContent(ERC7739Data calldata data) private pure returns (bool) {
        if (data.erc1271Policies.length != 1) return false;
        address policy = data.erc1271Policies[0].policy;
        if (policy != SUDO && policy != SUDO_OF_2) return false;
        for (uint256 i; i < data.allowedERC7739Content.length; ++i) {
            ERC7739Context calldata context = data.allowedERC7739Content[i];
            if (context.appDomainSeparator != 0) continue;
            for (uint256 j; j < context.contentNames.length; ++j) {
                if (bytes(context.contentNames[j]).length == 0) return true;
            }
        }
        return false;
    }

    function _permissions(Session calldata session) private pure returns (bytes32) {
        bytes32 actionType = keccak256(bytes.concat(ACTION_DATA, POLICY_DATA));
        bytes32[] memory hashes = new bytes32[](session.actions.length);
        bool generic;
        for (uint256 i; i < hashes.length; ++i) {
            ActionData calldata action = session.actions[i];
            hashes[i] = keccak256(
                abi.encode(
                    actionType, action.actionTargetSelector, action.actionTarget, _policies(action.actionPolicies)
                )
            );
            generic = generic
                || (action.actionTarget == FALLBACK_TARGET && action.actionTargetSelector == FALLBACK_SELECTOR);
        }
        return keccak256(
            abi.encode(
                keccak256(bytes.concat(PERMISSIONS, ACTION_DATA, CONTEXT, ERC7739, LOCK_TAG, POLICY_DATA)),
                keccak256(abi.encodePacked(hashes)),
                _erc7739(session.erc7739Policies),
                keccak256(
                    abi.encode(
                        keccak256(bytes.concat(LOCK_TAG, POLICY_DATA)), bytes12(0), _policies(session.claimPolicies)
                    )
                ),
                generic
            )
        );
    }

    function _erc7739(ERC7739Data calldata data) private pure returns (bytes32) {
        bytes32[] memory contexts = new bytes32[](data.allowedERC7739Content.length);
        for (uint256 i; i < contexts.length; ++i) {
            ERC7739Context calldata context = data.allowedERC7739Content[i];
            bytes32[] memory names = new bytes32[](context.contentNames.length);
            for (uint256 j; j < names.length; ++j) {
                names[j] = keccak256(bytes(context.contentNames[j]));
            }
            contexts[i] = keccak256(
                abi.encode(keccak256(CONTEXT), context.appDomainSeparator, keccak256(abi.encodePacked(names)))
            );
        }
        return keccak256(
            abi.encode(
                keccak256(bytes.concat(ERC7739, CONTEXT, POLICY_DATA)),
                keccak256(abi.encodePacked(contexts)),
                _policies(data.erc1271Policies)
            )
        );
    }

    function _policies(PolicyData[] calldata policies) private pure returns (bytes32) {
        bytes32[] memory hashes = new bytes32[](policies.length);
        for (uint256 i; i < hashes.length; ++i) {
            hashes[i] =
                keccak256(abi.encode(keccak256(POLICY_DATA), policies[i].policy, keccak256(policies[i].initData)));
        }
        return keccak256(abi.encodePacked(hashes));
    }
}
