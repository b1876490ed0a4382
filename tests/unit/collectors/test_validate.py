"""What is let in, what is set aside, and what is refused whole."""

from __future__ import annotations

import gzip
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors.series import SeriesBook
from collectors.validate import EARLIEST_NS, Batch, validate
from probe.clock import SECOND
from probe.errors import BatchError
from probe.telemetry.topics import BatchId

NOW = 1_790_000_000 * SECOND
TOPIC = "coloprobe/v1/ny4-01/lines/9f2c41d0/17"
GOOD = f"probe,agent=ny4-01,target=x sent=40i,loss=0.0 {NOW}"
LIMIT = 256 * 1024


def judge(payload: bytes | str, topic: str = TOPIC, limit: int = LIMIT, now: int = NOW) -> Batch:
    if isinstance(payload, str):
        payload = payload.encode()
    return validate(topic, payload, now_ns=now, max_bytes=limit)


def refusal(payload: bytes | str, topic: str = TOPIC, limit: int = LIMIT) -> str:
    with pytest.raises(BatchError) as caught:
        judge(payload, topic, limit)
    return caught.value.reason


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("end", ["", "\n", "\n\n\n"])
def test_a_good_batch_goes_on_as_it_is(pack: type[bytes], end: str) -> None:
    other = f"agent,agent=ny4-01,site=NY4 batch=17i {NOW - 5}"
    payload = pack(f"{other}\n{GOOD}{end}".encode())
    batch = judge(payload)
    assert batch.id == BatchId("ny4-01", "9f2c41d0", 17)
    assert batch.packed == (pack is gzip.compress and end == "\n")
    text = f"{other}\n{GOOD}\n".encode()
    assert batch.body == (payload if batch.packed else text)
    assert batch.text_bytes == len(text)
    assert (batch.count, batch.newest_ns, batch.bad) == (2, NOW, ())


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("rubbish", "measurement"),
        (f"prob,agent=ny4-01 sent=1i {NOW}", "measurement"),
        (f"collector,agent=ny4-01,collector=x batches=1i {NOW}", "measurement"),
        (f"probe sent=1i {NOW}", "measurement"),
        (f"probe,target=x sent=1i {NOW}", "does not begin with <measurement>,agent=ny4-01"),
        (f"probe,target=x,agent=ny4-01 sent=1i {NOW}", "does not begin with <measurement>,agent=ny4-01"),
        ("probe,agent=ny4-01 sent=1i", "no timestamp"),
        (f"probe,agent=ny4-01 {NOW}", "no field=value"),
        (f"probe,agent=ny4-01 sent=one {NOW}", "no field=value"),
        (f"probe,agent=ny4-01 sent=1i {NOW} ", "character"),
        (f"probe,agent=ny4-01 sent=1i {NOW}\r", "character"),
        ("probe,agent=ny4-01 sent=1i 5", "before 2000"),
        (f"probe,agent=ny4-01 sent=1i {NOW + 367 * 86_400 * SECOND}", "a year ahead"),
    ],
)
def test_one_bad_line_is_set_aside_and_the_rest_goes_on(line: str, reason: str) -> None:
    batch = judge(f"{GOOD}\n{line}\n{GOOD}\n")
    assert batch.body == f"{GOOD}\n{GOOD}\n".encode()
    assert batch.count == 2
    [bad] = batch.bad
    assert bad.text == line
    assert reason in bad.reason


@pytest.mark.parametrize(
    "line",
    [
        f"probe,agent=other sent=1i {NOW}",
        f"probe,agent=ny4-012 sent=1i {NOW}",
        f"probe,agent=ny4-01\\,x sent=1i {NOW}",
        f"probe,target=x,agent=other sent=1i {NOW}",
        f"probe,agent=ny4-01,agent=other sent=1i {NOW}",
        f"probe,agent=ny4-01,agent=ny4-01 sent=1i {NOW}",
        f"unheard-of,agent=other sent=1i {NOW}",
    ],
)
def test_a_line_of_another_agent_condemns_the_batch(line: str) -> None:
    assert refusal(f"{GOOD}\n{line}\n") == "foreign"


@pytest.mark.parametrize(
    ("measurement", "field", "kind"),
    [
        ("probe", "sent=1", "int"),
        ("probe", "sent=1.5", "int"),
        ("probe", 'sent="1"', "int"),
        ("probe", "sent=t", "int"),
        ("probe", "loss=1i", "float"),
        ("agent", "clock_synchronised=1i", "bool"),
        ("event", "text=1i", "str"),
        ("probe", "sent=1u", "int"),
        ("probe", 'sent="1",sent=1i', "int"),
        ("probe", 'sent=1i,sent="1"', "int"),
        ("probe", "newer=1i,newer=1", "int"),
        ("probe", "newer=1u", "int"),
    ],
)
def test_a_field_of_another_type_than_the_schema_says_is_set_aside(
    measurement: str, field: str, kind: str
) -> None:
    # Written first into a shard it would decide the type, and everybody's lines were rejected.
    line = f"{measurement},agent=ny4-01 {field} {NOW}"
    batch = judge(f"{GOOD}\n{line}\n{GOOD}\n")
    assert batch.count == 2
    [bad] = batch.bad
    assert bad.text == line
    assert bad.reason.startswith(f"its field {field.partition('=')[0]} is ")
    assert bad.reason.endswith(f", not {kind}")


