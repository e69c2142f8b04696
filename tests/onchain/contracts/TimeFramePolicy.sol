// SPDX-License-Identifier: MIT
pragma solidity 0.8.30;

/// @title time-frame by policies.md 2, with 12 bytes of init data: a stand-in, for where the public contract is not at hand
contract TimeFramePolicy {
    mapping(bytes32 => mapping(address => mapping(address => uint96))) private _window;

    error NoWindow();

    function initializeWithMultiplexer(address account, bytes32 id, bytes calldata initData) external {
        uint96 window = uint96(bytes12(initData[:12]));
        (uint256 end, uint256 start) = _ends(window);
        require(end == 0 || start <= end);
        _window[id][msg.sender][account] = window;
    }

    function checkAction(bytes32 id, address account, address, uint256, bytes calldata)
        external
        view
        returns (uint256)
    {
        (uint256 end, uint256 start) = _open(id, account);
        return start << 208 | end << 160;
    }

    function check1271SignedAction(bytes32 id, address, address account, bytes32, bytes calldata)
        external
        view
        returns (bool)
    {
        (uint256 end, uint256 start) = _open(id, account);
        return block.timestamp >= start && (end == 0 || block.timestamp < end);
    }

    function getTimeFrameConfig(bytes32 id, address multiplexer, address account)
        external
        view
        returns (uint256)
    {
        return _window[id][multiplexer][account];
    }

    function _open(bytes32 id, address account) private view returns (uint256 end, uint256 start) {
        uint96 window = _window[id][msg.sender][account];
        if (window == 0) revert NoWindow();
        return _ends(window);
    }

    function _ends(uint96 window) private pure returns (uint256 end, uint256 start) {
        return (window >> 48, uint48(window));
    }
}
