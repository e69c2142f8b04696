"""Trades over two chains: one account on Base and Arbitrum, a session on each, and the pipeline that uses both."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from tests.support.anvil import ARBITRUM
from tests.support.pipeline import RECIPIENT, Pipeline
from tests.support.sessions import ACCOUNT, BASE, OWNER_KEY, TRANSFER
from worker.devnet.chain import ARBITER, usdc_of
from worker.devnet.devnet import Devnet
from worker.intents.trade import Trade
from worker.policies import Permit2Claim, SpendingLimits, TokenLimit
from worker.policies.permit2_claim import ChainToken
from worker.sessions.approval import approve
from worker.sessions.file import load_session_file
from worker.sessions.importing import RegisteredSession, verify
from worker.sessions.model import Action
from worker.sessions.v2 import SessionV2

_ABI = [
    {
        "type": "function",
        "name": "transfer",
        "stateMutability": "nonpayable",
        "inputs": [{"name": "to", "type": "address"}, {"name": "amount", "type": "uint256"}],
        "outputs": [{"name": "", "type": "bool"}],
    }
]
USDC_OF = {chain_id: usdc_of(chain_id) for chain_id in (BASE, ARBITRUM)}
LIMIT = 100_000_000
FUNDS = 1_000_000_000


def claim_policy(**changes: Any) -> Permit2Claim:
    """Only our arbiter may claim USDC, of either chain, and only for the account itself."""
    given: dict[str, Any] = {
        "arbiters": (ARBITER,),
        "tokens_in": tuple(ChainToken(chain_id=chain, token=token) for chain, token in USDC_OF.items()),
        "recipient_is_sponsor": True,
    }
    return Permit2Claim(**(given | changes))


class CrossChain(Pipeline):
    """A pipeline whose account has 1000 USDC on Base and none on Arbitrum; neither session is enabled yet.

    Attributes:
        source: the session on Base, which may claim and transfer USDC.
        target: the session on Arbitrum, which may transfer USDC.
    """

    def __init__(
        self,
        devnet: Devnet,
        redis_url: str,
        directory: Path,
        *,
        claim: Permit2Claim | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(devnet, redis_url, directory, **settings)
        self.source = self.usdc_session(BASE, claim or claim_policy())
        self.target = self.usdc_session(ARBITRUM)

    def usdc_session(self, chain_id: int, claim: Permit2Claim | None = None) -> RegisteredSession:
        """An unrestricted session of a chain: ``USDC.transfer`` up to 100 USDC, and claims."""
        token = USDC_OF[chain_id]
        limits = SpendingLimits(limits=(TokenLimit(token=token, amount=LIMIT),))
        return self.approve(
            chain=chain_id,
            restrict=False,
            actions=[Action(target=token, selector=TRANSFER, policies=(limits,))],
            claim_policies=(claim,) if claim else (),
        )

    def approve_v2(self, chain_id: int, **fields: Any) -> RegisteredSession:
        """A session of SDK 2.2.2 for another key of ours: ``USDC.transfer``, and what ``fields`` say."""
        key = self.keys.create().address
        transfer = {"functions": {"transfer": {}}, "address": USDC_OF[chain_id], "abi": _ABI}
        session = SessionV2.model_validate(
            {"chain": chain_id, "owners": [key], "permissions": [transfer], **fields}, by_name=False
        )
        text = approve(session, account=ACCOUNT, kind="nexus", owner_keys=[OWNER_KEY], nonce=0)
        registered = verify(
            load_session_file(text), our_keys=[key], chain_id=chain_id, now_s=int(time.time())
        )
        self.runtime.sessions.put(registered)
        return registered

    def trade(self, amount: int | None = 5_000_000, **changes: Any) -> Trade:
        """So much USDC from Base to Arbitrum, for at most a tenth more; members of the trade's JSON in ``changes``."""
        wanted = {} if amount is None else {"amount": str(amount)}
        return Trade.from_json(
            {
                "tokens": [{"token": USDC_OF[ARBITRUM], **wanted}],
                "sources": [self.source.session_id],
                "spend": [
                    {"chain": BASE, "token": USDC_OF[BASE], "amount": str((amount or FUNDS) * 11 // 10)}
                ],
                **changes,
            }
        )

    def submit_trade(self, key: str, trade: Trade | None = None, **fields: Any) -> str:
        """Enqueue a trade of the target's session without calls of its own; the intent's id."""
        fields.setdefault("session_id", self.target.session_id)
        return self.submit(key, *fields.pop("calls", ()), trade=trade or self.trade(), **fields)

    def held(self, address: str = ACCOUNT) -> tuple[int, int]:
        """USDC of an address on Base and on Arbitrum, base units."""
        return (
            self.devnet.usdc_balance(address, chain_id=BASE),
            self.devnet.usdc_balance(address, chain_id=ARBITRUM),
        )


__all__ = ["ARBITRUM", "BASE", "FUNDS", "LIMIT", "RECIPIENT", "USDC_OF", "CrossChain", "claim_policy"]
