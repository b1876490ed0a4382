"""A broker in, a table of all agents out: `coloprobe agents`.

State, version and settings are what each said of itself last and the broker has kept. Those that are online
are asked for the rest; what one does not tell is left out, not guessed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import aclosing, suppress
from typing import Any, TextIO

from probe.asker import Access, Asker, Status, asking
from probe.clock import SECOND, SystemClock
from probe.columns import columns
from probe.errors import AskError
from probe.telemetry.asks import json_line, plain
from probe.telemetry.topics import ALL_ANSWERS, ALL_STATUS

STATUS_S = 3.0  # for what the broker has kept
_HEAD = (
    *("agent", "site", "state", "version", "settings", "since", "targets", "last batch", "made"),
    *("waiting", "uplink", "may be asked"),
)
_NUMBERS = ("targets", "last batch", "made", "waiting")
_NOT_SEEN = "not seen"

About = Mapping[str, Any]


def agents(broker: Access, as_json: bool, patience_s: float, out: TextIO, remarks: TextIO) -> int:
    """Print who is there. Returns the exit status: 1 where nobody is known. Raises: MqttError."""
    statuses, told = asyncio.run(_look(broker, patience_s))
    if not statuses:
        raise AskError(
            f"no agent has said anything to {broker.mqtt.url} yet; or may {broker.user} not read "
            f"{ALL_STATUS} (the broker's access list)?"
        )
    if as_json:
        for agent, status in sorted(statuses.items()):
            print(_object(agent, status, told.get(agent)), file=out, flush=True)
        return 0
    print("\n".join(table(statuses, told, SystemClock().wall())), file=out)
    for text in _remarks(statuses, told, broker):
        print(text, file=remarks)
    return 0


def table(statuses: Mapping[str, Status], told: Mapping[str, About], now: int) -> list[str]:
    """A line for each agent, under headings; `now`: wall clock."""
    rows = [
        _row(agent, status, told.get(agent), now)
        for agent, status in sorted(statuses.items())
        if not status.bridge
    ]
    return columns(_HEAD, rows, _NUMBERS)


async def _look(broker: Access, patience_s: float) -> tuple[dict[str, Status], dict[str, About]]:
    """Everybody's status, and what those that are online say of themselves."""
    told: dict[str, About] = {}
    async with asking(broker) as asker:
        await asker.listen()
        statuses = dict(await asker.know_all(STATUS_S))
        online = [name for name, status in statuses.items() if _is_online(status)]
        with suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                await asyncio.gather(*(_about(asker, agent, patience_s, told) for agent in online))
    return statuses, told


async def _about(asker: Asker, agent: str, patience_s: float, told: dict[str, About]) -> None:
    with suppress(AskError):
        async with aclosing(asker.ask(agent, "about", patience_s=patience_s)) as parts:
            async for part in parts:
                for line in part.lines:
                    told[agent] = line


def _is_online(status: Status) -> bool:
    return status.state == "online" and not status.bridge


def _object(agent: str, status: Status, about: About | None) -> str:
    """One line of JSON; `about` is absent where the agent told nothing."""
    found: dict[str, object] = {
        "agent": agent,
        "kind": "bridge" if status.bridge else "agent",
        "state": status.state,
        "version": status.version,
        "since": status.since,
        "settings_sha256": status.settings_sha256,
    }
    if about is not None:
        found["about"] = about
    return json_line(found)


def _row(agent: str, status: Status, about: About | None, now: int) -> list[str]:
    # "since" of one that is online: its start. Of another: its end, or (in the broker's words) its last
    # connection.
    since = f"{status.when} ({_age(now - status.since)})" if 0 < status.since <= now else status.when
    row = [agent, "", status.state, plain(status.version), plain(status.settings_sha256[:8]), since]
    if about is None:
        unknown = _NOT_SEEN if status.state == "online" else ""
        return [*row, "", unknown, "", "", "", ""]
    row[1] = plain(str(about.get("site", "")))
    batch, made, wall = about.get("batch"), about.get("batch_ns"), about.get("wall_ns")
    # By the agent's own clock, both of them.
    age = wall - made if isinstance(made, int) and isinstance(wall, int) and made else None
    allow = about.get("allow")
    targets = str(about.get("targets", ""))
    if about.get("unmeasured"):
        targets = f"{targets} ({about['unmeasured']} not measured)"
    return [
        *row,
        plain(targets),
        plain(str(batch)) if batch else "none yet",
        "" if age is None or abs(age) >= 1 << 62 else f"{_age(age)} ago",
        plain(str(about.get("spool_batches", ""))),
        plain(str(about.get("uplink", ""))),
        plain(" ".join(map(str, allow))) if isinstance(allow, list) else "",
    ]


def _age(ns: int) -> str:
    seconds = max(ns, 0) / SECOND
    for unit, scale in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * scale:
            return f"{seconds / scale:.0f} {unit}"
    return f"{seconds:.0f} s"


def _remarks(statuses: Mapping[str, Status], told: Mapping[str, About], broker: Access) -> list[str]:
    said = []
    for name, status in sorted(statuses.items()):
        if status.bridge and status.state == "offline":
            said.append(
                f"{name} does not reach this broker: what is said of its site's agents may be out of date"
            )
    silent = [name for name, status in sorted(statuses.items()) if _is_online(status) and name not in told]
    if silent and len(silent) == sum(map(_is_online, statuses.values())):
        said.append(
            f"no agent says more: may {broker.user} write coloprobe/v1/+/ask and read {ALL_ANSWERS} "
            "(the broker's access list)?"
        )
    elif silent:
        said.append(f"no word from {', '.join(silent)}: an older version, ask.allow = [], or a slow line")
    return said
