"""Every reason for which a person should look at an intent: what it means, and what resolves it.

``docs/runbook.md`` shows this table; a test holds the two, and the codes that the pipeline sets, together.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Advice:
    """What a code means and what to do."""

    meaning: str
    resolve: str


_DOCTOR = "`session-executor doctor`, mend what it names; the intent goes on by itself"

ATTENTION: dict[str, Advice] = {
    "AUDIT": Advice("the audit trail cannot be written, so nothing is signed", _DOCTOR),
    "AWAITING_APPROVAL": Advice(
        "it takes more than a guardrail lets it take without an operator's word; nothing is signed until then",
        "`session-executor intents approve ID`, or `session-executor intents cancel ID`; without a word it ends when its time has passed",
    ),
    "BUG": Advice("an error that nobody foresaw; it is tried again", "report it with the worker's log line"),
    "CLOCK": Advice("our clock and the latest block's differ too much to judge a time frame", _DOCTOR),
    "FAILED_LATE": Advice(
        "it counted as done (SESSION_EXECUTOR_SUCCESS_STATUS), and then the orchestrator reported a failure; what it spent stays spent",
        "look at the account on the chain, then `session-executor intents settle ID --as COMPLETED --why …`",
    ),
    "FORGED": Advice(
        "its record, its session or the kill switches in Redis were not written by this program, or are an old copy",
        "see *Somebody else wrote to Redis* below; `session-executor ledger seal` only if all of it is yours",
    ),
    "KEY_DELETED": Advice(
        "the newest version of the key is deleted or destroyed in Vault; an older one is never used",
        "`vault kv undelete` it and the intent goes on, or cancel the intent and approve a session for a new key",
    ),
    "KEY_STORE": Advice(
        "the key cannot be had: Vault is sealed, down or denies, the key is missing, or the passphrase is wrong",
        _DOCTOR,
    ),
    "LEDGER_LOST": Advice(
        "Redis has forgotten something of the ledger: it was flushed, restored from an old copy, or failed over",
        "see *The ledger was lost* below: compare with the chain, then `session-executor ledger confirm`",
    ),
    "NOT_FOUND": Advice(
        "the orchestrator accepted it and does not know it any more; its reservation is kept",
        "look at the account on the chain, then `session-executor intents settle ID --as COMPLETED` or `--as FAILED`",
    ),
    "NO_ROUTE": Advice(
        "the orchestrator finds no route at the moment",
        "wait, or `session-executor intents cancel ID`",
    ),
    "NO_SIGNER": Advice(
        "its quote is checked and no worker takes it to sign it: no signer runs, or too few do",
        "start a worker with `--queues urgent-sign,sign` and access to the keys (`signer` in docker-compose.yml)",
    ),
    "ORCHESTRATOR": Advice("the orchestrator is down or answers nonsense", _DOCTOR),
    "ORCHESTRATOR_AUTH": Advice(
        "the orchestrator refuses our API key", "set a valid key; the intent goes on by itself"
    ),
    "QUARANTINED": Advice(
        "its attempts died with their workers again and again; it is not tried any more",
        "find out why from the worker's log; if it is DEAD, `session-executor intents replay ID` or `intents drop ID`",
    ),
    "QUOTE": Advice(
        "quotes expire before they can be signed", "look for a slow service with `session-executor doctor`"
    ),
    "RATE_LIMITED": Advice(
        "a service asked for a wait of more than half a minute", "wait, or raise the limit there"
    ),
    "REDIS": Advice("the registered sessions cannot be read", _DOCTOR),
    "RPC": Advice("the chain cannot be read", _DOCTOR),
    "SERVICE": Advice("a service fails in a way that has no name of its own", _DOCTOR),
    "SESSION": Advice(
        "the stored session is damaged, or was registered by another version",
        "import its file again: `session-executor sessions import FILE`",
    ),
    "SLOW": Advice(
        "the orchestrator has not finished it for minutes; it is watched further and keeps its reservation",
        "ask the orchestrator's operator, naming `orchestrator_id` from `session-executor intents show ID`",
    ),
    "STATE_DIR": Advice("the state folder cannot be written, so nothing is signed", _DOCTOR),
    "SUBMIT_UNKNOWN": Advice(
        "it was sent and no clear answer came; the orchestrator is asked, and the same bytes are sent again",
        "nothing to do: it is found, or ends when its quote has run out",
    ),
    "UNKNOWN_STATUS": Advice(
        "the orchestrator reports a status that this version does not know; it is watched further",
        "look at the account on the chain; update, or settle it by hand as for NOT_FOUND",
    ),
    "WRONG_CHAIN": Advice("the RPC endpoint serves another chain than the one configured", _DOCTOR),
}
