// SPDX-License-Identifier: MIT
pragma solidity 0.8.30;

interface IDevToken {
    function transfer(address to, uint256 value) external returns (bool);
    function transferFrom(address from, address to, uint256 value) external returns (bool);
}

/// @title What strategies read and trade on: a price feed, a pool's price, a router and a lender in one
/// @notice The router swaps one pair at the feed's price less a thousandth, from what this contract holds of both tokens.
///         What begins with `dev` is open to anyone: there is no money here.
contract DevMarket {
    uint256 private constant WHOLE_BASE = 1e18;
    uint256 private constant WHOLE_QUOTE = 1e6;

    address public token0;
    address public token1;
    uint160 private root;
    int256 private answer;
    uint256 private updatedAt;
    uint256 private health;

    /// @notice Sets the pair, of `base` with 18 decimals and `quote` with 6, and what one base costs.
    /// @param price quote tokens for one base token, with 8 decimals
    /// @param sqrtPrice the pool's square root of token1 for token0, in base units, times 2**96
    function devSet(address base, address quote, int256 price, uint160 sqrtPrice) external {
        (token0, token1) = (base, quote);
        (answer, root, updatedAt) = (price, sqrtPrice, block.timestamp);
    }

    /// @notice Sets the health factor of every loan, 18 decimals.
    function devSetHealth(uint256 factor) external {
        health = factor;
    }

    function decimals() external pure returns (uint8) {
        return 8;
    }

    function latestRoundData() external view returns (uint80, int256, uint256, uint256, uint80) {
        return (1, answer, updatedAt, updatedAt, 1);
    }

    function slot0() external view returns (uint160, int24, uint16, uint16, uint16, uint8, bool) {
        return (root, 0, 0, 0, 0, 0, true);
    }

    function swap(address sell, address buy, uint256 amountIn, uint256 minOut, address to) external {
        require(sell != buy && (sell == token0 || sell == token1) && (buy == token0 || buy == token1), "market: pair");
        uint256 price = uint256(answer);
        uint256 out = sell == token0
            ? amountIn * price * WHOLE_QUOTE / 1e8 / WHOLE_BASE
            : amountIn * WHOLE_BASE * 1e8 / price / WHOLE_QUOTE;
        out = out * 999 / 1000;
        require(out >= minOut, "market: too little comes out");
        IDevToken(sell).transferFrom(msg.sender, address(this), amountIn);
        IDevToken(buy).transfer(to, out);
    }

    function getUserAccountData(address) external view returns (uint256, uint256, uint256, uint256, uint256, uint256) {
        return (0, 0, 0, 0, 0, health);
    }

    function repay(address asset, uint256 amount, uint256, address) external returns (uint256) {
        IDevToken(asset).transferFrom(msg.sender, address(this), amount);
        health = 2e18;
        return amount;
    }
}
