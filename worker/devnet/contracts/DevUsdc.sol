// SPDX-License-Identifier: MIT
pragma solidity 0.8.30;

/// @title A 6-decimals token that stands in for USDC on the devnet
/// @notice Put at the chain's USDC address. It has the ERC-20 surface that spending-limits knows, and nothing of the real
///         token's proxy, pausing, blacklist or permits. What begins with `dev` is open to anyone: there is no money here.
contract DevUsdc {
    string public constant name = "USD Coin";
    string public constant symbol = "USDC";
    uint8 public constant decimals = 6;

    uint256 public totalSupply;
    mapping(address => uint256) public balanceOf;
    mapping(address => mapping(address => uint256)) public allowance;

    event Transfer(address indexed from, address indexed to, uint256 value);
    event Approval(address indexed owner, address indexed spender, uint256 value);

    /// @notice Sets a balance to exactly `value`, minting or burning the difference.
    function devSetBalance(address account, uint256 value) external {
        uint256 before = balanceOf[account];
        balanceOf[account] = value;
        totalSupply = totalSupply - before + value;
        emit Transfer(address(0), account, value);
    }

    /// @notice Lets `spender` take `value` from `account`: an account that has approved Permit2 before.
    function devApprove(address account, address spender, uint256 value) external {
        _approve(account, spender, value);
    }

    function transfer(address to, uint256 value) external returns (bool) {
        _move(msg.sender, to, value);
        return true;
    }

    function transferFrom(address from, address to, uint256 value) external returns (bool) {
        uint256 allowed = allowance[from][msg.sender];
        require(allowed >= value, "ERC20: transfer amount exceeds allowance");
        if (allowed != type(uint256).max) allowance[from][msg.sender] = allowed - value;
        _move(from, to, value);
        return true;
    }

    function approve(address spender, uint256 value) external returns (bool) {
        _approve(msg.sender, spender, value);
        return true;
    }

    function increaseAllowance(address spender, uint256 increment) external returns (bool) {
        _approve(msg.sender, spender, allowance[msg.sender][spender] + increment);
        return true;
    }

    function _move(address from, address to, uint256 value) private {
        require(to != address(0), "ERC20: transfer to the zero address");
        require(balanceOf[from] >= value, "ERC20: transfer amount exceeds balance");
        balanceOf[from] -= value;
        balanceOf[to] += value;
        emit Transfer(from, to, value);
    }

    function _approve(address owner, address spender, uint256 value) private {
        require(spender != address(0), "ERC20: approve to the zero address");
        allowance[owner][spender] = value;
        emit Approval(owner, spender, value);
    }
}
