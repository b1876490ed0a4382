"""A collector's acknowledgement in, ranges of batch numbers out; what is none is refused as a whole.

    {"9f2c41d09f2c41d0": [[17, 23], [25, 25]]}      per spool, inclusive ranges of what the sink holds
    {}                                              a hint: acknowledgements are coming again

The cost depends on the length of the text alone: nobody counts through a range.
"""

from __future__ import annotations

import msgspec

from probe.errors import BatchError

MAX_BYTES = 256 << 10

_Spools = dict[str, msgspec.Raw]
_Ranges = list[tuple[int, int]]


def parse(payload: bytes, spool: str, last: int) -> list[tuple[int, int]]:
    """The ranges for `spool`, sorted and without overlap; `last`: the highest number it ever gave.

    No range at all is a hint: a collector that could not write for a while says so when it can again.

    Raises: BatchError where the text is no acknowledgement, is for other spools only, or names a batch that
    never was. Such a text is wrong in a way that nothing else in it can be believed either.
    """
    if len(payload) > MAX_BYTES:
        raise BatchError("oversized", f"an acknowledgement of {len(payload)} bytes")
    try:
        spools = msgspec.json.decode(payload, type=_Spools)
        if not spools:
            return []
        if spool not in spools:
            raise BatchError("foreign", "an acknowledgement for another spool")
        ranges = msgspec.json.decode(spools[spool], type=_Ranges)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
        raise BatchError("malformed", f"not an acknowledgement: {problem}") from None
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if not 1 <= low <= high <= last:
            raise BatchError("range", f"an acknowledgement of [{low}, {high}] where 1 to {last} were sent")
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return merged


def covers(ranges: list[tuple[int, int]], number: int) -> bool:
    """Whether `number` is in one of the sorted ranges."""
    low, high = 0, len(ranges)
    while low < high:
        middle = (low + high) // 2
        if ranges[middle][1] < number:
            low = middle + 1
        else:
            high = middle
    return low < len(ranges) and ranges[low][0] <= number
