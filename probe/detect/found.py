"""What changed in, an event's kind, words and values out; one of all where very many change at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from probe.text import duration

BEGIN, END = "begin", "end"
TOGETHER = 16  # events of one kind and phase a window; more are told of as one
_SAME = ("what", "why", "stays")  # what such a one says holds for all of them
_NAMED = 32  # targets that such a one names
_WINDOWS = 8  # that an event names

Detail = Mapping[str, object]


@dataclass(frozen=True)
class Found:
    """An event: its kind, what it says, and the targets that it is about (several, where it is about many).

    wall_ns: when it happened: the begin of the first window that shows it, or the end of what ended.
    detail: docs/measuring.md defines its values.
    """

    kind: str
    text: str
    targets: tuple[str, ...]
    detail: Detail = field(default_factory=dict)

    @property
    def tags(self) -> dict[str, str]:
        return {"target": self.targets[0]} if len(self.targets) == 1 else {}

    @property
    def phase(self) -> str:
        return str(self.detail["phase"])

    @property
    def wall_ns(self) -> int:
        value = self.detail["begin_ns" if self.phase == BEGIN else "end_ns"]
        assert isinstance(value, int)
        return value


def bounded(found: Sequence[Found]) -> list[Found]:
    """The same, with at most TOGETHER of a kind and phase. Ends come first: where one episode of a target
    ends and another one begins at the same instant, whoever reads them in order must not take the second for
    over."""
    groups: dict[tuple[object, ...], list[Found]] = {}
    for one in found:
        alike = tuple(one.detail.get(key) for key in _SAME)
        groups.setdefault((one.kind, one.phase, *alike), []).append(one)
    told: list[Found] = []
    for group in sorted(groups.values(), key=lambda group: group[0].phase == BEGIN):
        told += group if len(group) <= TOGETHER else [_of_many(group)]
    return told


def _of_many(group: Sequence[Found]) -> Found:
    first = group[0]
    names = list(dict.fromkeys(name for one in group for name in one.targets))
    phase = first.phase
    pick: dict[str, Callable[[list[int]], int]] = {"begin_ns": min, "end_ns": max, "sent": sum, "lost": sum}
    detail: dict[str, object] = {"phase": phase, "targets": len(names), "names": names[:_NAMED]}
    for key, choose in pick.items():
        values = [value for one in group if isinstance(value := one.detail.get(key), int)]
        if values:
            detail[key] = choose(values)
    sizes = [value for one in group if isinstance(value := one.detail.get("size"), float)]
    if sizes:
        detail["size"] = median(sizes)
    detail["windows"] = first.detail["windows"]
    shown = ", ".join(names[:4])
    shown += f" and {len(names) - 4} more" if len(names) > 4 else ""
    same = {key: first.detail[key] for key in _SAME if key in first.detail}
    detail.update(same)
    word = {BEGIN: "at once", END: "is over at once"}[phase]
    if "stays" in same:
        word = "stays, and is the usual one from now on,"
    elif "why" in same:
        word = f"no longer watched ({same['why']})"
    text = f"{_TITLES[first.kind]} {word} at {len(names)} targets ({shown})"
    return Found(first.kind, text, tuple(names), detail)


_TITLES = {
    "loss": "loss",
    "latency": "a shift of latency",
    "jitter": "a rise of jitter",
    "flow": "one flow out of many being different",
    "unreachable": "no answer",
}


def last(starts: Sequence[int], since: int) -> list[int]:
    """The starts of the windows that prove it: from `since` on, at most 8, the last ones."""
    return [start for start in starts if start >= since][-_WINDOWS:]


def of_flows(flows: Sequence[int], all_flows: int, *, one_by_one: bool) -> tuple[str, dict[str, object]]:
    """How text begins, and what detail says, of these flows of a target with so many.

    one_by_one: it is about these flows; else about the target, of which these are the flows that show it.
    """
    if all_flows == 1:
        return "", {"flows": 1}
    values: dict[str, object] = {"flows": all_flows, "affected": len(flows)}
    if not one_by_one:
        return f"{len(flows)} of {all_flows} flows: ", values
    names = ", ".join(map(str, flows[:8])) + (" ..." if len(flows) > 8 else "")
    words = f"{'flow' if len(flows) == 1 else 'flows'} {names} of {all_flows}: "
    return words, {**values, "flow": flows[0], "which": list(flows[:16])}


def share(part: float) -> str:
    """0.0312 is '3.1 %'."""
    percent = part * 100
    return f"{percent:.0f} %" if percent >= 9.95 else f"{percent:.2g} %"


def times(ns: int, ns_after: int) -> str:
    """From so long to so long."""
    return f"{duration(ns)} -> {duration(ns_after)}"
