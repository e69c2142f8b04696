"""Amounts and windows at every edge where they come in: exact to the last digit, or refused in words that name the field.

Each row goes through the real edge: a command line, a session file, a strategies file, guardrails, a trade's JSON, and an
orchestrator's reply over HTTP. An accepted row is read back from where it is used.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli import Run
from tests.support.pipeline import RECIPIENT, transfer
from tests.support.raw_http import answers, raw_http, reply
from tests.support.sessions import OWNER_KEY, make_session_file, usdc_transfer
from worker.cli.context import runtime
from worker.devnet.devnet import Devnet
from worker.errors import ExecutorError
from worker.execution.wire import ALPS, explain, quote_request
from worker.intents.trade import Trade
from worker.orchestrator.alps import AlpsOrchestrator
from worker.signing.messages import SingleChainOps

pytestmark = pytest.mark.services
MAX = 2**256 - 1
LATER_MS = (int(time.time()) + 86_400) * 1000
YEAR_2100_S = 4_102_444_800


class Edges:
    """How a text goes in, and what comes out: ``= <what is used>``, or the error's line without ``error: ``."""

    def __init__(self, command: Run, session: str, key: str, devnet: Devnet, folder: Path) -> None:
        self.command = command
        self.session = session
        self.key = key
        self.devnet = devnet
        self.folder = folder
        self.number = 0
        self.accepted = False

    def require_nothing(self) -> None:
        services = runtime()
        assert services.ledger.list_intents() == []
        assert [found.session_id for found in services.sessions.list()] == [self.session]
        assert services.strategies.definitions() == {}
        assert services.sessions.rules(self.session) == {}

    def through(self, edge: str, text: str) -> str:
        self.number += 1
        name, _, token = edge.partition("/")
        found: str = getattr(self, name.replace(" ", "_"))(text, token)
        return found

    def amount(self, text: str, token: str) -> str:
        """``intents submit --amount``: base units in the call that would be signed."""
        more = ("--token", token) if token else ()
        code, out, err = self.submit("--amount", text, *more)
        if code:
            return self.refused(code, out, err)
        [call] = json.loads(self.command("intents", "show", out.strip(), "--json")[1])["calls"]
        return f"= {call['value'] if call['data'] == '0x' else int(call['data'][74:], 16)}"

    def not_after(self, text: str, _: str) -> str:
        """``intents submit --not-after``: unix seconds in the record."""
        code, out, err = self.submit("--amount", "1 USDC", "--not-after", text)
        if code:
            return self.refused(code, out, err)
        return f"= {json.loads(self.command('intents', 'show', out.strip(), '--json')[1])['not_after']}"

    def session_limit(self, text: str, value: str) -> str:
        """The limit of a spending-limits policy as a session file's JSON has it; ``value`` is what the owner approved."""
        limit = int(value or 100_000_000)
        approved = make_session_file(
            OWNER_KEY, self.key.lower(), actions=[usdc_transfer(limit, valid_until_ms=LATER_MS)]
        )
        before = f'"amount": "{limit}"' if f'"amount": "{limit}"' in approved else f'"amount":"{limit}"'
        assert approved.count(before) == 1
        found = self.imported(approved.replace(before, f'"amount":{text}'))
        return found if isinstance(found, str) else f"= {found['policies'][0]['limits'][0]['amount']}"

    def session_window(self, text: str, value: str) -> str:
        """``validUntil`` of a time frame as a session file's JSON has it, ms; ``value`` is what the owner approved."""
        until = int(value or LATER_MS)
        approved = make_session_file(
            OWNER_KEY, self.key.lower(), actions=[usdc_transfer(self.number + 10**6, valid_until_ms=until)]
        )
        before = next(
            part for part in (f'"validUntil": {until}', f'"validUntil":{until}') if part in approved
        )
        found = self.imported(approved.replace(before, f'"validUntil":{text}'))
        return found if isinstance(found, str) else f"= {found['policies'][1]['validUntil']}"

    def strategy(self, text: str, field: str) -> str:
        """A field of a strategies file's table, TOML as it stands."""
        fields = {
            "amount": '"1 USDC"',
            "every": '"1h"',
            "max_lateness_s": "60",
            "start": "2026-01-01T00:00:00Z",
        }
        body = "".join(f"{name} = {value}\n" for name, value in (fields | {field: text}).items())
        path = self.folder / "strategies.toml"
        path.write_text(
            f'[[strategies]]\nname = "s{self.number}"\nkind = "recurring-transfer"\nsession = "{self.session}"\n'
            f'to = "{RECIPIENT}"\n{body}'
        )
        code, out, err = self.command("strategies", "add", str(path))
        if code:
            return self.refused(code, out, err)
        listed = json.loads(self.command("strategies", "list", "--json")[1])
        [what] = [entry["what"] for entry in listed if entry["name"] == f"s{self.number}"]
        return f"= {what}"

    def guardrail(self, text: str, name: str) -> str:
        """``sessions guardrails --set``: what is stored, base units or seconds."""
        code, out, err = self.command(
            "sessions", "guardrails", self.session, "--set", f"{name}={text}", "--loosen"
        )
        if code:
            return self.refused(code, out, err)
        rules = runtime().sessions.rules(self.session)["session"].guardrails
        kept = getattr(rules, name, None) or getattr(rules, f"{name}_s")
        return f"= {kept if isinstance(kept, int) else kept[0].amount}"

    def json_line(self, text: str, _: str) -> str:
        """``amount`` of a line of ``intents submit --file x.jsonl``: base units in the call that would be signed."""
        path = self.folder / f"lines{self.number}.jsonl"
        path.write_text(f'{{"to": "{RECIPIENT}", "token": "USDC", "amount": {text}}}\n')
        out = self.command("intents", "submit", "--file", str(path), "--session", self.session, "--json")[1]
        [line] = json.loads(out)["lines"]
        if line["outcome"] == "bad":
            return f"{line['field']}: {line['reason']}"
        [call] = json.loads(self.command("intents", "show", line["intent_id"], "--json")[1])["calls"]
        return f"= {int(call['data'][74:], 16)}"

    def trade(self, text: str, _: str) -> str:
        """``spend`` of a trade's JSON, as Python reads it."""
        value = json.loads(
            '{"spend": [{"chain": 8453, "token": "0x' + "51" * 20 + f'", "amount": {text}}}]}}'
        )
        try:
            return f"= {Trade.from_json(value).spend[0].amount}"
        except ExecutorError as error:
            return str(error)

    def reply(self, text: str, name: str) -> str:
        """A number in an orchestrator's quote as the bytes of its reply have it: what would be signed."""
        services = runtime()
        found = services.sessions.get(self.session)
        calls = (transfer(1_000_000),)
        request = quote_request(ALPS, found, calls, sponsored=True, enable=True)
        answer = services.orchestrator.quote(request).raw
        op = json.loads(answer)
        places = {
            "nonce": (op, "nonce"),
            "expires": (op, "expires"),
            "fillDeadline": (op["elements"][0]["mandate"], "fillDeadline"),
            "value": (op["elements"][0]["mandate"]["destinationOps"]["ops"][0], "value"),
            "exchangeRate": (
                op["elements"][0]["mandate"]["qualifier"]["settlementContext"]["gasRefund"],
                "exchangeRate",
            ),
        }
        place, member = places[name]
        place[member] = "@here@"
        body = json.dumps({"intentOp": op, "intentCost": {"hasFulfilledAll": True}}).replace('"@here@"', text)
        with raw_http(answers(reply(200, body))) as server:
            client = AlpsOrchestrator(server.url, api_key="not-checked", timeout_ms=3_000)
            try:
                quote = client.quote(request)
                explained = explain(
                    quote, session=found, calls=calls, enable=True, now_s=services.now_s, min_left_s=10
                )
            except ExecutorError as error:
                return str(error)
            finally:
                client.close()
        message = explained.message.origins[0].message
        assert isinstance(message, SingleChainOps)
        return f"= {message.nonce if name == 'nonce' else 'accepted'}"

    def submit(self, *arguments: str) -> tuple[int, str, str]:
        return self.command(
            "intents",
            "submit",
            "--session",
            self.session,
            "--to",
            RECIPIENT,
            "--key",
            f"k{self.number}",
            *arguments,
        )

    def imported(self, text: str) -> Any:
        path = self.folder / "session.json"
        path.write_text(text)
        risks = (
            "--accept-risk",
            "unlimited-amount",
            "--accept-risk",
            "long-window",
            "--accept-risk",
            "no-expiry",
        )
        code, out, err = self.command("sessions", "import", str(path), *risks)
        if code:
            return self.refused(code, out, err)
        session = out.split()[0]
        return json.loads(self.command("sessions", "show", session, "--json")[1])["actions"][0]

    @staticmethod
    def refused(code: int, out: str, err: str) -> str:
        assert (code, out) == (2, ""), (code, out, err)
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        return err.removeprefix("error: ").rstrip("\n")


