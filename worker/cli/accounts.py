"""``session-executor accounts``: what a user's smart account is, and what makes it take sessions. Needs no service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer
from eth_utils.address import to_checksum_address

from worker.cli.context import options, parsed
from worker.cli.output import note, print_json, print_line
from worker.errors import InputError

if TYPE_CHECKING:
    from worker.policies.base import Execution
    from worker.sessions.model import EcdsaOwners

app = typer.Typer(
    help="Smart accounts as the SDK makes them: address, init code, module calls.", no_args_is_help=True
)
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Kind = Literal["nexus", "safe", "kernel", "startale"]
#: The Ownable validator's own limit.
_MAX_OWNERS = 32
KindOption = Annotated[Kind, typer.Option(help="The account's kind.")]


@app.command()
def derive(
    owner: Annotated[
        list[str], typer.Option(help="An owner's address; repeat it for several, in the SDK's order.")
    ],
    kind: KindOption = "nexus",
    threshold: Annotated[int, typer.Option(help="How many owners must sign.", min=1, max=255)] = 1,
    salt: Annotated[
        str | None, typer.Option(help="32 bytes as 0x hex, for all but a safe (the SDK's account.salt).")
    ] = None,
    salt_nonce: Annotated[
        str | None, typer.Option(help="A number, for a safe only (the SDK's account.nonce).")
    ] = None,
    nexus_version: Annotated[
        str | None, typer.Option(help="1.2.0 (default) or 1.2.1, for a nexus only.")
    ] = None,
    sessions: Annotated[
        bool,
        typer.Option(
            "--sessions/--no-sessions", help="Whether the session modules are there from the start."
        ),
    ] = True,
    as_json: JsonFlag = False,
) -> None:
    """Print an account's address, the factory call that deploys it, and the setupOps of a session file."""
    from worker.policies.fields import parse_bytes, parse_uint
    from worker.sessions.accounts import derive_account

    salt_bytes = None if salt is None else parsed("--salt", parse_bytes, salt)
    nonce = (
        None if salt_nonce is None else parsed("--salt-nonce", lambda text: parse_uint(text, 256), salt_nonce)
    )
    with options(**{"salt": "--salt", "salt nonce": "--salt-nonce", "version": "--nexus-version"}):
        account = derive_account(
            _owners(owner, threshold),
            kind,
            salt=salt_bytes,
            salt_nonce=nonce,
            version=nexus_version,
            sessions=sessions,
        )
    factory, factory_data = to_checksum_address(account.factory), "0x" + account.factory_data.hex()
    if as_json:
        print_json(
            {
                "address": to_checksum_address(account.address),
                "kind": account.kind,
                "factory": factory,
                "factory_data": factory_data,
                "setup_ops": [{"to": factory, "data": factory_data}],
            }
        )
        return
    print_line(f"address      {to_checksum_address(account.address)} ({account.kind})")
    print_line(f"factory      {factory}")
    print_line(f"factory_data {factory_data}")
    print_line(f'setup_ops    [{{"to": "{factory}", "data": "{factory_data}"}}]')


@app.command()
def install(
    address: Annotated[str, typer.Argument(help="The account, which is deployed.")],
    kind: KindOption = "nexus",
    executor: Annotated[
        bool,
        typer.Option(
            "--executor", help="Also the Intent Executor, for an account that was not made by the SDK."
        ),
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Print the calls that make a deployed account take sessions. The account must make them, its owner signs."""
    from worker.policies.fields import parse_address
    from worker.sessions.accounts import EMISSARY_MODULE, EXECUTOR_MODULE, install_calls

    account = parsed("ADDRESS", parse_address, address)
    modules = (EMISSARY_MODULE, *((EXECUTOR_MODULE,) if executor else ()))
    _print_calls([call for module in modules for call in install_calls(kind, account, module)], as_json)
    if kind == "safe":
        note(
            "note: a Safe that the SDK made with sessions has a fallback module besides, for ERC-7739 signatures; "
            "these calls do not install it, as the SDK's do not"
        )


@app.command()
def uninstall(
    address: Annotated[str, typer.Argument(help="The account, which is deployed.")],
    kind: KindOption = "nexus",
    as_json: JsonFlag = False,
) -> None:
    """Print the call that ends all sessions of an account at once. Its sessions come back if it is installed again."""
    from worker.policies.fields import parse_address
    from worker.sessions.accounts import uninstall_calls

    _print_calls(uninstall_calls(kind, parsed("ADDRESS", parse_address, address)), as_json)


def _print_calls(calls: list[Execution] | tuple[Execution, ...], as_json: bool) -> None:
    rows = [
        {"to": to_checksum_address(call.to), "value": str(call.value), "data": "0x" + call.data.hex()}
        for call in calls
    ]
    if as_json:
        print_json(rows)
        return
    for number, row in enumerate(rows, 1):
        print_line(f"call {number} of {len(rows)}, from the account itself:")
        for name, value in row.items():
            print_line(f"  {name:6} {value}")


def _owners(addresses: list[str], threshold: int) -> EcdsaOwners:
    from worker.policies.fields import parse_address
    from worker.sessions.model import EcdsaOwners

    accounts = tuple(parsed("--owner", parse_address, address) for address in addresses)
    if len(set(accounts)) != len(accounts):
        raise InputError("names an owner twice", field="--owner", fix="name each owner once")
    if len(accounts) > _MAX_OWNERS:
        raise InputError(
            f"is given {len(accounts)} times", field="--owner", fix=f"at most {_MAX_OWNERS} owners fit"
        )
    if threshold > len(accounts):
        raise InputError(
            f"{threshold} cannot be met by {len(accounts)} owners",
            field="--threshold",
            fix="lower it, or name more owners with --owner",
        )
    return EcdsaOwners(accounts=accounts, threshold=threshold)
