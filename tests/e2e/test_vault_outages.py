"""Real workers while their Vault is sealed, and while it is killed: what is due waits, and goes on without a restart.

``VAULT_FAULTS=long`` (``make vault-faults``) keeps it away for 20 s; otherwise for a few.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import pytest

from tests.support.e2e import Trader
from tests.support.vault import SealableVault
from tests.support.vault_room import ADDRESS, vault_room
from worker.devnet.stack import PREFIX, Stack
from worker.intents.states import State

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]
AWAY_S = 20 if os.environ.get("VAULT_FAULTS") == "long" else 3


def test_trades_that_are_due_wait_for_a_sealed_vault_and_for_a_killed_one(
    make_stack: Callable[..., Stack], sealable_vault: SealableVault
) -> None:
    with vault_room(sealable_vault.server) as room:
        room.put_key()
        role = room.role(room.signer)
        stack = make_stack(
            environment={
                f"{PREFIX}KEY_STORE": "vault",
                f"{PREFIX}VAULT_ADDR": sealable_vault.server.addr,
                f"{PREFIX}VAULT_MOUNT": room.mount,
                f"{PREFIX}VAULT_TIMEOUT_S": "2",
                f"{PREFIX}VAULT_ROLE_ID": role.role_id,
                f"{PREFIX}VAULT_SECRET_ID": role.secret_id,
            }
        )
        trader = Trader(stack)
        session = trader.import_session(ADDRESS)
        (first,) = trader.wait([trader.submit(session, "before", 1_000_000)])
        assert first.state is State.COMPLETED

        for how in ("sealed", "killed"):
            if how == "sealed":
                sealable_vault.seal()
            else:
                sealable_vault.kill()
            ids = [trader.submit(session, f"{how} {number}", 1_000_000) for number in range(3)]
            away_since = time.monotonic()
            trader.wait_until(
                lambda ids=ids: all(record.attention == "KEY_STORE" for record in trader.records(ids)), ids
            )
            time.sleep(max(0.0, away_since + AWAY_S - time.monotonic()))
            for record in trader.records(ids):
                assert record.state in {State.QUEUED, State.AUTHORIZED}
                assert record.body == ""
            if how == "killed":
                sealable_vault.start()
            sealable_vault.unseal()
            records = trader.wait(ids, timeout_s=120)
            assert [record.state for record in records] == [State.COMPLETED] * 3
            assert not any(record.attention for record in records)
        assert trader.executed() == 7
        assert all(worker.running() for worker in stack.workers)
        # a seal is no attempt of a worker to be blamed for
        assert "Traceback" not in stack.workers[0].log()
