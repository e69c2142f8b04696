"""Vault: server file, policies, and what prepares a Vault for this program."""
