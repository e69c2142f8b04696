"""What is a message of ours, and what is set aside."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from tasks.poison import MAX_MESSAGE_BYTES, problem_of, signatures


def prepare(intent_id: str) -> None:
    """Stands for a task with one argument."""


def tick() -> None:
    """Stands for a task without arguments."""


def enqueue(**request: Any) -> None:
    """Stands for the task that others send requests to."""


KNOWN = signatures({"tasks.prepare": prepare, "tasks.tick": tick, "tasks.enqueue": enqueue})


def message(content: Any = None, **changes: Any) -> dict[str, Any]:
    """As kombu writes one."""
    content = [["int_1"], {}, {"callbacks": None}] if content is None else content
    headers = {"id": "1", "task": "tasks.prepare", "lang": "py"}
    properties = {
        "delivery_tag": "t",
        "delivery_info": {"exchange": "", "routing_key": "prepare"},
        "body_encoding": "base64",
    }
    return {
        "body": base64.b64encode(json.dumps(content).encode()).decode(),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": headers,
        "properties": properties,
    } | changes


def of(value: Any) -> str:
    return problem_of(json.dumps(value).encode(), KNOWN)


def test_ours_are_let_through() -> None:
    assert of(message()) == ""
    assert of(message([[], {"intent_id": "int_1"}, {}])) == ""
    assert of(message([[], {}, {}], headers={"id": "1", "task": "tasks.tick"})) == ""
    asked = {"session": "ses_1", "calls": [{"to": "0x12"}], "urgent": True}
    assert of(message([[], asked, {}], headers={"id": "1", "task": "tasks.enqueue"})) == ""
    assert of(message([["ses_1"], {}, {}], headers={"id": "1", "task": "tasks.enqueue"})) == "wrong-arguments"
    assert of(message([[], asked, {}])) == "wrong-arguments"


@pytest.mark.parametrize(
    "raw", [b"", b"not json", b"\xff\xfe", b"{", b"null", b"[" * 20_000, b'{"a":' * 5_000, b"NaN}"]
)
def test_what_is_no_json(raw: bytes) -> None:
    assert problem_of(raw, KNOWN) == "not-json"


@pytest.mark.parametrize(
    "value",
    [
        1,
        "text",
        [],
        {},
        {"body": "x"},
        message(headers=None),
        message(properties={}),
        message(properties={"delivery_tag": 1, "delivery_info": {"exchange": "", "routing_key": "q"}}),
        message(properties={"delivery_tag": "t", "delivery_info": None}),
        message(headers={"task": "tasks.prepare"}),
        message(body=None),
        message(body="no base64 !"),
        message(body="YQ"),
        message({"args": []}),
        message([[], {}]),
    ],
)
def test_what_is_no_message(value: Any) -> None:
    assert of(value) == "no-message"


def test_a_pickle_is_refused_by_its_content_type() -> None:
    assert of(message(**{"content-type": "application/x-python-serialize"})) == "not-json-content"
    assert of(message(**{"content-encoding": "binary"})) == "not-json-content"


@pytest.mark.parametrize("name", ["tasks.nothing", "celery.backend_cleanup", "", None, 7, ["tasks.tick"]])
def test_tasks_that_are_not_ours(name: Any) -> None:
    assert of(message(headers={"id": "1", "task": name})) == "unknown-task"


@pytest.mark.parametrize(
    "content",
    [
        [[], {}, {}],
        [["a", "b"], {}, {}],
        [["a"], {"intent_id": "b"}, {}],
        [["a"], {"other": "b"}, {}],
        [[1], {}, {}],
        [[None], {}, {}],
        [[["a"]], {}, {}],
        ["a", {}, {}],
        [["a"], [], {}],
    ],
)
def test_arguments_that_do_not_fit(content: Any) -> None:
    assert of(message(content)) == "wrong-arguments"


def test_a_large_one_is_not_even_parsed() -> None:
    assert problem_of(b" " * (MAX_MESSAGE_BYTES + 1), KNOWN) == "too-large"
    assert problem_of(b" " * MAX_MESSAGE_BYTES, KNOWN) == "not-json"
