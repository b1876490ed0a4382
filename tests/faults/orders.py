"""An address in, order flow out: a gateway that answers every order, and a session that sends ten a second.

python -m tests.faults.orders serve 9001
python -m tests.faults.orders trade 10.60.1.10 9001
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys

_ORDER = b"NEW BUY 100 @ 41.25 ".ljust(63, b".") + b"\n"
_EVERY_S = 0.1
_AGAIN_S = 0.5
_PATIENCE_S = 3.0


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while line := await reader.readline():
            writer.write(b"ACK" + line[3:])
    writer.close()


async def serve(port: int) -> None:
    """The gateway: every address, until it is killed."""
    server = await asyncio.start_server(_answer, "0.0.0.0", port, backlog=1024)
    await server.serve_forever()


async def trade(host: str, port: int) -> None:
    """The session; it is opened again when it breaks."""
    while True:
        with contextlib.suppress(OSError, asyncio.TimeoutError, asyncio.IncompleteReadError):
            async with asyncio.timeout(_PATIENCE_S):
                reader, writer = await asyncio.open_connection(host, port)
            try:
                sock = writer.get_extra_info("socket")
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                while True:
                    writer.write(_ORDER)
                    async with asyncio.timeout(_PATIENCE_S * 4):
                        await reader.readexactly(len(_ORDER))
                    await asyncio.sleep(_EVERY_S)
            finally:
                writer.transport.abort()
        await asyncio.sleep(_AGAIN_S)


def main() -> None:
    """See the module."""
    what, *rest = sys.argv[1:]
    try:
        asyncio.run(serve(int(rest[0])) if what == "serve" else trade(rest[0], int(rest[1])))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
