"""JSON-RPC reads through web3.py."""
