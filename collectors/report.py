"""Counts in, the collector's own line out: what it did since it started."""

from __future__ import annotations

from dataclasses import dataclass

from probe.telemetry import lines, schema


@dataclass
class Counters:
    """Integers since start, but for the last two; the names are the fields of the measurement `collector`."""

    batches: int = 0
    lines: int = 0
    rejected: int = 0
    quarantined: int = 0
    over_limit: int = 0
    dropped: int = 0
    retries: int = 0
    write_latency_ns: int = 0  # slowest successful write since the last report
    newest_ns: int = 0  # time of the newest line written; 0: none yet

    def line(self, collector: str, *, held_bytes: int, now_ns: int) -> bytes:
        """The line with its newline; `now_ns`: wall clock."""
        fields: dict[str, lines.Value] = {
            "batches": self.batches,
            "lines": self.lines,
            "rejected": self.rejected,
            "quarantined": self.quarantined,
            "over_limit": self.over_limit,
            "dropped": self.dropped,
            "retries": self.retries,
            "held_bytes": held_bytes,
        }
        if self.write_latency_ns:
            fields["write_latency_ns"] = self.write_latency_ns
        if self.newest_ns:
            fields["lag_ns"] = max(0, now_ns - self.newest_ns)
        series = lines.series_text(schema.COLLECTOR.name, {"agent": "collector", "collector": collector})
        return lines.join([lines.encode(series, fields, now_ns)])
