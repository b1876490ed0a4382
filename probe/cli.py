"""Command line in, one call out: parse, load settings, call; no logic. Every command imports what it needs,
late; `probe.command_line` knows their arguments."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import sys
from collections.abc import Callable, Sequence

from probe.arguments import knobs
from probe.command_line import parser
from probe.errors import ColoprobeError
from probe.units import Duration

Handler = Callable[[argparse.Namespace], int]

# numpy's linear algebra would start a thread a core that this program never uses.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit status: 0 done, 1 it failed, 2 usage or settings are wrong."""
    arguments = parser().parse_args(argv)
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.DEBUG if arguments.verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
    )
    try:
        status = _HANDLERS[arguments.command](arguments)
        if sys.stdout is not None:
            sys.stdout.flush()  # or nobody would be told that it cannot be written
        return status
    except ColoprobeError as problem:
        print(f"coloprobe: {problem}", file=sys.stderr)
        return problem.exit_status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output is gone (`| head`): not an error, and nothing more to say.
        _say_no_more()
        return 0
    except OSError as problem:
        if problem.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        print(f"coloprobe: cannot write: {problem.strerror}", file=sys.stderr)
        _say_no_more()
        return 1


def _say_no_more() -> None:
    """What was not written yet would be tried again at the end of the process."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _up(arguments: argparse.Namespace) -> int:
    from probe.up import up

    try:
        from collectors.station import station
    except ModuleNotFoundError as missing:
        from probe.errors import MissingPartError

        raise MissingPartError(f"the board (Python module {missing.name})", "up") from None
    return up(
        arguments.target,
        station=station,
        board=arguments.board,
        broker=arguments.broker,
        state_dir=arguments.state,
        interval=arguments.interval,
        lasting=arguments.lasting,
        board_token_file=arguments.board_token_file,
        broker_password_file=arguments.broker_password_file,
    )


def _agent(arguments: argparse.Namespace) -> int:
    from probe.agent import run_agent

    return run_agent(arguments.config)


def _collect(arguments: argparse.Namespace) -> int:
    try:
        from collectors.collector import main as collect
    except ModuleNotFoundError as missing:
        from probe.errors import MissingPartError

        raise MissingPartError(f"the collector (Python module {missing.name})", "collector") from None
    return collect(arguments.config)


def _ping(arguments: argparse.Namespace) -> int:
    from probe.ping import PingOptions, ping
    from probe.target_settings import Knobs
    from probe.targets import parse_target, target_for

    target = target_for(
        parse_target(arguments.target), knobs(arguments), Knobs(interval=Duration.parse("1s"))
    )
    return ping(
        PingOptions(
            target,
            arguments.count,
            arguments.timeout,
            arguments.family or 0,
            arguments.json,
            arguments.quiet,
            arguments.clock_error,
        )
    )


def _trace(arguments: argparse.Namespace) -> int:
    from probe.settings import TraceTable
    from probe.target_settings import Knobs
    from probe.targets import parse_target, target_for
    from probe.trace import TraceOptions, run

    same = {name: value for name in ("dscp", "source", "interface") if (value := getattr(arguments, name))}
    target = target_for(parse_target(arguments.target), same, Knobs())
    settings = TraceTable(
        flows=arguments.flows,
        max_hops=arguments.max_hops,
        probes=arguments.probes,
        timeout=arguments.timeout,
        rate=arguments.rate,
        protocol=arguments.protocol,
    )
    return run(TraceOptions(target, settings, arguments.family or 0, arguments.json, arguments.mtu))


def _ask(arguments: argparse.Namespace) -> int:
    from probe.ask import Question, ask
    from probe.ask_arguments import options
    from probe.asker import access

    question = Question(
        arguments.agent,
        arguments.what,
        arguments.target,
        options(arguments),
        arguments.json,
        arguments.timeout.seconds,
    )
    return ask(question, access(arguments), sys.stdout, sys.stderr)


def _agents(arguments: argparse.Namespace) -> int:
    from probe.agents import agents
    from probe.asker import access

    return agents(access(arguments), arguments.json, arguments.timeout.seconds, sys.stdout, sys.stderr)


def _reflect(arguments: argparse.Namespace) -> int:
    from probe.reflector import ReflectOptions, parse_bind, reflect

    host, port = parse_bind(arguments.bind)
    return reflect(ReflectOptions(host, port, arguments.key_file, arguments.clock_error, arguments.rate))


def _diagnose(arguments: argparse.Namespace) -> int:
    from collectors.diagnose.command import Where, run

    where = Where(arguments.state, arguments.config, arguments.recording)
    run(
        where, int(arguments.last), arguments.json, sys.stdout, target=arguments.target, agent=arguments.agent
    )
    return 0


def _show(arguments: argparse.Namespace) -> int:
    from collectors.show import show

    show(arguments.state, int(arguments.last), arguments.json, sys.stdout)
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from probe.check import check

    try:
        from collectors.sinks.influx import open_sink
    except ModuleNotFoundError:
        return check(arguments.config, arguments.json, sys.stdout, None)
    return check(arguments.config, arguments.json, sys.stdout, open_sink)


def _completion(arguments: argparse.Namespace) -> int:
    import shtab

    print(shtab.complete(parser(), arguments.shell))
    return 0


_HANDLERS: dict[str, Handler] = {
    "up": _up,
    "agent": _agent,
    "collect": _collect,
    "ping": _ping,
    "trace": _trace,
    "ask": _ask,
    "agents": _agents,
    "reflect": _reflect,
    "diagnose": _diagnose,
    "show": _show,
    "check": _check,
    "completion": _completion,
}

if __name__ == "__main__":
    sys.exit(main())
