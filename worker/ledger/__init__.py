"""Intent records, budgets and schedule slots in Redis; every state change is one Lua script."""
