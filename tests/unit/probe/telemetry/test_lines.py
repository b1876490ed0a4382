"""Points in, line protocol out, and back: nothing is lost, and no text does more than be refused."""

from __future__ import annotations

import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.errors import LineError
from probe.telemetry.lines import (
    Point,
    check,
    encode,
    field_text,
    join,
    kinds,
    parse,
    parse_many,
    series_text,
    tag_text,
)

# Names that have to come back as they went: without line ends, which no line can hold, and without
# backslashes, which line protocol cannot write at the end of a name.
NAMES = st.text(
    st.characters(blacklist_characters="\n\r\\", blacklist_categories=["Cs"]), min_size=1, max_size=20
)
TEXTS = st.text(st.characters(blacklist_characters="\n\r", blacklist_categories=["Cs"]), max_size=30)
INTEGERS = st.integers(-(1 << 63), (1 << 63) - 1)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.one_of(INTEGERS, FLOATS, st.booleans(), TEXTS)
TIMES = st.integers(0, (1 << 63) - 1)


@given(
    NAMES,
    st.dictionaries(NAMES, NAMES, max_size=4),
    st.dictionaries(NAMES, VALUES, min_size=1, max_size=4),
    TIMES,
)
def test_a_point_comes_back(
    measurement: str, tags: dict[str, str], fields: dict[str, int | float | bool | str], time_ns: int
) -> None:
    line = encode(series_text(measurement, tags), fields, time_ns)
    assert "\n" not in line
    back = parse(line)
    assert back == Point(measurement, tags, fields, time_ns)
    assert [type(value) for value in back.fields.values()] == [type(value) for value in fields.values()]
    check(line)
    assert list(parse_many(join([line, line]).decode())) == [back, back]


def outcome(line: str) -> Point | None:
    """The point; None where LineError says that it is none. Anything else fails the test."""
    with contextlib.suppress(LineError):
        return parse(line)
    return None


def agrees(line: str) -> None:
    point = outcome(line)
    try:
        check(line)
    except LineError:
        assert point is None
    else:
        assert point is not None


@given(st.text(max_size=200))
def test_any_text_is_a_line_or_a_line_error(text: str) -> None:
    agrees(text)


@given(st.text(alphabet='a=, "\\\n1itTf.-+e', max_size=60))
def test_any_text_of_separators_is_too(text: str) -> None:
    agrees(text)


@given(st.integers(0, 80), st.text(alphabet='a=, "\\\n1i', min_size=1, max_size=3))
def test_a_line_with_something_put_into_it_is_too(where: int, what: str) -> None:
    line = 'probe,agent=ny4-01,target=cme\\ a sent=40i,loss=0.5,text="a \\"b" 1700000000000000000'
    agrees(line[:where] + what + line[where:])


@given(st.text(max_size=30), st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=3))
def test_whatever_a_tag_is_made_of_the_line_is_one_line(measurement: str, tags: dict[str, str]) -> None:
    line = encode(series_text("m" + measurement, {**tags, "agent": "a"}), {"x": 1}, 5)
    assert "\n" not in line
    assert parse(line).time_ns == 5
    assert parse(line).fields == {"x": 1}
    assert parse(line).tags["agent"] == "a"


@given(st.text(max_size=40))
def test_whatever_a_text_field_holds_the_line_is_one_line(text: str) -> None:
    line = encode("event", {"text": text, "x": 1}, 5)
    assert parse(line).fields == {"text": text.replace("\n", " ").replace("\r", ""), "x": 1}


def test_the_shape_of_a_line() -> None:
    series = series_text("probe", {"venue": "CME", "target": "a, b=c", "agent": "ny4-01", "line": ""})
    line = encode(series, {"sent": 40, "loss": 0.0, "ok": True, "no": False, "text": 'a "b" \\'}, 17)
    head = r"probe,agent=ny4-01,target=a\,\ b\=c,venue=CME"
    assert line == head + r' sent=40i,loss=0.0,ok=true,no=false,text="a \"b\" \\" 17'


def test_a_batch_is_utf_8_and_every_line_ends() -> None:
    assert join(["a x=1i 1", "µ x=1i 1"]) == b"a x=1i 1\n\xc2\xb5 x=1i 1\n"
    assert join([]) == b""


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_line_protocol_cannot_say(value: float) -> None:
    with pytest.raises(LineError, match="has no place in line protocol"):
        field_text(value)


@pytest.mark.parametrize("value", [1 << 63, -(1 << 63) - 1])
def test_an_integer_past_64_bits(value: int) -> None:
    with pytest.raises(LineError, match="does not fit into 64 bits"):
        field_text(value)


