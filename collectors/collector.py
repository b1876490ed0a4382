"""Settings in, a running collector out: MQTT, validation, writer and acknowledgements, joined in this order.

    fanin -> validate -> backlog -> writer -> sink
      ^                                |
      '------ acknowledgements --------'

It keeps no state but the quarantine file. Whatever it had not acknowledged when it ends comes again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from contextlib import suppress
from pathlib import Path

from collectors.backlog import LIVE_NS, Backlog
from collectors.fanin import Acks, FanIn
from collectors.jobs import Held
from collectors.quarantine import Entry, Quarantine, entries
from collectors.report import Counters
from collectors.series import SeriesBook
from collectors.sinks import Sink
from collectors.status import StatusBook
from collectors.validate import validate
from collectors.writer import Writer
from probe.clock import Clock, SystemClock
from probe.errors import BatchError, ColoprobeError, SettingsError
from probe.settings import CollectorSettings, LimitsTable, load_collector, read_secret, warn_of_exposed
from probe.telemetry import topics
from probe.telemetry.mqtt import Message

REPORT_S = 10.0
DRAIN_S = 5.0
GOODBYE_S = 3.0
EXCERPT_BYTES = 4096
COMPLAINTS = 1000  # (agent, reason) pairs that are told of, once each

log = logging.getLogger(__name__)


async def run(
    settings: CollectorSettings, file: str, *, sink: Sink | None = None, stop: asyncio.Event
) -> None:
    """Collect until `stop` is set; `file` is how errors call the settings; without a `sink`, InfluxDB is it.

    A broker or a sink that cannot be had is told of once and tried again. Raises: as `build`.
    """
    await build(settings, file, sink=sink).run(stop)


def main(file: str | Path) -> int:
    """`coloprobe collect`: SIGTERM or SIGINT ends it, SIGHUP has it read its settings again. Returns 0.

    Raises: as `build`; a file that is wrong at SIGHUP is told of, and the old settings stay.
    """
    name = str(file)
    following: list[Collector] = [build(load_collector(name), name)]

    async def body() -> None:
        stop, ending = asyncio.Event(), asyncio.Event()

        def end() -> None:
            if ending.is_set():
                os._exit(130)  # asked twice: nothing unacknowledged is lost, and nobody wants to wait
            ending.set()
            stop.set()

        def reload() -> None:
            try:
                following[:] = [build(load_collector(name), name)]
            except ColoprobeError as problem:
                log.error("%s (the old settings stay)", problem)
            else:
                stop.set()

        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, end)
        loop.add_signal_handler(signal.SIGINT, end)
        loop.add_signal_handler(signal.SIGHUP, reload)
        while following and not ending.is_set():
            stop.clear()
            await following.pop().run(stop)

    asyncio.run(body())
    return 0


def build(settings: CollectorSettings, file: str, *, sink: Sink | None = None) -> Collector:
    """A collector that is ready to run; nothing is connected yet.

    Raises: SettingsError (a secret cannot be read, the state directory cannot be written), MissingPartError.
    """
    clock = SystemClock()
    password = read_secret(settings.mqtt.password_file, "COLOPROBE_MQTT_PASSWORD", file, "mqtt.password_file")
    quarantine = _quarantine(settings, file)
    warn_of_exposed(settings, file)
    _warn_of_small_batches(settings.limits, file)
    if sink is None:
        from collectors.sinks.influx import open_sink

        sink = open_sink(settings, file, clock)
    return Collector(settings, password, sink, quarantine, clock)


class Collector:
    """The stages of one collector, to be run once."""

    def __init__(
        self,
        settings: CollectorSettings,
        password: str | None,
        sink: Sink,
        quarantine: Quarantine,
        clock: Clock,
    ) -> None:
        self.counters = Counters()
        self._id = settings.collector.id
        self._max_batch = int(settings.limits.batch_bytes)
        self._clock = clock
        self._sink = sink
        self._statuses = StatusBook()
        self._series = SeriesBook(settings.limits.series)
        self._complained: set[tuple[str, str]] = set()
        self._stopping = False
        self._acks = Acks()
        self._backlog = Backlog(int(settings.limits.held_bytes))
        self._writer = Writer(
            sink,
            quarantine,
            self._backlog,
            self.counters,
            clock,
            acknowledge=self._acks.add,
            known_good=self._report,
            recovered=self._hint,
        )
        self._fanin = FanIn(
            settings.mqtt,
            self._id,
            password,
            clock,
            acks=self._acks,
            receive=self.receive,
            discarded=self._discarded,
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Collect until `stop` is set, then finish what is held, within `DRAIN_S`."""
        stages = [
            asyncio.create_task(stage, name=name)
            for name, stage in (
                ("fanin", self._fanin.run()),
                ("writer", self._writer.run()),
                ("reporter", self._report_regularly()),
            )
        ]
        stopped = asyncio.create_task(stop.wait(), name="stop")
        try:
            done, _ = await asyncio.wait({stopped, *stages}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()  # a stage ends by a defect only, which must not go unnoticed
            self._stopping = True
            self._writer.offer(Held(None, self._report(), 1))
            await self._writer.drain(DRAIN_S)
            await self._fanin.flush(GOODBYE_S)
        finally:
            for task in (stopped, *stages):
                task.cancel()
            await asyncio.gather(stopped, *stages, return_exceptions=True)
            with suppress(TimeoutError):
                async with asyncio.timeout(GOODBYE_S):
                    await self._sink.close()

    def receive(self, message: Message) -> None:
        """Take one message from the broker: a batch or a status. Never raises, whatever it holds."""
        if self._stopping:
            return
        now = self._clock.wall()
        if agent := topics.parse_status(message.topic):
            event = self._statuses.change(message.topic, message.payload, retained=message.retain, now_ns=now)
            if event is not None:
                self._writer.offer(Held(None, event, 1, about=agent))
            if self._statuses.is_online(agent):
                self._acks.hint(agent)  # it is heard again, or this collector is: it may try at once
            return
        try:
            batch = validate(
                message.topic, message.payload, now_ns=now, max_bytes=self._max_batch, series=self._series
            )
        except BatchError as problem:
            self._refuse(message, problem)
            return
        if batch.over_limit:
            limit = f"more than limits.series, {self._series.limit}; lines of others are set aside"
            self._complain(batch.id.agent, "series", limit)
        self._writer.offer(
            Held(
                batch.id,
                batch.body,
                batch.count,
                batch.newest_ns,
                entries(batch.id, batch.bad),
                batch.packed,
                batch.text_bytes,
                live=batch.newest_ns >= now - LIVE_NS,
                over_limit=batch.over_limit,
            )
        )

    def _refuse(self, message: Message, problem: BatchError) -> None:
        """Set a whole message aside, and let its agent forget it: it would come again for ever."""
        self.counters.rejected += 1
        batch = topics.parse_lines(message.topic)
        said = f"{message.topic[:200]!r} refused: {problem}"
        self._complain(batch.agent if batch else "", problem.reason, said)
        if batch is None:
            return
        limit = max(self._max_batch, int(LimitsTable().batch_bytes))
        kept = message.payload if len(message.payload) <= limit else message.payload[:EXCERPT_BYTES]
        reason = f"{problem.reason}: {problem}"
        self._writer.offer(Held(batch, b"", aside=[Entry(batch, reason, bytes(kept), lines=0)]))

    def _complain(self, agent: str, reason: str, text: str) -> None:
        """Tell of it once for each agent and reason."""
        if (agent, reason) not in self._complained and len(self._complained) < COMPLAINTS:
            self._complained.add((agent, reason))
            log.warning("%s (%s): %s", agent or "a topic that is none of ours", reason, text)

    def _hint(self) -> None:
        """The sink is back: every agent that is online may try again at once."""
        for agent in self._statuses.online():
            self._acks.hint(agent)

    def _discarded(self, messages: int) -> None:
        self.counters.dropped += messages

    def _report(self) -> bytes:
        return self.counters.line(self._id, held_bytes=self._backlog.bytes, now_ns=self._clock.wall())

    async def _report_regularly(self) -> None:
        while True:
            self._writer.offer(Held(None, self._report(), 1))
            self.counters.write_latency_ns = 0
            await asyncio.sleep(REPORT_S)


def _quarantine(settings: CollectorSettings, file: str) -> Quarantine:
    directory = Path(settings.collector.state_dir)
    quarantine = Quarantine(directory, settings.collector.id, int(settings.limits.quarantine_bytes))
    try:
        quarantine.prepare()
    except OSError as problem:
        raise SettingsError(
            file,
            "collector.state_dir",
            f"cannot write {problem.filename or directory}: {problem.strerror}",
            "a directory that this user can write, for the lines that the sink rejects",
        ) from None
    return quarantine


def _warn_of_small_batches(limits: LimitsTable, file: str) -> None:
    usual = LimitsTable().batch_bytes
    if limits.batch_bytes < usual:
        log.warning(
            "%s: limits.batch_bytes is %s: agents may send %s, and what is larger ends in quarantine",
            file,
            limits.batch_bytes,
            usual,
        )
