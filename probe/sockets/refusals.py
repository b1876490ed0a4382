"""Sockets that connect in, when one of them was refused out: a thread that sleeps until that happens.

The kernel times an accepted connection itself, however late we look. Of a refusal it keeps no time, so
somebody has to be woken by it. Those that are accepted wake nobody.
"""

from __future__ import annotations

import os
import select
import threading
import time


class Refusals:
    """Notes our clock when a watched socket gets an error. One thread may call it; its own needs no care."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._known: set[int] = set()
        self._seen: dict[int, int] = {}  # descriptor -> wall ns
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._wake, select.EPOLLIN)
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Have the thread ready before the first connection begins; it has its caller's privileges."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="refusals", daemon=True)
            self._thread.start()

    def watch(self, descriptor: int) -> None:
        """From now on, until it had one error, or is closed; what was noted of it earlier is forgotten.

        Call it behind connect(2): a socket that does nothing looks as if it had ended.
        """
        self._seen.pop(descriptor, None)
        # Without a wish: errors and ends are told of anyway, and a connection that is open is neither.
        if descriptor in self._known:
            self._epoll.modify(descriptor, select.EPOLLONESHOT)
        else:
            self._known.add(descriptor)
            self._epoll.register(descriptor, select.EPOLLONESHOT)

    def when(self, descriptor: int) -> int:
        """Our clock (wall ns) when its error came; 0: it was not noted."""
        return self._seen.pop(descriptor, 0)

    def forget(self, descriptor: int) -> None:
        """It is about to be closed."""
        self._known.discard(descriptor)
        self._seen.pop(descriptor, None)

    def _run(self) -> None:
        while True:
            events = self._epoll.poll()
            now = time.time_ns()
            for descriptor, _ in events:
                if descriptor == self._wake:
                    return
                self._seen[descriptor] = now

    def close(self) -> None:
        """End the thread."""
        if self._thread is not None:
            os.eventfd_write(self._wake, 1)
            self._thread.join()
        self._epoll.close()
        os.close(self._wake)
