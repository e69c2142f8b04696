"""The pipeline: enqueue, prepare, sign, submit, watch. Each stage is one function over a ``Runtime``."""
