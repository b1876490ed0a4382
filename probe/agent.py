"""Settings in, a running agent out: the one place where its stages are joined, in the order of the flow.

engine (a thread)                 event loop (the main thread)
packets -> samples -> windows  ->  summaries -> lines -> batches -> spool -> uplink -> MQTT
                                                                     ^                  |
                                                                     '- acknowledgement-'
"""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec

from probe import __version__
from probe.about import about
from probe.bindings import keep_bindings
from probe.clock import SECOND, Clock, SystemClock
from probe.detecting import Detecting
from probe.engine.engine import Notice
from probe.engine.samples import Cut
from probe.errors import ColoprobeError, SettingsError, SpoolError
from probe.host.process import give_memory_back
from probe.measurement import COUNTERS, Measurement, build
from probe.naming import keep_names
from probe.outgoing import Outgoing
from probe.parts import Parts, Surroundings
from probe.preparing import allow_descriptors, load_late_imports, own_state_dir
from probe.reporting import Reporter
from probe.service import serve
from probe.settings import AgentSettings, digest, load_agent, read_secret, warn_of_exposed
from probe.sockets.privileges import drop_privileges
from probe.targets import Asked
from probe.telemetry.episodes import Told
from probe.telemetry.lines import Value, series_text
from probe.telemetry.spool import Spool
from probe.telemetry.uplink import Uplink
from probe.telling import Teller
from probe.ways import follow

log = logging.getLogger(__name__)

# Closed windows that may wait for the event loop: so many in any case, more only while they hold few probes
# (where windows are short, dozens are closed at once at the end). What is beyond is dropped and counted.
PENDING_CUTS, PENDING_PROBES = 16, 1 << 20
GOODBYE = 5 * SECOND  # at the end, for acknowledgements of what was just spooled


