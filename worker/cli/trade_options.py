"""The options of ``intents submit`` that make it a trade: tokens, other chains, fees and terms."""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from worker.errors import InputError

_PANEL = "Trades: tokens, other chains, fees"
_CALL = re.compile(r"([1-9][0-9]{0,18}):(0x[0-9a-fA-F]{40}:[0-9]{1,78}:0x(?:[0-9a-fA-F]{2})*)", re.ASCII)
_SPONSORED = {"gas": "gas", "bridging": "bridging", "swaps": "swaps", "protocol-fees": "protocolFees"}
#: Member of a trade -> what it is called here.
_OPTIONS = {
    "tokens": "--want",
    "sources": "--from",
    "spend": "--pay",
    "exactInputs": "--exact-inputs",
    "recipient": "--recipient",
    "sourceAssets": "--source-asset",
    "sourceCalls": "--source-call",
    "feeAsset": "--fee-asset",
    "sponsored": "--sponsor",
    "settlementLayers": "--layer",
    "customDeadline": "--deadline",
}
_MEMBER = re.compile(r"(?:trade\.)?([A-Za-z]+)(?:[.\[].*)?")

Want = Annotated[
    list[str] | None,
    typer.Option(
        "--want",
        help='What shall arrive on the session\'s chain: "5 USDC", or "all USDC"; repeatable.',
        rich_help_panel=_PANEL,
    ),
]
Pay = Annotated[
    list[str] | None,
    typer.Option(
        "--pay",
        help='The most that may be taken for it: "6 USDC on 8453"; repeatable.',
        rich_help_panel=_PANEL,
    ),
]
From = Annotated[
    list[str] | None,
    typer.Option(
        "--from",
        help="Session of a chain that tokens are taken from, by default the intent's own; repeatable.",
        rich_help_panel=_PANEL,
    ),
]
ExactInputs = Annotated[
    bool,
    typer.Option(
        "--exact-inputs", help="Take exactly what --pay says, instead of at most.", rich_help_panel=_PANEL
    ),
]
Recipient = Annotated[
    str | None,
    typer.Option("--recipient", help="Who gets the tokens, instead of the account.", rich_help_panel=_PANEL),
]
SourceAsset = Annotated[
    list[str] | None,
    typer.Option(
        "--source-asset",
        help="Symbol or address of a token that inputs may be chosen from; repeatable.",
        rich_help_panel=_PANEL,
    ),
]
SourceCall = Annotated[
    list[str] | None,
    typer.Option(
        "--source-call",
        help="A call CHAIN:TO:WEI:DATA on a source chain, before its tokens are taken; repeatable.",
        rich_help_panel=_PANEL,
    ),
]
FeeAsset = Annotated[
    str | None,
    typer.Option(
        "--fee-asset",
        help="Symbol or address of the token that fees are taken in; 2026-01.alps only.",
        rich_help_panel=_PANEL,
    ),
]
Sponsor = Annotated[
    list[str] | None,
    typer.Option(
        "--sponsor",
        help=f"A fee that the project pays, instead of all: {', '.join(_SPONSORED)}; repeatable.",
        rich_help_panel=_PANEL,
    ),
]
Layer = Annotated[
    list[str] | None,
    typer.Option(
        "--layer",
        help="A settlement layer that may be used, such as ACROSS; repeatable.",
        rich_help_panel=_PANEL,
    ),
]
Deadline = Annotated[
    str | None,
    typer.Option(
        "--deadline",
        help="When it must be executed by, 120 s to a day ahead: 2026-01-31T12:00:00Z, or unix seconds.",
        rich_help_panel=_PANEL,
    ),
]


def trade_words(
    *,
    want: Sequence[str] | None,
    pay: Sequence[str] | None,
    sources: Sequence[str] | None,
    exact_inputs: bool,
    recipient: str | None,
    source_assets: Sequence[str] | None,
    source_calls: Sequence[str] | None,
    fee_asset: str | None,
    sponsor: Sequence[str] | None,
    layers: Sequence[str] | None,
    deadline: str | None,
) -> dict[str, Any] | None:
    """The trade that the options ask for, as ``worker/execution/trade_words.py`` reads it; None without any of them.

    Raises:
        InputError: names the option.
    """
    from worker.execution.request import parse_instant

    given: dict[str, Any] = {
        "tokens": list(want or ()),
        "spend": list(pay or ()),
        "sources": list(sources or ()),
        "exactInputs": exact_inputs,
        "recipient": recipient,
        "sourceAssets": list(source_assets or ()),
        "sourceCalls": _source_calls(source_calls or ()),
        "feeAsset": fee_asset,
        "sponsored": _sponsored(sponsor or ()),
        "settlementLayers": list(layers or ()),
        "customDeadline": None if deadline is None else parse_instant(deadline, field="--deadline"),
    }
    for name in ("recipient", "feeAsset"):
        if given[name] == "":  # an unset variable of a script, perhaps
            raise InputError("is empty", field=_OPTIONS[name], fix="give a value, or leave it out")
    words = {name: value for name, value in given.items() if value}
    return words or None


@contextmanager
def trade_named() -> Generator[None]:
    """Let errors about a trade's members name the options."""
    try:
        yield
    except InputError as error:
        match = _MEMBER.fullmatch(error.field)
        if match is not None:
            error.field = _OPTIONS.get(match[1], error.field)
        raise


def _source_calls(listed: Sequence[str]) -> Mapping[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = {}
    for index, text in enumerate(listed):
        match = _CALL.fullmatch(text)
        if match is None:
            raise InputError(
                f"number {index} is no call on a chain",
                field="--source-call",
                fix="write CHAIN:TO:WEI:DATA, such as 8453:0x…40 digits:0:0xa9059cbb…",
            )
        to, value, data = match[2].split(":")
        found.setdefault(match[1], []).append({"to": to, "value": value, "data": data})
    return found


def _sponsored(listed: Sequence[str]) -> dict[str, bool] | None:
    if not listed:
        return None
    for name in listed:
        if name not in _SPONSORED:
            raise InputError(
                f"{name[:40]!r} is no fee", field="--sponsor", fix=f"use {', '.join(_SPONSORED)}"
            )
    return {member: name in listed for name, member in _SPONSORED.items()}
