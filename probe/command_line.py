"""Nothing in, the command line's grammar out: every command with its arguments, and what completion is made
from."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TypeAlias

from probe import __version__
from probe.arguments import add_knobs, clock_error, complete_files, duration, interval, whole
from probe.ask_arguments import add_agents, add_ask
from probe.units import Duration

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

_TARGET = "host, icmp://host, stamp://host[:862], tcp://host:port or connect://host:port"


def parser() -> argparse.ArgumentParser:
    """The command line, also what shell completion is made from."""
    root = argparse.ArgumentParser(
        prog="coloprobe",
        description="Packet loss, jitter and round-trip latency to gateways, with the kernel's timestamps.",
        epilog="Start here: coloprobe up 192.0.2.10   (then open the address it prints)",
    )
    root.add_argument("--version", action="version", version=f"coloprobe {__version__}")
    root.add_argument("-v", "--verbose", action="store_true", help="log details to stderr")
    commands = root.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)

    for add in (_up, _agent, _collect, _ping, _trace, _ask, _agents, _diagnose, _reflect, _show):
        add(commands)
    for add in (_check, _completion):
        add(commands)
    return root


def _up(commands: Commands) -> None:
    up = _command(
        commands,
        "up",
        "measure, store and show, all in one process on embedded parts",
        "coloprobe up 192.0.2.10 gateway.example --board 0.0.0.0:8080",
    )
    up.add_argument(
        "target",
        nargs="*",
        metavar="TARGET",
        help=f"{_TARGET} (default: loopback and the default gateway)",
    )
    up.add_argument(
        "--board",
        default="127.0.0.1:8080",
        metavar="HOST:PORT",
        help="where the web board listens (%(default)s)",
    )
    up.add_argument(
        "--broker",
        default="127.0.0.1:1883",
        metavar="HOST:PORT",
        help="where other hosts' agents may send (%(default)s)",
    )
    complete_files(
        up.add_argument(
            "--board-token-file",
            default="",
            metavar="FILE",
            help="the token that viewers need is in this file, or in COLOPROBE_BOARD_TOKEN (default: none on "
            "loopback; elsewhere one that is made and printed)",
        )
    )
    complete_files(
        up.add_argument(
            "--broker-password-file",
            default="",
            metavar="FILE",
            help="agents need the password in this file, or in COLOPROBE_MQTT_PASSWORD (default: none)",
        )
    )
    _state(up)
    up.add_argument(
        "--interval",
        type=interval,
        default=Duration.parse("100ms"),
        help="between two probes of a target (100ms); of tcp and connect at least 1s",
    )
    up.add_argument(
        "--for",
        dest="lasting",
        type=duration,
        metavar="DURATION",
        help="end after this long, for example 60s",
    )


def _agent(commands: Commands) -> None:
    agent = _command(
        commands,
        "agent",
        "the agent: measure and send",
        "coloprobe agent -c /etc/coloprobe/agent.toml",
    )
    _settings(agent)


def _collect(commands: Commands) -> None:
    collect = _command(
        commands,
        "collect",
        "a collector: MQTT in, InfluxDB out, acknowledgements back",
        "coloprobe collect -c /etc/coloprobe/collector.toml",
    )
    _settings(collect)


def _ping(commands: Commands) -> None:
    ping = _command(
        commands,
        "ping",
        "one target, live, each probe kernel-stamped",
        "coloprobe ping tcp://192.0.2.20:9000 -c 10 --flows 4",
    )
    ping.add_argument("target", metavar="TARGET", help=_TARGET)
    ping.add_argument(
        "-c",
        "--count",
        type=whole(1, 1_000_000_000),
        metavar="N",
        help="stop after N probes of each flow (default: until interrupted)",
    )
    ping.add_argument(
        "-W",
        "--timeout",
        type=interval,
        default=Duration.parse("1s"),
        metavar="DURATION",
        help="a reply later than this is late: 200ms, or seconds (1s)",
    )
    add_knobs(ping)
    which = ping.add_mutually_exclusive_group()
    which.add_argument("-4", dest="family", action="store_const", const=2, help="IPv4 only")
    which.add_argument("-6", dest="family", action="store_const", const=10, help="IPv6 only")
    ping.add_argument(
        "--clock-error",
        type=clock_error,
        metavar="DURATION",
        help="stamp: how far this host's clock is off at most, for example 20us (what the kernel says)",
    )
    ping.add_argument("-q", "--quiet", action="store_true", help="the summary only")
    ping.add_argument("--json", action="store_true", help="one JSON object a line")


def _trace(commands: Commands) -> None:
    trace = _command(
        commands,
        "trace",
        "the routers on every path to a target, and the largest packet that passes",
        "coloprobe trace tcp://192.0.2.20:9000 --flows 8",
    )
    trace.add_argument("target", metavar="TARGET", help=_TARGET)
    trace.add_argument(
        "--flows",
        type=whole(1, 64),
        default=4,
        metavar="N",
        help="streams on paths of their own, 1 to 64 (%(default)s)",
    )
    trace.add_argument(
        "--max-hops",
        type=whole(1, 64),
        default=30,
        metavar="N",
        help="no further than this, 1 to 64 (%(default)s)",
    )
    trace.add_argument(
        "--probes",
        type=whole(1, 100),
        default=3,
        metavar="N",
        help="of each flow to each hop, 1 to 100 (%(default)s)",
    )
    trace.add_argument(
        "--protocol",
        choices=("auto", "icmp", "udp", "tcp"),
        default="auto",
        help="of the packets (auto: as the target is probed; tcp goes to the target's own port)",
    )
    trace.add_argument(
        "--timeout",
        type=interval,
        default=Duration.parse("1s"),
        metavar="DURATION",
        help="a hop that has not answered by then is silent: 200ms, or seconds (1s)",
    )
    trace.add_argument(
        "--rate", type=whole(1, 10_000), default=50, metavar="N", help="packets a second (%(default)s)"
    )
    trace.add_argument(
        "--no-mtu",
        dest="mtu",
        action="store_false",
        help="do not look for the largest packet that passes",
    )
    trace.add_argument("--dscp", type=whole(0, 63), default=0, metavar="N", help="0 to 63 (0)")
    trace.add_argument(
        "--source",
        default="",
        metavar="ADDRESS",
        help="an IP address of this host to send from (the route's)",
    )
    trace.add_argument(
        "--interface",
        default="",
        metavar="NAME",
        help="send and receive by this interface only (the route's)",
    )
    which = trace.add_mutually_exclusive_group()
    which.add_argument("-4", dest="family", action="store_const", const=2, help="IPv4 only")
    which.add_argument("-6", dest="family", action="store_const", const=10, help="IPv6 only")
    trace.add_argument("--json", action="store_true", help="one JSON object a line: hops, then a path a flow")


def _ask(commands: Commands) -> None:
    add_ask(
        _command(
            commands,
            "ask",
            "ask an agent over the broker: ping, trace, sessions, links, check",
            "coloprobe ask ny4-01 ping nyse-pillar-a -n 20 -c /etc/coloprobe/collector.toml",
        )
    )


def _agents(commands: Commands) -> None:
    add_agents(
        _command(
            commands,
            "agents",
            "who is online, with version, settings and the last batch",
            "coloprobe agents --mqtt mqtts://broker.example --username ops --password-file mqtt.password",
        )
    )


def _reflect(commands: Commands) -> None:
    reflect = _command(
        commands,
        "reflect",
        "answer STAMP probes (RFC 8762), so that others can measure the way here and back",
        "coloprobe reflect --bind 192.0.2.10:862 --key-file /etc/coloprobe/stamp.key",
    )
    reflect.add_argument(
        "--bind",
        default=":862",
        metavar="HOST:PORT",
        help="where it listens (%(default)s: all addresses, IPv4 and IPv6)",
    )
    complete_files(
        reflect.add_argument(
            "--key-file",
            type=Path,
            metavar="FILE",
            help="authenticated mode, with the key in this file; then nothing else is answered",
        )
    )
    reflect.add_argument(
        "--clock-error",
        type=clock_error,
        metavar="DURATION",
        help="how far this host's clock is off at most, for example 20us (default: what the kernel says)",
    )
    reflect.add_argument(
        "--rate",
        type=whole(1, 10_000_000),
        default=10_000,
        metavar="N",
        help="replies a second to one address (%(default)s)",
    )


def _diagnose(commands: Commands) -> None:
    diagnose = _command(
        commands,
        "diagnose",
        "what is wrong, where, since when, and on what evidence",
        "coloprobe diagnose --last 15m -c /etc/coloprobe/collector.toml",
    )
    diagnose.add_argument(
        "target", nargs="?", default="", metavar="TARGET", help="what has to do with this one alone, by name"
    )
    diagnose.add_argument("--agent", default="", metavar="ID", help="what has to do with this agent alone")
    diagnose.add_argument(
        "--last",
        type=duration,
        default=Duration.parse("15m"),
        metavar="DURATION",
        help="how far back; it has to reach into the time before the trouble (15m)",
    )
    _state(diagnose)
    which = diagnose.add_mutually_exclusive_group()
    complete_files(
        which.add_argument(
            "-c",
            "--config",
            type=Path,
            metavar="FILE",
            help="read the InfluxDB of a collector's settings instead",
        )
    )
    complete_files(
        which.add_argument(
            "--from",
            dest="recording",
            type=Path,
            metavar="FILE",
            help="read what `coloprobe show --json` printed instead",
        )
    )
    diagnose.add_argument("--json", action="store_true", help="one JSON object a verdict")


def _show(commands: Commands) -> None:
    show = _command(commands, "show", "what the embedded store holds", "coloprobe show --last 15m --json")
    _state(show)
    show.add_argument("--json", action="store_true", help="every stored point as one JSON object a line")
    show.add_argument(
        "--last",
        type=duration,
        default=Duration.parse("1h"),
        metavar="DURATION",
        help="how far back, for example 15m (1h)",
    )


def _check(commands: Commands) -> None:
    check = _command(
        commands,
        "check",
        "what works, what does not, and what to do about it",
        "coloprobe check -c /etc/coloprobe/agent.toml",
    )
    _settings(check)
    check.add_argument("--json", action="store_true", help="one JSON object a line")


def _completion(commands: Commands) -> None:
    completion = _command(
        commands,
        "completion",
        "print a shell's completion script",
        'eval "$(coloprobe completion bash)"',
    )
    completion.add_argument("shell", choices=("bash", "zsh", "tcsh"))


def _command(
    commands: Commands,
    name: str,
    does: str,
    example: str,
) -> argparse.ArgumentParser:
    return commands.add_parser(
        name, help=does, description=does[0].upper() + does[1:] + ".", epilog=f"Example: {example}"
    )


def _settings(command: argparse.ArgumentParser) -> None:
    complete_files(
        command.add_argument(
            "-c", "--config", type=Path, required=True, metavar="FILE", help="settings (TOML)"
        )
    )


def _state(command: argparse.ArgumentParser) -> None:
    home = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state")
    command.add_argument(
        "--state",
        type=Path,
        default=home / "coloprobe",
        metavar="DIR",
        help="where measurements are kept (%(default)s)",
    )
