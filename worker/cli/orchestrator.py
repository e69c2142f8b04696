"""``session-executor orchestrator``: what the service says about balances, chains and liquidity. Reads only."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer
from eth_utils.address import to_checksum_address

from worker.cli.context import find_session, options, parsed, runtime
from worker.cli.output import note, print_json_text, print_line, print_table
from worker.errors import InputError

if TYPE_CHECKING:
    from worker.policies.policy import AmountFormat

app = typer.Typer(
    help="Ask the orchestrator: an account's balances, chains and tokens, liquidity.", no_args_is_help=True
)
JsonFlag = Annotated[bool, typer.Option("--json", help="Print the service's answer as it came.")]
LayerOption = Annotated[
    list[str] | None, typer.Option(help="A settlement layer that may be used, such as ACROSS; repeatable.")
]
_TOKEN_OF = re.compile(r"([1-9][0-9]{0,18}):(0x[0-9a-fA-F]{40})", re.ASCII)


@app.command()
def portfolio(
    account: Annotated[str, typer.Argument(help="An account's address, or a session's id: its account.")],
    chain: Annotated[
        list[int] | None, typer.Option(help="Only on this chain (its id); repeatable.", min=1)
    ] = None,
    token: Annotated[
        list[str] | None, typer.Option(help="Only this token, as CHAIN:ADDRESS; repeatable.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """An account's balances on every chain that the service knows."""
    from worker.intents.amount import format_units
    from worker.policies.fields import parse_address

    services = runtime()
    if account.startswith("0x"):
        address = parsed("ACCOUNT", parse_address, account)
    else:
        address = find_session(services, account, field="ACCOUNT").account
    wanted = [_token_of(text) for text in token or ()]
    found = services.orchestrator.portfolio(
        to_checksum_address(address), chains=tuple(chain or ()), tokens=wanted
    )
    if as_json:
        print_json_text(found.raw)
        return

    print_table(
        ("chain", "token", "unlocked", "locked", "address"),
        (
            (
                item.chain,
                item.symbol,
                format_units(item.unlocked, item.decimals),
                format_units(item.locked, item.decimals) if item.locked else "",
                item.token,
            )
            for item in found.holdings
        ),
        empty="no balances",
    )


@app.command()
def chains(as_json: JsonFlag = False) -> None:
    """The chains and tokens that the service supports. Those that this program serves are marked."""
    services = runtime()
    found = services.orchestrator.chains()
    if as_json:
        print_json_text(found.raw)
        return
    served = {str(chain_id) for chain_id in services.chain_ids}
    print_table(
        ("chain", "name", "served", "tokens"),
        (
            (
                item.chain,
                f"{item.name} (testnet)" if item.testnet else item.name,
                "yes" if item.chain in served else "",
                "all" if item.tokens is None else ", ".join(token.symbol for token in item.tokens),
            )
            for item in found.chains
        ),
        empty="no chains",
    )


@app.command()
def splits(
    amount: Annotated[
        list[str], typer.Argument(help='How much of which token shall be filled: "5000 USDC"; several count.')
    ],
    chain: Annotated[
        int | None, typer.Option(help="The chain where it is filled; by default the program's own.", min=1)
    ] = None,
    layer: LayerOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Split amounts into parts that one filler each can fill. Exit code 1 if not all of it can be filled."""
    from worker.execution.tokens import amount_format, token_table
    from worker.intents.amount import parse_human
    from worker.orchestrator.errors import InsufficientLiquidityError

    services = runtime()
    chain_id = chain or services.settings.chain_id
    with options(chain="--chain"):
        tokens = token_table(chain_id)
    wanted: dict[str, int] = {}
    for text in amount:
        with options(token="AMOUNT"):  # noqa: S106 - a coin, no password
            given = parse_human(text, tokens, field="AMOUNT")
        if given.token.address in wanted:
            raise InputError(f"names {given.token.symbol} twice", field="AMOUNT", fix="add the amounts up")
        wanted[given.token.address] = given.value
    write = amount_format(chain_id)
    try:
        found = services.orchestrator.splits(chain_id, wanted, layers=tuple(layer or ()))
    except InsufficientLiquidityError as error:
        for index, part in enumerate(error.available):
            note(f"could be filled, part {index + 1}: {_words(part, write)}")
        note(f"could not: {_words(error.unfillable, write)}")
        raise
    if as_json:
        print_json_text(found.raw)
        return
    for part in found.intents:
        print_line(_words(part, write))


def _words(part: Mapping[str, int], write: AmountFormat) -> str:
    return " + ".join(write(token.lower(), amount) for token, amount in part.items())


def _token_of(text: str) -> tuple[int, str]:
    match = _TOKEN_OF.fullmatch(text)
    if match is None:
        raise InputError(
            f"{text[:60]!r} is no token of a chain",
            field="--token",
            fix="write CHAIN:ADDRESS, such as 8453:0x…40 digits",
        )
    return int(match[1]), to_checksum_address(match[2])
