"""The session file: what is read, what is refused with which words, and that the schema says the same."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tests.support.sessions import (
    ACCOUNT,
    NOW_S,
    OWNER_KEY,
    SESSION_ADDRESS,
    USDC,
    make_session_file,
    session_dict,
)
from worker.policies import SpendingLimits, Sudo, TimeFrame, TokenLimit
from worker.sessions.errors import SessionFileError
from worker.sessions.file import load_session_file, session_file_schema
from worker.signing.sign import address_of

SCHEMA = Path(__file__).parents[3] / "docs" / "session-file.schema.json"
WRITE = "json.dump(session_file_schema(), open('docs/session-file.schema.json', 'w'), indent=2)"

File = dict[str, Any]
OWNER = address_of(OWNER_KEY)


def minimal() -> File:
    """The least that a file can hold: a session that a transaction enabled."""
    return {
        "account": {"address": ACCOUNT, "kind": "nexus"},
        "chain": 8453,
        "owners": [SESSION_ADDRESS],
        "actions": [{"target": USDC, "selector": "0xa9059cbb"}],
    }


def tutorial() -> File:
    """The tutorial's own spelling."""
    return {
        "account": {"address": ACCOUNT, "kind": "nexus", "owners": [OWNER]},
        "chain": 8453,
        "owners": {"type": "ecdsa", "accounts": [SESSION_ADDRESS]},
        "actions": [
            {
                "target": USDC,
                "selector": "0xa9059cbb",
                "policies": [
                    {"type": "spending-limit", "limit": "100000000"},
                    {"type": "time-frame", "validUntil": (NOW_S + 86_400) * 1000},
                ],
            }
        ],
    }


def everything() -> File:
    """Each kind of policy and each optional field."""
    rule = {"condition": "lessThanOrEqual", "calldataOffset": "32", "referenceValue": "5", "usageLimit": "9"}
    leaf = {"type": "rule", "rule": {"condition": "equal", "calldataOffset": 0, "referenceValue": "0x01"}}
    return {
        **session_dict(),
        "account": {
            "address": ACCOUNT,
            "kind": "safe",
            "setupOps": [{"to": USDC, "data": "0x00ff"}],
            "owners": {"type": "ecdsa", "accounts": [OWNER], "threshold": "1", "module": "0x" + "ab" * 20},
        },
        "chain": "8453",
        "owners": {"type": "ecdsa", "accounts": [SESSION_ADDRESS], "threshold": 1},
        "restrictToActions": False,
        "verifyExecutions": True,
        "claimPolicies": [
            {
                "type": "permit2-claim",
                "arbiters": [USDC],
                "expiryBounds": {"min": "1"},
                "tokensIn": [{"chainId": 8453, "token": USDC}],
                "recipients": [{"chainId": "10", "recipient": "any"}],
                "fillExpiryBounds": [{"chainId": 10, "max": "7"}],
                "recipientIsSponsor": True,
            }
        ],
        "actions": [
            {"policies": [{"type": "intent-execution"}]},
            {
                "target": USDC,
                "selector": "0xa9059cbb",
                "policies": [
                    {"type": "sudo"},
                    {"type": "universal-action", "rules": [rule]},
                    {
                        "type": "arg-policy",
                        "valueLimitPerUse": "3",
                        "expression": {
                            "type": "or",
                            "left": {"type": "not", "child": leaf},
                            "right": {"type": "and", "left": leaf, "right": leaf},
                        },
                    },
                    {"type": "spending-limits", "limits": [{"token": USDC, "amount": str(2**256 - 1)}]},
                    {"type": "time-frame", "validUntil": "1900000000000", "validAfter": 5},
                    {"type": "usage-limit", "limit": 3},
                    {"type": "value-limit", "limit": "1"},
                ],
            },
            {"target": USDC, "selector": "0x095ea7b3", "policies": []},
        ],
    }


def swap_scope(**fields: Any) -> File:
    """A swap of USDC into WETH by the venues given."""
    weth = "0x4200000000000000000000000000000000000006"
    return {"sell": {"token": USDC}, "buy": {"token": weth}, "to": ACCOUNT, **fields}


def swap() -> File:
    """Every venue with every field."""
    venues = [
        {"id": "rhinestone", "maxSpend": "1"},
        {"id": "0x", "settler": USDC, "anySettler": False, "maxSpend": 1},
        {"id": "fynd", "maxSpend": "1"},
    ]
    scope = swap_scope(sell={"token": USDC, "maxTotal": "5"}, via=venues)
    return {**minimal(), "swap": scope, "useDevContracts": False}


