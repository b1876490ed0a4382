"""A module of this project and its arguments in, the lines that it writes out: a child process on a lead.

    async with contextlib.aclosing(lines_of(["probe.cli", "ping", "192.0.2.10", "--json"])) as lines:
        async for line in lines:
            ...

A child has CAP_NET_RAW where its parent has it (also after the parent gave up all else), a process group of
its own, and nice 10. It never outlives who reads it: it is killed, with all that it started, when the reader
stops, is cancelled, or the time is over. Nothing that it says is kept beyond the line that is read.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path

from probe.errors import ChildError
from probe.sockets.privileges import hand_on

NICE = 10
LONGEST = 1 << 20  # bytes of a line
MOST_STDIN = 1 << 15  # bytes that a pipe takes at once, whatever its size
_KEPT_STDERR = 40  # lines of stderr that are logged; more are counted
_GRACE_S = 5.0  # from the end of its output to its own end
_POLL_S = 0.02
_SECRETS = ("COLOPROBE_",)

log = logging.getLogger(__name__)


async def lines_of(
    argv: Sequence[str],
    *,
    timeout_s: float,
    stdin: bytes = b"",
    secrets: bool = False,
    statuses: Sequence[int] = (0,),
) -> AsyncGenerator[bytes, None]:
    """Run `python -m argv[0] argv[1:]...`; yields each line of its output, without the newline, as it comes.

    Args:
        timeout_s: seconds for all of it.
        stdin: what it reads, at most MOST_STDIN bytes.
        secrets: whether it gets the environment variables that hold passwords.
        statuses: exit statuses that are no failure.
    What it writes to stderr is logged, at most _KEPT_STDERR lines.
    Raises: ChildError where it cannot be started, ends with another status, writes an endless line, or takes
        too long.
    """
    if len(stdin) > MOST_STDIN:
        raise ChildError(f"{_name(argv)}: {len(stdin)} bytes are too much to ask (at most {MOST_STDIN})")
    process = await _started(argv, stdin, secrets)
    assert process.stdout is not None
    assert process.stderr is not None
    said = _Said(_name(argv))
    loop = asyncio.get_running_loop()
    end = loop.time() + timeout_s
    listening: asyncio.Task[None] | None = None
    closing: list[asyncio.BaseTransport] = []
    try:
        out = await _reader(process.stdout, closing)
        listening = asyncio.create_task(said.listen(await _reader(process.stderr, closing)))
        while True:
            try:
                async with asyncio.timeout_at(end):
                    line = await out.readline()
            except TimeoutError:
                raise ChildError(f"{said.name}: not done within {timeout_s:g} s") from None
            except ValueError:
                raise ChildError(f"{said.name}: a line of over {LONGEST} bytes") from None
            if not line:
                break
            yield line.rstrip(b"\r\n")
        status = await _ended(process, min(end, loop.time() + _GRACE_S))
        with contextlib.suppress(TimeoutError):
            # Something that it started may still hold the pipe.
            await asyncio.wait_for(asyncio.shield(listening), _GRACE_S)
        if status is None:
            raise ChildError(f"{said.name}: not done within {timeout_s:g} s")
        if status not in statuses:
            how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
            raise ChildError(f"{said.name}: {how}" + (f": {said.last}" if said.last else ""))
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        if listening is not None:
            listening.cancel()
        for transport in closing:
            transport.close()
        for pipe in (process.stdout, process.stderr):
            pipe.close()
        _reap(process)


def _name(argv: Sequence[str]) -> str:
    """How messages call it: the module, and a command of coloprobe's."""
    return " ".join(["coloprobe", *argv[1:2]] if argv[0] == "probe.cli" else argv[:1])


def command(argv: Sequence[str]) -> list[str]:
    """The command line of a child: this interpreter, with the same warnings, and the same `probe`."""
    home = Path(__file__).resolve().parents[1]
    # `python -m` looks into the working directory first, which need not be ours.
    safe = [] if Path.cwd() == home else ["-P"]
    return [sys.executable, *safe, *(f"-W{option}" for option in sys.warnoptions), "-m", *argv]


def _environment(secrets: bool) -> Mapping[str, str]:
    kept = {name: value for name, value in os.environ.items() if secrets or not name.startswith(_SECRETS)}
    kept["PYTHONUNBUFFERED"] = "1"
    return kept


