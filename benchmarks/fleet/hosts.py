"""An agent's number and a seed in, the batches out that a real agent of so many targets would send.

The lines are made by the agent's own encoder from summaries that are drawn instead of measured, and packed by
its own batcher, so they have its exact shape: every field that an echo probe has, in its order, with values
of its sizes. Same seed, agent and window: same bytes, but for the time.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from probe import __version__
from probe.clock import MILLISECOND, SECOND
from probe.telemetry.batches import Batcher
from probe.telemetry.lines import Value, encode, series_text
from probe.telemetry.points import (
    ALWAYS,
    COUNTS,
    IPDV,
    RTT,
    event_line,
    histogram_lines,
    le_place,
    probe_lines,
)
from probe.telemetry.schema import AGENT
from probe.windows.histogram import BUCKETS, Counts, bucket_of
from probe.windows.summary import Summaries

INTERVAL_NS = 100 * MILLISECOND  # between two probes to a target
HISTOGRAM_NS = 60 * SECOND
VENUES = ("NYSE", "CME", "NASDAQ", "CBOE", "EUREX", "LSE", "ICE", "JPX")
_SITES = ("NY4", "LD4", "FR2", "TY3", "CH4", "SG1", "HK2", "SY3")
_LOSSY = 0.02  # of all targets lose a probe now and then
_LADDER = tuple(f"rtt_{name}_ns" for name in ("min", "p50", "mean", "p90", "p99", "p999", "max"))

Ints = NDArray[np.int64]


class Host:
    """One simulated agent: `window` draws what it would say of one."""

    def __init__(self, agent: str, number: int, targets: int, window_ns: int, seed: int) -> None:
        self.agent = agent
        self.spool = f"{zlib.crc32(agent.encode()):08x}{seed & 0xFFFFFFFF:08x}"
        self._key = (seed, number)
        self._targets = targets
        self.window_ns = window_ns
        rng = np.random.default_rng([*self._key, 0])
        # Tens of microseconds within a site, milliseconds between them.
        self._rtt_ns = rng.lognormal(np.log(250e3), 1.1, targets)
        self._loss = np.where(rng.random(targets) < _LOSSY, rng.uniform(0.001, 0.03, targets), 0.0)
        tags = {"agent": agent, "site": _SITES[number % len(_SITES)]}
        self._head = series_text(AGENT.name, tags)
        self._tags = tags
        each = [
            {
                **tags,
                "target": f"{venue.lower()}-gateway-{n // 2:04d}-{line.lower()}",
                "venue": venue,
                "line": line,
                "kind": "icmp",
                "dscp": "0",
            }
            for n in range(targets)
            for venue, line in ((VENUES[n // 2 % len(VENUES)], "AB"[n % 2]),)
        ]
        self._series = [series_text("probe", one) for one in each]
        self._places = [le_place(one) for one in each]

    def window(self, at: int, start_ns: int) -> list[str]:
        """The `probe` lines of window `at`, counted from 0, which began at `start_ns` (wall clock)."""
        rng, size = np.random.default_rng([*self._key, 1, at]), self._targets
        sent = np.full(size, max(1, self.window_ns // INTERVAL_NS))
        lost = rng.binomial(sent, self._loss)
        received = sent - lost
        mean = self._rtt_ns * rng.normal(1.0, 0.02, size).clip(0.9, 1.1)
        # Ascending steps above the smallest round trip, in shares of the mean.
        ladder = mean[:, None] * (0.9 + np.cumsum(rng.gamma(1.0, 0.06, (size, len(_LADDER))), axis=1))
        columns: dict[str, Ints] = {n: ladder[:, at].astype(np.int64) for at, n in enumerate(_LADDER)}
        columns["rtt_stddev_ns"] = (mean * rng.gamma(4.0, 0.02, size)).astype(np.int64)
        columns = {name: columns[name] for name in RTT}
        zero = np.zeros(size, np.int64)
        values: dict[str, Ints] = {
            **dict.fromkeys(COUNTS, zero),
            **dict.fromkeys(ALWAYS, zero),
            "sent": sent,
            "received": received,
            "lost": lost,
            "loss_burst_max": np.minimum(lost, 1 + (lost > 3)),
            "send_lag_max_ns": rng.integers(20_000, 9_000_000, size),
            **columns,
            "jitter_ns": (columns["rtt_stddev_ns"] * rng.uniform(0.4, 1.1, size)).astype(np.int64),
            **{
                name: (columns["rtt_stddev_ns"] * by * rng.uniform(0.8, 1.2, size)).astype(np.int64)
                for name, by in zip(IPDV, (1.1, 3.2), strict=True)
            },
        }
        whole = received > 1
        pairs, nothing = np.where(whole, received - 1, 0), np.zeros(0, np.int32)
        end = start_ns + self.window_ns
        summaries = Summaries(start_ns, end, values, received, whole, pairs, {}, nothing, zero[:0])
        return probe_lines(summaries, self._series)

    def histogram(self, at: int, start_ns: int) -> list[str]:
        """The `probe_histogram` lines of the minute `at`, which began at `start_ns`."""
        rng = np.random.default_rng([*self._key, 2, at])
        probes = int(HISTOGRAM_NS // INTERVAL_NS)
        rtt = self._rtt_ns[:, None] * rng.normal(1.0, 0.09, (self._targets, probes)).clip(0.8)
        cell = np.arange(self._targets)[:, None] * BUCKETS + bucket_of(rtt.astype(np.int64))
        counts = np.bincount(cell.reshape(-1), minlength=self._targets * BUCKETS)
        used = np.flatnonzero(counts)
        found = Counts(used // BUCKETS, used % BUCKETS, counts[used].astype(np.uint32))
        return histogram_lines(found, self._series, self._places, start_ns)

    def event(self, text: str, at_ns: int) -> str:
        """An `event` line, for whoever wants one."""
        return event_line(self._tags, "agent", text, {}, at_ns)

    def batches(
        self,
        lines: Iterable[str],
        first: int,
        made_ns: int,
        *,
        spool: Callable[[], tuple[int, int]] | None = None,
    ) -> list[bytes]:
        """Payloads for these lines, numbered from `first` on, made at `made_ns` (wall clock).

        spool: the depth and bytes to tell of.
        """
        made: list[bytes] = []

        def append(make: Callable[[int], bytes]) -> int:
            number = first + len(made)
            made.append(make(number))
            return number

        batcher = Batcher(lambda number: self._agent_line(number, made_ns + number - first, spool))
        batcher.add(lines)
        batcher.flush(append, empty=True)
        return made

    def _agent_line(self, number: int, at_ns: int, spool: Callable[[], tuple[int, int]] | None) -> str:
        depth, size = spool() if spool else (1, 32_768)
        rng = np.random.default_rng([*self._key, 3, number])
        known: dict[str, Value] = {
            "batch": number,
            "spool": self.spool,
            "spool_batches": depth,
            "spool_bytes": size,
            "cpu_ns": 340_000_000 * number + int(rng.integers(1_000_000)),
            "rss_bytes": 48_000_000 + int(rng.integers(1_000_000)),
            "clock_error_ns": int(rng.integers(20_000, 900_000)),
            "clock_synchronised": True,
            "host_busy": round(float(rng.uniform(0.02, 0.4)), 4),
            "version": __version__,
        }
        zero: dict[str, Value] = {"int": 0, "float": 0.0, "bool": False, "str": ""}
        fields = {field.name: known.get(field.name, zero[field.kind]) for field in AGENT.fields}
        return encode(self._head, fields, at_ns)
