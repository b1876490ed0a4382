"""Text in, gzip members out, and back: how lines are packed on their way into a database; pure.

A gzip file may have several members, one after the other (RFC 1952, section 2.2), and reads as their texts in
a row. So the batches of many agents become one body without being unpacked. ISA-L packs and unpacks three
times faster than zlib.
"""

from __future__ import annotations

import zlib

from isal import igzip, isal_zlib

_LEVEL = 1


def member(text: bytes) -> bytes:
    """Text as one gzip member."""
    compressor = isal_zlib.compressobj(_LEVEL, wbits=31)
    return compressor.compress(text) + compressor.flush()


def is_strict(body: bytes) -> bool:
    """Whether zlib takes this one member, too: ISA-L lets Huffman codes pass that others call damaged."""
    gunzip = zlib.decompressobj(wbits=31)
    try:
        gunzip.decompress(body)
    except zlib.error:
        return False
    return gunzip.eof and not gunzip.unused_data


def unpacked(body: bytes) -> bytes:
    """The text of all members; they must be good ones."""
    text: bytes = igzip.decompress(body)  # type: ignore[no-untyped-call] # the rest of the library has types
    return text
