"""Kill switches in a real Redis: what they stop, and that they outlive a restart."""

from __future__ import annotations

import pytest
import redis

from worker.devnet.valkey import LocalRedis
from worker.intents.model import TradeIntent
from worker.ledger.connection import connect
from worker.ledger.errors import LedgerInputError, LedgerUnavailableError
from worker.ledger.pauses import (
    EVERYTHING,
    Pause,
    Pauses,
    Switch,
    account_switch,
    chain_switch,
    strategy_switch,
)

pytestmark = pytest.mark.services
ACCOUNT, OTHER = "0x" + "ab" * 20, "0x" + "cd" * 20


def pauses(url: str) -> Pauses:
    return Pauses(connect(url, timeout_ms=2_000), where="Redis")


def intent(source: str = "api") -> TradeIntent:
    return TradeIntent("ses_" + "a1" * 8, "k", (), source=source)


CASES = [
    (EVERYTHING, intent(), 8453, True),
    (account_switch(ACCOUNT), intent(), 8453, True),
    (account_switch("0x" + "AB" * 20), intent(), 8453, True),
    (account_switch(OTHER), intent(), 8453, False),
    (chain_switch("8453"), intent(), 8453, True),
    (chain_switch("84532"), intent(), 8453, False),
    (strategy_switch("dca"), intent("strategy:dca"), 8453, True),
    (strategy_switch("dca"), intent("strategy:dca2"), 8453, False),
    (strategy_switch("dca"), intent("dca"), 8453, False),
    (strategy_switch("cli"), intent("cli"), 8453, False),
    (strategy_switch("a:b c"), intent("strategy:a:b c"), 8453, True),
]


@pytest.mark.parametrize(("switch", "asked", "chain_id", "stopped"), CASES)
def test_a_switch_stops_what_it_names(
    redis_url: str, switch: Switch, asked: TradeIntent, chain_id: int, stopped: bool
) -> None:
    switches = pauses(redis_url)
    assert switches.stopping(asked, account=ACCOUNT, chain_id=chain_id) is None
    switches.pause(switch, why="  the oracle is wrong ", who="me", now_ms=5)
    found = switches.stopping(asked, account=ACCOUNT, chain_id=chain_id)
    assert (found == Pause(switch, "the oracle is wrong", "me", 5)) is stopped
    assert switches.list() == (Pause(switch, "the oracle is wrong", "me", 5),)
    assert switches.resume(switch) is True
    assert switches.resume(switch) is False
    assert switches.stopping(asked, account=ACCOUNT, chain_id=chain_id) is None


def test_each_switch_is_its_own(redis_url: str) -> None:
    switches = pauses(redis_url)
    for switch in (account_switch(ACCOUNT), EVERYTHING):
        switches.pause(switch, why="why", who="me", now_ms=1)
    switches.resume(EVERYTHING)
    found = switches.stopping(intent(), account=ACCOUNT, chain_id=1)
    assert found is not None
    assert found.switch == account_switch(ACCOUNT)


def test_a_pause_outlives_a_kill_of_redis(own_redis: LocalRedis) -> None:
    pauses(own_redis.url).pause(chain_switch("1"), why="why", who="me", now_ms=1)
    own_redis.kill()
    with pytest.raises(LedgerUnavailableError):
        pauses(own_redis.url).stopping(intent(), account=ACCOUNT, chain_id=1)
    own_redis.start()
    assert pauses(own_redis.url).stopping(intent(), account=ACCOUNT, chain_id=1) is not None


@pytest.mark.parametrize(
    "text", ["", "not json", "[]", "{}", '{"why": 1, "who": 2, "at_ms": "x"}', "[" * 100_000]
)
def test_what_cannot_be_read_still_stops(redis_url: str, text: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.hset("sx:pauses", "all", text)
    switches = pauses(redis_url)
    found = switches.stopping(intent(), account=ACCOUNT, chain_id=1)
    assert found is not None
    assert found.why == "its entry in Redis cannot be read"
    assert [pause.switch for pause in switches.list()] == [EVERYTHING]


@pytest.mark.parametrize("name", ["", "0x12", ACCOUNT[:-1] + "g", "0xAb" + "ab" * 19])
def test_a_wrong_account_is_refused(name: str) -> None:
    with pytest.raises(LedgerInputError) as caught:
        account_switch(name)
    assert caught.value.field == "account"


@pytest.mark.parametrize("name", ["base", "0", "08453", "-1", "٣", "1" * 21])
def test_a_wrong_chain_is_refused(name: str) -> None:
    with pytest.raises(LedgerInputError) as caught:
        chain_switch(name)
    assert caught.value.field == "chain"


@pytest.mark.parametrize("name", ["", "a\nb"])
def test_a_wrong_strategy_is_refused(name: str) -> None:
    with pytest.raises(LedgerInputError) as caught:
        strategy_switch(name)
    assert caught.value.field == "strategy"


def test_a_pause_without_a_reason_is_refused(redis_url: str) -> None:
    with pytest.raises(LedgerInputError) as caught:
        pauses(redis_url).pause(EVERYTHING, why=" ", who="me", now_ms=1)
    assert caught.value.field == "why"
    assert pauses(redis_url).list() == ()
