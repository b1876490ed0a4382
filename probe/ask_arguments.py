"""A parser in, the arguments of `ask` and `agents` in it out; and what was given as a question."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from probe.arguments import complete_files, interval, whole
from probe.units import Duration

if TYPE_CHECKING:
    from probe.telemetry.asks import Options

WHATS = ("ping", "trace", "sessions", "links", "check")
# Arguments that are options of the question, by its names for them.
_OPTIONS = ("count", "interval_ns", "timeout_ns", "size", "flows", "max_hops", "protocol")


def add_broker(command: argparse.ArgumentParser) -> None:
    """Where the broker is and who we are there; `probe.asker.access` reads them."""
    which = command.add_mutually_exclusive_group()
    complete_files(
        which.add_argument(
            "-c",
            "--config",
            metavar="FILE",
            help="take [mqtt] of this agent.toml or collector.toml; the options below replace parts of it",
        )
    )
    which.add_argument("--mqtt", metavar="URL", help="mqtt://host or mqtts://host (mqtt://127.0.0.1:1883)")
    command.add_argument("--username", metavar="NAME", help="who we are at the broker")
    for name, text in (
        ("--password-file", "the password is in this file, or in COLOPROBE_MQTT_PASSWORD"),
        ("--ca-file", "of mqtts://: trust this authority instead of the system's"),
        ("--cert-file", "of mqtts://: our certificate, with --key-file"),
        ("--key-file", "of mqtts://: its key"),
    ):
        complete_files(command.add_argument(name, metavar="FILE", help=text))


def add_ask(command: argparse.ArgumentParser) -> None:
    """The arguments of `ask`."""
    command.add_argument("agent", metavar="AGENT", help="its id; `coloprobe agents` lists them")
    command.add_argument("what", choices=WHATS, metavar="WHAT", help=", ".join(WHATS))
    command.add_argument(
        "target",
        nargs="?",
        default="",
        metavar="TARGET",
        help="for ping and trace: one of its targets, by name or address; sessions: only this one's",
    )

    def option(*names: str, help: str, **more: object) -> None:  # noqa: A002 - argparse's name
        command.add_argument(*names, default=argparse.SUPPRESS, help=help, **more)  # type: ignore[arg-type]

    option("-n", "--count", type=whole(1, 1_000_000), metavar="N", help="ping: probes of each flow (10)")
    option(
        "-i",
        "--interval",
        dest="interval_ns",
        type=interval,
        metavar="DURATION",
        help="ping: between them (1s)",
    )
    option(
        *("-W", "--reply-timeout"),
        dest="timeout_ns",
        type=interval,
        metavar="DURATION",
        help="ping: a reply later than this is late (1s)",
    )
    option("-s", "--size", type=whole(24, 9000), metavar="BYTES", help="ping: IP payload (the target's)")
    option(
        "--flows",
        type=whole(1, 64),
        metavar="N",
        help="ping (1), trace (trace.flows): streams on paths of their own",
    )
    option("--max-hops", type=whole(1, 64), metavar="N", help="trace: no further than this")
    option(
        "--protocol", choices=("icmp", "udp", "tcp"), help="trace: of the packets (as the target is probed)"
    )
    add_broker(command)
    command.add_argument(
        "--timeout",
        type=interval,
        default=Duration.parse("10s"),
        metavar="DURATION",
        help="give up when the agent says nothing for so long; while it works it does every 2 s (10s)",
    )
    command.add_argument("--json", action="store_true", help="one JSON object a line")


def add_agents(command: argparse.ArgumentParser) -> None:
    """The arguments of `agents`."""
    add_broker(command)
    command.add_argument(
        "--timeout",
        type=interval,
        default=Duration.parse("3s"),
        metavar="DURATION",
        help="how long agents may take to say more of themselves (3s)",
    )
    command.add_argument("--json", action="store_true", help="one JSON object a line")


def options(arguments: argparse.Namespace) -> Options:
    """Those of the question that were given."""
    from probe.telemetry.asks import Options

    given: dict[str, Any] = {
        name: int(value) if isinstance(value, Duration) else value
        for name, value in vars(arguments).items()
        if name in _OPTIONS
    }
    return Options(**given)