def test_fields_that_the_schema_does_not_know_are_few() -> None:
    book = SeriesBook(10)
    many = "".join(f"probe,agent=ny4-01 new{n}=1i {NOW}\n" for n in range(1000))
    for _ in range(2):
        batch = validate(TOPIC, many.encode(), now_ns=NOW, max_bytes=LIMIT, series=book)
        assert (batch.count, len(batch.bad)) == (64, 1000 - 64)
        assert "64 fields that the schema does not have" in batch.bad[0].reason
    assert validate(TOPIC, GOOD.encode(), now_ns=NOW, max_bytes=LIMIT, series=book).count == 1


def test_a_field_that_the_schema_does_not_know_has_any_type() -> None:
    for value in ("1i", "1.5", "t", '"x"'):
        assert judge(f"probe,agent=ny4-01 sent=1i,newer={value} {NOW}").count == 1


def test_another_agents_name_inside_a_text_is_no_claim() -> None:
    line = f'event,agent=ny4-01,kind=path text="seen ,agent=other there" {NOW}'
    assert judge(line).count == 1


def test_times_up_to_a_year_ahead_are_let_in_and_are_not_the_newest() -> None:
    batch = judge(f"probe,agent=ny4-01 sent=1i {NOW + 300 * 86_400 * SECOND}\n{GOOD}\n")
    assert (batch.count, batch.newest_ns) == (2, NOW)
    assert judge(f"probe,agent=ny4-01 sent=1i {EARLIEST_NS}").count == 1


def test_a_collector_whose_clock_was_reset_still_lets_everybody_in() -> None:
    assert judge(GOOD, now=60 * SECOND).count == 1


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "empty"),
        (b"\n\n", "empty"),
        (gzip.compress(b""), "empty"),
        (b"\xff\xfe", "encoding"),
        (gzip.compress(b"\xff\xfe"), "encoding"),
        (gzip.compress(GOOD.encode())[:-1], "gzip"),
        (gzip.compress(GOOD.encode()) + b"x", "gzip"),
        (b"\x1f\x8b", "gzip"),
        (b"\x1f\x8bnothing of the kind", "gzip"),
        (b"x" * (LIMIT + 1), "oversized"),
        (gzip.compress(b"x" * (LIMIT + 1)), "oversized"),
    ],
)
def test_what_is_no_batch_is_refused(payload: bytes, reason: str) -> None:
    assert refusal(payload) == reason


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "x",
        "coloprobe/v1/ny4-01/lines",
        TOPIC + "/x",
        TOPIC.replace("17", "017"),
        TOPIC.replace("ny4", "NY4"),
    ],
)
def test_a_topic_that_names_no_batch_is_refused(topic: str) -> None:
    assert refusal(GOOD, topic) == "topic"


def test_a_batch_of_exactly_the_limit_is_let_in() -> None:
    assert judge(f"{GOOD}\n", limit=len(GOOD) + 1).count == 1
    assert refusal(f"{GOOD}\n", limit=len(GOOD)) == "oversized"


def test_a_zip_bomb_costs_no_more_than_a_batch() -> None:
    bomb = gzip.compress(b"\0" * (50 << 20))
    assert len(bomb) < LIMIT
    tracemalloc.start()
    assert refusal(bomb) == "oversized"
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * LIMIT


TOPICS = st.one_of(
    st.text(),
    st.just(TOPIC),
    st.from_regex(r"coloprobe/v1/[a-z]{1,9}/lines/[0-9a-f]{8}/[1-9]", fullmatch=True),
)
LINES = st.lists(
    st.one_of(st.text(), st.just(GOOD), st.text(alphabet='probe,agent=ny4-01 \\"i 1\n')), max_size=8
)
PAYLOADS = st.one_of(
    st.binary(),
    st.binary().map(lambda data: b"\x1f\x8b" + data),
    st.binary().map(gzip.compress),
    LINES.map(lambda lines: "\n".join(lines).encode(errors="replace")),
)


@given(topic=TOPICS, payload=PAYLOADS)
def test_whatever_comes_there_is_a_batch_or_a_reason(topic: str, payload: bytes) -> None:
    try:
        batch = validate(topic, payload, now_ns=NOW, max_bytes=2048)
    except BatchError as problem:
        reason = problem.reason
    else:
        reason = ""
        good = batch.body.decode().split("\n")[:-1]
        head = f",agent={batch.id.agent}"
        assert all(head in line for line in good)
        assert len(batch.body) + sum(len(line.text) for line in batch.bad) <= 2048 + 1
        assert batch.count + len(batch.bad) >= 1
    assert reason in {"", "topic", "oversized", "gzip", "encoding", "empty", "foreign"}
