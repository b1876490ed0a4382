"""Agent ids and batch numbers in, MQTT topics out, and back.

coloprobe/v1/<agent>/lines/<spool>/<batch>    a batch
coloprobe/v1/<agent>/ack                      what the sink holds: {"<spool>": [[first, last], ...]}
coloprobe/v1/<agent>/status                   retained, also the last will
coloprobe/v1/<agent>/ask, .../answer          questions and answers: `probe.telemetry.asks`
"""

from __future__ import annotations

import re
from dataclasses import dataclass

ROOT = "coloprobe/v1"
ALL_LINES = f"{ROOT}/+/lines/#"
ALL_STATUS = f"{ROOT}/+/status"
ALL_ANSWERS = f"{ROOT}/+/answer"

_AGENT = r"[a-z0-9][a-z0-9-]{0,62}"
_LINES = re.compile(rf"{ROOT}/({_AGENT})/lines/([0-9a-f]{{8,32}})/([1-9][0-9]{{0,17}})")
_STATUS = re.compile(rf"{ROOT}/({_AGENT})/status")
_ANSWER = re.compile(rf"{ROOT}/({_AGENT})/answer")


@dataclass(frozen=True)
class BatchId:
    """Which batch this is: `number` is consecutive from 1 within `spool`, which belongs to `agent`."""

    agent: str
    spool: str
    number: int


def lines(batch: BatchId) -> str:
    """The topic that a batch is published to."""
    return f"{ROOT}/{batch.agent}/lines/{batch.spool}/{batch.number}"


def ack(agent: str) -> str:
    """The topic on which collectors acknowledge."""
    return f"{ROOT}/{agent}/ack"


def status(agent: str) -> str:
    """The retained topic that says whether an agent is online."""
    return f"{ROOT}/{agent}/status"


def ask(agent: str) -> str:
    """The topic on which an agent is asked."""
    return f"{ROOT}/{agent}/ask"


def answer(agent: str) -> str:
    """The topic on which an agent answers, whoever asked."""
    return f"{ROOT}/{agent}/answer"


def is_agent(text: str) -> bool:
    """Whether it can be an agent's id."""
    return re.fullmatch(_AGENT, text) is not None


def parse_lines(topic: str) -> BatchId | None:
    """The batch that `topic` names; None where it is not such a topic."""
    match = _LINES.fullmatch(topic)
    return BatchId(match[1], match[2], int(match[3])) if match else None


def parse_status(topic: str) -> str | None:
    """The agent whose status `topic` is; None where it is not such a topic."""
    match = _STATUS.fullmatch(topic)
    return match[1] if match else None


def parse_answer(topic: str) -> str | None:
    """The agent whose answers come on `topic`; None where it is not such a topic."""
    match = _ANSWER.fullmatch(topic)
    return match[1] if match else None
