"""A command line in a namespace in, a process that is killed, frozen and started again out.

A part knows what is wanted of it. One that ends although it is wanted has died by itself: that is recorded,
and it is started again a second later, as a service manager would.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.lab.netlab import Namespace
from tests.system.commands import ROOT

RESTART_S = 1.0
_YOUNG_S = 20.0  # it may not have come to handling signals yet


@dataclass(frozen=True)
class Death:
    """A part that ended although nobody wanted it to."""

    part: str
    at_s: float  # monotonic
    status: int
    words: str  # the end of its log


@dataclass
class Part:
    """One program: an agent, a collector, the broker, the database."""

    name: str
    namespace: Namespace
    argv: list[str]
    log: Path
    once: bool = False  # it ends by itself when it has done its work
    wanted: bool = False
    frozen: bool = False
    deaths: list[Death] = field(default_factory=list)
    goodbyes: list[int] = field(default_factory=list)  # exit statuses after SIGTERM
    _process: subprocess.Popen[str] | None = None
    _ending: bool = False
    _started: float = 0.0
    _not_before: float = 0.0

    def start(self) -> None:
        """Have it run from now on: at once, or when its last process has ended."""
        self.wanted = True
        self._not_before = 0.0
        self.look()

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.wanted = self.frozen = self._ending = False
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def end(self) -> None:
        """SIGTERM; it takes its time, and is not asked twice, which would have it end at once."""
        self.wanted = False
        if self.running() and not self._ending:
            self._ending = True
            self.signal(signal.SIGTERM)

    def reload(self) -> None:
        """SIGHUP."""
        if self.running():
            self.signal(signal.SIGHUP)

    def freeze(self) -> None:
        if self.running():
            self.frozen = True
            self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        if self.frozen and self.running():
            self.signal(signal.SIGCONT)
        self.frozen = False

    def look(self) -> None:
        """See whether it ended, and start it where it is wanted: to be called every now and then."""
        if self._process is not None and (status := self._process.poll()) is not None:
            self._process = None
            young = time.monotonic() - self._started < _YOUNG_S
            if self._ending:
                self.goodbyes.append(0 if young and status == -signal.SIGTERM else status)
            elif self.wanted and self.once:
                self.wanted = False
                self.goodbyes.append(status)
            elif self.wanted and not (young and status == -signal.SIGHUP):
                self.deaths.append(Death(self.name, time.monotonic(), status, self.text()[-1500:]))
                self._not_before = time.monotonic() + RESTART_S
            self._ending = False
        if self.wanted and self._process is None and time.monotonic() >= self._not_before:
            self._started = time.monotonic()
            with self.log.open("ab") as log:
                self._process = self.namespace.popen(
                    self.argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=ROOT
                )

    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Of the process that runs now."""
        assert self._process is not None
        return self._process.pid

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)

    def text(self) -> str:
        """What it printed so far, all its runs together."""
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""
