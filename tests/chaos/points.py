"""The places at which the chaos tests strike."""

from __future__ import annotations

POINTS = (
    "before_claim",
    "after_quote",
    "after_reserve",
    "after_key_fetch",
    "after_signed_stored",
    "during_post",
    "after_accept",
    "polling",
    "settling",
    "settled",
)
"""In the order in which an intent passes them. ``settling`` is right before the write, ``settled`` right after it."""
