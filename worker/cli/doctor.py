"""``session-executor doctor``: is everything here, and is it what it should be."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from worker.cli.context import settings
from worker.cli.looks import Finding, Group, Seen, ok
from worker.cli.output import print_json, print_table
from worker.errors import ServiceError

if TYPE_CHECKING:
    from config.settings import Settings
    from worker.chain.reader import ChainReader
    from worker.execution.runtime import Runtime

#: Above what each service's own time limit allows it (a key store that hashes slowly, five chain reads), and still a
#: time that one waits for.
BOUND_S = 30.0
_MARKS = {"ok": "ok", "warn": "warning", "fail": "FAILED"}


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


def examine(config: Settings, *, bound_s: float = BOUND_S) -> list[Finding]:
    """Every finding. The services are asked at the same time, so that a slow one holds up none of the others.

    Args:
        config: the settings.
        bound_s: how long all of it may take; what has not answered by then has failed.
    """
    from worker.execution.runtime import Runtime, key_store

    services = Runtime(config, dispatch=no_dispatch)
    ends = time.monotonic() + bound_s
    groups = [
        Group(
            [
                ("redis", lambda: redis(config, config.redis_url.get_secret_value())),
                ("kill switches", lambda: _pauses(services)),
                ("ledger", lambda: ledger(services)),
            ]
        ),
        Group([("key store", lambda: ok(key_store(config).check()))]),
        Group([("orchestrator", lambda: ok(services.orchestrator.check()))]),
        *(Group(_looks_at(services, chain_id)) for chain_id in services.chain_ids),
    ]
    return [finding for group in groups for finding in group.findings(ends, bound_s)]


def _looks_at(services: Runtime, chain_id: int) -> list[tuple[str, Callable[[], Seen]]]:
    """What is looked at on a chain. Those of further chains carry its id in their names."""
    config = services.settings
    suffix = "" if chain_id == config.chain_id else f" {chain_id}"
    return [
        (f"chain{suffix}", lambda: ok(chain_answers(services.chain_of(chain_id)))),
        (f"emissary{suffix}", lambda: ok(_emissary(services.chain_of(chain_id)))),
        (f"token decimals{suffix}", lambda: ok(_decimals(services.chain_of(chain_id), chain_id))),
        (f"clock{suffix}", lambda: ok(_clock(services.chain_of(chain_id), config.max_clock_skew_s))),
    ]


def no_dispatch(stage: str, intent_id: str) -> None:
    """For services that are looked at only: nothing is ever sent."""
    raise AssertionError((stage, intent_id))


def ledger(services: Runtime) -> Seen:
    """Whether the ledger is the one that this machine knows."""
    services.marks.check()
    found = services.epoch.status()
    if found.loss:
        return "fail", f"lost: {found.loss}", "see `session-executor ledger status` and the runbook"
    return ok(f"whole, epoch {found.epoch[:8]}" if found.epoch else "new, nothing traded yet")


def redis(config: Settings, url: str) -> Seen:
    """Whether the Redis at ``url`` answers, and is fit for what it holds."""
    from worker.ledger.health import check_redis, require_safe_url

    require_safe_url(url, allow_insecure=config.allow_insecure_redis)
    health = check_redis(url, timeout_ms=config.redis_timeout_ms)
    facts = (
        f"{health.server} {health.version} at {health.url}, {health.latency_ms:g} ms, "
        f"AOF {'on' if health.aof else 'off'} ({health.appendfsync}), eviction {health.maxmemory_policy}"
    )
    status: Literal["ok", "warn", "fail"] = "fail" if health.fatal else "warn" if health.problems else "ok"
    detail = "\n".join((facts, *(f"it {problem.message}" for problem in health.problems)))
    return status, detail, "\n".join(problem.fix for problem in health.problems)


def _pauses(services: Runtime) -> Seen:
    found = services.pauses.list()
    if not found:
        return "ok", "nothing is paused", ""
    told = "\n".join(f"{pause.switch} is paused: {pause.why}" for pause in found)
    return "warn", told, "`session-executor resume`, once the reason is gone"


def chain_answers(chain: ChainReader) -> str:
    """Whether the endpoint answers, for the chain that is set. Raises ServiceError."""
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
        where = f"{skew} s behind" if skew > 0 else f"{-skew} s ahead of"
        raise ServiceError(
            f"the latest block is {where} our clock, {allowed_s} s are allowed",
            field="clock",
            fix="set the machine's clock by NTP, and check that the endpoint follows the chain",
        )
    return f"{abs(skew)} s from the latest block"
