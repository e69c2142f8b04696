"""One line about the first thing that is wrong with some JSON, with the path of its field."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import ValidationError

FILE_FIX = "see docs/session-file.schema.json"

_MAX_NAME = 60
_MAX_PATH = 160
_UNION_TAGS = {
    "sudo",
    "universal-action",
    "arg-policy",
    "spending-limits",
    "spending-limit",
    "time-frame",
    "usage-limit",
    "value-limit",
    "intent-execution",
    "rule",
    "not",
    "and",
    "or",
    "rhinestone",
    "0x",
    "fynd",
}
_WORDS = {
    "missing": "is missing",
    "extra_forbidden": "is not a known field",
    "union_tag_not_found": "has no type",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "recursion_depth_exceeded": "is nested too deep",
    "string_type": "must be text in quotes",
}


def first_problem(error: ValidationError) -> tuple[str, str]:
    """``(path, message)`` of the first problem. The path is like ``actions[0].policies[1].limit``.

    The message never holds the input.
    """
    first = error.errors(include_url=False, include_input=False, include_context=True)[0]
    kind, context = first["type"], first.get("ctx", {})
    path = field_path(first["loc"], is_field=kind in {"extra_forbidden", "missing"})
    if kind == "union_tag_invalid":
        tag = str(context.get("discriminator", "type")).strip("'")
        what = "venue" if tag == "id" else "policy or expression"
        return f"{path}.{tag}", f"is not a known {what}; known are {context.get('expected_tags')}"
    if kind == "value_error":
        return path, str(context.get("error", first["msg"]))
    if kind == "too_short":
        return path, f"must have at least {context.get('min_length')} entries"
    if kind == "too_long":
        return path, f"must have at most {context.get('max_length')} entries"
    if kind == "literal_error":
        return path, f"must be {context.get('expected')}"
    return path, _WORDS.get(kind, first["msg"])


def field_path(location: Sequence[int | str], *, is_field: bool = False) -> str:
    """``("actions", 0, "policies", 1, "time-frame", "validUntil")`` as ``actions[0].policies[1].validUntil``.

    Args:
        location: pydantic's location.
        is_field: the last part is a field's name for sure, even if it reads like the member of a union.
    """
    path = ""
    parts = list(location)
    for position, part in enumerate(parts):
        if isinstance(part, int):
            path += f"[{part}]"
        elif is_field and position == len(parts) - 1:
            path += f".{printable_name(part)}" if path else printable_name(part)
        elif part in _UNION_TAGS and not (part == "rule" and position and parts[position - 1] == "rule"):
            continue  # pydantic names the chosen member of a union; the file does not
        else:  # names of functions and parameters are the file's, too
            path += f".{printable_name(part)}" if path else printable_name(part)
    return shortened(path)


def shortened(path: str) -> str:
    """A path that fits a line: the middle of a very long one is left out."""
    return path if len(path) <= _MAX_PATH else f"{path[: _MAX_PATH // 2]}…{path[-_MAX_PATH // 2 :]}"


def printable_name(name: str) -> str:
    """A field name out of a file, fit for one line of a terminal."""
    text = name if name.isprintable() and name else ascii(name)
    return text if len(text) <= _MAX_NAME else f"{text[:_MAX_NAME]}…"
