"""Targets in, a live board out: `coloprobe up`, everything in one process on embedded parts."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import re
import socket
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, closing
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from probe.agent import Agent
from probe.errors import UsageError
from probe.host.netlink import default_gateways
from probe.service import serve
from probe.settings import AgentSettings, agent_from
from probe.targets import parse_target
from probe.units import Duration

log = logging.getLogger(__name__)

WINDOW = "2s"
HISTOGRAM = "10s"


class Station(Protocol):
    """The fan-in side, once it is up."""

    @property
    def board_link(self) -> str: ...

    @property
    def board_asks(self) -> bool: ...

    @property
    def mqtt_url(self) -> str: ...


StationFactory = Callable[..., AbstractAsyncContextManager[Station]]


def settings_for(
    targets: list[str], mqtt_url: str, state_dir: Path, interval: Duration, password_file: str = ""
) -> AgentSettings:
    """Agent settings for TARGET arguments; without any, loopback and the default gateways."""
    named: list[dict[str, Any]] = []
    for target in dict.fromkeys(parse_target(text) for text in targets):
        port = {"port": target.port} if target.port else {}
        named.append({"name": target.name, "address": target.host, "kind": target.kind, **port})
    if not named:
        named = [{"name": "loopback", "address": "127.0.0.1"}]
        gateways = default_gateways()
        named += [
            {"name": "default-gateway" if i == 0 else f"default-gateway-{i + 1}", "address": address}
            for i, address in enumerate(gateways)
        ]
    raw: dict[str, Any] = {
        "agent": {"id": _host_id(), "state_dir": str(state_dir)},
        "window": {"length": WINDOW, "histogram": HISTOGRAM},
        "defaults": {"interval": str(interval)},
        "mqtt": {"url": mqtt_url, "password_file": password_file},
        "target": named,
    }
    return agent_from(raw, "command line")


def up(
    targets: list[str],
    *,
    station: StationFactory,
    board: str,
    broker: str,
    state_dir: Path,
    interval: Duration,
    lasting: Duration | None,
    board_token_file: str = "",
    broker_password_file: str = "",
) -> int:
    """Run until a signal comes or `lasting` has passed. Returns the exit status.

    Raises: UsageError, and what `Agent.prepare` and the station raise.
    """
    checked = settings_for(targets, "mqtt://127.0.0.1:1883", state_dir, interval, broker_password_file)

    async def main(stop: asyncio.Event) -> None:
        if lasting is not None:
            asyncio.get_running_loop().call_later(lasting.seconds, stop.set)
        async with station(
            board=board,
            broker=broker,
            state_dir=state_dir,
            board_token_file=board_token_file,
            broker_password_file=broker_password_file,
            on_failure=stop.set,
        ) as fan_in:
            # The link with its token is for whoever sits here; no log line has it.
            asks = "   (asks for your token: open it with /?token=... once)" if fan_in.board_asks else ""
            print(f"board   {fan_in.board_link}{asks}", flush=True)
            print(f"broker  {fan_in.mqtt_url}   ({_who_may_send(fan_in.mqtt_url)})", flush=True)
            paces: dict[Duration, list[str]] = {}
            for target in checked.target:
                paces.setdefault(target.interval, []).append(target.name)
            what = ", ".join(f"{', '.join(names)} every {pace}" for pace, names in paces.items())
            print(f"probing {what}; first numbers in a few seconds; Ctrl-C ends it", flush=True)
            agent.connect(fan_in.mqtt_url)
            await agent.run(stop)

    agent = Agent(checked, "command line")
    agent.prepare()
    with closing(agent):
        _check_readable()
        return serve(main)


def _who_may_send(mqtt_url: str) -> str:
    if ipaddress.ip_address(urlsplit(mqtt_url).hostname or "").is_loopback:
        return "for this host alone; --broker 0.0.0.0:1883 lets others in"
    return "agents of other hosts may send here"


def _check_readable() -> None:
    """Root without its privileges may not read in another user's private folder: say so, and not half-way.

    Raises: UsageError.
    """
    try:
        Path(__file__).open("rb").close()
    except OSError:
        raise UsageError(
            f"root gave up its privileges and cannot read {Path(__file__).parents[1]} any more; run this "
            "command as the user whose folder it is (it needs no privileges where net.ipv4.ping_group_range "
            "allows), or install it where everybody may read"
        ) from None


def _host_id() -> str:
    """This host's name as an agent's id."""
    name = re.sub(r"[^a-z0-9-]+", "-", socket.gethostname().split(".")[0].lower()).strip("-")
    return name[:63] or "host"
