"""A plan and a site in, its faults done and lifted on time out; what was done is told as it happens."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.chaos.plan import CUTS, FULL, Fault, Plan
from tests.chaos.site import Site

_LOOK_S = 0.1


@dataclass(frozen=True)
class Done:
    """A fault as it was: wall clock, ns."""

    fault: Fault
    began_ns: int
    over_ns: int


@dataclass
class Driver:
    """Does what the plan says; `tell` gets a line for each thing that happens."""

    site: Site
    tell: Callable[[str], None]
    done: list[Done] = field(default_factory=list)
    injected: Counter[str] = field(default_factory=Counter)
    _began: dict[Fault, int] = field(default_factory=dict)

    def run(self, plan: Plan, progress: Callable[[float], None]) -> None:
        """Returns when the last fault is lifted and the time is over."""
        due = [(fault.at_s, 1, fault) for fault in plan.faults]
        due += [(fault.until_s, 0, fault) for fault in plan.faults]
        due.sort(key=lambda one: one[:2])
        start = time.monotonic()
        for at, begins, fault in [*due, (plan.duration_s, 0, None)]:
            while (left := start + at - time.monotonic()) > 0:
                self.site.look()
                for flood in (fault for fault in self._began if fault.kind == "flood"):
                    self.site.disks[flood.where[0]].fill()
                progress(time.monotonic() - start)
                time.sleep(min(left, _LOOK_S))
            if fault is None:
                return
            passed = time.monotonic() - start
            if begins:
                note = self._begin(fault)
                self.tell(f"[{passed:6.1f} s] {fault}{note}")
            else:
                self._lift(fault)

    def _begin(self, fault: Fault) -> str:
        self._began[fault] = time.time_ns()
        self.injected[fault.kind] += 1
        site, (first, *rest) = self.site, fault.where
        note = ""
        if fault.kind in CUTS:
            site.cut(fault.kind, first, rest[0])
            return note
        if fault.kind in FULL:
            site.disks[first].fill()
            return note
        part = site.parts[first]
        if not part.running():
            note = " (it does not run)"
        if fault.kind == "freeze":
            part.freeze()
        elif fault.kind == "end":
            part.end()
        elif fault.kind == "reload":
            part.reload()
        else:
            part.kill()
        if fault.kind == "wipe":
            note += f" ({site.wipe_broker()} bytes wiped)"
        return note

    def _lift(self, fault: Fault) -> None:
        site, (first, *rest) = self.site, fault.where
        if fault.kind in CUTS:
            site.join(first, rest[0])
        elif fault.kind in FULL:
            site.disks[first].empty()
        elif fault.kind == "freeze":
            site.parts[first].thaw()
        elif fault.kind != "reload":
            site.parts[first].start()
        self.done.append(Done(fault, self._began.pop(fault), time.time_ns()))
