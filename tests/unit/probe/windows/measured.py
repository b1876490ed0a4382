"""Targets and how many flows each has in, what a reporter asks of a measurement out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from probe.telemetry.lines import series_text


@dataclass(frozen=True)
class Targets:
    """Tags of targets, and the number of flows of each."""

    target_tags: Sequence[Mapping[str, str]]
    counts: Sequence[int]

    @property
    def targets(self) -> list[tuple[int, int]]:
        return list(zip(accumulate(self.counts, initial=0), self.counts, strict=False))

    @property
    def target_series(self) -> list[str]:
        return [series_text("probe", tags) for tags in self.target_tags]

    @property
    def tags(self) -> list[Mapping[str, str]]:
        return [
            {**tags, "flow": str(lane)} if count > 1 else tags
            for tags, count in zip(self.target_tags, self.counts, strict=True)
            for lane in range(count)
        ]

    @property
    def series(self) -> list[str]:
        return [series_text("probe", tags) for tags in self.tags]
