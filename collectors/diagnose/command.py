"""Where points are kept and a time in, a report on stdout out: `coloprobe diagnose`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

import msgspec

from collectors.diagnose.causes import NONE
from collectors.diagnose.facts import Facts, gather
from collectors.diagnose.report import report
from collectors.diagnose.verdicts import Verdict, diagnose
from collectors.history import History, PointHistory, StoreHistory, recorded
from probe.clock import Clock, SystemClock
from probe.errors import UsageError

_encode = msgspec.json.Encoder().encode
_SUGGESTED = 8  # names that an error lists


@dataclass(frozen=True)
class Where:
    """Where the points are: a state directory, a collector's settings, or a file of `show --json`."""

    state_dir: Path
    config: Path | None = None
    recording: Path | None = None


def run(
    where: Where,
    last_ns: int,
    json: bool,
    out: TextIO,
    *,
    target: str = "",
    agent: str = "",
    clock: Clock | None = None,
) -> None:
    """Print what is wrong, of all or of one target or agent; with `json` one object a verdict.

    A recording is looked at as of its newest point. Raises: SettingsError, MissingPartError, UsageError (no
    such target or agent, no recording), SinkUnavailable, SinkRefused.
    """
    now = (clock or SystemClock()).wall()
    with closing(_open(where)) as history:
        if isinstance(history, PointHistory):
            # One clock that is wrong must not make a recording end in the future, where there is nothing.
            now = history.newest_ns(now) or now
        facts = gather(history, now - last_ns, now)
    verdicts = _about(diagnose(facts), facts, target, agent)
    if json:
        out.writelines(_encode(one.as_dict()).decode() + "\n" for one in verdicts)
    else:
        out.write(report(verdicts, history.name))


def _open(where: Where) -> History:
    if where.recording is not None:
        return recorded(where.recording)
    if where.config is not None:
        from collectors.influxql import InfluxHistory
        from probe.settings import load_collector

        return InfluxHistory(load_collector(where.config), str(where.config))
    return StoreHistory(where.state_dir)


def _about(verdicts: list[Verdict], facts: Facts, target: str, agent: str) -> list[Verdict]:
    """Those that have to do with a target or agent."""
    if not target and not agent:
        return verdicts
    tracks = facts.targets
    if target:
        tracks = [track for track in tracks if track.target == target]
        _known("target", target, tracks, [track.target for track in facts.targets])
    if agent:
        tracks = [track for track in tracks if track.agent == agent]
        _known("agent", agent, tracks, [track.agent for track in facts.targets])
    agents = {track.agent for track in tracks}
    found = [
        one
        for one in verdicts
        if one.place == NONE
        or (agents & set(one.agent.split(", ")) and (not target or not one.targets or target in one.targets))
    ]
    if found:
        return found
    nothing = Verdict(facts.now_ns, NONE, NONE, f"no fault at {target or agent}", confidence=0.99)
    others = ", ".join(f"{one.place}: {one.cause}" for one in verdicts)
    return [replace(nothing, where=f"{nothing.where}; elsewhere: {others}")]


def _known(what: str, name: str, found: Sequence[object], names: list[str]) -> None:
    if not found:
        some = sorted(set(names))
        more = f" and {len(some) - _SUGGESTED} more" if len(some) > _SUGGESTED else ""
        there = ", ".join(some[:_SUGGESTED]) or "none"
        raise UsageError(f"no {what} {name!r} has data of that time (there are: {there}{more})")
