// SPDX-License-Identifier: MIT
pragma solidity 0.8.30;

/// @notice One call of a batch.
struct Call {
    address to;
    uint256 value;
    bytes data;
}

/// @title A stand-in for a smart account with ECDSA owners (nexus, safe, startale, kernel)
/// @notice The devnet puts this code at the account's address. It stands in for three things: the account's batch
///         execution through the Intent Executor, its ERC-1271 answer for its owners' signatures (Ownable validator),
///         and its module list, where the emissary, the executor and the validator count as installed.
///         It has no ERC-4337 path, no hooks and no upgrades, and answers no ERC-1271 request for a session.
contract DevAccount {
    address public constant INTENT_EXECUTOR = 0x00000000005aD9ce1f5035FD62CA96CEf16AdAAF;
    address public constant EMISSARY = 0xad568B3F825A8d5FFc06DD3253526B64D810Ae89;
    address public constant OWNABLE_VALIDATOR = 0x000000000013fdB5234E4E3162a810F54d9f7E98;
    bytes32 private constant KERNEL_REPLAYABLE = keccak256("kernel.replayable.signature");

    enum Kind {
        Nexus,
        Safe,
        Startale,
        Kernel
    }

    Kind public kind;
    uint256 public threshold;
    address[] private _owners;
    mapping(uint256 => mapping(address => bool)) private _installed;

    event ModuleInstalled(uint256 moduleTypeId, address module);
    event ModuleUninstalled(uint256 moduleTypeId, address module);
    event SelectorSet(bytes4 selector, bytes21 vId, bool allowed);

    error OnlyIntentExecutor();
    error OnlySelf();
    error InvalidOwners();
    error InvalidValidator();

    modifier onlyExecutor() {
        if (msg.sender != INTENT_EXECUTOR) revert OnlyIntentExecutor();
        _;
    }

    receive() external payable {}

    function owners() external view returns (address[] memory) {
        return _owners;
    }

    /// @notice Sets kind and owners. Stands in for the account's factory.
    function configure(Kind kind_, uint256 threshold_, address[] calldata owners_) external onlyExecutor {
        if (threshold_ == 0 || threshold_ > owners_.length) revert InvalidOwners();
        kind = kind_;
        threshold = threshold_;
        _owners = owners_;
    }

    /// @notice All calls, in order, or none of them.
    function executeFromExecutor(Call[] calldata calls) external onlyExecutor {
        for (uint256 i; i < calls.length; ++i) {
            (bool ok, bytes memory result) = calls[i].to.call{value: calls[i].value}(calls[i].data);
            if (!ok) {
                assembly ("memory-safe") {
                    revert(add(result, 32), mload(result))
                }
            }
        }
    }

    function installModule(uint256 moduleTypeId, address module, bytes calldata) external {
        if (msg.sender != address(this)) revert OnlySelf();
        _installed[moduleTypeId][module] = true;
        emit ModuleInstalled(moduleTypeId, module);
    }

    function uninstallModule(uint256 moduleTypeId, address module, bytes calldata) external {
        if (msg.sender != address(this)) revert OnlySelf();
        _installed[moduleTypeId][module] = false;
        emit ModuleUninstalled(moduleTypeId, module);
    }

    /// @notice Kernel only: lets an installed validator (0x01 and its address) sign for a function of the account.
    function grantAccess(bytes21 vId, bytes4 selector, bool allow) external {
        if (msg.sender != address(this)) revert OnlySelf();
        if (kind != Kind.Kernel || vId[0] != 0x01 || !_installed[1][address(uint160(uint168(vId)))]) {
            revert InvalidValidator();
        }
        emit SelectorSet(selector, vId, allow);
    }

    function isModuleInstalled(uint256 moduleTypeId, address module, bytes calldata) external view returns (bool) {
        if (moduleTypeId == 1 && (module == EMISSARY || module == OWNABLE_VALIDATOR)) return true;
        if (moduleTypeId == 2 && module == INTENT_EXECUTOR) return true;
        return _installed[moduleTypeId][module];
    }

    /// @notice ERC-1271, for signatures of the owners only.
    /// @dev nexus: 20 zero bytes or the Ownable validator, then signatures; safe and startale: the Ownable validator,
    ///      then signatures; kernel: 0x00, keccak("kernel.replayable.signature"), then signatures over the digest
    ///      wrapped in the account's chain-agnostic Kernel domain.
    function isValidSignature(bytes32 digest, bytes calldata signature) external view returns (bytes4) {
        bool ok;
        if (kind == Kind.Kernel) {
            ok = signature.length > 33 && signature[0] == 0x00 && bytes32(signature[1:33]) == KERNEL_REPLAYABLE
                && _ownersSigned(_kernelWrap(digest), signature[33:]);
        } else if (signature.length > 20) {
            address validator = address(bytes20(signature[:20]));
            ok = (validator == OWNABLE_VALIDATOR || (kind == Kind.Nexus && validator == address(0)))
                && _ownersSigned(digest, signature[20:]);
        }
        return ok ? bytes4(0x1626ba7e) : bytes4(0xffffffff);
    }

    function _kernelWrap(bytes32 digest) private view returns (bytes32) {
        bytes32 domain = keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                keccak256("Kernel"),
                keccak256("0.3.3"),
                uint256(0),
                address(this)
            )
        );
        return keccak256(
            abi.encodePacked(hex"1901", domain, keccak256(abi.encode(keccak256("Kernel(bytes32 hash)"), digest)))
        );
    }

    /// @dev As the Ownable validator: the first `threshold` signatures come from distinct owners; v 27/28 signs the
    ///      digest itself, v 31/32 its personal-sign hash.
    function _ownersSigned(bytes32 digest, bytes calldata signatures) private view returns (bool) {
        uint256 required = threshold;
        if (required == 0 || signatures.length < required * 65) return false;
        address[] memory seen = new address[](required);
        for (uint256 i; i < required; ++i) {
            address signer = _recover(digest, signatures[i * 65:i * 65 + 65]);
            if (!_isOwner(signer)) return false;
            for (uint256 j; j < i; ++j) {
                if (seen[j] == signer) return false;
            }
            seen[i] = signer;
        }
        return true;
    }

    function _recover(bytes32 digest, bytes calldata signature) private pure returns (address) {
        uint8 v = uint8(signature[64]);
        if (v > 30) {
            digest = keccak256(abi.encodePacked("\x19Ethereum Signed Message:\n32", digest));
            v -= 4;
        }
        return ecrecover(digest, v, bytes32(signature[:32]), bytes32(signature[32:64]));
    }

    function _isOwner(address signer) private view returns (bool) {
        if (signer == address(0)) return false;
        for (uint256 i; i < _owners.length; ++i) {
            if (_owners[i] == signer) return true;
        }
        return false;
    }
}
