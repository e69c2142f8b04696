// SPDX-License-Identifier: MIT
pragma solidity 0.8.30;

/// @title What the Ownable validator accepts
library DevSignatures {
    /// @notice The first `threshold` signatures come from distinct owners; v 27/28 signs the digest itself, v 31/32 its
    ///         personal-sign hash.
    function signedBy(address[] memory owners, uint256 threshold, bytes32 digest, bytes calldata signatures)
        internal
        pure
        returns (bool)
    {
        if (threshold == 0 || signatures.length < threshold * 65) return false;
        address[] memory seen = new address[](threshold);
        for (uint256 i; i < threshold; ++i) {
            address signer = _recover(digest, signatures[i * 65:i * 65 + 65]);
            if (signer == address(0) || !_among(owners, signer) || _among(seen, signer)) return false;
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

    function _among(address[] memory listed, address one) private pure returns (bool) {
        for (uint256 i; i < listed.length; ++i) {
            if (listed[i] == one) return true;
        }
        return false;
    }
}
