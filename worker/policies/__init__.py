"""Session policies: what each one is (model), how it is encoded (init data) and what it allows (evaluator)."""
