"""What was looked at in, one record out that says how it is and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """What was found of one part; `remedy` is what to do where `state` is not ok."""

    part: str
    state: Literal["ok", "warning", "failed"]
    text: str
    remedy: str = ""
