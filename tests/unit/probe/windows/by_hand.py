"""A few probes in, a window of one flow and its fields out: for tests that are checked by eye."""

from __future__ import annotations

from probe.telemetry.points import probe_fields
from probe.windows.summary import summarise
from tests.unit.probe.windows.plain import Fields, Probe, Window


def measured(window: Window, timeout: int, flow: int = 0) -> Fields:
    fields = probe_fields(summarise(window.cut(), window.flows, timeout, window.layout), flow)
    return {name: value for name, value in fields.items() if isinstance(value, int | float)}


def one_flow(*probes: Probe, late: int = 0, duplicates: int = 0, errors: int = 0) -> Window:
    return Window((probes,), (any(p.tx for p in probes),), (late,), (duplicates,), (errors,))


def answered(*rtts: int | None, every: int = 1_000) -> tuple[Probe, ...]:
    """Probes sent every `every` ns; None: no reply."""
    sent = [10_000 + n * every for n in range(len(rtts))]
    return tuple(
        Probe(due=at, sent=at, tx=at, rx=0 if rtt is None else at + rtt)
        for at, rtt in zip(sent, rtts, strict=True)
    )