def v2() -> File:
    """A session of SDK 2.2.2 with each kind of field."""
    abi: list[File] = [
        {"type": "constructor", "inputs": []},
        {"type": "event", "name": "transfer", "inputs": [], "anonymous": False},
        {
            "type": "function",
            "name": "transfer",
            "stateMutability": "nonpayable",
            "inputs": [
                {"name": "to", "type": "address", "internalType": "address"},
                {"name": "amount", "type": "uint256"},
            ],
            "outputs": [{"name": "", "type": "bool"}],
        },
        {
            "type": "function",
            "name": "pay",
            "stateMutability": "payable",
            "inputs": [
                {"name": "id", "type": "bytes4"},
                {"name": "ok", "type": "bool"},
                {"name": "legs", "type": "tuple[]", "components": [{"name": "a", "type": "uint8"}]},
            ],
        },
        {"type": "function", "name": "unused", "stateMutability": "view", "inputs": []},
    ]
    return {
        "sdk": "2.2.2",
        "account": {"address": ACCOUNT, "kind": "nexus"},
        "chain": 8453,
        "owners": [SESSION_ADDRESS],
        "wrappedNativeToken": "0x4200000000000000000000000000000000000006",
        "policyAddresses": {"usageLimit": "0x00000000001d4479FA2A947026204d0283ceDe4B"},
        "permissions": [
            {
                "abi": abi,
                "address": USDC,
                "functions": {
                    "transfer": {
                        "maxUses": "5",
                        "validUntil": "2030-01-01T00:00:00.999Z",
                        "validAfter": 1_700_000_000_000,
                        "spendingLimit": {"token": USDC, "amount": "7"},
                        "params": {
                            "to": {"anyOf": [ACCOUNT, USDC]},
                            "amount": {"condition": "lessThanOrEqual", "value": 5, "usageLimit": "9"},
                        },
                    },
                    "pay": {
                        "valueLimit": "3",
                        "valueLimitPerUse": "2",
                        "params": {
                            "ok": {"condition": "equal", "value": True},
                            "id": {"condition": "equal", "value": "0x12345678"},
                        },
                    },
                },
            }
        ],
        "claimPolicies": [
            {
                "type": "permit2",
                "spenders": [USDC],
                "sourceTokens": [{"chain": 8453, "address": USDC}],
                "destinationTokens": [{"chain": 10, "address": USDC}],
                "recipients": [{"chain": "10", "address": "any"}],
                "recipientIsAccount": True,
                "permitDeadline": {"max": "7"},
                "fillDeadline": [{"chain": 10, "min": "1"}],
            }
        ],
        "crossChainPermits": [
            {
                "from": {"chain": 8453, "token": USDC, "maxAmount": "5"},
                "to": [{"chain": 10, "token": USDC, "recipient": "any"}],
                "validUntil": "2030-01-01T00:00:00Z",
                "validAfter": 5,
                "fillDeadline": [{"chain": 10, "min": 1, "max": "2030-01-01T00:00:00.000Z"}],
                "settlementLayers": ["ECO"],
                "allowRecipientNotAccount": True,
            }
        ],
    }


def changed(change: Callable[[File], object], base: File | None = None) -> File:
    file = copy.deepcopy(base if base is not None else session_dict())
    change(file)
    return file


def refused(file: File | str | bytes) -> SessionFileError:
    text = file if isinstance(file, str | bytes) else json.dumps(file)
    with pytest.raises(SessionFileError) as caught:
        load_session_file(text)
    error = caught.value
    assert error.field
    assert error.fix
    assert "\n" not in str(error)
    assert str(error).isprintable()
    assert len(str(error)) < 500
    return error


