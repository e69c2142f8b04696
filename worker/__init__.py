"""session-executor: the server side of a session key. Start reading at docs/architecture.md."""
