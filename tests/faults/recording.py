"""A store and a time in, small files of points out: what a fault looked like, for tests that inject nothing.

A recording is what `coloprobe show --json` prints, packed: one object a point, oldest first, without the
histograms. `index.json` beside them says of each when the fault began and how the run ended.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from collectors.show import as_object
from collectors.sinks.store import Reader, path_in

INDEX = "index.json"
_LEFT_OUT = ("probe_histogram", "collector")


def points(state: Path, since_ns: int, until_ns: int) -> list[dict[str, Any]]:
    """The points of a station's store between two instants, as `show --json` writes them."""
    with Reader(path_in(state)) as reader:
        found = (as_object(point) for point in reader.points(since_ns))
        return [one for one in found if one["measurement"] not in _LEFT_OUT and one["time"] < until_ns]  # type: ignore[operator]


def write(folder: Path, name: str, rows: Iterable[dict[str, Any]], about: dict[str, Any]) -> int:
    """Write `NAME.jsonl.gz` and its entry of the index. Returns its size in bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows)
    packed = gzip.compress(text.encode(), 9, mtime=0)
    (folder / f"{name}.jsonl.gz").write_bytes(packed)
    index = folder / INDEX
    known: dict[str, Any] = json.loads(index.read_text(encoding="utf-8")) if index.exists() else {}
    known[name] = about
    index.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return len(packed)


def read(folder: Path, name: str) -> list[dict[str, Any]]:
    """The points of a recording."""
    text = gzip.decompress((folder / f"{name}.jsonl.gz").read_bytes()).decode()
    return [json.loads(line) for line in text.splitlines()]
