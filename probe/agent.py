"""Settings in, a running agent out: the one place where its stages are joined, in the order of the flow.

engine (a thread)                 event loop (the main thread)
packets -> samples -> windows  ->  summaries -> lines -> batches -> spool -> uplink -> MQTT
                                                                     ^                  |
                                                                     '- acknowledgement-'
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from contextlib import closing, suppress
from importlib import import_module
from pathlib import Path

import msgspec

from probe import __version__
from probe.clock import SECOND, Clock, SystemClock
from probe.engine.engine import Notice
from probe.engine.samples import Cut
from probe.errors import ColoprobeError, ResolveError, SettingsError, SpoolError
from probe.host.clock import clock_state
from probe.host.process import cpu_ns, give_memory_back, rss_bytes
from probe.measurement import Measurement, build
from probe.reporting import Reporter
from probe.service import serve
from probe.settings import AgentSettings, digest, load_agent, read_secret
from probe.sockets.privileges import drop_privileges
from probe.targets import resolve
from probe.telemetry.batches import Batcher
from probe.telemetry.lines import Value, encode, series_text
from probe.telemetry.mqtt import load_client
from probe.telemetry.points import event_line
from probe.telemetry.spool import Spool
from probe.telemetry.uplink import Uplink

log = logging.getLogger(__name__)

PENDING_CUTS = 16  # closed windows that may wait for the event loop; then they are dropped and counted
RESOLVE_EVERY_S = 30.0
GOODBYE = 5 * SECOND  # at the end, for acknowledgements of what was just spooled


class Agent:
    """One agent. `prepare` needs privileges and no event loop; `run` needs an event loop and CAP_NET_RAW at
    most.

    Args:
        settings: from agent.toml, or made by `coloprobe up`.
        file: how errors call the settings, and what SIGHUP reads again.
    """

    def __init__(self, settings: AgentSettings, file: str, clock: Clock | None = None) -> None:
        self._settings, self._file = settings, file
        self._clock = clock or SystemClock()
        self._tags = {"agent": settings.agent.id, "site": settings.agent.site}
        self._agent_series = series_text("agent", self._tags)
        self._measurement: Measurement | None = None
        self._reporter: Reporter | None = None
        self._thread: threading.Thread | None = None
        self._queue: asyncio.Queue[tuple[Reporter, Cut] | Notice] = asyncio.Queue(PENDING_CUTS)
        self._events: list[str] = []
        self._reload = asyncio.Event()
        self._failure: BaseException | None = None
        self._stop: asyncio.Event | None = None
        self._dropped_cuts = 0
        self._batcher = Batcher(self._head)
        self._spool_trouble = False
        self._last_head = 0
        self._past = {"socket_drops": 0, "foreign_packets": 0, "skipped": 0, "overrun": 0, "late_ticks": 0}

    # -- before the event loop -------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Open sockets, give up privileges, open the spool.

        Raises: PrivilegeError, SettingsError (a secret cannot be read, no such user), SpoolError, UsageError
            (this process may not become the user).
        """
        settings = self._settings
        mqtt = settings.mqtt
        self._password = read_secret(
            mqtt.password_file, "COLOPROBE_MQTT_PASSWORD", self._file, "mqtt.password_file"
        )
        state = Path(settings.agent.state_dir)
        _own(state, settings.agent.user, self._file)
        self._measurement = self._build(settings)
        try:
            _load()
            drop_privileges(settings.agent.user)
            self.spool = Spool(state / "spool.sqlite3", int(settings.spool.max_bytes))
        except BaseException:
            self._measurement.engine.close()
            raise

    def connect(self, mqtt_url: str) -> None:
        """Send to this broker instead of the settings' one; call it before `run`."""
        mqtt = msgspec.structs.replace(self._settings.mqtt, url=mqtt_url)
        self._settings = msgspec.structs.replace(self._settings, mqtt=mqtt)

    def _make_uplink(self) -> Uplink:
        settings = self._settings
        return Uplink(
            agent=settings.agent.id,
            mqtt=settings.mqtt,
            uplink=settings.uplink,
            spool=self.spool,
            clock=self._clock,
            password=self._password,
            version=__version__,
            settings_sha256=digest(settings),
        )

    def _build(self, settings: AgentSettings) -> Measurement:
        def on_cut(cut: Cut) -> None:
            self._loop.call_soon_threadsafe(self._offer, (reporter, cut))

        measurement = build(settings, self._clock, on_cut, self._on_notice)
        for missing in measurement.unmeasured:
            log.warning("target %s is not measured: %s", missing.target.name, missing.reason)
            self._event("unreachable", f"not measured: {missing.reason}", {"target": missing.target.name})
        reporter = Reporter(measurement, int(settings.window.histogram), int(settings.window.timeout))
        self._reporter = reporter
        return measurement

    # -- in the engine's thread ------------------------------------------------------------------------------

    def _on_notice(self, notice: Notice) -> None:
        self._loop.call_soon_threadsafe(self._offer, notice)

    def _offer(self, item: tuple[Reporter, Cut] | Notice) -> None:
        try:
            self._queue.put_nowait(item)
        except asyncio.QueueFull:
            self._dropped_cuts += 1
            log.error("the disk does not keep up: %d closed windows dropped so far", self._dropped_cuts)

    # -- in the event loop -----------------------------------------------------------------------------------

    async def run(self, stop: asyncio.Event) -> None:
        """Measure and send until `stop` is set; then finish the open window, spool it and say goodbye.

        Raises: what ended the engine, if it failed.
        """
        self._loop = asyncio.get_running_loop()
        self._stop = stop
        self.uplink = self._make_uplink()
        self._start_engine()
        if self.spool.set_aside:
            names = ", ".join(path.name for path in self.spool.set_aside)
            self._event("agent", f"the spool was damaged and was set aside as {names}", {})
        tasks = [
            asyncio.create_task(work, name=name)
            for name, work in (
                ("uplink", self.uplink.run()),
                ("windows", self._consume()),
                ("names", self._resolve_later()),
                ("reload", self._reload_loop()),
            )
        ]
        stopping = asyncio.create_task(stop.wait())
        done, _ = await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
        await self._end_engine()
        await self._queue.join() if not tasks[1].done() else None
        if self._reporter is not None:
            self._spool(self._reporter.finish())
        failed = next((task for task in done if task is not stopping), None)
        if failed is not tasks[0] and self.uplink.state != "offline":
            # What no collector acknowledges until then stays in the spool, for the next run.
            await self.uplink.drain(self._clock.mono() + GOODBYE)
        for task in (stopping, *tasks):
            task.cancel()
        await asyncio.gather(stopping, *tasks, return_exceptions=True)
        self.spool.close()
        if self._failure is not None:
            raise self._failure
        if failed is not None and (problem := failed.exception()) is not None:
            raise problem

    def close(self) -> None:
        """Give sockets and spool back, where `run` did not come to it."""
        if self._measurement is not None:
            self._measurement.engine.close()
        self.spool.close()

    def reload(self) -> None:
        """Read the settings file again (SIGHUP)."""
        self._reload.set()

    def _start_engine(self) -> None:
        assert self._measurement is not None
        engine = self._measurement.engine

        def body() -> None:
            try:
                engine.run()
            except BaseException as problem:  # noqa: BLE001 - carried to the main thread, which ends with it
                self._failure = problem
                if self._stop is not None:
                    self._loop.call_soon_threadsafe(self._stop.set)

        self._thread = threading.Thread(target=body, name="engine", daemon=True)
        self._thread.start()

    async def _end_engine(self) -> None:
        assert self._measurement is not None
        assert self._thread is not None
        self._measurement.engine.stop()
        await asyncio.to_thread(self._thread.join)
        await asyncio.sleep(0)  # let its last windows arrive
        for name, value in self._measurement.counters().items():
            if name in self._past:
                self._past[name] += value
        self._measurement.engine.close()
        self._measurement = None

    async def _consume(self) -> None:
        """Closed windows and notices to lines to batches."""
        while True:
            item = await self._queue.get()
            try:
                if isinstance(item, Notice):
                    log.warning("%s", item.text)
                    self._event(item.kind, item.text, {}, item.wall_ns)
                    lines: list[str] = []
                else:
                    reporter, cut = item
                    lines = reporter.lines(cut)
                if self._queue.empty() or lines:
                    self._spool(lines)
            finally:
                self._queue.task_done()

    def _spool(self, lines: list[str]) -> None:
        self._batcher.add(self._events + lines)
        self._events = []
        try:
            numbers = self._batcher.flush(self.spool.append)
        except SpoolError as problem:
            # What was not spooled is held, up to a limit, and tried again with the next window.
            if not self._spool_trouble:
                log.error("cannot spool, holding at most 8 MiB in memory: %s", problem)
            self._spool_trouble = True
        else:
            self._spool_trouble = False
            if numbers:
                self.uplink.wake()

    def _event(self, kind: str, text: str, extra: dict[str, str], wall_ns: int | None = None) -> None:
        when = self._clock.wall() if wall_ns is None else wall_ns
        # Two events of one kind at one instant would be one point.
        when += len(self._events)
        self._events.append(event_line({**self._tags, **extra}, kind, text, {}, when))

    def _head(self, number: int) -> str:
        """The `agent` line that batch `number` begins with."""
        clock = clock_state()
        counters = self._measurement.counters() if self._measurement is not None else {}
        totals = {name: past + counters.get(name, 0) for name, past in self._past.items()}
        # Two batches of one instant would be one point in the database, and a number would seem lost.
        self._last_head = max(self._clock.wall(), self._last_head + 1)
        fields: dict[str, Value] = {
            "batch": number,
            "spool": self.spool.id,
            "spool_batches": self.spool.depth,
            "spool_bytes": self.spool.bytes,
            "spool_dropped": self.spool.dropped,
            "windows_dropped": self._dropped_cuts,
            "cpu_ns": cpu_ns(),
            "rss_bytes": rss_bytes(),
            **totals,
            "clock_synchronised": clock.synchronised,
            "clock_error_ns": clock.error_ns,
            "version": __version__,
        }
        return encode(self._agent_series, fields, self._last_head)

    # -- changes while running -------------------------------------------------------------------------------

    async def _resolve_later(self) -> None:
        """Try names again that had no address; when one has, measure it too."""
        while True:
            await asyncio.sleep(RESOLVE_EVERY_S)
            waiting = self._measurement.unmeasured if self._measurement is not None else []
            for missing in waiting:
                try:
                    await asyncio.to_thread(resolve, missing.target.address)
                except ResolveError:
                    continue
                log.info("target %s has an address now", missing.target.name)
                await self._replace(self._settings)
                break

    async def _reload_loop(self) -> None:
        while True:
            await self._reload.wait()
            self._reload.clear()
            try:
                settings = load_agent(self._file)
                self._same_process(settings)
                await self._replace(settings)
            except ColoprobeError as problem:
                log.error("settings not reloaded, the old ones stay: %s", problem)
                self._event("agent", f"settings not reloaded: {problem}", {})
            else:
                log.info("settings reloaded: %d targets", len(settings.target))
                self._event("agent", "settings reloaded", {})
            self._spool([])

    def _same_process(self, new: AgentSettings) -> None:
        old = self._settings
        for key in ("agent", "mqtt", "uplink", "spool"):
            if getattr(new, key) != getattr(old, key):
                raise SettingsError(
                    self._file, key, "changed, which a running agent cannot follow", "restart the agent"
                )

    async def _replace(self, settings: AgentSettings) -> None:
        """Measure by other settings: the old engine finishes its window, the new one begins at once."""
        old_measurement, old_reporter, old_thread = self._measurement, self._reporter, self._thread
        assert old_measurement is not None
        assert old_reporter is not None
        assert old_thread is not None
        self._measurement = await asyncio.to_thread(self._build, settings)
        self._settings = settings
        self._start_engine()
        old_measurement.engine.stop()
        await asyncio.to_thread(old_thread.join)
        await self._queue.join()
        for name, value in old_measurement.counters().items():
            if name in self._past:
                self._past[name] += value
        old_measurement.engine.close()
        self._spool(old_reporter.finish())