class TestReading:
    """A file gives the SDK's session."""

    def test_the_tutorials_spelling_is_the_sdks_session(self) -> None:
        (action,) = load_session_file(json.dumps(tutorial())).session().actions
        assert action.policies == (
            SpendingLimits(limits=(TokenLimit(token=USDC, amount=100_000_000),)),
            TimeFrame(valid_until=(NOW_S + 86_400) * 1000, valid_after=0),
        )

    def test_both_spellings_have_one_text(self) -> None:
        plain = tutorial()
        plain["actions"][0]["policies"] = [
            {"type": "spending-limits", "limits": [{"token": USDC, "amount": 100_000_000}]},
            {"type": "time-frame", "validUntil": str((NOW_S + 86_400) * 1000), "validAfter": "0"},
        ]
        assert load_session_file(json.dumps(plain)).text() == load_session_file(json.dumps(tutorial())).text()

    @pytest.mark.parametrize("example", [minimal, tutorial, everything, session_dict, swap, v2])
    def test_the_text_of_a_file_reads_back_as_the_same_file(self, example: Callable[[], File]) -> None:
        file = load_session_file(json.dumps(example()))
        again = load_session_file(file.text())
        assert again.text() == file.text()
        assert again.session() == file.session()
        assert again.enable() == file.enable()

    def test_utf_8_bytes_are_read(self) -> None:
        assert load_session_file(make_session_file().encode()) == load_session_file(make_session_file())

    def test_checksummed_and_upper_case_addresses_become_lower_case(self) -> None:
        file = changed(
            lambda f: f["actions"][0].update(target="0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913"), minimal()
        )
        assert load_session_file(json.dumps(file)).session().actions[0].target == USDC

    def test_absent_policies_stay_absent_and_empty_ones_empty(self) -> None:
        file = minimal()
        file["actions"].append({"target": USDC, "selector": "0x095ea7b3", "policies": []})
        actions = load_session_file(load_session_file(json.dumps(file)).text()).session().actions
        assert [action.policies for action in actions] == [None, ()]
        assert load_session_file(json.dumps(everything())).session().actions[1].policies is not None
        assert Sudo() in (load_session_file(json.dumps(everything())).session().actions[1].policies or ())


def _policies(file: File) -> list[Any]:
    return file["actions"][0]["policies"]


