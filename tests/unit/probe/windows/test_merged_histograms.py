"""Windows of several agents and flows in, percentiles read from all their lines together out.

Between an RTT and a board stand the summary, the histogram's longer window, the line and the batch. The
reader here is what anybody could write who knows the schema and nothing of our code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from probe.clock import SECOND
from probe.reporting import Reporter
from probe.telemetry.lines import Point, join, parse_many
from tests.unit.probe.repeatable import repeatable
from tests.unit.probe.windows.measured import Targets
from tests.unit.probe.windows.plain import Probe, Window, percentile

WINDOW, HISTOGRAM = 10 * SECOND, 30 * SECOND
NOON = 1_700_000_010 * SECOND  # a multiple of both
LOWEST, TIMEOUT = 1_024, 1 << 36  # the promise holds in between
SHARES = [Fraction(1, 2), Fraction(9, 10), Fraction(99, 100), Fraction(999, 1000), Fraction(1)]

_BOUNDS = st.builds(
    lambda octave, quarter, more: min((4 + quarter << octave) + more, TIMEOUT),
    st.integers(8, 33),
    st.integers(0, 3),
    st.integers(0, 1),
)
RTTS = st.one_of(
    st.integers(LOWEST, TIMEOUT),
    st.integers(100_000, 400_000),
    _BOUNDS,
    st.none(),  # lost
    st.integers(TIMEOUT + 1, 2 * TIMEOUT),  # late
)
# Of one agent: windows, one after the other, of flows, of their probes.
RUNS = st.integers(1, 3).flatmap(
    lambda flows: st.lists(
        st.lists(st.lists(RTTS, max_size=12), min_size=flows, max_size=flows), min_size=1, max_size=7
    )
)
Run = list[list[list[int | None]]]


def body(agent: int, run: Run) -> bytes:
    """What one agent says of its windows, as the body of a batch."""
    flows = len(run[0])
    tags = [{"agent": f"agent-{agent}", "site": "NY 4", "target": f"t={flow}"} for flow in range(flows)]
    reporter = Reporter(Targets(tags, [1] * flows), HISTOGRAM, TIMEOUT)
    lines: list[str] = []
    for number, window in enumerate(run):
        probes = tuple(
            Probe(flow=flow, due=n, sent=n, tx=n, rx=0 if rtt is None else n + rtt)
            for n, (flow, rtt) in enumerate(
                ((flow, rtt) for flow, rtts in enumerate(window) for rtt in rtts), start=1
            )
        )
        nothing = (0,) * flows
        start = NOON + number * WINDOW
        cut = Window((probes,), (True,) * flows, nothing, nothing, nothing).cut(start, start + WINDOW)
        lines += reporter.lines(cut)
    return join([*lines, *reporter.finish()])


def read(points: Iterable[Point], share: Fraction) -> int:
    """A percentile of merged histograms, by the words of docs/measuring.md."""
    counts: dict[int, int] = {}
    for point in points:
        bound, count = int(point.tags["le"]), point.fields["count"]
        assert isinstance(count, int)
        counts[bound] = counts.get(bound, 0) + count
    total, seen = sum(counts.values()), 0
    for bound in sorted(counts):
        seen += counts[bound]
        if Fraction(seen, total) >= share:
            return bound
    raise AssertionError("no counts")


@repeatable
@given(st.lists(RUNS, min_size=2, max_size=2))
def test_a_percentile_of_merged_lines_is_at_most_a_quarter_above_the_exact_one(runs: list[Run]) -> None:
    written = b"".join(body(agent, run) for agent, run in enumerate(runs))
    points = [p for p in parse_many(written.decode()) if p.measurement == "probe_histogram"]
    # Every RTT with where it was measured: agent, flow, start of the histogram's window.
    received = [
        (f"agent-{agent}", f"t={flow}", NOON + number * WINDOW // HISTOGRAM * HISTOGRAM, rtt)
        for agent, run in enumerate(runs)
        for number, window in enumerate(run)
        for flow, rtts in enumerate(window)
        for rtt in rtts
        if rtt is not None and rtt <= TIMEOUT
    ]
    assert sum(int(point.fields["count"]) for point in points) == len(received)

    # Merged over everything, and over all that one agent, one target or one time has.
    keys: list[Callable[[str, str, int], object]] = [
        lambda agent, target, time: None,
        lambda agent, target, time: agent,
        lambda agent, target, time: target,
        lambda agent, target, time: time,
        lambda agent, target, time: (agent, target, time),
    ]
    for key in keys:
        merged: dict[object, list[Point]] = {}
        exact: dict[object, list[int]] = {}
        for point in points:
            merged.setdefault(key(point.tags["agent"], point.tags["target"], point.time_ns), []).append(point)
        for agent, target, time, rtt in received:
            exact.setdefault(key(agent, target, time), []).append(rtt)
        assert merged.keys() == exact.keys()
        for group, rtts in exact.items():
            for share in SHARES:
                wanted = percentile(rtts, share)
                assert wanted <= read(merged[group], share) <= wanted * Fraction(5, 4), (group, share)
