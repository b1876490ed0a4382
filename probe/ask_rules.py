"""A question and an agent's settings in, what to run for it out; or a refusal that says why. Pure.

Whatever an asker writes ends up here as a number within limits, as one of this agent's targets, or (with
`ask.any_target`) as a host that `probe.targets` has taken apart; never as a word of a shell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from msgspec import UnsetType

from probe.clock import SECOND
from probe.errors import AskError, ColoprobeError
from probe.settings import AskTable, Knobs, Target
from probe.target_settings import KINDS, POLITE
from probe.targets import TargetArgument, parse_target, target_for
from probe.telemetry.asks import Ask, plain
from probe.units import Duration

COUNT = 10  # probes of a flow, where the asker does not say
_TIMEOUT = SECOND  # for a reply, likewise
_NAMED = 20  # targets in a refusal

AddressOf = Callable[[Target], str]


@dataclass(frozen=True)
class Rules:
    """What an agent allows; `name` is its id, for its refusals, `address_of` where a target is measured now
    (empty: nowhere)."""

    name: str
    table: AskTable
    targets: Sequence[Target]
    address_of: AddressOf

    def check_allowed(self, ask: Ask) -> None:
        """Raises: AskError."""
        allow = self.table.allow
        if ask.what not in allow and not (ask.what == "about" and allow):
            had = ", ".join(allow) or "nothing"
            raise AskError(f"{self.name} does not allow {ask.what}: ask.allow in its agent.toml has {had}")

    def target(self, text: str) -> Target:
        """The target that is meant: by its name, its address, or as a URL. Raises: AskError."""
        found = [target for target in self.targets if target.name == text]
        found = found or [target for target in self.targets if self._is(target, text)]
        if len(found) == 1:
            return found[0]
        if found:
            raise AskError(f"{plain(text)} is several targets of {self.name}: {_names(found)}; name one", 2)
        if self.table.any_target:
            try:
                return target_for(parse_target(text), {}, Knobs())
            except ColoprobeError as problem:
                raise AskError(plain(str(problem), 300), 2) from None
        raise AskError(
            f"{self.name} has no target {plain(text)}; it has {_names(self.targets)} "
            "(anything else: ask.any_target in its agent.toml)",
            2,
        )

    def _is(self, target: Target, text: str) -> bool:
        if text in (target.address, self.address_of(target)):
            return True
        try:
            argument = parse_target(text)
        except ColoprobeError:
            return False
        places = (target.address, self.address_of(target))
        return (
            "://" in text
            and (argument.kind, argument.port) == (target.kind, target.port)
            and (argument.host in places)
        )

    def ping(self, ask: Ask, target: Target) -> list[str]:
        """The child that answers. Raises: AskError."""
        options = ask.options
        flows = _or(options.flows, 1)
        interval = _or(options.interval_ns, self._usual_interval(target, flows))
        timeout = _or(options.timeout_ns, _TIMEOUT)
        self._check_rate(target, flows, interval)
        room = int(self.table.longest) - timeout
        most = room // interval + 1 if room >= 0 else 0
        count = _or(options.count, max(1, min(COUNT, most)))
        if count > most:
            lasts = Duration((count - 1) * interval + timeout)
            raise AskError(
                f"{count} probes every {Duration(interval)}, with {Duration(timeout)} for the last reply, "
                f"are {lasts} (allowed: {self.table.longest}, ask.longest of {self.name}): fewer, or faster",
                2,
            )
        argv = ["probe.cli", "ping", "--json", f"--count={count}", f"--interval={interval}ns"]
        argv += [f"--timeout={timeout}ns", f"--flows={flows}"]
        argv += self._like(target, options.size)
        return [*argv, "--", self._url(target)]

    def check(self, file: str) -> list[str]:
        """The child that answers."""
        return ["probe.cli", "check", "--json", "-c", file]

    def _usual_interval(self, target: Target, flows: int) -> int:
        """As `coloprobe ping` has it."""
        return int(POLITE) * flows if KINDS[target.kind].polite else SECOND

    def _check_rate(self, target: Target, flows: int, interval: int) -> None:
        rate = flows * SECOND / interval
        asked = f"{flows} flows every {Duration(interval)} are {rate:g} packets a second"
        if rate > self.table.packets_per_second:
            most = self.table.packets_per_second
            raise AskError(f"{asked} (allowed: {most}, ask.packets_per_second of {self.name})", 2)
        if KINDS[target.kind].polite:
            most_polite = max(1.0, target.rate if target in self.targets else 0.0)
            if rate > most_polite:
                raise AskError(
                    f"{asked} to a port that takes connections (allowed: {most_polite:g}, as many as "
                    f"{self.name} itself may send there)",
                    2,
                )

    def _like(self, target: Target, size: int | UnsetType) -> Iterable[str]:
        """Options that make the probes what the agent's own ones to this target are."""
        kind = KINDS[target.kind]
        if isinstance(size, UnsetType):
            size = target.size
        elif kind.smallest == kind.largest and size != target.size:
            raise AskError(f"probes of kind {target.kind} always have {target.size} bytes", 2)
        if kind.smallest != kind.largest:
            yield f"--size={size}"
        for name in ("dscp", "ttl", "source", "interface", "key_file"):
            if value := getattr(target, name):
                yield f"--{name.replace('_', '-')}={value}"
        if target.dont_fragment:
            yield "--dont-fragment"

    def _url(self, target: Target) -> str:
        host = self.address_of(target) or target.address
        if ":" in host:
            return f"{target.kind}://[{host}]" + (f":{target.port}" if target.port else "")
        return TargetArgument(target.kind, host, target.port).name


def _or(value: int | UnsetType, default: int) -> int:
    return default if isinstance(value, UnsetType) else value


def _names(targets: Sequence[Target]) -> str:
    named = ", ".join(target.name for target in targets[:_NAMED])
    more = len(targets) - _NAMED
    return named + (f" and {more} more" if more > 0 else "")
