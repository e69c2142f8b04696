"""The SDK's ``waitForExecution``, replayed: our due times are its polling times, on a clock of the test's own.

Where the SDK gives up (a timeout, a 401, a 404, a transport error) we go on; up to there the two must poll alike.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
import redis
from pydantic import SecretStr

from config.settings import Settings
from tests.support.http_stub import Answer, Seen, http_stub
from tests.support.vectors import load_vectors
from worker.execution.runtime import Runtime
from worker.execution.watch import tick
from worker.intents.model import TradeIntent
from worker.intents.states import FINAL, State
from worker.ledger import keys
from worker.policies.base import Execution

NAMES = (
    "pending-x3-completed",
    "filled-is-terminal",
    "preconfirmed-accepted",
    "preconfirmed-not-accepted",
    "claimed-is-not-terminal",
    "failed",
    "expired-never-terminal",
    "pending-forever",
    "unknown-status",
    "429-retry-after-seconds",
    "429-retry-after-fraction-below-min",
    "429-retry-after-date",
    "429-retry-after-past-date",
    "429-retry-after-garbage",
    "429-no-retry-after",
    "503-backoff-doubles-to-cap",
    "500-backoff",
    "500-forever",
    "404-throws",
    "401-throws",
    "502-throws",
    "504-throws",
    "network-error-throws",
)
VECTOR_CLOCK_MS = 1_700_000_000_000
START_MS = 1_900_000_000_000
#: An HTTP date has whole seconds, and the client reads it against the real clock.
DATE_TOLERANCE_MS = 1_500


class Watched:
    """One submitted intent, an orchestrator that plays a vector's answers, and a clock that only moves when told."""

    def __init__(self, redis_url: str, url: str, vector: dict[str, Any]) -> None:
        self.clock_ms = START_MS
        settings = Settings(  # pyright: ignore[reportCallIssue]
            _env_file=None,  # pyright: ignore[reportCallIssue]
            redis_url=SecretStr(redis_url),
            orchestrator_url=url,
            success_status="PRECONFIRMED" if vector["acceptsPreconfirmations"] else "FILLED",
        )
        self.runtime = Runtime(settings, dispatch=_no_message, clock=lambda: self.clock_ms)
        ledger = self.runtime.ledger
        intent = TradeIntent("ses_0123456789abcdef", "k", (Execution("0x" + "11" * 20, 0, b""),))
        self.intent_id = ledger.enqueue(intent, now_ms=START_MS, due_ms=START_MS).record.intent_id
        before = State.QUEUED
        for state in (State.AUTHORIZED, State.SIGNED, State.SUBMITTED):
            ledger.transition(
                self.intent_id,
                fence=0,
                from_state=before,
                to_state=state,
                who="test",
                why="test",
                now_ms=START_MS,
                due_ms=START_MS,
                fields={
                    "orchestrator_id": "123",
                    "quote_expires_s": "2000000000",
                    "watch_from_ms": str(START_MS),
                },
            )
            before = state

    def due_ms(self) -> int:
        """When the ledger wants it looked at next."""
        open_index = keys.of_session(keys.digits_of_intent(self.intent_id), "open")
        with redis.Redis.from_url(self.runtime.settings.redis_url.get_secret_value()) as client:
            score: Any = client.zscore(open_index, self.intent_id)
        return int(score)

    def poll(self) -> State:
        """Let the clock reach the due time and look."""
        self.clock_ms = self.due_ms()
        tick(self.runtime)
        return self.runtime.ledger.get(self.intent_id).state


def _no_message(stage: str, intent_id: str) -> None:
    raise AssertionError((stage, intent_id))


def _answers(vector: dict[str, Any]) -> list[dict[str, Any]]:
    responses = vector["responses"]
    return [responses["repeat"]] if isinstance(responses, dict) else responses


def _headers(response: dict[str, Any]) -> dict[str, str]:
    headers = dict(response.get("headers", {}))
    after = headers.get("retry-after", "")
    if after.endswith("GMT"):  # the vector's clock stands elsewhere: keep the distance
        when = datetime.strptime(after, "%a, %d %b %Y %H:%M:%S GMT").replace(tzinfo=UTC)
        distance_s = when.timestamp() - VECTOR_CLOCK_MS / 1000
        headers["retry-after"] = format_datetime(
            datetime.fromtimestamp(time.time() + distance_s, UTC), usegmt=True
        )
    return headers


@pytest.mark.parametrize("name", NAMES)
def test_we_poll_when_the_sdk_polls(name: str, redis_url: str, tmp_path: Path) -> None:
    vector = {item["name"]: item for item in load_vectors("wait_for_execution")["vectors"]}[name]
    expected = vector["expected"]
    answers = _answers(vector)
    times: list[int] = []

    def answer(seen: Seen) -> Answer:
        assert seen.path == expected["path"]
        response = answers[min(len(times), len(answers) - 1)]
        if response.get("networkError"):
            return Answer(drop=True)
        return Answer(response["status"], response.get("body", {}), _headers(response))

    with http_stub(answer) as stub:
        watched = Watched(redis_url, stub.url, vector)
        state = State.SUBMITTED
        while state not in FINAL and len(times) < len(expected["requestTimesMs"]):
            at_ms = watched.due_ms() - START_MS
            state = watched.poll()
            times.append(at_ms)
        assert len(stub.seen) == len(times)

    if name == "expired-never-terminal":  # the SDK polls on; for us the orchestrator has said its last word
        assert (state, times) == (State.EXPIRED, [0])
        return
    tolerance = DATE_TOLERANCE_MS if "-date" in name else 0
    assert len(times) == len(expected["requestTimesMs"])
    for ours, theirs in zip(times, expected["requestTimesMs"], strict=True):
        assert abs(ours - theirs) <= tolerance
    if "resolved" in expected:
        assert state is State.COMPLETED
        fill = expected["resolved"]["fill"].get("hash", "")
        assert watched.runtime.ledger.get(watched.intent_id).tx_hash == fill
    elif expected["rejected"]["class"] == "IntentFailedError":
        assert state is State.FAILED
    else:
        assert state is State.SUBMITTED  # the SDK raises here; we go on watching


def test_every_vector_is_replayed() -> None:
    assert [item["name"] for item in load_vectors("wait_for_execution")["vectors"]] == list(NAMES)