def _load() -> None:
    """Import what is otherwise imported late: the user that we become may not be able to read it any more."""
    for name in ("concurrent.futures.thread", "encodings.idna"):  # for asyncio.to_thread, for getaddrinfo
        import_module(name)
    load_client()


def _own(state: Path, user: str, file: str) -> None:
    """Make the state directory for the user that we become. Raises: SettingsError (no such user)."""
    if not user:
        return
    import pwd

    try:
        account = pwd.getpwnam(user)
    except KeyError:
        raise SettingsError(
            file, "agent.user", f"no user {user!r} on this host", "a user that exists, or none"
        ) from None
    if os.geteuid() == 0:
        with suppress(OSError):
            state.mkdir(parents=True, exist_ok=True)
            os.chown(state, account.pw_uid, account.pw_gid)


def run_agent(file: Path) -> int:
    """`coloprobe agent -c FILE`. Returns the exit status. Raises: ColoprobeError, before anything is
    measured."""
    give_memory_back()
    settings = load_agent(file)
    agent = Agent(settings, str(file))
    agent.prepare()
    rate = sum(SECOND / target.interval for target in settings.target)
    log.info("agent %s: %d targets, %.0f probes/s", settings.agent.id, len(settings.target), rate)
    with closing(agent):
        return serve(agent.run, agent.reload)