# (change of a good file, path that the error names, words in it, whether the schema can tell, too)
BAD: list[tuple[str, Callable[[File], object], str, str, bool]] = [
    ("no account", lambda f: f.pop("account"), "account", "missing", True),
    ("no address", lambda f: f["account"].pop("address"), "account.address", "missing", True),
    ("no kind", lambda f: f["account"].pop("kind"), "account.kind", "missing", True),
    ("other kind", lambda f: f["account"].update(kind="eoa"), "account.kind", "'nexus'", True),
    ("no chain", lambda f: f.pop("chain"), "chain", "missing", True),
    ("chain 0", lambda f: f.update(chain=0), "chain", "8453", True),
    ("chain name", lambda f: f.update(chain="base"), "chain", "decimal digits", True),
    ("chain object", lambda f: f.update(chain={"id": 8453}), "chain", "not an object", True),
    ("chain float", lambda f: f.update(chain=8453.5), "chain", "a float", True),
    ("chain bool", lambda f: f.update(chain=True), "chain", "a boolean", True),
    ("no owners", lambda f: f.pop("owners"), "owners", "missing", True),
    ("owners text", lambda f: f.update(owners=SESSION_ADDRESS), "owners", "must be an object", True),
    ("passkey", lambda f: f.update(owners={"type": "passkey"}), "owners.type", "only 'ecdsa'", True),
    ("no actions", lambda f: f.pop("actions"), "actions", "missing", True),
    ("actions object", lambda f: f.update(actions={}), "actions", "must be a list", True),
    ("action text", lambda f: f.update(actions=["x"]), "actions[0]", "must be an object", True),
    ("no selector", lambda f: f["actions"][0].pop("selector"), "actions[0]", "both", True),
    ("no target", lambda f: f["actions"][0].pop("target"), "actions[0]", "both", True),
    (
        "short selector",
        lambda f: f["actions"][0].update(selector="0xa9059c"),
        "actions[0].selector",
        "4 bytes",
        True,
    ),
    (
        "checksum",
        lambda f: f["actions"][0].update(target="0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02914"),
        "actions[0].target",
        "checksum",
        False,
    ),
    ("ens name", lambda f: f["account"].update(address="me.eth"), "account.address", "40 hex", True),
    (
        "unknown policy",
        lambda f: _policies(f)[0].update(type="gas-limit"),
        "actions[0].policies[0].type",
        "known",
        True,
    ),
    ("no policy type", lambda f: _policies(f)[0].pop("type"), "actions[0].policies[0]", "no type", True),
    (
        "claim as policy",
        lambda f: _policies(f)[0].update(type="permit2-claim"),
        "actions[0].policies[0].type",
        "known",
        True,
    ),
    (
        "policies object",
        lambda f: f["actions"][0].update(policies={}),
        "actions[0].policies",
        "must be a list",
        True,
    ),
    (
        "float amount",
        lambda f: _policies(f)[0]["limits"][0].update(amount=1.5),
        "actions[0].policies[0].limits[0].amount",
        "a float",
        True,
    ),
    (
        "exponent",
        lambda f: _policies(f)[0]["limits"][0].update(amount="1e8"),
        "actions[0].policies[0].limits[0].amount",
        "decimal digits",
        True,
    ),
    (
        "negative",
        lambda f: _policies(f)[0]["limits"][0].update(amount="-1"),
        "actions[0].policies[0].limits[0].amount",
        "decimal digits",
        True,
    ),
    (
        "negative number",
        lambda f: _policies(f)[0]["limits"][0].update(amount=-1),
        "actions[0].policies[0].limits[0].amount",
        "negative",
        True,
    ),
    (
        "human amount",
        lambda f: _policies(f)[0]["limits"][0].update(amount="100 USDC"),
        "actions[0].policies[0].limits[0].amount",
        "decimal digits",
        True,
    ),
    (
        "2^256",
        lambda f: _policies(f)[0]["limits"][0].update(amount=str(2**256)),
        "actions[0].policies[0].limits[0].amount",
        "256 bits",
        False,
    ),
    (
        "number beyond 2^53",
        lambda f: _policies(f)[0]["limits"][0].update(amount=2**53),
        "actions[0].policies[0].limits[0].amount",
        "in quotes",
        True,
    ),
    (
        "microseconds",
        lambda f: _policies(f)[1].update(validUntil=str(NOW_S * 10**9)),
        "actions[0].policies[1].validUntil",
        "microseconds",
        True,
    ),
    (
        "no validUntil",
        lambda f: _policies(f)[1].pop("validUntil"),
        "actions[0].policies[1].validUntil",
        "missing",
        True,
    ),
    (
        "tutorial limit without target",
        lambda f: f.update(actions=[{"policies": [{"type": "spending-limit", "limit": "1"}]}]),
        "actions[0]",
        "no target",
        False,
    ),
    (
        "both spellings in one",
        lambda f: _policies(f)[0].update(limit="1"),
        "actions[0].policies[0].limit",
        "not a known field",
        True,
    ),
    ("unknown field", lambda f: f.update(note="x"), "note", "not a known field", True),
    (
        "private key",
        lambda f: f["owners"].update(privateKey="0x" + "11" * 32),
        "owners.privateKey",
        "not a known",
        True,
    ),
    (
        "python's name",
        lambda f: f.update(restrict_to_actions=True),
        "restrict_to_actions",
        "not a known field",
        True,
    ),
    ("empty swap", lambda f: f.update(swap={}), "swap.sell", "missing", True),
    (
        "unknown venue",
        lambda f: f.update(swap=swap_scope(via=[{"id": "uniswap"}])),
        "swap.via[0].id",
        "not a known venue",
        True,
    ),
    (
        "venue's field",
        lambda f: f.update(swap=swap_scope(via=[{"id": "0x", "maxspend": "5"}])),
        "swap.via[0].maxspend",
        "not a known field",
        True,
    ),
    (
        "swap total",
        lambda f: f.update(swap=swap_scope(sell={"token": USDC, "maxTotal": 1.5})),
        "swap.sell.maxTotal",
        "a float",
        True,
    ),
    ("dev as text", lambda f: f.update(useDevContracts="no"), "useDevContracts", "true or false", True),
    (
        "restrict as text",
        lambda f: f.update(restrictToActions="true"),
        "restrictToActions",
        "true or false",
        True,
    ),
    (
        "restrict as number",
        lambda f: f.update(restrictToActions=1),
        "restrictToActions",
        "true or false",
        True,
    ),
    ("verify as text", lambda f: f.update(verifyExecutions="yes"), "verifyExecutions", "true or false", True),
    ("other sdk", lambda f: f.update(sdk="2.1.0"), "sdk", "1.15.0", True),
    ("actions of another sdk", lambda f: f.update(sdk="2.2.2"), "permissions", "missing", True),
    ("permissions of another sdk", lambda f: f.update(permissions=[]), "permissions", "not a known", True),
    ("sdk number", lambda f: f.update(sdk=1.15), "sdk", "1.15.0", True),
    (
        "two claim policies",
        lambda f: f.update(claimPolicies=[{"type": "permit2-claim"}] * 2),
        "claimPolicies",
        "at most 1",
        True,
    ),
    ("null", lambda f: f["account"].update(owners=None), "account.owners", "null", True),
    ("null policies", lambda f: f["actions"][0].update(policies=None), "actions[0].policies", "null", True),
    (
        "no signature",
        lambda f: f["enableData"].pop("userSignature"),
        "enableData.userSignature",
        "missing",
        True,
    ),
    (
        "odd signature",
        lambda f: f["enableData"].update(userSignature="0x123"),
        "enableData.userSignature",
        "even number",
        True,
    ),
    (
        "no digests",
        lambda f: f["enableData"].update(hashesAndChainIds=[]),
        "enableData.hashesAndChainIds",
        "at least 1",
        True,
    ),
    (
        "too many digests",
        lambda f: f["enableData"].update(hashesAndChainIds=f["enableData"]["hashesAndChainIds"] * 256),
        "enableData.hashesAndChainIds",
        "at most 255",
        True,
    ),
    (
        "short digest",
        lambda f: f["enableData"]["hashesAndChainIds"][0].update(sessionDigest="0x11"),
        "enableData.hashesAndChainIds[0].sessionDigest",
        "32 bytes",
        True,
    ),
    (
        "index 256",
        lambda f: f["enableData"].update(sessionToEnableIndex=256),
        "enableData.sessionToEnableIndex",
        "8 bits",
        True,
    ),
    ("nonce bool", lambda f: f.update(nonce=True), "nonce", "a boolean", True),
    (
        "setupOps with value",
        lambda f: f["account"].update(setupOps=[{"to": USDC, "data": "0x", "value": "0"}]),
        "account.setupOps[0].value",
        "not a known",
        True,
    ),
    ("threshold", lambda f: f["owners"].update(threshold=2), "owners", "cannot be met", False),
    (
        "owner twice",
        lambda f: f["owners"]["accounts"].append(SESSION_ADDRESS),
        "owners.accounts",
        "twice",
        False,
    ),
    (
        "17 rules",
        lambda f: f["actions"][0].update(
            policies=[
                {
                    "type": "universal-action",
                    "rules": [{"condition": "equal", "calldataOffset": 0, "referenceValue": 0}] * 17,
                }
            ]
        ),
        "actions[0].policies[0].rules",
        "16 rules",
        False,
    ),
    (
        "empty policy name",
        lambda f: _policies(f)[0].update({"": 1}),
        "actions[0].policies[0].''",
        "not a known",
        True,
    ),
    (
        "field named as a policy",
        lambda f: _policies(f)[0].update(sudo=1),
        "actions[0].policies[0].sudo",
        "not a known",
        True,
    ),
]


