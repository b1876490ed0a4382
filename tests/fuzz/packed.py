"""Gzip in, targets out: whoever unpacks a batch has to find the same in it."""

from __future__ import annotations

import zlib

from tests.fuzz.samples import MOST, TEXTS, packed
from tests.fuzz.target import Feed, Target


def _gzip() -> Feed:
    from collectors.validate import unpack
    from probe.errors import BatchError

    def feed(data: bytes) -> None:
        try:
            text = unpack(data, MOST)
        except BatchError as problem:
            assert problem.reason in {"oversized", "gzip"}
            text = None
        if len(data) > MOST:
            assert text is None
            return
        if not data.startswith(b"\x1f\x8b"):
            assert text == data
            return
        said = _inflated(data)
        if text is not None:
            assert len(text) <= MOST
            assert said in (("whole", text), ("refused", b"")), "others read this gzip otherwise"
        else:
            assert said[0] != "whole" or len(said[1]) > MOST, "it refuses good gzip"

    return feed


def _inflated(data: bytes) -> tuple[str, bytes]:
    """What zlib says of one gzip member, and the text: whole, short, followed by something, or refused."""
    reader = zlib.decompressobj(wbits=31)
    try:
        text = reader.decompress(data, MOST + 1)
    except zlib.error:
        return "refused", b""
    if len(text) <= MOST and not reader.eof:
        return "short", text
    return "followed" if reader.unused_data else "whole", text


def _deflate() -> Feed:
    """Any deflate stream that is let in, with the sums that belong to it: the database must read the same."""
    from isal import isal_zlib

    from collectors.validate import unpack
    from probe.errors import BatchError

    def feed(data: bytes) -> None:
        reader = isal_zlib.decompressobj(wbits=-15)
        try:
            text = reader.decompress(data, MOST + 1)
        except isal_zlib.error:  # type: ignore[misc] # its stubs hide that it is an exception
            return
        if not reader.eof or len(text) > MOST:
            return
        stream = data[: len(data) - len(reader.unused_data)]
        member = (
            b"\x1f\x8b\x08\0\0\0\0\0\0\3"
            + stream
            + zlib.crc32(text).to_bytes(4, "little")
            + len(text).to_bytes(4, "little")
        )
        try:
            taken = unpack(member, MOST)
        except BatchError:
            return
        assert taken == text
        # ISA-L takes incomplete Huffman codes, which zlib and Go refuse: then the database rejects the write,
        # and the batch goes on as text. What both take must be the same.
        assert _inflated(member) in (("whole", text), ("refused", b"")), "others read it otherwise"

    return feed


def _deflate_seeds() -> list[bytes]:
    made = []
    for text in (*TEXTS, b"", b"a" * 3000, bytes(range(256)) * 3):
        for level, strategy in ((1, 0), (9, 0), (0, 0), (6, zlib.Z_FIXED), (6, zlib.Z_HUFFMAN_ONLY)):
            packer = zlib.compressobj(level, zlib.DEFLATED, -15, 8, strategy)
            made.append(packer.compress(text) + packer.flush())
    return made


TARGETS = (
    Target(
        "gzip",
        "collectors.validate.unpack",
        "zlib reads the same, or refuses; good gzip is let in; never more than a batch",
        _gzip,
        lambda: [packed(way, text) for text in (*TEXTS, b"", bytes(MOST + 1)) for way in range(8)],
        inputs=1000,
    ),
    Target(
        "deflate",
        "collectors.validate.unpack",
        "any deflate stream with the right sums: zlib reads the same, or refuses",
        _deflate,
        _deflate_seeds,
        inputs=2000,
    ),
)