def test_a_point_without_a_field() -> None:
    with pytest.raises(LineError, match=r"^probe: a point needs a field$"):
        encode("probe", {}, 1)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("", "no measurement and tags before the first space: ''"),
        ("probe", "no measurement and tags before the first space: 'probe'"),
        ("probe,agent sent=1i 1", "no measurement and tags before the first space: 'probe,agent sent=1i 1'"),
        (
            "probe,agent= sent=1i 1",
            "no measurement and tags before the first space: 'probe,agent= sent=1i 1'",
        ),
        ("probe sent 1", "no field=value after the tags: 'probe sent 1'"),
        ("probe sent= 1", "no field=value after the tags: 'probe sent= 1'"),
        ("probe sent=1i", "no timestamp: 'probe sent=1i'"),
        ("probe sent=1i ", "no timestamp: 'probe sent=1i '"),
        ("probe sent=1i x", "not a field or timestamp at character 13: 'probe sent=1i x'"),
        ("probe sent=1i,lost 1", "not a field or timestamp at character 13: 'probe sent=1i,lost 1'"),
        ("probe sent=1i 1.5", "not a field or timestamp at character 13: 'probe sent=1i 1.5'"),
        ("probe sent=1i 1\n", "not a field or timestamp at character 13: 'probe sent=1i 1\\n'"),
    ],
)
def test_the_complaint_says_where(line: str, complaint: str) -> None:
    with pytest.raises(LineError) as caught:
        parse(line)
    assert str(caught.value) == complaint
    with pytest.raises(LineError) as caught:
        check(line)
    assert str(caught.value) == complaint


def test_a_complaint_about_a_long_line_is_short() -> None:
    with pytest.raises(LineError) as caught:
        parse("x" * 100_000)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1i", 1),
        ("-1i", -1),
        ("1u", 1),
        ("1", 1.0),
        ("1.", 1.0),
        (".5", 0.5),
        ("-1.5e-3", -0.0015),
        ("t", True),
        ("FALSE", False),
    ],
)
def test_fields_as_they_stand_have_their_types(text: str, value: float) -> None:
    names = {int: "int", float: "float", bool: "bool"}
    kind = "uint" if text.endswith("u") else names[type(value)]
    assert kinds(f'm f={text},g="a,f=1i",f={text} 1') == [("f", kind), ("g", "str"), ("f", kind)]


def test_a_line_that_is_none_has_no_fields() -> None:
    with pytest.raises(LineError):
        kinds("m f= 1")


@pytest.mark.parametrize(
    ("text", "value"),
    [("1i", 1), ("-1i", -1), ("1u", 1), ("1", 1.0), ("1.", 1.0), (".5", 0.5), ("t", True), ("FALSE", False)],
)
def test_what_other_writers_write_is_understood(text: str, value: float) -> None:
    got = parse(f"m f={text} 1").fields["f"]
    assert (got, type(got)) == (value, type(value))


@pytest.mark.parametrize(
    "text", ["9223372036854775808i", "-9223372036854775809i", "18446744073709551616u", "9" * 5000 + "i"]
)
def test_an_integer_that_no_sink_can_hold_is_no_value(text: str) -> None:
    with pytest.raises(LineError):
        parse(f"m f={text} 1")


def test_a_timestamp_past_64_bits_is_none() -> None:
    with pytest.raises(LineError):
        parse("m f=1i 9999999999999999999")


@pytest.mark.parametrize("text", ["\u0661i", "1e999", "-1e999"])
def test_a_number_that_is_none_elsewhere_is_none_here(text: str) -> None:
    with pytest.raises(LineError):
        parse(f"m f={text} 1")


@pytest.mark.parametrize("fill", ["\\", "a=", '"', ",a=b", "a\\ ", "1", "a=1,"])
def test_hostile_text_takes_linear_time(fill: str) -> None:
    # Quadratic or worse would not end within the run.
    outcome("m " + fill * (200_000 // len(fill)))
    outcome("m,a=" + fill * (200_000 // len(fill)))
    outcome("m a=" + fill * (200_000 // len(fill)))
    outcome("m a=1." + fill * (200_000 // len(fill)))


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("NY4", "NY4"),
        ("a\\b", "a\\b"),
        ("a\\\\b", "a\\\\b"),
        ("a\\", "a"),
        ("a\\,b", "a\\,b"),
        ("a\\\\ b", "a\\ b"),
        ("a\\\nb", "a\\ b"),
        ("a\\\r,b", "a\\,b"),
        ("a\r\nb", "a\\ b"),
        ("\\", ""),
    ],
)
def test_a_backslash_in_a_tag_never_swallows_a_separator(text: str, written: str) -> None:
    assert tag_text(text) == written


def test_a_tag_without_a_name_or_value_is_left_out() -> None:
    assert series_text("m", {"": "x", "a": "", "\\": "x", "b": "\\"}) == "m"


def test_text_that_utf_8_cannot_say_does_not_stop_a_batch() -> None:
    assert join(['m x="\ud800" 1']) == b'm x="?" 1\n'


@pytest.mark.parametrize(
    "text",
    ["123456789012345678i", "9223372036854775807i", "-9223372036854775808i", "1e+300", "0.30000000000000004"],
)
def test_long_numbers_that_fit_are_numbers(text: str) -> None:
    for line in (f"m f={text} 1", f"m f={text} 1700000000000000000", f"m f={text} 9223372036854775807"):
        check(line)
        assert parse(line).fields["f"] == float(text.rstrip("i")) or text.endswith("i")
