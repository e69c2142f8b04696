"""What the pipeline itself refuses.

RefusedError
├── PolicyDeniedError      a policy of the session says no
├── GuardrailDeniedError   a guardrail of our own says no
├── UnexplainedQuoteError  the quote is not what was asked for, so it is not signed
├── SessionUnusableError   the session cannot sign now: not enabled, approval used up, paused, another chain
├── ForgedRequestError     a request has no seal of ours
└── PausedError            an operator has stopped its account, chain or strategy, or everything
InputError
├── IntentInputError       what is asked for cannot be an intent
├── UnservedChainError     a session's chain has no endpoint in the settings
└── TracingSetupError      traces are asked for and cannot be sent
ServiceError
├── ClockSkewError         our clock and the chain's differ too much to judge a time frame
├── SyncUnsettledError     the budgets change faster than they can be compared with the chain
├── StaleQuoteError        the quote leaves too little time; a new one is asked for
└── EnablingError          another intent is enabling the session; this one waits for it
"""

from __future__ import annotations

from worker.errors import InputError, RefusedError, ServiceError


class PolicyDeniedError(RefusedError):
    """A policy of the session denies a call; ``field`` is the policy."""


class GuardrailDeniedError(RefusedError):
    """A guardrail of the session or of the strategy denies the trade; ``field`` is the guardrail."""


class UnexplainedQuoteError(RefusedError):
    """A field of the quote is not what was asked for; ``field`` is its path in the intentOp."""


class SessionUnusableError(RefusedError):
    """The session cannot sign for its account now."""


class ForgedRequestError(RefusedError):
    """A message asks for an intent and its sender has not the keys of the seals."""


class PausedError(RefusedError):
    """A kill switch is off; ``field`` is what is stopped."""


class IntentInputError(InputError):
    """What is asked for cannot be an intent."""


class UnservedChainError(InputError):
    """A session's chain has no endpoint in the settings."""


class TracingSetupError(InputError):
    """Traces are asked for, and the libraries that send them are not installed."""


class ClockSkewError(ServiceError):
    """The latest block's time and our clock differ by more than is allowed."""


class SyncUnsettledError(ServiceError):
    """The budgets have changed while the chain was read."""


class StaleQuoteError(ServiceError):
    """The quote expires before it could be signed and sent."""


class EnablingError(ServiceError):
    """Only one intent at a time can carry the enable signature: the emissary takes it once."""
