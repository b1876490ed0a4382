"""Real samples and a seed in, inputs that no honest program would make out. Pure."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

_NUMBERS = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, (1 << 63) - 1]
_TEXTS = [
    *(str(number).encode() for number in (*_NUMBERS, 1 << 63, 1 << 64, -1, 10**40)),
    *(b"1e999", b"nan", b"-0", b"0x1", b"+1", b".5", b"", b"\0", b"\xff", b"\xc3\xa9", b"\xed\xa0\x80"),
    *(b"\n", b"\r\n", b"\t", b" ", b"\\", b'"', b"\xe2\x80\xa8", b"\xc2\x85", b"\xef\xbb\xbf", b"\\ud800"),
]


def inputs(
    seed: int | str, seeds: Sequence[bytes], words: Sequence[bytes] = (), longest: int = 4096
) -> Iterator[bytes]:
    """The samples themselves, then for ever what chance makes of them; the same for the same seed."""
    chance = random.Random(f"{seed}")
    samples = [bytes(sample[:longest]) for sample in seeds] or [b""]
    yield from samples
    words = [*words, *_TEXTS]
    ways: list[Callable[[bytearray], None]] = []

    def place(data: bytearray) -> tuple[int, int]:
        """Some bytes in a row: few of them more often than many."""
        at = chance.randint(0, len(data))
        size = chance.choice((0, 1, 1, 2, 4, 8, 16, chance.randint(0, len(data) + 1)))
        return at, min(at + size, len(data))

    def way(change: Callable[[bytearray], None]) -> Callable[[bytearray], None]:
        ways.append(change)
        return change

    @way
    def flip(data: bytearray) -> None:
        if data:
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)

    @way
    def noise(data: bytearray) -> None:
        at, end = place(data)
        data[at:end] = chance.randbytes(end - at or 1)

    @way
    def delete(data: bytearray) -> None:
        at, end = place(data)
        del data[at:end]

    @way
    def insert(data: bytearray) -> None:
        at, _ = place(data)
        data[at:at] = chance.choice(words)

    @way
    def replace(data: bytearray) -> None:
        at, end = place(data)
        data[at:end] = chance.choice(words)

    @way
    def number(data: bytearray) -> None:
        at, _ = place(data)
        size = chance.choice((1, 2, 4, 8))
        value = (chance.choice(_NUMBERS) + chance.choice((0, 0, 1, -1))) & ((1 << (8 * size)) - 1)
        data[at : at + size] = value.to_bytes(size, chance.choice(("big", "little")))

    @way
    def repeat(data: bytearray) -> None:
        at, end = place(data)
        data[at:at] = data[at:end] * chance.choice((1, 1, 2, 7, 60))

    @way
    def splice(data: bytearray) -> None:
        at, end = place(data)
        other = chance.choice(samples)
        begin = chance.randint(0, len(other))
        data[at:end] = other[begin : begin + chance.choice((4, 16, 64, len(other)))]

    @way
    def cut(data: bytearray) -> None:
        del data[chance.randint(0, len(data)) :]

    while True:
        data = bytearray(chance.choice(samples))
        for _ in range(chance.choice((1, 1, 1, 2, 2, 3, 5, 8))):
            chance.choice(ways)(data)
            del data[longest:]
        yield bytes(data)