async def _started(argv: Sequence[str], stdin: bytes, secrets: bool) -> subprocess.Popen[bytes]:
    """Start it in a thread that ends afterwards: capabilities and niceness belong to threads."""
    loop = asyncio.get_running_loop()
    woken: asyncio.Future[None] = loop.create_future()
    start = _Start()

    def wake() -> None:
        if not woken.done():
            woken.set_result(None)

    def body() -> None:
        start.popen(argv, stdin, secrets)
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile, and whoever asked
            loop.call_soon_threadsafe(wake)

    try:
        threading.Thread(target=body, name="child", daemon=True).start()
    except RuntimeError as problem:  # there are as many as there may be
        raise ChildError(f"{_name(argv)}: cannot start: {problem}") from None
    try:
        await woken
    except BaseException:
        start.forget()
        raise
    return start.result(_name(argv))


class _Start:
    """A child that one thread starts while another one waits for it, or does not any more."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._forgotten = False
        self._process: subprocess.Popen[bytes] | None = None
        self._problem: Exception | None = None

    def popen(self, argv: Sequence[str], stdin: bytes, secrets: bool) -> None:
        try:
            process = _popen(argv, stdin, secrets)
        except Exception as problem:  # noqa: BLE001 - told to who waits, whatever it is
            self._problem = problem
            return
        with self._lock:
            self._process = process
            if self._forgotten:
                _discard(process)

    def forget(self) -> None:
        """Nobody waits for it any more."""
        with self._lock:
            self._forgotten = True
            if self._process is not None:
                _discard(self._process)

    def result(self, name: str) -> subprocess.Popen[bytes]:
        """What was started. Raises: ChildError."""
        if self._process is None:
            raise ChildError(f"{name}: cannot start: {self._problem}")
        return self._process


def _popen(argv: Sequence[str], stdin: bytes, secrets: bool) -> subprocess.Popen[bytes]:
    """Called in the thread. Raises: OSError."""
    reading, writing = os.pipe()
    try:
        _fill(writing, stdin)
        hand_on()
        os.setpriority(os.PRIO_PROCESS, 0, max(NICE, os.getpriority(os.PRIO_PROCESS, 0)))
        return subprocess.Popen(  # noqa: S603 - this interpreter and a module of ours
            command(argv),
            stdin=reading,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment(secrets),
            process_group=0,
        )
    finally:
        os.close(reading)


def _fill(pipe: int, data: bytes) -> None:
    """All of it into an empty pipe, which is closed then. Raises: OSError (it does not take that much)."""
    with os.fdopen(pipe, "wb", buffering=0) as writing:
        os.set_blocking(pipe, False)
        if data and writing.write(data) != len(data):
            raise OSError("pipes are full")


def _discard(process: subprocess.Popen[bytes]) -> None:
    """Kill one that nobody wants any more."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
    _reap(process)


async def _reader(pipe: object, closing: list[asyncio.BaseTransport]) -> asyncio.StreamReader:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=LONGEST)
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    closing.append(transport)
    return reader


async def _ended(process: subprocess.Popen[bytes], end: float) -> int | None:
    """Its exit status, or None where it has none by `end` (the loop's time)."""
    loop = asyncio.get_running_loop()
    while (status := process.poll()) is None and loop.time() < end:  # noqa: ASYNC110 - a process, no task
        await asyncio.sleep(_POLL_S)
    return status


def _reap(process: subprocess.Popen[bytes]) -> None:
    """Wait for one that was killed, elsewhere: it may hang in the kernel for a moment."""
    if process.poll() is None:
        with contextlib.suppress(RuntimeError):  # no thread to be had: `subprocess` does it some day
            threading.Thread(target=process.wait, name="reap", daemon=True).start()


class _Said:
    """What a child writes to stderr: logged, up to a limit. `last`: its last line."""

    def __init__(self, name: str) -> None:
        self.name, self.last = name, ""
        self._count = 0

    async def listen(self, reader: asyncio.StreamReader) -> None:
        while True:
            try:
                line = await reader.readline()
            except ValueError:
                continue  # too long; what is left of it comes as another one
            if not line:
                break
            text = line.decode(errors="replace").strip()[:500]
            if not text:
                continue
            self.last = text
            self._count += 1
            if self._count <= _KEPT_STDERR:
                log.info("%s: %s", self.name, text)
        if self._count > _KEPT_STDERR:
            log.info("%s: %d more lines", self.name, self._count - _KEPT_STDERR)
