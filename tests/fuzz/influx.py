"""A body in, what InfluxDB 1.x takes out of it: its own way to split lines and read series, as a plain model.

Written after what its `/write` does (models.ParsePoints of 1.6), byte by byte and without any of our code, so
that the two can be compared: wherever they differ, a batch could say something else to the database than it
said to the collector.
"""

from __future__ import annotations

from collections.abc import Iterator

_SPACE, _COMMA, _EQUALS, _QUOTE, _BACKSLASH, _NEWLINE, _HASH = b' ,="\\\n#'


def blocks(body: bytes) -> Iterator[bytes]:
    """The lines that it takes apart: a newline within a quoted field value is none to it."""
    at = 0
    while at < len(body):
        end = _line_end(body, at)
        block = body[at:end]
        at = end + 1
        text = block.lstrip(b" \t\0")
        if text and text[0] != _HASH:
            yield block


def _line_end(body: bytes, at: int) -> int:
    quoted = fields = False
    equals = commas = 0
    while at < len(body):
        byte = body[at]
        if byte == _BACKSLASH and at + 2 < len(body):
            at += 2
            continue
        if byte == _SPACE:
            fields = True
        if fields and not quoted and byte in (_EQUALS, _COMMA):
            equals += byte == _EQUALS
            commas += byte == _COMMA
        elif fields and byte == _QUOTE and equals > commas:
            quoted = not quoted
        elif byte == _NEWLINE and not quoted:
            break
        at += 1
    return at


def series(block: bytes) -> tuple[bytes, list[tuple[bytes, bytes]]] | None:
    """Measurement and tags of a line as they stand there; None: it refuses the line because of them.

    Here a separator is escaped if the byte before it is a backslash, whatever stands before that.
    """
    block = block.lstrip(b" \t\0")
    pieces: list[bytes] = []
    begin = at = 0
    while True:
        at += 1
        if at >= len(block):
            return None
        if block[at - 1] == _BACKSLASH:
            continue
        if block[at] in (_COMMA, _SPACE):
            pieces.append(block[begin:at])
            begin = at + 1
            if block[at] == _SPACE:
                break
            at += 1
    tags = []
    for piece in pieces[1:]:
        where = _unescaped_equals(piece)
        if len(where) != 1 or where[0] == 0 or where[0] == len(piece) - 1:
            return None
        tags.append((piece[: where[0]], piece[where[0] + 1 :]))
    if len({key for key, _ in tags}) < len(tags) or not pieces[0] or pieces[0][0] == _COMMA:
        return None
    return pieces[0], tags


def _unescaped_equals(piece: bytes) -> list[int]:
    return [
        at for at, byte in enumerate(piece) if byte == _EQUALS and (at == 0 or piece[at - 1] != _BACKSLASH)
    ]
