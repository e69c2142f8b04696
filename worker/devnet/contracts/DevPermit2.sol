// SPDX-License-Identifier: MIT
pragma solidity 0.8.30;

interface IERC1271 {
    function isValidSignature(bytes32 digest, bytes calldata signature) external view returns (bytes4);
}

interface IERC20 {
    function transferFrom(address from, address to, uint256 value) external returns (bool);
}

/// @title A stand-in for Permit2's batched signature transfers with a witness
/// @notice Put at the canonical address, with the real ABI, EIP-712 domain and unordered nonces. Left out: allowances,
///         single transfers, transfers without a witness, and signatures of accounts without code.
contract DevPermit2 {
    struct TokenPermissions {
        address token;
        uint256 amount;
    }

    struct PermitBatchTransferFrom {
        TokenPermissions[] permitted;
        uint256 nonce;
        uint256 deadline;
    }

    struct SignatureTransferDetails {
        address to;
        uint256 requestedAmount;
    }

    bytes32 private constant TOKEN_PERMISSIONS = keccak256("TokenPermissions(address token,uint256 amount)");

    mapping(address => mapping(uint256 => uint256)) public nonceBitmap;

    error SignatureExpired(uint256 signatureDeadline);
    error LengthMismatch();
    error InvalidAmount(uint256 maxAmount);
    error InvalidNonce();
    error InvalidContractSignature();

    function DOMAIN_SEPARATOR() public view returns (bytes32) {
        return keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,uint256 chainId,address verifyingContract)"),
                keccak256("Permit2"),
                block.chainid,
                address(this)
            )
        );
    }

    /// @notice Takes the permitted tokens from `owner`, who signed for the caller as the spender.
    function permitWitnessTransferFrom(
        PermitBatchTransferFrom calldata permit,
        SignatureTransferDetails[] calldata details,
        address owner,
        bytes32 witness,
        string calldata witnessTypeString,
        bytes calldata signature
    ) external {
        if (block.timestamp > permit.deadline) revert SignatureExpired(permit.deadline);
        if (details.length != permit.permitted.length) revert LengthMismatch();
        _useNonce(owner, permit.nonce);
        bytes32 digest = keccak256(
            abi.encodePacked(hex"1901", DOMAIN_SEPARATOR(), _hash(permit, witness, witnessTypeString))
        );
        (bool answered, bytes memory result) =
            owner.staticcall(abi.encodeCall(IERC1271.isValidSignature, (digest, signature)));
        if (!answered || result.length < 32 || bytes4(abi.decode(result, (bytes32))) != 0x1626ba7e) {
            revert InvalidContractSignature();
        }
        for (uint256 i; i < details.length; ++i) {
            TokenPermissions calldata permitted = permit.permitted[i];
            if (details[i].requestedAmount > permitted.amount) revert InvalidAmount(permitted.amount);
            require(
                IERC20(permitted.token).transferFrom(owner, details[i].to, details[i].requestedAmount),
                "TRANSFER_FROM_FAILED"
            );
        }
    }

    function _useNonce(address owner, uint256 nonce) private {
        uint256 bit = 1 << (nonce & 0xff);
        uint256 used = nonceBitmap[owner][nonce >> 8];
        if (used & bit != 0) revert InvalidNonce();
        nonceBitmap[owner][nonce >> 8] = used | bit;
    }

    function _hash(PermitBatchTransferFrom calldata permit, bytes32 witness, string calldata witnessTypeString)
        private
        view
        returns (bytes32)
    {
        bytes32[] memory hashes = new bytes32[](permit.permitted.length);
        for (uint256 i; i < hashes.length; ++i) {
            hashes[i] = keccak256(abi.encode(TOKEN_PERMISSIONS, permit.permitted[i]));
        }
        bytes32 typeHash = keccak256(
            abi.encodePacked(
                "PermitBatchWitnessTransferFrom(TokenPermissions[] permitted,address spender,uint256 nonce,uint256 deadline,",
                witnessTypeString
            )
        );
        return keccak256(
            abi.encode(
                typeHash,
                keccak256(abi.encodePacked(hashes)),
                msg.sender,
                permit.nonce,
                permit.deadline,
                witness
            )
        );
    }
}
