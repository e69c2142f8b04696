"""``session-executor doctor``: is everything here, and is it what it should be."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from worker.cli.context import settings
from worker.cli.output import print_json, print_table
from worker.errors import ExecutorError, ServiceError

if TYPE_CHECKING:
    from config.settings import Settings
    from worker.chain.reader import ChainReader
    from worker.execution.runtime import Runtime

_MARKS = {"ok": "ok", "warn": "warning", "fail": "FAILED"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    what: str
    status: Literal["ok", "warn", "fail"]
    detail: str
    fix: str = ""


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Look at Redis, the key store, the chain, the orchestrator and the clock, and say what to fix. Signs nothing."""
    found = examine(settings())
    if as_json:
        print_json([asdict(finding) for finding in found])
    else:
        print_table(
            ("what", "status", "detail", "fix"),
            ((finding.what, _MARKS[finding.status], finding.detail, finding.fix) for finding in found),
            empty="",
        )
    if any(finding.status == "fail" for finding in found):
        raise typer.Exit(1)


def examine(config: Settings) -> list[Finding]:
    """Every finding; none hides another, and each is bounded in time by its service's own limit."""
    from worker.execution.runtime import Runtime, key_store

    services = Runtime(config, dispatch=_no_dispatch)
    found = _redis(config)
    found.append(_probe("key store", lambda: key_store(config).check()))
    found.append(_probe("orchestrator", lambda: _orchestrator(services)))
    chain = _probe("chain", lambda: _chain_id(services.chain))
    found.append(chain)
    if chain.status == "ok":  # without an endpoint, the rest would only repeat it
        found += [
            _probe("emissary", lambda: _emissary(services.chain)),
            _probe("token decimals", lambda: _decimals(services.chain, config.chain_id)),
            _probe("clock", lambda: _clock(services.chain, config.max_clock_skew_s)),
        ]
    return found


def _no_dispatch(stage: str, intent_id: str) -> None:
    raise AssertionError((stage, intent_id))


def _probe(what: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(what, "ok", look())
    except ExecutorError as error:
        where = f"{error.field}: " if error.field else ""
        return Finding(what, "fail", f"{where}{error.message}", error.fix)
    except Exception as error:  # noqa: BLE001 - one broken probe must not hide the others
        return Finding(what, "fail", f"unexpected {type(error).__name__}", "report this")


def _redis(config: Settings) -> list[Finding]:
    from worker.ledger.health import check_redis, require_safe_url

    url = config.redis_url.get_secret_value()
    try:
        require_safe_url(url, allow_insecure=config.allow_insecure_redis)
        health = check_redis(url, timeout_ms=config.redis_timeout_ms)
    except ExecutorError as error:
        return [Finding("redis", "fail", f"{error.field}: {error.message}", error.fix)]
    facts = (
        f"{health.server} {health.version} at {health.url}, {health.latency_ms:g} ms, "
        f"AOF {'on' if health.aof else 'off'} ({health.appendfsync}), eviction {health.maxmemory_policy}"
    )
    problems = [
        Finding("redis", "fail" if problem.fatal else "warn", problem.message, problem.fix)
        for problem in health.problems
    ]
    return [Finding("redis", "ok", facts), *problems]


def _orchestrator(services: Runtime) -> str:
    return services.orchestrator.check()


def _chain_id(chain: ChainReader) -> str:
    chain.require_chain()
    return f"chain {chain.chain_id}"


def _emissary(chain: ChainReader) -> str:
    from worker.signing.contracts import SMART_SESSION_EMISSARY

    if not chain.has_code(SMART_SESSION_EMISSARY):
        raise ServiceError(
            f"no contract at {SMART_SESSION_EMISSARY}",
            field="emissary",
            fix="sessions work on chains that have the emissary only: check SESSION_EXECUTOR_CHAIN_ID",
        )
    return f"contract at {SMART_SESSION_EMISSARY}"


def _decimals(chain: ChainReader, chain_id: int) -> str:
    from worker.sessions.chains import chain_of

    token = next((token for token in chain_of(chain_id).tokens if token.symbol == "USDC"), None)
    if token is None:
        return "no USDC is listed for the chain"
    decimals = chain.erc20_decimals(token.address)
    if decimals != token.decimals:
        raise ServiceError(
            f"USDC at {token.address} says {decimals} decimals, the list says {token.decimals}",
            field="token decimals",
            fix="do not trade: amounts would be off by powers of ten",
        )
    return f"USDC has {decimals}"


def _clock(chain: ChainReader, allowed_s: int) -> str:
    skew = int(time.time()) - chain.latest_block_time()
    if abs(skew) > allowed_s:
        raise ServiceError(
            f"the latest block is {skew} s behind our clock, {allowed_s} s are allowed",
            field="clock",
            fix="set the machine's clock by NTP, and check that the endpoint follows the chain",
        )
    return f"{skew} s from the latest block"
