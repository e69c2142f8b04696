"""A guard for ``json.loads`` of text from outside.

A library that we depend on (py_ecc, by way of web3 and eth-account) sets the interpreter's recursion limit to 100000
when it is imported. From then on Python's JSON decoder no longer raises RecursionError for deeply nested text: it
overruns the C stack and the process dies of SIGSEGV. So the depth is looked at before the decoder is.
"""

from __future__ import annotations

import re

#: Far more than any document that we read has (an orchestrator's quote: 12), far less than the decoder can take.
MAX_DEPTH = 200

#: A string as a whole (also one that is never closed), or a bracket. Linear: no alternative can match in two ways.
_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)|[\[{\]}]', re.DOTALL)


def check_depth(text: str) -> None:
    """Check that the text can be given to a JSON decoder, whether or not it is JSON.

    Raises:
        ValueError: arrays and objects are nested more than ``MAX_DEPTH`` deep.
    """
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return
    depth = 0
    for match in _TOKEN.finditer(text):
        letter = match[0][0]
        if letter in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise ValueError(f"it is nested more than {MAX_DEPTH} deep")
        elif letter in "]}":
            depth -= 1
