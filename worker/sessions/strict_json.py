"""JSON of a session file: exact integers, no key twice, no null, and the path of what is wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NoReturn

from worker.json_depth import check_depth
from worker.policies.fields import MAX_SAFE_INTEGER, UnsafeJsonInteger
from worker.sessions.errors import SessionFileError
from worker.sessions.problems import FILE_FIX, printable_name, shortened

MAX_FILE_BYTES = 1 << 20
"""1 MiB. The largest session that can be enabled (calldata of 128 KiB) takes less than half of it as JSON."""

_SAFE_DIGITS = len(str(MAX_SAFE_INTEGER))


class _Repeated(dict[str, Any]):
    """An object that has a key twice. ``key`` is the first such one."""

    key: str = ""


def loads(text: str | bytes) -> dict[str, Any]:
    """Parse the text of a session file.

    Integers beyond 2**53-1 become ``UnsafeJsonInteger`` so that the models can refuse them with their reason.

    Args:
        text: JSON, as text or UTF-8.

    Raises:
        SessionFileError: not JSON, not an object, too large or nested too deep, a key twice, or a null.
    """
    if len(text) > MAX_FILE_BYTES:
        raise SessionFileError(
            f"is larger than {MAX_FILE_BYTES} bytes", field="session file", fix="is it the right file?"
        )
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        check_depth(text)
        value: Any = _DECODER.decode(text)
    except UnicodeDecodeError as error:
        raise SessionFileError(
            f"is not UTF-8 at byte {error.start}", field="session file", fix="save it as UTF-8"
        ) from None
    except json.JSONDecodeError as error:
        raise SessionFileError(
            f"is not JSON at line {error.lineno} column {error.colno}: {error.msg}",
            field="session file",
            fix="export it again with JSON.stringify",
        ) from None
    except RecursionError:  # the caller's own stack is deep already
        raise SessionFileError("is nested too deep", field="session file", fix=FILE_FIX) from None
    except ValueError as error:  # from check_depth and our own hooks
        raise SessionFileError(str(error), field="session file", fix=FILE_FIX) from None
    if not isinstance(value, dict):
        raise SessionFileError("is not a JSON object", field="session file", fix=FILE_FIX)
    for path, part in _walk(value):
        if isinstance(part, _Repeated):
            name = printable_name(part.key)
            raise SessionFileError(
                "is given twice",
                field=shortened(f"{path}.{name}" if path else name),
                fix="leave one of the two",
            )
        if part is None:
            raise SessionFileError(
                "is null", field=shortened(path), fix="leave the field out, or give its value"
            )
    return value


def _walk(root: Any) -> Iterator[tuple[str, Any]]:
    """Every value with its path, parents first, in the file's order."""
    pending: list[tuple[str, Any]] = [("", root)]
    while pending:
        path, part = pending.pop()
        yield path, part
        children: list[tuple[str, Any]] = []
        if isinstance(part, dict):
            for key, value in part.items():
                name = printable_name(key)
                children.append((f"{path}.{name}" if path else name, value))
        elif isinstance(part, list):
            children.extend((f"{path}[{index}]", value) for index, value in enumerate(part))
        pending.extend(reversed(children))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) == len(pairs):
        return value
    repeated = _Repeated(value)
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            repeated.key = key
            break
        seen.add(key)
    return repeated


def _integer(text: str) -> Any:
    if text == "-0":
        return -0.0  # a number that no integer type of the SDK holds; refused like any other float
    if len(text.lstrip("-")) > _SAFE_DIGITS or abs(int(text)) > MAX_SAFE_INTEGER:
        return UnsafeJsonInteger(text)
    return int(text)


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"holds {word}, which is no JSON number")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=_integer, parse_constant=_no_constant)