@dataclass(eq=False)
class _Run:
    """An engine at work, what makes lines of its windows, and its thread."""

    measurement: Measurement
    reporter: Reporter
    thread: threading.Thread | None = None
    ending: asyncio.Task[None] | None = None


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
        tags = {"agent": settings.agent.id, "site": settings.agent.site}
        self._teller = Teller(tags, self._clock, self._store_soon)
        self._detecting = Detecting(
            self._teller,
            lambda call: self._loop.call_soon_threadsafe(call),
            lambda target, why: self._parts.paths.trigger(target, why),
        )
        self._runs: list[_Run] = []  # the last one is the current one, those before it are ending
        self._changing = asyncio.Lock()  # one change of the settings at a time
        # What makes lines, and how many probes it holds.
        self._queue: asyncio.Queue[tuple[Callable[[], list[str]], int]] = asyncio.Queue()
        self._pending_probes = 0
        self._reload = asyncio.Event()
        self._failure: BaseException | None = None
        self._said: set[tuple[str, str]] = set()  # what was told of the last measurement
        self._stop: asyncio.Event | None = None
        self._counting = threading.Lock()  # a run's counters move into the past at once
        self._dropped_cuts = 0
        self._past = dict.fromkeys(COUNTERS, 0)
        self._sent: Callable[[], Mapping[str, int]] = dict  # counters of uplink and answers, once there are

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
        warn_of_exposed(settings, self._file)
        state = Path(settings.agent.state_dir)
        own_state_dir(state, settings.agent.user, self._file)
        allow_descriptors()
        run = self._build(settings)
        self._runs.append(run)
        try:
            load_late_imports()
            drop_privileges(settings.agent.user)
            self.spool = Spool(state / "spool.sqlite3", int(settings.spool.max_bytes))
        except BaseException:
            run.measurement.close()
            raise
        series = series_text("agent", self._teller.tags)
        self._outgoing = Outgoing(self.spool, series, self._clock, self._about_itself)
        self._tell(self._outgoing.look())
        self._tell_unmeasured(run.measurement)

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
            asked=lambda message, reply: self._parts.answerer.heard(message, reply),
        )

    def _build(self, settings: AgentSettings) -> _Run:
        """May run in any thread: name servers may be slow."""

        def on_cut(cut: Cut) -> None:
            probes = len(cut.strays.late) + sum(len(part.flow) for part in cut.samples)
            self._loop.call_soon_threadsafe(self._offer, partial(reporter.lines, cut), probes)

        known = self._runs[-1].measurement.addresses if self._runs else {}
        measurement = build(settings, self._clock, on_cut, self._on_notice, known)
        if self._stop is not None and self._stop.is_set():
            measurement.close()  # perhaps nobody waits for it any more
        reporter = self._detecting.reporter(settings, measurement)
        return _Run(measurement, reporter)

    def _tell_unmeasured(self, measurement: Measurement) -> None:
        before, self._said = self._said, set()
        for missing in measurement.unmeasured:
            log.warning("target %s is not measured: %s", missing.target.name, missing)
            self._said.add((missing.target.name, f"not measured: {missing}"))
        self._said |= {("", text) for text in measurement.ways()}
        for name, text in sorted(self._said - before):  # once, however often engines are made anew
            tags = {"target": name} if name else {}
            self._teller.event("unreachable" if name else "host", text, tags=tags)

    # -- in the engine's thread ------------------------------------------------------------------------------

    def _on_notice(self, notice: Notice) -> None:
        self._loop.call_soon_threadsafe(self._notice, notice)

    # -- in the event loop -----------------------------------------------------------------------------------

    async def run(self, stop: asyncio.Event) -> None:
        """Measure and send until `stop` is set; then finish the open window, spool it and say goodbye.

        Raises: what ended the engine, if it failed.
        """
        self._loop = asyncio.get_running_loop()
        self._stop = stop
        self.uplink = self._make_uplink()
        self._parts = Parts(
            Surroundings(
                self._file,
                self._clock,
                self._teller,
                lambda: self._settings,
                lambda: self._measurement,
            ),
            self._about_us,
        )
        self._sent = lambda: {**self.uplink.counters(), **self._parts.answerer.counters()}
        self._start(self._runs[-1])
        watched = (lambda: self._runs[-1].measurement, self._clock, self._on_notice, self._replace)
        tasks = [
            asyncio.create_task(work, name=name)
            for name, work in (
                ("uplink", self.uplink.run()),
                ("windows", self._consume()),
                ("names", keep_names(lambda: self._runs[-1].measurement, self._moved, self._replace)),
                ("ways", follow(*watched)),
                ("bindings", keep_bindings(*watched)),
                ("reload", self._reload_loop()),
                ("parts", self._parts.run()),
            )
        ]
        stopping = asyncio.create_task(stop.wait())
        done, _ = await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
        stop.set()  # from here on no new engine is started
        for run in list(self._runs):
            await self._end(run)
        if not tasks[1].done():
            await self._queue.join()
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
        if (held := self._outgoing.batcher.held_bytes) and self._outgoing.trouble is not None:
            raise SpoolError(f"{held} bytes of lines are lost: {self._outgoing.trouble}")

    def close(self) -> None:
        """Give sockets and spool back, where `run` did not come to it."""
        for run in self._runs:
            run.measurement.close()
        self.spool.close()

    def reload(self) -> None:
        """Read the settings file again (SIGHUP)."""
        self._reload.set()

    def _start(self, run: _Run) -> None:
        self._measurement = run.measurement  # the last one, ended or not
        engine = run.measurement.engine

        def body() -> None:
            try:
                engine.run()
            except BaseException as problem:  # noqa: BLE001 - carried to the main thread, which ends with it
                self._failure = problem
                if self._stop is not None:
                    self._loop.call_soon_threadsafe(self._stop.set)

        run.thread = threading.Thread(target=body, name="engine", daemon=True)
        run.thread.start()

    def _end(self, run: _Run) -> asyncio.Future[None]:
        """Have it finish its window; the same ending for everybody who asks, and whoever gives up waiting."""
        if run.ending is None:
            run.ending = asyncio.create_task(self._finish(run))
        return asyncio.shield(run.ending)

    async def _finish(self, run: _Run) -> None:
        assert run.thread is not None
        run.measurement.engine.stop()
        await asyncio.to_thread(run.thread.join)
        # The thread handed over its last windows before it ended, so they stand in front of this.
        self._queue.put_nowait((run.reporter.finish, 0))
        with self._counting:
            for name, value in run.measurement.counters().items():
                self._past[name] += value
            self._runs.remove(run)
            run.measurement.close()

    def _offer(self, make: Callable[[], list[str]], probes: int) -> None:
        if self._queue.qsize() >= PENDING_CUTS and self._pending_probes + probes > PENDING_PROBES:
            self._dropped_cuts += 1
            log.error("the disk does not keep up: %d closed windows dropped so far", self._dropped_cuts)
            return
        self._pending_probes += probes
        self._queue.put_nowait((make, probes))

    def _notice(self, notice: Notice) -> None:
        log.warning("%s", notice.text)
        self._teller.event(notice.kind, notice.text, wall_ns=notice.wall_ns)

    async def _consume(self) -> None:
        """Closed windows and notices to lines to batches."""
        while True:
            make, probes = await self._queue.get()
            try:
                # In a thread, one at a time: neither statistics nor a slow disk keep MQTT from its pings.
                lines = await asyncio.to_thread(make)
                lines = self._teller.take() + lines
                self._tell(await asyncio.to_thread(self._outgoing.store, lines))
                self.uplink.wake()
            finally:
                self._pending_probes -= probes
                self._queue.task_done()

    def _tell(self, told: list[Told]) -> None:
        for one in told:
            self._teller.event("agent", one.text, detail=one.detail)

    def _store_soon(self) -> None:
        """What was told goes to the disk without waiting for a window to close."""
        self._queue.put_nowait((list, 0))

    def _about_itself(self) -> dict[str, Value]:
        """The fields of its own line that nobody else knows."""
        with self._counting:
            counters = [run.measurement.counters() for run in self._runs]
            totals = {name: past + sum(each[name] for each in counters) for name, past in self._past.items()}
        fields: dict[str, Value] = {"windows_dropped": self._dropped_cuts, **totals, **self._sent()}
        fields["lines_dropped"] = self._outgoing.batcher.dropped + self._teller.dropped
        if self._runs:  # nobody looks when the last one has ended
            fields["host_busy"] = round(self._runs[-1].measurement.engine.trouble.share, 4)
        return fields

    def _about_us(self) -> dict[str, object]:
        return about(self._settings, self._measurement, self._outgoing, self.uplink, self._clock)

    # -- changes while running -------------------------------------------------------------------------------

    def _moved(self, asked: Asked, text: str) -> None:
        log.info("%s", text)
        for target in self._settings.target:
            if (target.address, target.family) == asked:
                self._teller.event("address", text, tags={"target": target.name})

    async def _reload_loop(self) -> None:
        while True:
            await self._reload.wait()
            self._reload.clear()
            try:
                settings = load_agent(self._file)
                self._same_process(settings)
                await self._replace(settings)
                await self._parts.restart()
            except (ColoprobeError, ImportError) as problem:  # of what can be read without privileges
                log.error("settings not reloaded, the old ones stay: %s", problem)
                self._teller.event("agent", f"settings not reloaded: {problem}")
            else:
                log.info("settings reloaded: %d targets", len(settings.target))
                self._teller.event("agent", "settings reloaded")

    def _same_process(self, new: AgentSettings) -> None:
        old = self._settings
        for key in ("agent", "mqtt", "uplink", "spool"):
            if getattr(new, key) != getattr(old, key):
                raise SettingsError(
                    self._file, key, "changed, which a running agent cannot follow", "restart the agent"
                )

    async def _replace(self, settings: AgentSettings | None = None) -> None:
        """Measure by other settings, or the same ones again: the new engine begins, the old one finishes its
        window."""
        async with self._changing:
            settings = settings or self._settings
            new = await asyncio.to_thread(self._build, settings)
            assert self._stop is not None
            if self._stop.is_set():
                new.measurement.close()
                return
            self._tell_unmeasured(new.measurement)
            self._settings = settings
            self.uplink.settings_sha256 = digest(settings)
            self.uplink.wake()
            old = self._runs[-1]
            # For a while both are open, and either sees the replies to the other's probes.
            new.measurement.know([run.measurement for run in self._runs])
            for run in self._runs:
                run.measurement.know([new.measurement])
            self._runs.append(new)
            self._start(new)
            await self._end(old)


def run_agent(file: Path) -> int:
    """`coloprobe agent -c FILE`. Returns the exit status. Raises: ColoprobeError, before anything is
    measured."""
    give_memory_back()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something to reload
    settings = load_agent(file)
    agent = Agent(settings, str(file))
    agent.prepare()
    rate = sum(target.rate for target in settings.target)
    log.info("agent %s: %d targets, %.0f probes/s", settings.agent.id, len(settings.target), rate)
    with closing(agent):
        return serve(agent.run, agent.reload)
