"""Questions from the broker in, answers out: what an agent does for people far away, within narrow limits.

    uplink --heard--> parse, not before asked, allowed, not too often --> one job at a time --> uplink

Children answer (`ping`, `trace`, `check`), one at a time; what this process knows by itself (`sessions`,
`links`, `about`) is answered at once. Everything is bounded: what waits, how long it lasts, how much it says.
An answer belongs to the connection by which the question came: when that is lost, so is the answer.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing, suppress
from typing import Any

from probe.answer import Answer
from probe.ask_jobs import Job, Known, job_for
from probe.ask_rules import AddressOf, Rules
from probe.clock import SECOND, Clock
from probe.errors import AskError, ChildError, ColoprobeError, MqttError
from probe.settings import AgentSettings
from probe.telemetry import asks
from probe.telemetry.asks import Ask, plain
from probe.telemetry.mqtt import Message
from probe.telemetry.uplink import Reply
from probe.telling import Teller

QUEUED = 4  # questions that wait for the one that is being answered
AT_ONCE = 16  # answers and refusals on their way; beyond that a question is counted and dropped
REFUSALS = 60  # a minute that are told to who asked; a flood gets no answer
REMEMBERED = 4096  # ids of questions, so that none is answered twice
ABOUTS = 60  # a minute

log = logging.getLogger(__name__)


class Pace:
    """At most `most` in any minute."""

    def __init__(self) -> None:
        self._times: deque[int] = deque()

    def allows(self, most: int, now: int) -> bool:
        """Whether there may be one more at `now` (monotonic ns); then it counts."""
        while self._times and now - self._times[0] >= 60 * SECOND:
            self._times.popleft()
        if len(self._times) >= most:
            return False
        self._times.append(now)
        return True


class Answerer:
    """An agent's side of `ask`. `run` it in one task; `heard` is for the uplink. In the event loop only.

    Args:
        settings: those that are in effect now.
        address_of: where a target is measured now; empty: nowhere.
    """

    def __init__(
        self,
        settings: Callable[[], AgentSettings],
        address_of: AddressOf,
        known: Known,
        teller: Teller,
        clock: Clock,
    ) -> None:
        self.answered = 0
        self.refused: Counter[str] = Counter()  # by why
        self._settings, self._address_of = settings, address_of
        self._known, self._teller, self._clock = known, teller, clock
        self._jobs: dict[str, Job] = {}
        self._answers: set[asyncio.Task[None]] = set()
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._pace, self._abouts, self._refusals = Pace(), Pace(), Pace()
        self._turn = asyncio.Lock()
        self._told: Counter[str] = Counter()  # refusals that the log knows
        self._news = asyncio.Event()

    def counters(self) -> dict[str, int]:
        """Fields of the measurement `agent`."""
        return {"asks": self.answered, "asks_refused": self.refused.total()}

    async def run(self) -> None:
        """Tell in the log what was refused, once a minute at most; end all answers when cancelled."""
        try:
            while True:
                await self._news.wait()
                self._news.clear()
                new = self.refused - self._told
                self._told = self.refused.copy()
                text = ", ".join(f"{count} {why}" for why, count in new.most_common())
                log.warning("asks not answered: %s", text)
                await asyncio.sleep(60)
        finally:
            left = list(self._answers)
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    # -- what comes ------------------------------------------------------------------------------------------

    def heard(self, message: Message, reply: Reply) -> None:
        """A message on the topic `ask`. Returns at once and raises nothing, whatever it is."""
        if message.retain:
            # Asked when nobody was here, and by somebody who has long gone.
            self._refuse("left at the broker (retained)")
            return
        try:
            ask = asks.parse(message.payload)
        except AskError as problem:
            self._refuse("malformed", asks.id_of(message.payload), reply, problem)
            return
        if ask.what == "cancel":
            self._withdraw(ask.id)
            return
        if ask.id in self._seen:
            self._refuse("repeated")  # by the broker (QoS 1), or by somebody who listened
            return
        settings = self._settings()
        rules = Rules(settings.agent.id, settings.ask, settings.target, self._address_of)
        try:
            self._accept(ask, reply, rules, settings)
        except AskError as problem:
            self._refuse("not allowed", ask.id, reply, problem, _who(ask))

    def _accept(self, ask: Ask, reply: Reply, rules: Rules, settings: AgentSettings) -> None:
        """Have it answered. Raises: AskError."""
        now = self._clock.mono()
        rules.check_allowed(ask)
        if ask.what == "about":
            if not self._abouts.allows(ABOUTS, now):
                raise AskError(f"{rules.name} was asked about itself too often")
        elif not self._pace.allows(settings.ask.per_minute, now):
            most = settings.ask.per_minute
            raise AskError(f"{rules.name} is asked too often: it answers {most} a minute (ask.per_minute)")
        self._seen[ask.id] = None
        while len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        job = job_for(ask, reply, rules, self._known, settings, self._clock.wall())
        if sum(1 for other in self._jobs.values() if other.heavy) > QUEUED and job.heavy:
            raise AskError(f"{rules.name} is busy: {QUEUED} others wait for it to answer")
        if len(self._answers) >= AT_ONCE:
            raise AskError(f"{rules.name} is busy")
        self._jobs[ask.id] = job
        job.task = self._start(self._answer(job))
        job.task.add_done_callback(lambda _: self._jobs.pop(ask.id, None))

    def _withdraw(self, asked: str) -> None:
        job = self._jobs.get(asked)
        if job is not None and job.task is not None and not job.withdrawn:
            job.withdrawn = True
            job.task.cancel()

    def _refuse(
        self,
        why: str,
        asked: str = "",
        reply: Reply | None = None,
        problem: AskError | None = None,
        who: str = "somebody",
    ) -> None:
        """Count it; tell who asked, if that can be told, and not to a flood."""
        self.refused[why] += 1
        self._news.set()
        if not asked or reply is None or problem is None or len(self._answers) >= AT_ONCE:
            return
        if self._refusals.allows(REFUSALS, self._clock.mono()):
            log.info("refused what %s asked: %s", who, problem)
            self._start(_publish(reply, asks.done(asked, 0, problem.exit_status, str(problem))))

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._answers.add(task)
        task.add_done_callback(self._answers.discard)
        return task

    # -- what is done ----------------------------------------------------------------------------------------

    async def _answer(self, job: Job) -> None:
        ask, answer, began = job.ask, Answer(job.ask.id, job.reply), self._clock.mono()
        who = _who(ask)
        level = logging.DEBUG if ask.what == "about" else logging.INFO
        log.log(level, "%s, asked for by %s", job.text, who)
        status, error = 1, ""
        try:
            try:
                await answer.begin(job.about | {"ahead": self._ahead(job)})
                status = await self._work(job, answer)
            except asyncio.CancelledError:
                if not job.withdrawn:
                    raise
                error = "withdrawn by the asker"
            except MqttError:
                raise
            except ColoprobeError as problem:
                status, error = problem.exit_status, str(problem)
            except Exception as problem:
                log.exception("%s has failed by a defect", job.text)
                error = f"it has failed by a defect, which is in the agent's log: {problem!r}"
            await answer.end(status, error)
        except MqttError as problem:
            error = f"the answer is lost: {problem}"
        self.answered += 1
        if ask.what == "about":
            return
        text = f"{job.text}, asked for by {who}: " + (error or f"{answer.lines} lines")
        log.info("%s", text)
        detail = {
            "what": ask.what,
            "from": plain(ask.who, 128),
            "id": ask.id,
            "status": status,
            "lines": answer.lines,
            "took_ns": self._clock.mono() - began,
            **({"error": error} if error else {}),
        }
        # Only ours become a tag: whoever may ask for any target could make series without end.
        ours = {target.name for target in self._settings().target}
        tags = {"target": name} if (name := str(job.about.get("target"))) in ours else {}
        self._teller.event("agent", text, tags=tags, detail=detail)

    def _ahead(self, job: Job) -> int:
        """How many are answered before it."""
        return sum(1 for other in self._jobs.values() if other.heavy and other is not job) * job.heavy

    async def _work(self, job: Job, answer: Answer) -> int:
        """Send all its lines. Returns its status. Raises: ColoprobeError."""

        async def watched() -> AsyncGenerator[bytes, None]:
            if job.heavy:
                await self._wait_for_turn(job)
            try:
                async with aclosing(job.source()) as source:
                    async for line in source:
                        job.verdict.see(line)
                        yield line
            finally:
                if job.heavy:
                    self._turn.release()

        async with aclosing(watched()) as lines:
            try:
                await answer.send(lines)
            except ChildError:
                if not job.verdict.failed:  # else its lines say what
                    raise
        return int(job.verdict.failed)

    async def _wait_for_turn(self, job: Job) -> None:
        try:
            async with asyncio.timeout(job.ask.wait_ns / SECOND):
                await self._turn.acquire()
        except TimeoutError:
            raise AskError("busy with what others asked for, longer than the asker would wait") from None


def _who(ask: Ask) -> str:
    """For logs and events; nobody vouches for it."""
    return f"{plain(ask.who, 128)} (as it says)" if ask.who else "somebody"


async def _publish(reply: Reply, payload: bytes) -> None:
    with suppress(MqttError):
        await reply(payload)
