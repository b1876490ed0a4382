"""Figures in, tables, bars and a file out: what `make bench` prints, and the same as JSON and in
docs/benchmarks.md."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

BEGIN = "<!-- what `make bench` printed: begin -->"
END = "<!-- what `make bench` printed: end -->"


@dataclass(frozen=True)
class Bar:
    """A claim: `values`, one a round, whose median is at least or at most `limit`."""

    what: str
    values: list[float]
    limit: float
    at_least: bool = False

    @property
    def met(self) -> bool:
        if not self.values:
            return False
        median = statistics.median(self.values)
        return median >= self.limit if self.at_least else median <= self.limit

    def __str__(self) -> str:
        shown = "not measured"
        if self.values:
            shown = f"{statistics.median(self.values):.2f} ({min(self.values):.2f} to {max(self.values):.2f})"
        word = "at least" if self.at_least else "at most"
        return f"  {self.what}: {shown}; bar: {word} {self.limit:g}, {'met' if self.met else 'NOT MET'}"


@dataclass
class Report:
    """All that was printed (`text`), its figures (`data`), and the bars."""

    text: list[str] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    bars: list[Bar] = field(default_factory=list)

    def say(self, line: str) -> None:
        self.text += line.split("\n")
        clear = "\r\x1b[K" if sys.stderr.isatty() else ""
        print(clear, end="", file=sys.stderr, flush=True)
        print(line, flush=True)

    def table(self, heads: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]], wide: int = 0) -> None:
        """Rows of a name and cells, right-aligned; a row of one cell gets all the room."""
        first = max([wide, len(heads[0]), *(len(name) for name, _ in rows)])
        widths = [
            max([len(head), *(len(cells[at]) for _, cells in rows if len(cells) > 1)])
            for at, head in enumerate(heads[1:])
        ]
        self.say(
            f"  {heads[0]:<{first}}" + "".join(f"  {h:>{w}}" for h, w in zip(heads[1:], widths, strict=True))
        )
        for name, cells in rows:
            if len(cells) == 1:
                self.say(f"  {name:<{first}}  {cells[0]}")
            else:
                self.say(
                    f"  {name:<{first}}" + "".join(f"  {c:>{w}}" for c, w in zip(cells, widths, strict=True))
                )

    def progress(self, text: str) -> None:
        """Only somebody who waits wants to see it."""
        if sys.stderr.isatty():
            print(f"\r\x1b[K{text[:100]}", end="", file=sys.stderr, flush=True)

    def tell_bars(self, seconds: float) -> None:
        """Every bar and whether it is met; `seconds`: that the whole run took."""
        self.say(f"\nbars ({seconds:.0f} s in all)")
        for bar in self.bars:
            self.say(str(bar))

    def write_json(self, file: Path) -> None:
        self.data["bars"] = [{**asdict(bar), "met": bar.met} for bar in self.bars]
        file.write_text(json.dumps(self.data, indent=1) + "\n", encoding="utf-8")

    def write_into(self, page: Path) -> None:
        """Put what was printed between the page's two marks. Raises: ValueError where it has none."""
        old = page.read_text(encoding="utf-8")
        before, begin, rest = old.partition(BEGIN)
        _, end, after = rest.partition(END)
        if not begin or not end:
            raise ValueError(f"{page} lacks the lines {BEGIN!r} and {END!r}")
        block = "\n".join(line.rstrip() for line in self.text).strip("\n")
        page.write_text(f"{before}{BEGIN}\n```\n{block}\n```\n{END}{after}", encoding="utf-8")


def machine() -> dict[str, Any]:
    """What a figure is worth nothing without."""
    cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    model = next(
        (line.split(":", 1)[1].strip() for line in cpuinfo.splitlines() if line.startswith("model name")), "?"
    )
    return {
        "cores": os.cpu_count(),
        "processor": model,
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": " ".join(f"{load:.1f}" for load in os.getloadavg()),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
