"""Nothing in, hypothesis settings out: the same examples in every run, and few enough for a quick suite."""

from __future__ import annotations

from hypothesis import settings

repeatable = settings(derandomize=True, max_examples=60, deadline=None, database=None)