class TestBadFiles:
    """One clear line that names the field and the fix."""

    @pytest.mark.parametrize(
        ("change", "field", "words"), [row[1:4] for row in BAD], ids=[row[0] for row in BAD]
    )
    def test_refused(self, change: Callable[[File], object], field: str, words: str) -> None:
        error = refused(changed(change))
        assert error.field == field
        assert words in error.message

    @pytest.mark.parametrize(
        ("text", "field", "words"),
        [
            ("", "session file", "not JSON at line 1 column 1"),
            ("{", "session file", "not JSON"),
            ("[]", "session file", "not a JSON object"),
            ("null", "session file", "not a JSON object"),
            ('"x"', "session file", "not a JSON object"),
            ('{"chain": NaN}', "session file", "NaN"),
            ('{"chain": -Infinity}', "session file", "-Infinity"),
            ("{'chain': 1}", "session file", "not JSON"),
            ('{"chain": 1,}', "session file", "not JSON"),
            ('{"chain": 01}', "session file", "not JSON"),
            ('\ufeff{"chain": 1}', "session file", "not JSON"),
            (b'\xff{"chain": 1}', "session file", "not UTF-8 at byte 0"),
            ('{"chain": ' + "[" * 100_000 + "]" * 100_000 + "}", "session file", "nested more than 200 deep"),
            ('{"chain": 1, "chain": 1}', "chain", "twice"),
            ('{"account": {"owners": [], "a b": 1, "a b": 2}}', "account.a b", "twice"),
            (
                '{"actions": [{}, {"policies": [{"type": 1, "type": 1}]}]}',
                "actions[1].policies[0].type",
                "twice",
            ),
            ('{"\\ud800": 1, "\\ud800": 1}', "'\\ud800'", "twice"),
            ('{"a\\nb": null}', "'a\\nb'", "null"),
            (b'{"chain": "' + b"1" * (1 << 20) + b'"}', "session file", "larger than"),
            ('{"chain": ' + "9" * 5000 + "}", "account", "missing"),
        ],
    )
    def test_text_that_is_no_session_file(self, text: str | bytes, field: str, words: str) -> None:
        error = refused(text)
        assert error.field == field
        assert words in error.message

    def test_deep_nesting_kills_no_process_whatever_the_recursion_limit(self) -> None:
        # py_ecc, which comes with web3, lifts the limit; the JSON decoder then overruns the C stack.
        script = (
            "import sys; sys.setrecursionlimit(100_000)\n"
            "from worker.sessions.errors import SessionFileError\n"
            "from worker.sessions.file import load_session_file\n"
            "for text in ('[' * 500_000, '{\"a\":' * 150_000, '[' * 300_000 + ']' * 300_000):\n"
            "    try: load_session_file(text)\n"
            "    except SessionFileError as error: print(error.message)\n"
        )
        root = Path(__file__).parents[3]
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.stdout.splitlines() == ["it is nested more than 200 deep"] * 3, done

    @pytest.mark.parametrize("number", ["1.0", "8453.0", "1e3", "-0", "9" * 5000, "-5", "0.1"])
    def test_numbers_that_are_no_exact_integers(self, number: str) -> None:
        text = make_session_file().replace('"nonce": "0"', f'"nonce": {number}')
        assert refused(text).field == "nonce"

    def test_no_error_shows_a_value_of_the_file(self) -> None:
        secret = "0x" + "5e" * 32
        changes: list[Callable[[File], object]] = [
            lambda f: f["account"].update(address=secret),
            lambda f: f["enableData"].update(userSignature=[secret]),
            lambda f: f.update(owners={"type": secret}),
            lambda f: _policies(f)[0].update(type=secret),
            lambda f: f.update(nonce=secret),
            lambda f: f.update(sdk=secret),
        ]
        for change in changes:
            error = refused(changed(change))
            assert "5e5e" not in str(error)
            assert "5e5e" not in repr(error.__cause__) + repr(
                error.__context__ if not error.__suppress_context__ else ""
            )


