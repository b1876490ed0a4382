"""Programs that behave and that do not in, lines or a clear error out, and no process left behind."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from probe.children import MOST_STDIN, NICE, lines_of
from probe.errors import ChildError

PROGRAM = "tests.unit.probe.child_program"


def gather(
    what: str, *, stdin: bytes = b"", timeout_s: float = 60, most: int = 1 << 30, **more: object
) -> list[bytes]:
    async def body() -> list[bytes]:
        found: list[bytes] = []
        lines = lines_of([PROGRAM, what], timeout_s=timeout_s, stdin=stdin, **more)  # type: ignore[arg-type]
        async with contextlib.aclosing(lines):
            async for line in lines:
                found.append(line)
                if len(found) == most:
                    break
        return found

    return asyncio.run(body())


def group_is_gone(group: int) -> bool:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        alive = [
            stat for stat in Path("/proc").glob("[0-9]*/stat") if _group_and_state(stat) == (group, True)
        ]
        if not alive:
            return True
        time.sleep(0.02)
    return False


def _group_and_state(stat: Path) -> tuple[int, bool]:
    try:
        state, _, group, *_ = stat.read_text().rpartition(")")[2].split()
    except OSError:
        return 0, False
    return int(group), state not in "ZX"


def test_what_a_child_reads_and_writes_comes_whole() -> None:
    assert gather("echo", stdin=b"one\ntwo\n\nlast") == [b"one", b"two", b"", b"last"]
    most = b"x" * (MOST_STDIN - 1) + b"\n"
    assert gather("echo", stdin=most) == [most[:-1]]
    with pytest.raises(ChildError, match=r"32769 bytes are too much to ask \(at most 32768\)"):
        gather("echo", stdin=most + b"x")


def test_a_child_is_nice_leads_its_group_and_has_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLOPROBE_MQTT_PASSWORD", "xyzzy")
    before = os.nice(0)
    found = json.loads(gather("self")[0])
    assert (found["nice"], found["group"], found["secret"]) == (max(NICE, before), True, False)
    assert json.loads(gather("self", secrets=True)[0])["secret"]
    assert os.nice(0) == before


def test_a_failure_says_how_it_ended_and_its_last_words(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with pytest.raises(ChildError, match=r"child_program: ended with status 3: it went wrong$"):
        gather("fail")
    assert "first" in caplog.text
    assert gather("fail", statuses=(0, 3)) == []
    with pytest.raises(ChildError, match="a line of over 1048576 bytes"):
        gather("long")


def test_stderr_is_logged_within_limits(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert gather("noisy") == []
    assert len(caplog.records) == 41
    assert caplog.records[-1].getMessage() == f"{PROGRAM}: 960 more lines"


def test_time_is_limited_and_nobody_is_left_behind() -> None:
    groups: list[int] = []

    async def body(stop: str) -> None:
        lines = lines_of([PROGRAM, "hang"], timeout_s=1.0 if stop == "time" else 60)
        async with contextlib.aclosing(lines):
            async for line in lines:
                groups.append(int(line))
                if stop == "break":
                    break

    async def cancelled() -> None:
        task = asyncio.create_task(body("cancel"))
        end = time.monotonic() + 30
        while len(groups) < 3 and time.monotonic() < end:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with pytest.raises(ChildError, match="not done within 1 s"):
        asyncio.run(body("time"))
    asyncio.run(body("break"))
    asyncio.run(cancelled())
    assert len(groups) == 3
    for group in groups:
        assert group_is_gone(group)


def test_who_is_gone_before_it_has_started_leaves_nothing_behind() -> None:
    """Also where the event loop is closed by then."""
    before = set(threading.enumerate())

    async def body() -> None:
        asking = asyncio.create_task(anext(lines_of([PROGRAM, "hang"], timeout_s=60)))
        await asyncio.sleep(0)
        asking.cancel()

    for _ in range(5):
        asyncio.run(body())
    end = time.monotonic() + 30
    while {thread for thread in threading.enumerate() if thread.is_alive()} - before:
        assert time.monotonic() < end
        time.sleep(0.01)
    children = (Path(f"/proc/{os.getpid()}/task") / str(threading.get_native_id()) / "children").read_text()
    assert not [pid for pid in children.split() if PROGRAM.encode() in _command_line(int(pid))]


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_a_reader_that_stops_early_holds_up_nothing() -> None:
    assert len(gather("endless", most=5)) == 5


def test_what_cannot_be_started_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(argv: Sequence[str]) -> list[str]:
        return ["/nowhere/python"]

    monkeypatch.setattr("probe.children.command", broken)
    with pytest.raises(ChildError, match=r"cannot start: .*No such file"):
        gather("echo")


def test_who_has_no_descriptors_or_threads_left_is_told_and_does_not_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("probe.children._fill", full)
    with pytest.raises(ChildError, match=r"cannot start: .*Too many open files"):
        gather("echo")
    with monkeypatch.context() as patched:
        patched.setattr("probe.children.os.pipe", full)
        with pytest.raises(ChildError, match=r"cannot start: .*Too many open files"):
            gather("echo")

    def none(_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("probe.children.threading.Thread.start", none)
    with pytest.raises(ChildError, match="cannot start: can't start new thread"):
        gather("echo")
