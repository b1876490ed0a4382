"""A command line in, a lab with an emulated link for any tool out: `python -m tests.lab --help`."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from argparse import Namespace as Arguments
from collections.abc import Sequence
from types import FrameType

from pyroute2.netlink.exceptions import NetlinkError

from tests.lab.emulated import DEVICE, EmulatedLink, Traffic
from tests.lab.netlab import Lab
from tests.lab.options import impairments, parser
from tests.lab.truthlog import BACKWARD, FORWARD

_TARGETS = "10.50.0.0/16", "fd50::/64"
_GRACE_S = 5.0
_REFRESH_S = 0.5


class LabProblem(Exception):  # noqa: N818 - as in probe/errors.py, the name says what happened
    """Why there is no lab, in words for the person who wants one."""


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the command's status; 0 without a command; 1 where there can be no lab or its link failed."""
    given = list(sys.argv[1:] if argv is None else argv)
    at = given.index("--") if "--" in given else len(given)
    arguments, command = parser().parse_args(given[:at]), given[at + 1 :]
    if at < len(given) and not command:
        parser().error("after -- a COMMAND is wanted")
    _clean_up_on_signals()
    try:
        _check(arguments)
        return _run(arguments, command)
    except (LabProblem, OSError, NetlinkError, AssertionError) as problem:
        print(f"python -m tests.lab: {problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT if command else 0


def _clean_up_on_signals() -> None:
    """Let signals end this process by the way that cleans up, and none that pyroute2 forks from it."""
    owner = os.getpid()

    def leave(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:
            os._exit(128 + number)
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, leave)


def _check(arguments: Arguments) -> None:
    if os.geteuid() != 0:
        raise LabProblem("making network namespaces needs root; begin the line with sudo")
    if not DEVICE.exists():
        raise LabProblem(
            f"there is no {DEVICE}: run `modprobe tun`; a container has to be given the device "
            f"(for example docker run --device {DEVICE})"
        )
    if shutil.which("nsenter") is None:
        raise LabProblem("there is no nsenter, which starts programs in a namespace: install util-linux")
    if arguments.log is not None:
        try:
            arguments.log.open("w").close()
        except OSError as problem:
            raise LabProblem(f"--log {arguments.log}: {problem.strerror}") from problem


def _run(arguments: Arguments, command: Sequence[str]) -> int:
    with Lab() as lab:
        link = lab.emulated(
            impairments(arguments, FORWARD),
            impairments(arguments, BACKWARD),
            seed=arguments.seed,
            log=arguments.log,
            logging=arguments.log is not None,
        )
        for network in _TARGETS:
            link.far.answer_for(network)
            link.near.route(network, link.far.ipv4 if "." in network else link.far.ipv6)
        if link.warning:
            print(f"python -m tests.lab: {link.warning}", file=sys.stderr)
        end = time.monotonic() + arguments.duration.seconds if arguments.duration is not None else None
        try:
            if command:
                return _command(link, command, end)
            print(_lines_to_paste(link), flush=True)
            _stay(link, end)
            return 0
        finally:
            try:
                link.stop()  # complains where what it did is not the whole truth
            finally:
                print(f"\n{_counts(link)}" if sys.stderr.isatty() else _counts(link), file=sys.stderr)


def _command(link: EmulatedLink, command: Sequence[str], end: float | None) -> int:
    """Run it at the near end; its status, or 128 + the signal that ended it."""
    if shutil.which(command[0]) is None:
        raise LabProblem(f"there is no command {command[0]!r}")
    child = link.near.popen(command)
    try:
        child.wait(None if end is None else max(end - time.monotonic(), 0))
    except subprocess.TimeoutExpired:
        child.terminate()
    except KeyboardInterrupt:
        pass  # a terminal's Ctrl-C is the command's as well; it may have last words
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(_GRACE_S)
    child.kill()
    status = child.wait()
    return status if status >= 0 else 128 - status


def _stay(link: EmulatedLink, end: float | None) -> None:
    """Until the time is over or Ctrl-C; on a terminal, with counters."""
    with contextlib.suppress(KeyboardInterrupt):
        while end is None or time.monotonic() < end:
            if not link.running:
                raise LabProblem("the emulator ended by itself")
            if sys.stderr.isatty():
                print(f"\r\x1b[K{_counts(link)}", end="", file=sys.stderr, flush=True)
            left = _REFRESH_S if end is None else min(_REFRESH_S, max(end - time.monotonic(), 0))
            time.sleep(left)


def _counts(link: EmulatedLink) -> str:
    def shown(traffic: Traffic) -> str:
        notes = {
            "doubled": traffic.duplicated,
            "held back": traffic.held,
            "under way": traffic.in_flight,
            "refused at the end": traffic.refused,
        }
        text = f"{traffic.arrived} in, {traffic.lost} lost, {traffic.delivered} out"
        return text + "".join(f", {count} {name}" for name, count in notes.items() if count)

    forward, backward = link.traffic()
    return f"forward: {shown(forward)}; backward: {shown(backward)}"


def _lines_to_paste(link: EmulatedLink) -> str:
    near, far = link.near, link.far
    enter = f"nsenter --net={near.path}"
    coloprobe = "coloprobe" if shutil.which("coloprobe") else f"{sys.executable} -m probe.cli"
    return "\n".join(
        [
            f"near  {near.name}  {near.ipv4}  {near.ipv6}",
            f"far   {far.name}  {far.ipv4}  {far.ipv6}, and every address of {' and '.join(_TARGETS)}",
            "",
            "in another terminal, as root:",
            f"  {enter} ping {far.ipv4}",
            f"  {enter} ping {far.ipv6}",
            f"  {enter} fping -c 10 10.50.0.1 10.50.0.2 fd50::1",
            f"  {enter} {coloprobe} ping {far.ipv4} -i 10ms",
            f"  {enter} {coloprobe} up {far.ipv4} 10.50.0.1 --state /tmp/coloprobe-lab",
            f"  {enter} tcpdump -ni {near.interface}",
            f"  nsenter --net={far.path} $SHELL",
            "",
            "Ctrl-C ends the lab.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
