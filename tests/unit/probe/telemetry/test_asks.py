"""Bytes in, questions and parts of answers out; whatever else they are, they are refused in words."""

from __future__ import annotations

import json
from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from probe.errors import AskError
from probe.telemetry import asks
from probe.telemetry.asks import Ask, Options

ID = "0123456789abcdef" * 2


def written(**more: object) -> bytes:
    return json.dumps({"id": ID, "what": "ping", "target": "gw", **more}).encode()


def test_a_question_comes_back_from_its_message() -> None:
    ask = Ask(id=asks.new_id(), what="ping", target="nyse-a", options=Options(count=5), who="ops@desk")
    assert json.loads(asks.encode(ask)) == {
        "id": ask.id,
        "what": "ping",
        "target": "nyse-a",
        "options": {"count": 5},
        "from": "ops@desk",
        "wait_ns": 10_000_000_000,
    }
    assert asks.parse(asks.encode(ask)) == ask
    assert asks.parse(asks.cancel(ID)) == Ask(id=ID, what="cancel")


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (b"", "not a question"),
        (b"\xff\xfe", "not a question"),
        (b"[" * 4000, "not a question"),
        (b"{" * 4000, "not a question"),
        (b'{"id":' * 600, "not a question"),
        (written(id="short"), "id"),
        (written(id=ID + "\n"), "id"),
        (written(what="reboot"), "what"),
        (written(shell="true"), "unknown field `shell`"),
        (written(**{"\x1b[2J\nroot asked": 1}), "unknown field `?[2J?root asked`"),
        (written(options={"argv": ["sh"]}), "unknown field `argv`"),
        (written(options={"count": 0}), "count"),
        (written(options={"count": 10**400}), "not a question"),
        (written(options={"count": True}), "count"),
        (written(options={"interval_ns": 1}), "interval_ns"),
        (written(options={"max_hops": 3}), "ping has no option max_hops"),
        (written(what="links"), "links has no target"),
        (written(target=""), "ping needs a target"),
        (written(target="x" * 301), "target"),
        (written(**{"from": "x" * 129}), "from"),
        (written(target="x" * 5000), "a question of 5072 bytes (allowed: at most 4096)"),
    ],
)
def test_what_is_no_question_is_refused(payload: bytes, words: str) -> None:
    with pytest.raises(AskError) as caught:
        asks.parse(payload)
    assert words in str(caught.value)
    assert caught.value.exit_status == 2
    assert len(str(caught.value)) < 300
    assert str(caught.value).isprintable()


def test_the_id_of_what_is_refused_is_known_where_it_can_be() -> None:
    assert asks.id_of(written(what="reboot", shell=[1])) == ID
    for payload in (b"", b"[" * 4000, written(id=5), written(id="x"), written(more="x" * 5000)):
        assert asks.id_of(payload) == ""


def test_an_answer_is_numbered_parts() -> None:
    parts = [
        asks.begun(ID, {"agent": "ny4-01"}),
        asks.lines(ID, 1, [b'{"flow":0}', b'{"flow": 1, "x": [{}]}']),
        asks.lines(ID, 2, []),
        asks.done(ID, 3, 1, "nobody there"),
    ]
    read = [msgspec.structs.astuple(part) for part in map(asks.parse_part, parts) if part is not None]
    assert read == [
        (ID, 0, {"agent": "ny4-01"}, [], False, 0, ""),
        (ID, 1, UNSET, [{"flow": 0}, {"flow": 1, "x": [{}]}], False, 0, ""),
        (ID, 2, UNSET, [], False, 0, ""),
        (ID, 3, UNSET, [], True, 1, "nobody there"),
    ]


@given(st.binary(max_size=200))
def test_any_bytes_are_a_question_or_refused_and_a_part_or_none(data: bytes) -> None:
    for payload in (data, b'{"id":"%b",%b}' % (ID.encode(), data)):
        with suppress(AskError):
            asks.parse(payload)
        asks.parse_part(payload)
        asks.id_of(payload)


@given(st.binary(max_size=60))
def test_what_passes_as_an_object_leaves_the_message_whole(line: bytes) -> None:
    if asks.is_object(line):
        part = asks.parse_part(asks.lines(ID, 1, [b'{"before":1}', line]))
        assert part is not None
        assert part.lines[0] == {"before": 1}
        assert len(part.lines) == 2


def test_text_of_others_moves_no_cursor() -> None:
    assert asks.plain("ops\x1b[2J\u202e\r\n@desk") == "ops?[2J???@desk"
    assert asks.plain("x" * 300, 10) == "xxxxxxx..."


def test_json_of_others_moves_no_cursor_and_stays_what_it_was() -> None:
    said = {"\x9b2J\x7f": "\x1b[31m\u202e\U000e0001 r\u00e9gion", "n": [1, None]}
    text = asks.json_line(said)
    assert text.isprintable()
    assert "r\u00e9gion" in text
    assert json.loads(text) == said
