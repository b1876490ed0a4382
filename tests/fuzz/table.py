"""Nothing in, the table of all targets out."""

from __future__ import annotations

from tests.fuzz import board, broker, fanin, files, packets, text
from tests.fuzz.target import Target

TARGETS: dict[str, Target] = {
    target.name: target
    for module in (fanin, text, packets, files, broker, board)
    for target in module.TARGETS
}
