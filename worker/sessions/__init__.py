"""The Session model, its encoding and digests, the session file, enabling, and the session registry."""
