"""Which status messages are events."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors import status
from collectors.status import StatusBook
from probe.clock import SECOND
from probe.telemetry import lines

NOW = 1_790_000_000 * SECOND + 123
TOPIC = "coloprobe/v1/ny4-01/status"


def message(state: str, since: int = 1, **more: object) -> bytes:
    return json.dumps({"state": state, "since": since, "version": "0.1.0", **more}).encode()


def change(
    book: StatusBook, payload: bytes, *, retained: bool = False, now_ns: int = NOW
) -> lines.Point | None:
    line = book.change(TOPIC, payload, retained=retained, now_ns=now_ns)
    return None if line is None else lines.parse(line.decode().removesuffix("\n"))


def test_a_change_is_an_event_of_the_agent() -> None:
    book = StatusBook()
    assert change(book, message("online"), retained=True) is None
    event = change(book, message("offline"))
    assert event is not None
    assert (event.measurement, event.tags) == ("event", {"agent": "ny4-01", "kind": "agent"})
    assert event.fields["text"] == "agent is offline"
    assert json.loads(str(event.fields["detail"])) == {"state": "offline", "since": 1, "version": "0.1.0"}
    assert event.time_ns // SECOND == NOW // SECOND


def test_a_bridge_says_one_and_nought_and_its_changes_are_events_too() -> None:
    book = StatusBook()
    assert change(book, b"1", retained=True) is None
    lost = change(book, b"0")
    assert lost is not None
    assert lost.tags == {"agent": "ny4-01", "kind": "agent"}
    assert lost.fields["text"] == "bridge is offline"
    assert json.loads(str(lost.fields["detail"]))["state"] == "offline"
    assert change(book, b"0") is None
    back = change(book, b"1")
    assert back is not None
    assert back.fields["text"] == "bridge is online"
    assert change(book, b"1") is None
    assert change(book, b"2") is None


def test_what_the_broker_kept_is_an_event_only_where_it_contradicts_what_was_known() -> None:
    book = StatusBook()
    assert change(book, message("online"), retained=True) is None
    assert change(book, message("online"), retained=True) is None
    assert change(book, message("offline"), retained=True) is not None


def test_an_agent_that_was_never_seen_before_comes_online() -> None:
    assert change(StatusBook(), message("online")) is not None


def test_the_same_status_again_is_no_event() -> None:
    book = StatusBook()
    change(book, message("online"))
    assert change(book, message("online")) is None
    assert change(book, message("online", settings_sha256="ab")) is None


def test_online_since_another_time_is_an_event() -> None:
    book = StatusBook()
    change(book, message("online", since=1))
    event = change(book, message("online", since=2))
    assert event is not None
    assert event.fields["text"] == "agent is online again"


def test_two_collectors_write_the_same_point_and_a_flap_within_a_second_two() -> None:
    one, other = StatusBook(), StatusBook()
    first, second = change(one, message("online")), change(other, message("online"), now_ns=NOW + 5_000_000)
    assert first == second
    gone = change(one, message("offline"))
    assert first is not None
    assert gone is not None
    assert gone.time_ns != first.time_ns


def test_the_number_of_agents_is_bounded() -> None:
    book = StatusBook()
    for n in range(status.MAX_AGENTS + 10):
        book.change(f"coloprobe/v1/a{n}/status", message("online"), retained=True, now_ns=NOW)
    assert len(book._known) == status.MAX_AGENTS


@given(
    payload=st.one_of(
        st.binary(),
        st.recursive(
            st.none() | st.integers() | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        )
        .map(json.dumps)
        .map(str.encode),
        st.fixed_dictionaries(
            {"state": st.sampled_from(["online", "offline"]), "since": st.text() | st.integers()}
        )
        .map(json.dumps)
        .map(str.encode),
        st.just(b"[" * 4000),
    )
)
def test_whatever_comes_is_an_event_or_nothing(payload: bytes) -> None:
    change(StatusBook(), payload)


@pytest.mark.parametrize("key", ["since", "version"])
def test_half_a_character_is_none(key: str) -> None:
    # JSON can say it, UTF-8 cannot: what an agent wrote here ended every collector that heard it.
    payload = f'{{"state": "online", "{key}": "\\ud800"}}'.encode()
    assert change(StatusBook(), payload) is not None
