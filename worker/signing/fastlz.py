"""FastLZ level 1, byte for byte as Solady's JavaScript ``LibZip.flzCompress`` (protocol: signing.md 7).

Any valid stream decompresses on chain; the same bytes as the SDK make signatures comparable.
"""

from __future__ import annotations

from worker.signing.errors import SigningInputError
from worker.signing.values import any_bytes

MAX_OUTPUT_BYTES = 1 << 20
"""Bound of what is decompressed: the largest session of the protocol's vectors takes 7 kB."""

_TABLE_SIZE = 8192
_MAX_DISTANCE = 8192
_MAX_MATCH = 262
_MAX_LITERALS = 32
_KNUTH = 2654435769.0


def _slot(triple: int) -> int:
    # The product exceeds 2**53: JavaScript rounds it to a double before it takes the bits, and so must we.
    return ((int(_KNUTH * float(triple)) & 0xFFFFFFFF) >> 19) & (_TABLE_SIZE - 1)


def compress(data: bytes) -> bytes:
    """The FastLZ stream of ``data``.

    Raises:
        SigningInputError: ``data`` is not bytes.
    """
    source = any_bytes(data, "data")
    out = bytearray()
    table = [0] * _TABLE_SIZE
    limit = len(source) - 4
    stop = limit - 9
    anchor = 0
    at = 2

    def triple(index: int) -> int:
        return source[index] | source[index + 1] << 8 | source[index + 2] << 16

    def literals(count: int, start: int) -> None:
        while count > 0:
            run = min(count, _MAX_LITERALS)
            out.append(run - 1)
            out.extend(source[start : start + run])
            start += run
            count -= run

    while at < stop:
        while True:
            wanted = triple(at)
            slot = _slot(wanted)
            earlier = table[slot]
            table[slot] = at
            distance = at - earlier
            matches = distance < _MAX_DISTANCE and triple(earlier) == wanted
            if at >= stop:
                break
            at += 1
            if matches:
                break
        if at >= stop:
            break
        at -= 1
        if at > anchor:
            literals(at - anchor, anchor)
        behind, ahead = earlier + 3, at + 3
        length, longest = 0, limit - ahead
        while length < longest:
            same = source[behind + length] == source[ahead + length]
            length += 1  # counts the byte that differs, too
            if not same:
                break
        at += length
        distance -= 1
        high, low = distance >> 8, distance & 255
        while length > _MAX_MATCH:
            out += bytes((224 + high, 253, low))
            length -= _MAX_MATCH
        out += bytes(((length << 5) + high, low) if length < 7 else (224 + high, length - 7, low))
        for _ in range(2):
            table[_slot(triple(at))] = at
            at += 1
        anchor = at
    literals(len(source) - anchor, anchor)
    return bytes(out)


def decompress(stream: bytes) -> bytes:
    """What the stream holds, as Solady's ``LibZip.flzDecompress``.

    Raises:
        SigningInputError: cut short, pointing before its start, or larger than ``MAX_OUTPUT_BYTES``.
    """
    source = any_bytes(stream, "stream")
    out = bytearray()
    at = 0
    while at < len(source):
        control = source[at]
        kind = control >> 5
        head = 1 if kind == 0 else 2 if kind < 7 else 3
        need = head + control + 1 if kind == 0 else head
        if at + need > len(source):
            raise SigningInputError("the FastLZ stream is cut short", field="stream")
        if kind == 0:
            out += source[at + 1 : at + need]
        else:
            length = kind + 2 if kind < 7 else 9 + source[at + 1]
            start = len(out) - (256 * (control & 31) + source[at + head - 1]) - 1
            if start < 0:
                raise SigningInputError("the FastLZ stream points before its start", field="stream")
            for offset in range(length):  # source and target may overlap
                out.append(out[start + offset])
        if len(out) > MAX_OUTPUT_BYTES:
            raise SigningInputError(
                f"the FastLZ stream holds more than {MAX_OUTPUT_BYTES} bytes", field="stream"
            )
        at += need
    return bytes(out)