#: Edge, what is written, and what comes of it. After ``/``: more that the edge needs.
ROWS: list[tuple[str, str, str]] = [
    # --- a command line's amounts
    ("amount", "10 USDC", "= 10000000"),
    ("amount", "0.000001 USDC", "= 1"),
    ("amount", "1.10 USDC", "= 1100000"),
    ("amount", "1.1000000 USDC", "= 1100000"),
    ("amount", "2.01 USDC", "= 2010000"),
    ("amount", "0.29 USDC", "= 290000"),
    ("amount/USDC", "9007199254.740993", "= 9007199254740993"),
    ("amount", f"{MAX // 10**6}.{MAX % 10**6} USDC", f"= {MAX}"),
    (
        "amount",
        f"{MAX // 10**6}.{MAX % 10**6 + 1} USDC",
        "--amount: '115792089237316195423570985008687907853269984665640564039457...' USDC is more than 2**256-1 base units",
    ),
    ("amount", "0.000000000000000001 ETH", "= 1"),
    ("amount", "1.1234567 USDC", "--amount: '1.1234567' has more than the 6 decimals of USDC"),
    ("amount", "0.0000001 USDC", "--amount: '0.0000001' has more than the 6 decimals of USDC"),
    ("amount", "1e-7 ETH", "--amount: '1e-7' is no amount"),
    ("amount", "1E18 USDC", "--amount: '1E18' is no amount"),
    ("amount", "0 USDC", "--amount: is zero"),
    ("amount", "0.0 USDC", "--amount: is zero"),
    ("amount", "-1 USDC", "--amount: '-1' is no amount"),
    ("amount", "-0 USDC", "--amount: '-0' is no amount"),
    ("amount", "+1 USDC", "--amount: '+1' is no amount"),
    ("amount", "NaN USDC", "--amount: 'NaN' is no amount"),
    ("amount", "Infinity USDC", "--amount: 'Infinity' is no amount"),
    ("amount", "1,000 USDC", "--amount: '1,000' is no amount"),
    ("amount", "1_000 USDC", "--amount: '1_000' is no amount"),
    ("amount", "01 USDC", "--amount: '01' is no amount"),
    ("amount", ".5 USDC", "--amount: '.5' is no amount"),
    ("amount", "5. USDC", "--amount: '5.' is no amount"),
    ("amount", "0x10 USDC", "--amount: '0x10' is no amount"),
    ("amount", "\u0661\u0660 USDC", "--amount: '\\u0661\\u0660' is no amount"),
    ("amount", "10  USDC", "--amount: '10  USDC' is no amount with a token"),
    ("amount", "10", "--amount: '10' is no amount with a token"),
    ("amount", "10 usdc", "--amount: the token 'usdc' is not known"),
    ("amount", "10 USDX", "--amount: the token 'USDX' is not known"),
    ("amount/USDC", "10 USDC", "--amount: names a token, as token does"),
    (
        "amount",
        "1" * 400 + " USDC",
        "--amount: '111111111111111111111111111111111111111111111111111111111111...' is no amount",
    ),
    # --- a command line's windows
    ("not after", str(YEAR_2100_S), "= 4102444800"),
    ("not after", "2100-01-01T00:00:00Z", "= 4102444800"),
    ("not after", "2100-01-01T02:00:00+02:00", "= 4102444800"),
    ("not after", "4102444800000", "--not-after: '4102444800000' is not between 1970 and the year 9999"),
    ("not after", "2100-01-01T00:00:00", "--not-after: '2100-01-01T00:00:00' is no time with a zone"),
    ("not after", "1", "--not-after: is in the past"),
    ("not after", "-1", "--not-after: '-1' is no time with a zone"),
    ("not after", "1e9", "--not-after: '1e9' is no time with a zone"),
    ("not after", "4102444800.5", "--not-after: '4102444800.5' is no time with a zone"),
    ("not after", "tomorrow", "--not-after: 'tomorrow' is no time with a zone"),
    # --- a session file's limits
    ("session limit/9007199254740991", "9007199254740991", "= 9007199254740991"),
    ("session limit/9007199254740993", '"9007199254740993"', "= 9007199254740993"),
    (f"session limit/{MAX}", f'"{MAX}"', f"= {MAX}"),
    (
        "session limit",
        "9007199254740993",
        "actions[0].policies[0].limits[0].amount: the number 9007199254740993 is beyond 2^53, where JSON loses digits; write it in quotes",
    ),
    (
        "session limit",
        "100000000.0",
        "actions[0].policies[0].limits[0].amount: must be a whole number as a decimal string, not a float",
    ),
    (
        "session limit",
        "1e8",
        "actions[0].policies[0].limits[0].amount: must be a whole number as a decimal string, not a float",
    ),
    (
        "session limit",
        '"1e8"',
        "actions[0].policies[0].limits[0].amount: must be a whole number in decimal digits only, such as '1000000'",
    ),
    (
        "session limit",
        '"100 USDC"',
        "actions[0].policies[0].limits[0].amount: must be a whole number in decimal digits only, such as '1000000'",
    ),
    (
        "session limit",
        '"-1"',
        "actions[0].policies[0].limits[0].amount: must be a whole number in decimal digits only, such as '1000000'",
    ),
    ("session limit", "-1", "actions[0].policies[0].limits[0].amount: must not be negative"),
    (
        "session limit",
        '"0"',
        "actions[0].policies[0].limits[0].amount: a spending limit of 0 cannot be enabled",
    ),
    (
        "session limit",
        '"01"',
        "actions[0].policies[0].limits[0].amount: must be a whole number in decimal digits only, such as '1000000'",
    ),
    (
        "session limit",
        "true",
        "actions[0].policies[0].limits[0].amount: must be a whole number as a decimal string, not a boolean",
    ),
    ("session limit", "null", "actions[0].policies[0].limits[0].amount: is null"),
    ("session limit", "NaN", "session file: holds NaN, which is no JSON number"),
    (
        "session limit",
        "[]",
        "actions[0].policies[0].limits[0].amount: must be a whole number as a decimal string, not a list",
    ),
    ("session limit", f'"{MAX + 1}"', "actions[0].policies[0].limits[0].amount: does not fit 256 bits"),
    ("session limit", '"1","amount":"9"', "actions[0].policies[0].limits[0].amount: is given twice"),
    # --- a session file's windows
    (f"session window/{LATER_MS}", str(LATER_MS), f"= {LATER_MS}"),
    ("session window", str(LATER_MS // 1000), "permissionId: is "),
    (
        "session window",
        f"{LATER_MS}.5",
        "actions[0].policies[1].validUntil: must be a whole number as a decimal string, not a float",
    ),
    # seconds where the SDK has milliseconds, approved so
    (
        f"session window/{LATER_MS // 1000}",
        str(LATER_MS // 1000),
        "actions[0].policies[1].validUntil: the session expired at 1970-01-2",
    ),
    ("session window", "-1", "actions[0].policies[1].validUntil: must not be negative"),
    (
        "session window",
        '"soon"',
        "actions[0].policies[1].validUntil: must be a whole number in decimal digits only, such as '1000000'",
    ),
    (
        "session window",
        "1e400",
        "actions[0].policies[1].validUntil: must be a whole number as a decimal string, not a float",
    ),
    # --- a strategies file
    (
        "strategy/amount",
        '"9007199254.740993 USDC"',
        "= 9007199254.740993 USDC to 0x5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e",
    ),
    ("strategy/amount", "10", "strategies[0].amount: is a int, not text"),
    ("strategy/amount", "10.5", "strategies[0].amount: is a float, not text"),
    ("strategy/amount", '"10"', "strategies[0].amount: '10' is no amount with a token"),
    (
        "strategy/amount",
        '"1.0000001 USDC"',
        "strategies[0].amount: '1.0000001' has more than the 6 decimals of USDC",
    ),
    ("strategy/amount", '"0 USDC"', "strategies[0].amount: is zero"),
    ("strategy/amount", "true", "strategies[0].amount: is a bool, not text"),
    ("strategy/every", '"1s"', "strategies[0].every: is shorter than 2 s"),
    ("strategy/every", "60", "strategies[0].every: is a number, not text"),
    (
        "strategy/max_lateness_s",
        "0",
        "strategies[0].max_lateness_s: must be a whole number of seconds from 1 to 2678400",
    ),
    (
        "strategy/max_lateness_s",
        "60.0",
        "strategies[0].max_lateness_s: must be a whole number of seconds from 1 to 2678400",
    ),
    ("strategy/start", "2026-01-01", "strategies[0].start: is a date, not a date with a time"),
    ("strategy/start", "2026-01-01T00:00:00+02:00", "strategies[0].start: is not in UTC"),
    # --- guardrails
    (
        "guardrail/per_trade",
        "115792089237316195423570985008687907853269984665640564039457584007913129.639935 USDC",
        f"= {MAX}",
    ),
    ("guardrail/per_trade", "1e3 USDC", "--set.per_trade: '1e3' is no amount"),
    ("guardrail/per_trade", "100", "--set.per_trade: is a int, not text"),
    ("guardrail/cooldown", "90s", "= 90"),
    ("guardrail/cooldown", "1.5h", "--set.cooldown: '1.5h' is no duration of at most 31 days"),
    ("guardrail/max_lateness", "32d", "--set.max_lateness: '32d' is no duration of at most 31 days"),
    # --- a line of JSON
    ("json line", '"9007199254.740993"', "= 9007199254740993"),
    ("json line", '"1.10"', "= 1100000"),
    ("json line", "10", "amount: is a int, not text"),
    ("json line", "0.1", "amount: is a float, not text"),
    ("json line", "9007199254740993", "amount: is a int, not text"),
    ("json line", "1e3", "amount: is a float, not text"),
    ("json line", '"1e3"', "amount: '1e3' is no amount"),
    ("json line", '"1.0000001"', "amount: '1.0000001' has more than the 6 decimals of USDC"),
    ("json line", '"-1"', "amount: '-1' is no amount"),
    ("json line", '"0"', "amount: is zero"),
    ("json line", "true", "amount: is a bool, not text"),
    ("json line", "null", "amount: is missing"),
    ("json line", "NaN", "line: holds NaN, which is no JSON number"),
    ("json line", "[]", "amount: is missing"),
    ("json line", '"1","amount":"9"', "line: has 'amount' twice"),
    # --- a trade's JSON
    ("trade", f'"{MAX}"', f"= {MAX}"),
    ("trade", "1000000", "spend[0].amount: must be base units in quotes"),
    ("trade", "1e6", "spend[0].amount: must be base units in quotes"),
    ("trade", '"1.5"', "spend[0].amount: must be a whole number in decimal digits only, such as '1000000'"),
    ("trade", f'"{MAX + 1}"', "spend[0].amount: does not fit 256 bits"),
    # --- an orchestrator's reply
    ("reply/nonce", f'"{MAX}"', f"= {MAX}"),
    ("reply/nonce", str(MAX), f"= {MAX}"),
    ("reply/nonce", "9007199254740993", "= 9007199254740993"),
    ("reply/nonce", "9007199254740993.0", "orchestrator: intentOp.nonce is no decimal integer"),
    ("reply/nonce", "1.0e18", "orchestrator: intentOp.nonce is no decimal integer"),
    ("reply/nonce", "-1", "orchestrator: intentOp.nonce is no decimal integer"),
    (
        "reply/nonce",
        f'"{MAX + 1}"',
        "intentOp.nonce: must be an integer of 256 bits, not '1157920892373161954235709850086879078532'",
    ),
    ("reply/value", '"0"', "= accepted"),
    (
        "reply/value",
        "0.0",
        "intentOp.elements[0].mandate.destinationOps.ops[0].value: must be an integer of 256 bits, not '0.0'",
    ),
    (
        "reply/value",
        "1.0e18",
        "intentOp.elements[0].mandate.destinationOps.ops[0].value: must be an integer of 256 bits, not '1.0E+18'",
    ),
    ("reply/value", "NaN", "orchestrator: not JSON as we need it: NaN is no JSON number"),
    (
        "reply/value",
        "null",
        "intentOp.elements[0].mandate.destinationOps.ops[0].value: must be an integer of 256 bits, not 'None'",
    ),
    (
        "reply/exchangeRate",
        "0.5",
        "intentOp.elements[0].mandate.qualifier.settlementContext.gasRefund.exchangeRate: must be an integer of 256 bits, not '0.5'",
    ),
    (
        "reply/exchangeRate",
        '"1"',
        "intentOp.elements[0].mandate.qualifier.settlementContext.gasRefund.exchangeRate: would let the executor take a fee from the account that nobody has agreed to",
    ),
    ("reply/expires", '"4102444800"', "intentOp.expires: is more than 86400 s away"),
    ("reply/expires", '"1"', "intentOp.expires: leaves -"),
    (
        "reply/fillDeadline",
        '"4102444800"',
        "intentOp.elements[0].mandate.fillDeadline: is more than 86400 s away",
    ),
    (
        "reply/fillDeadline",
        "-5",
        "intentOp.elements[0].mandate.fillDeadline: must be an integer of 256 bits, not '-5'",
    ),
    (
        "reply/fillDeadline",
        "1893456000.5",
        "intentOp.elements[0].mandate.fillDeadline: must be an integer of 256 bits, not '1893456000.5'",
    ),
]


@pytest.fixture
def edges(command: Run, session: str, key: str, devnet: Devnet, tmp_path: Path) -> Edges:
    return Edges(command, session, key, devnet, tmp_path)


def test_there_are_enough_rows() -> None:
    assert len(ROWS) == len({(edge, text) for edge, text, _ in ROWS}) >= 100
    assert sum(expected.startswith("= ") for _, _, expected in ROWS) >= 20


@pytest.mark.parametrize("edge", sorted({edge.partition("/")[0] for edge, _, _ in ROWS}))
def test_each_row_is_exact_or_refused(edges: Edges, edge: str) -> None:
    """What is refused leaves nothing behind: no intent, session, strategy or guardrail."""
    rows = [row for row in ROWS if row[0].partition("/")[0] == edge]
    rows.sort(key=lambda row: row[2].startswith("= "))  # what is refused first
    wrong: list[tuple[str, str, str, str]] = []
    for name, text, expected in rows:
        if expected.startswith("= ") and edges.number and not edges.accepted:
            edges.require_nothing()
            edges.accepted = True
        found = edges.through(name, text)
        told = found == expected if expected.startswith("= ") else found.startswith(expected)
        if not told:
            wrong.append((name, text, expected, found))
    assert wrong == []
    assert edges.accepted
