"""The orchestrator: its wire versions behind one port, its errors and its statuses."""
