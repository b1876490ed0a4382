"""One window's samples in, every statistic of every flow out, exactly: each is computed from the samples
themselves.

Every flow is handled in the same few array operations: samples are sorted by flow once, and what has to stay
inside a flow
(runs, differences, ranks) is kept there by comparing neighbours. docs/measuring.md defines each field.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probe.engine.samples import ERROR, HIDDEN, LOCAL, SENT, SKIPPED, Cut, Samples, Strays

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

PERCENTILES = {
    "rtt_p50_ns": (50, 100),
    "rtt_p90_ns": (90, 100),
    "rtt_p99_ns": (99, 100),
    "rtt_p999_ns": (999, 1000),
}
_BITS = 43  # of a value below the flow's number: 2.4 hours in ns, and more samples than fit into memory
_LOW = (1 << _BITS) - 1
_JITTER_GAIN = 16  # RFC 3550 section 6.4.1: J += (|D| - J) / 16


@dataclass(frozen=True)
class Summaries:
    """The statistics of one window, one row a flow. Every array has shape (flows,) and dtype int64.

    `values` holds the fields of the measurement `probe` but `loss`; `timed`, `pairs` and `steps` say where
    the RTT, the IPDV and
    the jitter fields have a value: a flow with nothing received has no RTT (never 0).
    """

    start_ns: int
    end_ns: int
    values: dict[str, Ints]
    timed: Ints  # received probes with a usable RTT
    pairs: Ints  # consecutive probes of which both were received
    rtt_flow: NDArray[np.int32]  # for the histogram: the flow of each received probe, shape (received,)
    rtt: Ints  # ... and its RTT in ns


@dataclass(frozen=True)
class Outcomes:
    """What became of each sample: masks of shape (n,), by the definitions of docs/measuring.md."""

    left: Mask  # the probe left this host, and what became of it can be told
    failed: Mask  # an ICMP error came for it, or this host did not let it out
    answered: Mask  # a reply came at some time
    received: Mask  # ... within the timeout
    unstamped: Mask  # ... but its RTT is not from two kernel stamps
    rtt: Ints  # ns; meaningful where `answered`; may be negative, where clocks were set


def judge(samples: Samples, timeout: int) -> Outcomes:
    """Decide for every sample: left or not, received, late or lost. `timeout` in ns."""
    attempted = (samples.state & SKIPPED) == 0
    answered = samples.rx != 0
    stamped = (samples.tx != 0) & ~samples.unstamped
    # Stamps out of order are no measurement: fall back to our own clock and say so.
    stamped &= samples.rx >= samples.tx
    rtt = samples.rx - np.where(stamped, samples.tx, samples.sent)
    # The kernel stamps this flow's probes as they leave the host. One without a stamp that nobody answered
    # is still here:
    # dropped by a queue, or waiting for a neighbour.
    stuck = (samples.tx == 0) & samples.stamping[samples.flow]
    # What this host itself gave up, or hid from us, tells nothing of the network.
    ours = (samples.state & (LOCAL | HIDDEN)) != 0
    left = attempted & ((samples.state & SENT) != 0) & (answered | ~(stuck | ours))
    failed = attempted & (~left | ((samples.state & ERROR) != 0))
    # Without the stamp that there should be, it only seems to have taken so long: that is no proof of
    # lateness.
    unsure = samples.unstamped | ((samples.tx == 0) & samples.stamping[samples.flow])
    received = left & answered & ((rtt <= timeout) | unsure)
    return Outcomes(left, failed, answered & left, received, ~stamped, rtt)


def summarise(cut: Cut, flows: int, timeout: int) -> Summaries:
    """Every statistic of every flow of one window.

    Args:
        cut: the window's samples, from all channels.
        flows: number of flows; samples carry indices below it.
        timeout: ns; a reply with a longer RTT is late.
    """
    samples = _joined(cut.samples, flows)
    outcomes = judge(samples, timeout)
    inside = _inside(cut.samples)
    order = _order_by(samples.flow)
    flow = samples.flow[order].astype(np.int64)
    inside = inside[order]

    def count(mask: Mask) -> Ints:
        return np.bincount(flow[mask], minlength=flows)

    left = outcomes.left[order] & inside
    received = outcomes.received[order] & inside
    answered = outcomes.answered[order]
    rtt = outcomes.rtt[order]
    rx = samples.rx[order]
    sent, got = count(left), count(received)
    values = {
        "sent": sent,
        "received": got,
        "lost": sent - got,
        "late": count(answered & inside & ~received) + cut.strays.late,
        "duplicates": np.bincount(flow, samples.duplicates[order] * inside, flows).astype(np.int64)
        + cut.strays.duplicates,
        "reordered": count(_reordered(flow, rx, answered) & inside),
        "errors": count(outcomes.failed[order] & inside) + cut.strays.errors,
        "loss_burst_max": _longest_runs(flow[left], ~received[left], flows),
        "send_lag_max_ns": _maxima(flow[left], (samples.sent - samples.due)[order][left], flows),
        "unstamped": count(received & outcomes.unstamped[order]),
    }
    timed = received & (rtt >= 0) & (rtt <= timeout)
    number = _rtt_values(flow[timed], rtt[timed], flows, values)
    _jitter(flow[timed], rtt[timed], rx[timed], flows, values)
    pairs = _ipdv(flow[left], rtt[left], timed[left], flows, values)
    return Summaries(
        cut.start_ns, cut.end_ns, values, number, pairs, flow[timed].astype(np.int32), rtt[timed]
    )


def pieces(cut: Cut, flows: int, rows: int) -> Iterator[tuple[int, int, Cut]]:
    """The cut in groups of flows with about `rows` samples: (first flow, number of flows, their cut).

    Flows are counted from 0 in each. What is computed from a piece needs memory for a piece.
    """
    many = sum(len(part.flow) for part in cut.samples)
    step = max(1, flows * rows // max(many, 1))
    for low in range(0, flows, step):
        high = min(low + step, flows)
        strays = Strays(
            cut.strays.late[low:high], cut.strays.duplicates[low:high], cut.strays.errors[low:high]
        )
        samples = tuple(_of_flows(part, low, high) for part in cut.samples)
        yield low, high - low, Cut(cut.start_ns, cut.end_ns, samples, strays)


def _of_flows(samples: Samples, low: int, high: int) -> Samples:
    rows = np.flatnonzero((samples.flow >= low) & (samples.flow < high))
    return Samples(
        samples.flow[rows] - low,
        samples.due[rows],
        samples.sent[rows],
        samples.tx[rows],
        samples.rx[rows],
        samples.state[rows],
        samples.unstamped[rows],
        samples.duplicates[rows],
        int(np.searchsorted(rows, samples.inside)),
        samples.stamping[low:high],
    )


def _joined(parts: tuple[Samples, ...], flows: int) -> Samples:
    if len(parts) == 1:
        return parts[0]

    def column(name: str, dtype: type) -> NDArray[np.generic]:
        return np.concatenate([getattr(p, name) for p in parts]) if parts else np.zeros(0, dtype)

    stamping = np.zeros(flows, np.bool_)
    for part in parts:
        stamping |= part.stamping
    names = {
        "flow": np.int32,
        "due": np.int64,
        "sent": np.int64,
        "tx": np.int64,
        "rx": np.int64,
        "state": np.uint8,
        "unstamped": np.bool_,
        "duplicates": np.uint8,
    }
    columns = {name: column(name, dtype) for name, dtype in names.items()}
    return Samples(**columns, inside=0, stamping=stamping)  # type: ignore[arg-type]


def _inside(parts: tuple[Samples, ...]) -> Mask:
    return np.concatenate([np.zeros(0, np.bool_), *(np.arange(len(p.flow)) < p.inside for p in parts)])


def _order_by(flow: NDArray[np.int32]) -> Ints:
    """Stable order by flow: flow and place in one number, as plain integers are what sorts fastest."""
    places = np.arange(len(flow))
    return np.sort(flow.astype(np.int64) << _BITS | places) & _LOW


def _sorted_within(flow: Ints, value: Ints) -> Ints:
    """The values in ascending order within each flow, flow after flow. `value`: 0 to 2**43."""
    return np.sort(flow << _BITS | value) & _LOW


def _same_flow(flow: Ints) -> Mask:
    """Whether each sample belongs to the flow of the one before it."""
    same = np.zeros(len(flow), np.bool_)
    same[1:] = flow[1:] == flow[:-1]
    return same


def _maxima(flow: Ints, value: Ints, flows: int) -> Ints:
    out = np.zeros(flows, np.int64)
    np.maximum.at(out, flow, value)
    return out


def _longest_runs(flow: Ints, lost: Mask, flows: int) -> Ints:
    """Longest run of consecutive lost probes of each flow (RFC 3357 'loss run length')."""
    out = np.zeros(flows, np.int64)
    if lost.any():
        begins = lost.copy()
        begins[1:] &= ~(lost[:-1] & _same_flow(flow)[1:])
        lengths = np.bincount(np.cumsum(begins)[lost] - 1)
        np.maximum.at(out, flow[begins], lengths)
    return out


def _reordered(flow: Ints, rx: Ints, answered: Mask) -> Mask:
    """RFC 4737 section 3.3: a reply is reordered when the reply to a later probe of its flow arrived before
    it."""
    out = np.zeros(len(flow), np.bool_)
    who = np.flatnonzero(answered)
    if len(who) < 2:
        return out
    flow, rx = flow[who], rx[who]
    if (_same_flow(flow)[1:] <= (rx[1:] >= rx[:-1])).all():
        return out
    # Each flow's times lie above those of all flows before it, so one running minimum from the end
    # never crosses from one flow into the next.
    rx = rx - rx.min()
    keyed = rx + flow * (int(rx.max()) + 1)
    earliest_after = np.empty(len(keyed), np.int64)
    earliest_after[-1] = np.iinfo(np.int64).max
    earliest_after[:-1] = np.minimum.accumulate(keyed[::-1])[::-1][1:]
    out[who] = earliest_after < keyed
    return out


def _ranks(n: Ints, numerator: int, denominator: int) -> Ints:
    """Index of a percentile among n sorted values: RFC 2330 section 11.3, the smallest x with F(x) >= p."""
    return np.maximum(-(-n * numerator // denominator) - 1, 0)


def _rtt_values(flow: Ints, rtt: Ints, flows: int, values: dict[str, Ints]) -> Ints:
    """Fill in minimum, maximum, mean, standard deviation and percentiles. Returns the number of RTTs of each
    flow."""
    n = np.bincount(flow, minlength=flows)
    for name in ("rtt_min_ns", "rtt_mean_ns", "rtt_stddev_ns", *PERCENTILES, "rtt_max_ns"):
        values[name] = np.zeros(flows, np.int64)
    has = np.flatnonzero(n)
    if not len(has):
        return n
    ordered = _sorted_within(flow, rtt)
    first = (np.cumsum(n) - n)[has]
    many = n[has]
    values["rtt_min_ns"][has] = ordered[first]
    values["rtt_max_ns"][has] = ordered[first + many - 1]
    for name, (numerator, denominator) in PERCENTILES.items():
        values[name][has] = ordered[first + _ranks(many, numerator, denominator)]
    total = np.add.reduceat(ordered, first)
    values["rtt_mean_ns"][has] = (2 * total + many) // (2 * many)
    mean = np.zeros(flows)
    mean[has] = total / many
    deviation = rtt - mean[flow]
    variance = np.bincount(flow, deviation * deviation, flows)[has] / many
    values["rtt_stddev_ns"][has] = np.rint(np.sqrt(variance))
    return n


def _jitter(flow: Ints, rtt: Ints, rx: Ints, flows: int, values: dict[str, Ints]) -> None:
    """RFC 3550 section 6.4.1 over RTTs in order of arrival, from J = 0: J_n is a weighted sum of the
    |D_i|."""
    same = _same_flow(flow)
    if (rx[1:] < rx[:-1])[same[1:]].any():  # replies overtook each other
        order = np.lexsort((rx, flow))
        rtt = rtt[order]  # flow and same stay as they are: the order is within flows
    change = np.zeros(len(rtt))
    change[1:] = np.abs(rtt[1:] - rtt[:-1])
    n = np.bincount(flow, minlength=flows)
    to_go = (np.cumsum(n)[flow] - 1) - np.arange(len(flow))
    weight = (1 - 1 / _JITTER_GAIN) ** to_go.astype(np.float64) / _JITTER_GAIN
    values["jitter_ns"] = np.rint(np.bincount(flow, np.where(same, change * weight, 0.0), flows)).astype(
        np.int64
    )


def _ipdv(flow: Ints, rtt: Ints, timed: Mask, flows: int, values: dict[str, Ints]) -> Ints:
    """RFC 3393: |difference| of the RTTs of consecutive probes, both received. Returns the number of
    pairs."""
    pair = np.zeros(len(flow), np.bool_)
    pair[1:] = timed[1:] & timed[:-1] & _same_flow(flow)[1:]
    later = np.flatnonzero(pair)
    change = np.abs(rtt[later] - rtt[later - 1])
    owner = flow[later]
    n = np.bincount(owner, minlength=flows)
    values["ipdv_mean_ns"], values["ipdv_p99_ns"] = np.zeros(flows, np.int64), np.zeros(flows, np.int64)
    has = np.flatnonzero(n)
    if len(has):
        ordered = _sorted_within(owner, change)
        first, many = (np.cumsum(n) - n)[has], n[has]
        total = np.add.reduceat(ordered, first)
        values["ipdv_mean_ns"][has] = (2 * total + many) // (2 * many)
        values["ipdv_p99_ns"][has] = ordered[first + _ranks(many, 99, 100)]
    return n
