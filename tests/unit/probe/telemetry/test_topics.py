"""Ids in, topics out, and back: what is no topic of ours is None, whatever it looks like."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.telemetry import topics
from probe.telemetry.topics import BatchId

AGENTS = st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True)
SPOOLS = st.from_regex(r"[0-9a-f]{8,32}", fullmatch=True)
NUMBERS = st.integers(1, 10**18 - 1)


def test_the_topics_of_the_interface() -> None:
    batch = BatchId("ny4-01", "9f2c41d0", 17)
    assert topics.lines(batch) == "coloprobe/v1/ny4-01/lines/9f2c41d0/17"
    assert topics.ack("ny4-01") == "coloprobe/v1/ny4-01/ack"
    assert topics.status("ny4-01") == "coloprobe/v1/ny4-01/status"
    assert (topics.ALL_LINES, topics.ALL_STATUS) == ("coloprobe/v1/+/lines/#", "coloprobe/v1/+/status")


@given(AGENTS, SPOOLS, NUMBERS)
def test_a_batch_comes_back_from_its_topic(agent: str, spool: str, number: int) -> None:
    batch = BatchId(agent, spool, number)
    assert topics.parse_lines(topics.lines(batch)) == batch
    assert topics.parse_status(topics.status(agent)) == agent
    assert topics.parse_status(topics.lines(batch)) is None
    assert topics.parse_lines(topics.status(agent)) is None


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "coloprobe/v1/a/lines/9f2c41d0/0",
        "coloprobe/v1/a/lines/9f2c41d0/01",
        "coloprobe/v1/a/lines/9f2c41d0/-1",
        "coloprobe/v1/a/lines/9f2c41d0/1/2",
        "coloprobe/v1/a/lines/9f2c41d0/1\n",
        "coloprobe/v1/a/lines/9f2c41d0/" + "9" * 19,
        "coloprobe/v1/a/lines/9f2c41d0/\u0661",
        "coloprobe/v1/a/lines/9F2C41D0/1",
        "coloprobe/v1/a/lines/short/1",
        "coloprobe/v1/A/lines/9f2c41d0/1",
        "coloprobe/v1/-a/lines/9f2c41d0/1",
        "coloprobe/v1/+/lines/9f2c41d0/1",
        "coloprobe/v1/" + "a" * 64 + "/lines/9f2c41d0/1",
        "coloprobe/v2/a/lines/9f2c41d0/1",
        "/coloprobe/v1/a/lines/9f2c41d0/1",
    ],
)
def test_no_batch(topic: str) -> None:
    assert topics.parse_lines(topic) is None


@given(st.text(max_size=60))
def test_any_text_is_a_topic_or_none(text: str) -> None:
    for candidate in (text, topics.ROOT + text, f"{topics.ROOT}/{text}/status"):
        batch = topics.parse_lines(candidate)
        assert batch is None or topics.lines(batch) == candidate
        agent = topics.parse_status(candidate)
        assert agent is None or topics.status(agent) == candidate
