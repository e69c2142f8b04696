# `make demo` and `make test` need Python 3.11+, Node.js 20+ and make; `make test` also redis-server, and go or vault.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := worker tasks config tests benchmarks
# each has services of its own; most tests wait rather than compute
TEST_PROCESSES ?= 4

.PHONY: help demo test check format conformance fuzz budgets onchain chaos restarts bench bench-sign bench-policy
.PHONY: bench-keys bench-memory inflight vault vault-faults leaks lock clean

help: ## show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/'

$(VENV)/run.stamp: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "PYTHON: $(PYTHON) is older than 3.11 (set PYTHON=python3.11 or newer)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/dev.stamp: requirements-dev.lock $(VENV)/run.stamp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@

demo: $(VENV)/run.stamp ## a session key trades within its limits on a local chain
	@$(BIN)/session-executor demo

test: $(VENV)/dev.stamp ## every test, on real Redis, Vault, anvil and the real SDK
	$(BIN)/pytest --numprocesses $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

check: $(VENV)/dev.stamp ## lint, format, types
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/pyright

format: $(VENV)/dev.stamp ## format and mend what can be mended
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

conformance: $(VENV)/dev.stamp ## N=1000 random draws (sessions, approvals, intents), each made by us and by the real SDK
	@$(BIN)/python -m tests.conformance.run $(or $(N),1000) $(if $(SEED),--seed $(SEED))

fuzz: $(VENV)/dev.stamp ## the property tests with 20 further seeds (minutes)
	@for seed in $$(seq 1 20); do \
		$(BIN)/pytest -q -m hypothesis --hypothesis-seed=$$seed tests/unit || exit 1; \
	done

LANES ?= 4
chaos: $(VENV)/dev.stamp ## SIGKILL and failing services at every point of the pipeline: N=1 rounds, LANES=4 stacks side by side
	@$(BIN)/python -m tests.chaos.run $(or $(N),1) --lanes $(LANES)

restarts: $(VENV)/dev.stamp ## 20 restarts of workers under 200 due trades: 200 executions
	TRADES=200 RESTARTS=20 $(BIN)/pytest -q -s tests/chaos/test_shutdown.py -k restarted_all_the_time

OPS ?= 10000
budgets: $(VENV)/dev.stamp ## reserved + spent never pass a limit: OPS=10000 operations of 8 threads on a real Redis
	BUDGET_OPS=$(OPS) $(BIN)/pytest -q tests/integration/ledger/test_decisions.py tests/integration/ledger/test_interleavings.py

# ARTIFACTS: a folder of the compiled public policies, BASE_RPC_URL: a node of Base to fork
onchain: N = 1000
onchain: $(VENV)/dev.stamp ## our evaluator against the compiled policy contracts: ARTIFACTS=dir N=1000 [FIRST=0] [BASE_RPC_URL=…]
	@$(BIN)/python -m tests.onchain.run --artifacts '$(ARTIFACTS)' --number $(N) --first $(or $(FIRST),0)

bench: $(VENV)/dev.stamp ## the whole pipeline beside the real SDK, then latency, processes and history (some 15 minutes)
	@$(BIN)/python -m benchmarks.pipeline

bench-sign: $(VENV)/dev.stamp ## CPU of signing an intent, beside the real SDK's under node
	@$(BIN)/python -m benchmarks.signing

bench-policy: $(VENV)/dev.stamp ## CPU and round trips of evaluating and reserving an intent, on a real Redis
	@$(BIN)/python -m benchmarks.policy

bench-keys: $(VENV)/dev.stamp ## time to fetch a key from a real Vault
	@$(BIN)/python -m benchmarks.keys

bench-memory: $(VENV)/dev.stamp ## bytes of Redis per record, and per tombstone of an archived one
	@$(BIN)/python -m benchmarks.memory

INFLIGHT ?= 10000
inflight: $(VENV)/dev.stamp ## CPU and connections of following INFLIGHT=10000 intents that stay PENDING (some 5 minutes)
	@$(BIN)/python -m benchmarks.inflight --number $(INFLIGHT)

vault: ## build Vault into the cache, as the tests would (6 to 15 minutes, once)
	tests/support/build_vault.sh

vault-faults: $(VENV)/dev.stamp ## trades while Vault's tokens end, and while it is sealed, killed, busy: the long forms (some 3 minutes)
	VAULT_FAULTS=long $(BIN)/pytest -q --durations=0 tests/integration/execution/test_vault_trades.py tests/e2e/test_vault_outages.py

leaks: $(VENV)/dev.stamp ## crashes at every step at DEBUG, then every place is searched for every secret (some 6 minutes)
	@$(BIN)/python -m tests.leaks.run

lock: $(VENV)/dev.stamp ## resolve the lock files again
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate \
		--custom-compile-command "make lock" --extra devnet --extra otel --extra build -o requirements.lock pyproject.toml
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate \
		--custom-compile-command "make lock" --extra dev -o requirements-dev.lock pyproject.toml

clean: ## remove the environment and the caches in the tree
	rm -rf $(VENV) .pytest_cache .ruff_cache