class TestSchema:
    """``docs/session-file.schema.json`` says what the loader does."""

    def validator(self) -> Draft202012Validator:
        return Draft202012Validator(json.loads(SCHEMA.read_text()))

    def test_the_committed_schema_is_the_models(self) -> None:
        assert json.loads(SCHEMA.read_text()) == session_file_schema(), f"write it again: {WRITE}"

    def test_it_is_a_schema(self) -> None:
        Draft202012Validator.check_schema(session_file_schema())

    @pytest.mark.parametrize("example", [minimal, tutorial, everything, session_dict, swap, v2])
    def test_good_files_are_good_to_both(self, example: Callable[[], File]) -> None:
        file = example()
        self.validator().validate(file)
        normal = load_session_file(json.dumps(file)).text()
        self.validator().validate(json.loads(normal))

    @pytest.mark.parametrize("row", [row for row in BAD if row[4]], ids=[row[0] for row in BAD if row[4]])
    def test_bad_shapes_are_bad_to_both(
        self, row: tuple[str, Callable[[File], object], str, str, bool]
    ) -> None:
        assert not self.validator().is_valid(changed(row[1]))

    @pytest.mark.parametrize(
        "row", [row for row in BAD if not row[4]], ids=[row[0] for row in BAD if not row[4]]
    )
    def test_what_no_schema_can_say_is_left_to_the_loader(
        self, row: tuple[str, Callable[[File], object], str, str, bool]
    ) -> None:
        assert self.validator().is_valid(changed(row[1]))

    @pytest.mark.parametrize(("example", "least"), [(everything, 60), (swap, 20), (v2, 60)])
    def test_each_missing_part_is_missing_to_both(self, example: Callable[[], File], least: int) -> None:
        """Whatever single field is taken out of the fullest files, loader and schema agree about it."""
        validator, checked = self.validator(), 0
        for path in _object_members(example()):
            file = changed(lambda f, path=path: _parent(f, path).pop(path[-1]), example())
            try:
                load_session_file(json.dumps(file))
                good = True
            except SessionFileError:
                good = False
            assert validator.is_valid(file) == good, path
            checked += 1
        assert checked > least


def _object_members(part: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    if isinstance(part, dict):
        here = [(*path, key) for key in part]
        return here + [
            deeper for key, value in part.items() for deeper in _object_members(value, (*path, key))
        ]
    if isinstance(part, list):
        return [
            deeper for index, value in enumerate(part) for deeper in _object_members(value, (*path, index))
        ]
    return []


def _parent(file: File, path: tuple[str | int, ...]) -> Any:
    part: Any = file
    for step in path[:-1]:
        part = part[step]
    return part
