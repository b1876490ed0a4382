"""Verdicts in, a page for the operator out: what it is, why, what else it may be, how to be sure; pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from collectors.board import text
from collectors.diagnose.causes import CAUSES, NONE, UNKNOWN
from collectors.diagnose.verdicts import Verdict

_MOST_EVIDENCE = 8
_MOST_NAMES = 8


def report(verdicts: Sequence[Verdict], source: str) -> str:
    """The whole page; `source`: where the points are from."""
    if len(verdicts) == 1 and verdicts[0].place == NONE:
        return f"{verdicts[0].where}\n"
    now = verdicts[0].time_ns
    count = f"{len(verdicts)} things are" if len(verdicts) > 1 else "one thing is"
    lines = [f"{count} wrong, as of {_instant(now)} ({source})"]
    for number, verdict in enumerate(verdicts, 1):
        lines += ["", *_section(number, verdict)]
    return "\n".join(lines) + "\n"


def _section(number: int, verdict: Verdict) -> list[str]:
    if verdict.place == UNKNOWN:
        head = f"{number}. unknown"
    else:
        head = f"{number}. {verdict.place}: {verdict.cause}, confidence {verdict.confidence:.0%}"
    lines = [head, f"   {verdict.where}"]
    if verdict.since_ns is not None:
        lines.append(f"   since {_instant(verdict.since_ns)}{_until(verdict)}")
    if verdict.targets:
        names = [_printable(name) for name in verdict.targets]
        more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
        lines.append(f"   targets: {', '.join(names[:_MOST_NAMES])}{more}")
    found = verdict.evidence[:_MOST_EVIDENCE]
    for title, some in (
        ("for it:", [one for one in found if one.weight >= 0]),
        ("against it:", [one for one in found if one.weight < 0]),
    ):
        if some:
            lines.append(f"   {title}")
            lines += [f"     {one.weight:+5.1f}  {_printable(one.text)}" for one in some]
    if verdict.rivals:
        rivals = [f"{CAUSES[one.cause].what} ({one.cause}, {one.weight:+.1f})" for one in verdict.rivals]
        lines.append(f"   {'it may be' if verdict.place == UNKNOWN else 'or else'}: {'; '.join(rivals)}")
    if verdict.settle:
        lines.append("   what would settle it:")
        lines += [f"     {_printable(one)}" for one in verdict.settle]
    return lines


def _until(verdict: Verdict) -> str:
    assert verdict.since_ns is not None
    if verdict.until_ns is None:
        return f", for {text.age(verdict.time_ns - verdict.since_ns)}, and it goes on"
    if verdict.until_ns <= verdict.since_ns:
        return ", once"
    return f", until {_instant(verdict.until_ns)}: over"


def _instant(ns: int) -> str:
    try:
        when = datetime.fromtimestamp(ns // 1_000_000_000, UTC)
    except (ValueError, OverflowError, OSError):
        return f"{ns} ns"
    return f"{when:%Y-%m-%d %H:%M:%S} UTC"


def _printable(words: str) -> str:
    """Words from the network without anything that would move a terminal's cursor."""
    return "".join(c if c.isprintable() else "?" for c in words)
