"""A coroutine in, a process that ends well out: SIGTERM and SIGINT ask it to finish, a second one ends it at
once."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable


def serve(main: Callable[[asyncio.Event], Awaitable[None]], reload: Callable[[], None] | None = None) -> int:
    """Run `main(stop)` until it returns. Returns 0.

    `stop` is set by SIGTERM and SIGINT. SIGHUP calls `reload`; where there is none it sets `stop` too.
    """

    async def body() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()

        def ask() -> None:
            if stop.is_set():
                os._exit(130)  # asked twice: what is spooled is safe, and nobody wants to wait
            stop.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, ask)
        loop.add_signal_handler(signal.SIGHUP, reload or ask)
        await main(stop)

    asyncio.run(body())
    return 0
