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

    @property
    def words(self) -> str:
        """For people: a line, and one with the remedy where there is one."""
        said = f"{self.state:8}{self.part}: {self.text}"
        return f"{said}\n{'':8}-> {self.remedy}" if self.remedy else said
