"""What goes into Redis and comes out of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from worker.intents.states import FINAL, TRANSITIONS, State
from worker.ledger import keys
from worker.ledger.codec import changes_json, field_pairs, parse_changes
from worker.ledger.errors import IntentNotFoundError, LedgerInputError
from worker.ledger.scripts import states_table
from worker.policies.base import CounterChange

MAX = 2**256 - 1


class TestChanges:
    """Counter changes travel as strings: no JSON number could hold them."""

    def test_they_are_read_back_exactly(self) -> None:
        changes = (
            CounterChange("aa:spending-limits:0x1", 2**53 + 1, MAX, "spending-limits", 0, "0x1"),
            CounterChange("aa:usage-limit:-", 0, 3, "usage-limit", 1),
        )
        text = changes_json(changes)
        assert parse_changes(text) == changes
        assert all(isinstance(value, str) for item in json.loads(text) for value in item.values())

    def test_none_are_empty_text(self) -> None:
        assert changes_json(()) == ""
        assert parse_changes("") == ()

    @pytest.mark.parametrize("value", [-1, MAX + 1, 1.0, True, "1"])
    @pytest.mark.parametrize("name", ["amount", "limit"])
    def test_what_is_no_uint256_is_refused_naming_it(self, name: str, value: Any) -> None:
        values: dict[str, Any] = {"amount": 1, "limit": 1, name: value}
        with pytest.raises(LedgerInputError) as caught:
            changes_json([CounterChange("c", values["amount"], values["limit"], "p", 0)])
        assert caught.value.field == name


class TestFields:
    """Fields that callers set by name."""

    def test_attributes_keep_their_name_and_others_are_set_apart(self) -> None:
        assert field_pairs({"quote": "{}", "poll": "3"}) == ["quote", "{}", "f:poll", "3"]

    @pytest.mark.parametrize(
        "name", ["state", "fence", "payload", "reservation", "lease_until_ms", "settled", ""]
    )
    def test_what_only_the_ledger_writes_is_refused(self, name: str) -> None:
        with pytest.raises(LedgerInputError, match="only the ledger"):
            field_pairs({name: "x"})

    def test_a_lone_surrogate_is_replaced_in_words_and_refused_in_what_is_signed(self) -> None:
        assert field_pairs({"orchestrator_status": "\ud800"}) == ["orchestrator_status", "?"]
        with pytest.raises(LedgerInputError, match="UTF-8"):
            field_pairs({"quote": "\ud800"})

    @pytest.mark.parametrize("value", ["", "1.5", "-1", "\uff11", "soon"])
    def test_an_expiry_that_is_no_unix_time_is_refused(self, value: str) -> None:
        with pytest.raises(LedgerInputError, match="unix time"):
            field_pairs({"quote_expires_s": value})

    def test_a_number_is_refused(self) -> None:
        number: Any = 5
        with pytest.raises(LedgerInputError, match="is int, not text"):
            field_pairs({"poll": number})


class TestKeys:
    """All keys of a session share one hash tag."""

    def test_a_records_keys_carry_the_sessions_digits(self) -> None:
        intent_id = "int_" + "ab" * 8 + "_" + "cd" * 12
        tag = "{" + "ab" * 8 + "}"
        assert keys.intent(intent_id) == f"sx:{tag}:intent:{intent_id}"
        assert keys.history(intent_id) == f"sx:{tag}:history:{intent_id}"
        assert keys.of_session("ab" * 8, "open") == f"sx:{tag}:open"

    @pytest.mark.parametrize(
        "intent_id", ["", "int_1", "int_" + "AB" * 8 + "_" + "cd" * 12, "x}:open", "int_\n"]
    )
    def test_a_malformed_intent_id_is_not_found(self, intent_id: str) -> None:
        with pytest.raises(IntentNotFoundError):
            keys.intent(intent_id)

    @pytest.mark.parametrize("session_id", ["", "ses_", "ses_" + "g" * 16, "ab" * 8, "ses_" + "ab" * 9])
    def test_a_malformed_session_id_is_refused(self, session_id: str) -> None:
        with pytest.raises(LedgerInputError):
            keys.digits_of_session(session_id)

    @pytest.mark.parametrize("name", ["", "a}b", "{", "a\nb"])
    def test_a_strategy_name_that_breaks_the_hash_tag_is_refused(self, name: str) -> None:
        with pytest.raises(LedgerInputError):
            keys.slots(name)


class TestStatesTable:
    """Redis works by the same table of states as Python."""

    def test_every_row_and_every_final_state_is_in_the_lua_table(self) -> None:
        text = states_table()
        for state, follow in TRANSITIONS.items():
            inside = text.split(f"{state} = {{ ")[1].split("}")[0] if follow else ""
            assert {part.split(" = ")[0] for part in inside.strip().split(", ") if part} == set(follow)
        assert {
            part.split(" = ")[0].strip() for part in text.split("FINAL = {")[1].split("}")[0].split(",")
        } == FINAL

    def test_no_state_follows_itself_and_only_dead_leaves_the_final_ones(self) -> None:
        assert all(state not in follow for state, follow in TRANSITIONS.items())
        assert {state for state in FINAL if TRANSITIONS[state]} == {State.DEAD}
