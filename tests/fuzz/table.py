"""Nothing in, the table of all targets out."""

from __future__ import annotations

from tests.fuzz import (
    answers,
    asked,
    board,
    broker,
    fanin,
    files,
    packed,
    packets,
    reflecting,
    sinks,
    text,
    tracing,
)
from tests.fuzz.target import Target

_MODULES = (fanin, packed, sinks, text, packets, answers, reflecting, files, broker, board, asked, tracing)
TARGETS: dict[str, Target] = {target.name: target for module in _MODULES for target in module.TARGETS}
