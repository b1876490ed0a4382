"""One look at a whole batch: it lets in nothing that a look at each line would not."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collectors import validate
from collectors.grammar import Grammar
from probe.clock import SECOND
from probe.telemetry import lines, schema
from probe.telemetry.topics import BatchId

NOW = 1_790_000_000 * SECOND
KINDS = {"sent": "int", "loss": "float", "clock_synchronised": "bool", "text": "str"}
YEAR = 366 * 86_400 * SECOND
GRAMMAR = Grammar(frozenset(schema.MEASUREMENTS) - {"collector"}, KINDS, NOW + YEAR)
ID = BatchId("ny4-01", "9f2c41d0", 1)
LINE = (
    "probe,agent=ny4-01,site=NY4,target=a.b "
    f'sent=40i,loss=0.025,clock_synchronised=true,text="a, b=c" {NOW}\n'
)


def plain(text: str | bytes) -> bool:
    return GRAMMAR.read(text if isinstance(text, bytes) else text.encode()) is not None


def test_what_it_says_of_a_batch() -> None:
    other = LINE.replace("a.b", "c").replace(str(NOW), str(NOW + 5))
    found = GRAMMAR.read((LINE + other + LINE).encode())
    assert found is not None
    assert found.heads == {b"probe,agent=ny4-01,site=NY4,target=a.b", b"probe,agent=ny4-01,site=NY4,target=c"}
    assert (found.first, found.last, found.count) == (NOW, NOW, 3)
    found = GRAMMAR.read((LINE + other).encode())
    assert found is not None
    assert (found.first, found.last) == (NOW, NOW + 5)


VALUES = {
    "sent": ["1i", "-1i"],
    "loss": ["0.5", "1e-05", "-0.0", "1e+20"],
    "clock_synchronised": ["t", "True", "FALSE"],
    "text": ['"x\\"y\\\\"', '""'],
}


@pytest.mark.parametrize("field", [*KINDS, "unknown"])
def test_ordinary_values_are_plain_where_the_field_has_that_type(field: str) -> None:
    for kind, values in VALUES.items():
        for value in values:
            assert plain(f"probe,agent=ny4-01 {field}={value} {NOW}\n") == (kind == field)
            assert plain(f"probe,agent=ny4-01 sent=1i,{field}={value},loss=0.0 {NOW}\n") == (kind == field)


@pytest.mark.parametrize(
    "line",
    [
        "\n",
        LINE + "\n",
        LINE[:-1],
        LINE.replace("probe", "prob"),
        LINE.replace("probe", "collector"),
        LINE.replace("probe,", "probe"),
        LINE.replace("site=NY4", "agent=b"),
        LINE.replace("site=NY4", "agent=ny4-01"),
        LINE.replace("site=NY4", "age\\nt=b"),
        LINE.replace("site=NY4", "site=N\\ Y"),
        LINE.replace("site=NY4", "site=NY4\\"),
        LINE.replace("site=NY4", "site="),
        LINE.replace("site=NY4", "=x"),
        LINE.replace("site=NY4", "site=a=b"),
        LINE.replace("site=NY4", 'site="x'),
        LINE.replace("a.b", "a\rb"),
        LINE.replace("a.b", "a\0b"),
        LINE.replace("a, b=c", "a\nb"),
        LINE.replace("a, b=c", "a\\"),
        LINE.replace("a, b=c", 'a" b="c'),
        LINE.replace('c"', "c"),
        LINE.replace("40i", "1234567890123456789i"),
        LINE.replace("40i", "nan"),
        LINE.replace("0.025", "1e999"),
        LINE.replace(str(NOW), "2790000000000000000"),
        LINE.replace(str(NOW), "1990000000000000000"),
        LINE.replace(str(NOW), str(NOW + YEAR + 1)),
        LINE.replace(str(NOW), "179000000000000000"),
        LINE.replace(f" {NOW}", ""),
        LINE.replace(f" {NOW}", f"  {NOW}"),
        LINE.replace("\n", " \n"),
    ],
)
def test_anything_else_takes_a_closer_look(line: str) -> None:
    assert not plain(line)
    assert not plain(LINE + line + LINE)


@pytest.mark.parametrize("latest", [NOW + YEAR, 10**18 + 10**17, 18 * 10**17, 1_999 * 10**15 + 5, 3 * 10**18])
def test_times_are_plain_up_to_some_months_before_the_latest(latest: int) -> None:
    grammar = Grammar(["probe"], KINDS, latest)
    unit = 10**16

    def good(time: int) -> bool:
        return grammar.read(f"probe,agent=a sent=1i {time}\n".encode()) is not None

    last = min(latest, 2 * 10**18) // unit * unit - 1
    for time in (*range(10**18, last, 7 * unit + 1), last):
        assert good(time)
    for wrong in (last + 1, max(latest, last + 1), latest + unit, 2 * 10**18, 10**18 - 1, 0):
        assert not good(wrong)


def test_nothing_is_no_batch() -> None:
    assert not plain("")


@pytest.mark.parametrize(
    "key", ["a", "ag", "age", "agen", "agents", "agent2", "bagent", "agenu", "xgent", "Agent", "agent.x"]
)
def test_tags_that_only_resemble_the_agents_are_plain(key: str) -> None:
    assert plain(f"probe,agent=ny4-01,{key}=b sent=1i {NOW}\n")
    assert not plain(f"probe,agent=ny4-01,{key}=b,agent=c sent=1i {NOW}\n")


def pieces() -> st.SearchStrategy[str]:
    special = [
        ",",
        "=",
        " ",
        "\\",
        '"',
        "\n",
        "\r",
        "agent=",
        ",agent=b",
        "i",
        "1",
        f" {NOW}\n",
        "probe,agent=ny4-01",
    ]
    return st.sampled_from(special) | st.text(max_size=3)


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 12), pieces()), max_size=4), st.integers(1, 3))
@settings(max_examples=600, deadline=None)
def test_what_is_plain_is_good_line_by_line(edits: list[tuple[int, int, str]], copies: int) -> None:
    text = LINE * copies
    for at, length, piece in edits:
        text = text[:at] + piece + text[at + length :]
    data = text.encode(errors="replace")
    found = validate._plain(ID, data, NOW, None) if data.isascii() else None
    if found is not None:
        judged = validate._by_line(ID, data.decode(), NOW, None)
        assert judged.bad == ()
        assert (judged.count, judged.newest_ns, judged.body) == (*found, data)


def test_it_takes_linear_time_whatever_the_text() -> None:
    """A hostile text of the largest size would hang a backtracking expression; here it is just refused."""
    for hostile in ("," * 250_000, "probe,agent=a" + ",a=a" * 60_000, 'probe,agent=a x="' + '\\"' * 120_000):
        assert not plain(hostile)


def test_random_lines_of_the_real_encoder_are_plain() -> None:
    rng = random.Random(5)
    for _ in range(300):
        fields: dict[str, lines.Value] = {
            "sent": rng.randint(-(10**17), 10**17),
            "loss": rng.random() * 10 ** rng.randint(-30, 30),
            "clock_synchronised": rng.random() < 0.5,
            "text": "".join(rng.choices('ab \\",=', k=5)),
        }
        series = lines.series_text("probe", {"agent": "ny4-01", "target": f"t{rng.randint(0, 99)}"})
        assert plain(lines.encode(series, fields, NOW) + "\n"), fields
