"""What became of every target in, lines for people and the table in docs/security.md out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from tests.fuzz.driving import Outcome
from tests.fuzz.target import Target

PAGE = Path(__file__).parents[2] / "docs" / "security.md"
BEGIN, END = "<!-- fuzz:begin -->", "<!-- fuzz:end -->"


@dataclass(frozen=True)
class Figures:
    """A target and its outcome; guided: whether coverage led."""

    target: Target
    outcome: Outcome
    guided: bool

    def __str__(self) -> str:
        one = self.outcome
        edges = f"{one.edges:6,} edges" if one.edges is not None else " " * 12
        rate = one.tried / max(one.seconds, 1e-9)
        findings = "1 FINDING" if one.finding else "0 findings"
        return f"{self.target.name:22} {one.tried:11,} inputs {rate:9,.0f}/s {edges}  {findings}"


def table(figures: Sequence[Figures], day: date) -> str:
    """As it stands between the markers."""
    rows = [
        f"| `{one.target.name}` | {_code(one.target.decodes)} | {one.target.invariant} "
        f"| {'coverage' if one.guided else 'chance'} | {one.outcome.tried:,} "
        f"| {int(one.outcome.finding is not None)} |"
        for one in figures
    ]
    tried = sum(one.outcome.tried for one in figures)
    found = sum(one.outcome.finding is not None for one in figures)
    return "\n".join(
        [
            f"`make fuzz` on {day.isoformat()}: {tried:,} inputs, {len(figures)} targets, {found} findings.",
            "",
            "| target | decoder | what must hold | led by | inputs tried | findings |",
            "| --- | --- | --- | --- | ---: | ---: |",
            *rows,
        ]
    )


def _code(text: str) -> str:
    plain, _, remark = text.partition(" (")
    return f"`{plain}`" + (f" ({remark}" if remark else "")


def written(page: str, text: str) -> str:
    """The page with this text between its markers, which are made where they are missing."""
    if BEGIN not in page or END not in page:
        page = page.rstrip("\n") + f"\n\n## Fuzzing\n\n{BEGIN}\n{END}\n"
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n{text}\n{END}{tail}"
