"""Two addresses and a folder in, a fan-in out: embedded broker, collector, store and board in one event loop.

    agents -> broker -> collector -> store -> board

It knows no agent: whoever wants one in the same process runs it inside the block, against `mqtt_url`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from collectors import collector
from collectors.board import access
from collectors.board.feed import Feed
from collectors.listen import Listener, listen
from collectors.sinks.embedded import EmbeddedSink
from collectors.sinks.store import path_in
from probe.errors import ColoprobeError, MissingPartError, SinkError
from probe.settings import CollectorSettings, CollectorTable, MqttTable, exposed, read_secret
from probe.telemetry import topics

log = logging.getLogger("coloprobe.station")

BOARD = "127.0.0.1:8080"
BROKER = "127.0.0.1:1883"
_COLLECTOR = "embedded"  # its id
_SUBSCRIBED_S = 10.0


@dataclass(frozen=True)
class Station:
    """A running fan-in. The URLs are what other hosts use, where it is open to them; `store` is the file.

    board_link: the board's URL with its token; where that is somebody's own, without it, and `board_asks`.
    """

    board_url: str
    board_link: str
    board_asks: bool
    mqtt_url: str
    store: Path


@asynccontextmanager
async def station(
    *,
    board: str = BOARD,
    broker: str = BROKER,
    state_dir: str | Path,
    board_token_file: str = "",
    broker_password_file: str = "",
    on_failure: Callable[[], None] = lambda: None,
) -> AsyncIterator[Station]:
    """Run until the block is left; then the collector first finishes what it holds.

    board, broker: 'HOST:PORT' to listen at; 0.0.0.0 opens to other hosts. Where BROKER itself is in use,
    a free port is taken and logged; any other port in use is an error.
    A board that other hosts can reach asks for a token: that of `board_token_file` or COLOPROBE_BOARD_TOKEN
    (then on loopback, too), or one that is made and kept in `state_dir`. The broker asks for the password
    of `broker_password_file` or COLOPROBE_MQTT_PASSWORD where there is one. Where a part ends by itself,
    `on_failure` is called, for the caller to leave the block; leaving then raises what went wrong.
    Raises: UsageError (an address cannot be had, the token is too short), SinkRefused (the store),
        MissingPartError, SettingsError.
    """
    try:
        from collectors.board.server import serve
        from collectors.broker import broker as mqtt_broker
    except ModuleNotFoundError as missing:
        raise MissingPartError(f"the embedded broker (Python module {missing.name})", "up") from None

    folder = Path(state_dir)
    own = read_secret(board_token_file, "COLOPROBE_BOARD_TOKEN", "command line", "--board-token-file")
    password = read_secret(
        broker_password_file, "COLOPROBE_MQTT_PASSWORD", "command line", "--broker-password-file"
    )
    for option, file in (
        ("--board-token-file", board_token_file),
        ("--broker-password-file", broker_password_file),
    ):
        if file and (problem := exposed(file)):
            log.warning("%s: %s; %s", option, *problem)
    async with AsyncExitStack() as stack:
        # Everything that can be refused is asked for first, before anything runs.
        board_at = _listen(stack, board, "--board")
        broker_at = _listen(stack, broker, "--broker", fall_back=broker == BROKER)
        sink = EmbeddedSink(path_in(folder))
        stack.push_async_callback(sink.close)
        feed = Feed(sink.path)
        stack.callback(feed.close)
        token = access.token(folder, own) if own or board_at.open_to_others else None
        if broker_at.open_to_others and password is None:
            log.warning(
                "the broker at %s takes what any host sends; let it ask for a password "
                "(--broker-password-file), or have a packet filter let in agents only",
                broker_at.url("mqtt"),
            )
        mqtt_table = MqttTable(
            url=broker_at.url("mqtt", from_here=True), password_file=broker_password_file, share_group=""
        )
        mqtt = await stack.enter_async_context(mqtt_broker(broker_at.socket, password))
        await stack.enter_async_context(serve(feed, board_at.socket, broker_at.url("mqtt"), token))
        await stack.enter_async_context(_collecting(mqtt_table, folder, sink, on_failure))
        # What an agent sends before would be missed, and come again only after its time-out.
        if not await mqtt.subscribed(topics.ALL_LINES, _SUBSCRIBED_S):
            log.warning("the collector is slow to subscribe; the first numbers may be late")
        url, asks = board_at.url("http"), token is not None and token.own
        link = f"{url}/?token={token.text}" if token is not None and not asks else url
        yield Station(url, link, asks, broker_at.url("mqtt"), sink.path)


@asynccontextmanager
async def _collecting(
    mqtt: MqttTable, folder: Path, sink: EmbeddedSink, on_failure: Callable[[], None]
) -> AsyncIterator[None]:
    settings = CollectorSettings(collector=CollectorTable(id=_COLLECTOR, state_dir=str(folder)), mqtt=mqtt)
    stop = asyncio.Event()
    running = asyncio.create_task(
        collector.run(settings, "the embedded collector", sink=sink, stop=stop), name="collector"
    )

    def ended(_: asyncio.Task[None]) -> None:
        if not stop.is_set():
            on_failure()

    running.add_done_callback(ended)
    try:
        yield
    finally:
        stop.set()
        await asyncio.wait({running})
    if (problem := running.exception()) is not None:
        if isinstance(problem, ColoprobeError):
            raise problem
        # A defect: its traceback is for the log's reader, the message for everybody.
        log.debug("the collector's traceback", exc_info=problem)
        raise SinkError(f"the collector ended and nothing was stored any more: {problem!r}") from None


def _listen(stack: AsyncExitStack, address: str, option: str, *, fall_back: bool = False) -> Listener:
    listener = listen(address, option, fall_back=fall_back)
    stack.callback(listener.socket.close)
    if listener.note:
        log.warning("%s: %s", option, listener.note)
    return listener
