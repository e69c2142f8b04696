// SPDX-License-Identifier: MIT
pragma solidity 0.8.30;

import {DevSignatures} from "./DevSignatures.sol";

interface IEmissary {
    function isValidSignatureWithSender(address sender, bytes32 digest, bytes calldata data)
        external
        view
        returns (bytes4);
}

/// @notice One call of a batch.
struct Call {
    address to;
    uint256 value;
    bytes data;
}

/// @title A stand-in for a smart account with ECDSA owners (nexus, safe, startale, kernel)
/// @notice The devnet puts this code at the account's address. It stands in for three things: the account's batch
///         execution through the Intent Executor, its ERC-1271 answer for signatures of its owners (Ownable validator)
///         and of sessions (which it asks the emissary about), and its module list, where the emissary, the executor and
///         the validator count as installed. It has no ERC-4337 path, no hooks and no upgrades.
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

    /// @notice ERC-1271. The head of a signature names the module that is asked.
    /// @dev Owners: nexus: 20 zero bytes or the Ownable validator, then signatures; safe and startale: the Ownable
    ///      validator, then signatures; kernel: 0x00, keccak("kernel.replayable.signature"), then signatures over the
    ///      digest wrapped in the account's chain-agnostic Kernel domain. Sessions: the emissary, then what it reads;
    ///      kernel: 0x01, the emissary, the same constant, over the wrapped digest, too.
    function isValidSignature(bytes32 digest, bytes calldata signature) external view returns (bytes4) {
        bool ok;
        if (kind == Kind.Kernel) {
            if (signature.length > 53 && signature[0] == 0x01) {
                if (address(bytes20(signature[1:21])) != EMISSARY || bytes32(signature[21:53]) != KERNEL_REPLAYABLE) {
                    return 0xffffffff;
                }
                return _askEmissary(_kernelWrap(digest), signature[53:]);
            }
            ok = signature.length > 33 && signature[0] == 0x00 && bytes32(signature[1:33]) == KERNEL_REPLAYABLE
                && DevSignatures.signedBy(_owners, threshold, _kernelWrap(digest), signature[33:]);
        } else if (signature.length > 20) {
            address validator = address(bytes20(signature[:20]));
            if (validator == EMISSARY) return _askEmissary(digest, signature[20:]);
            ok = (validator == OWNABLE_VALIDATOR || (kind == Kind.Nexus && validator == address(0)))
                && DevSignatures.signedBy(_owners, threshold, digest, signature[20:]);
        }
        return ok ? bytes4(0x1626ba7e) : bytes4(0xffffffff);
    }

    function _askEmissary(bytes32 digest, bytes calldata data) private view returns (bytes4) {
        return IEmissary(EMISSARY).isValidSignatureWithSender(msg.sender, digest, data);
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
}
