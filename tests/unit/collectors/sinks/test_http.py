"""What an HTTP answer means to a writer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors.sinks.http import MESSAGE_CHARACTERS, message, problem, retry_after_s
from probe.clock import SECOND
from probe.errors import SinkError, SinkRefused, SinkRejected, SinkTooLarge, SinkUnavailable

NOW = 1_790_000_000 * SECOND  # Mon, 21 Sep 2026 14:13:20 GMT
REMEDIES = {401: "check the token", 500: "check the policy"}


def answer(status: int, body: bytes = b"", **headers: str) -> SinkError | None:
    return problem(status, headers, body, remedies=REMEDIES, now_ns=NOW)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, SinkRejected),
        (422, SinkRejected),
        (413, SinkTooLarge),
        *[(status, SinkRefused) for status in (301, 401, 403, 404, 405, 411, 415)],
        *[(status, SinkUnavailable) for status in (408, 429, 500, 502, 503, 504, 599)],
    ],
)
def test_each_status_has_one_meaning(status: int, kind: type[SinkError]) -> None:
    failure = answer(status, b'{"error": "because"}')
    assert type(failure) is kind
    assert f"HTTP {status}: because" in str(failure)


def test_success_is_no_problem() -> None:
    assert answer(204) is None
    assert answer(200, b"whatever") is None


def test_a_refusal_names_the_remedy() -> None:
    assert str(answer(401)).endswith("check the token")
    assert "influx.url" in str(answer(405))


def test_a_missing_retention_policy_is_permanent_though_it_is_a_500() -> None:
    failure = answer(500, b'{"error":"retention policy not found: no"}')
    assert type(failure) is SinkRefused
    assert str(failure) == "HTTP 500: retention policy not found: no; check the policy"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0),
        ("120", 120),
        (" 7 ", 7),
        ("Mon, 21 Sep 2026 14:13:50 GMT", 30),
        ("Mon, 21 Sep 2026 14:13:50 -0000", 30),
        ("Mon, 21 Sep 2020 14:13:50 GMT", 0),
        ("soon", None),
        ("-5", None),
        ("", None),
        (None, None),
        ("9" * 400, 999_999_999),
        ("Mon, 21 Sep 99999999999999999999 14:13:50 GMT", None),
        ("Mon, 21 Sep 2026 14:13:50 +9999999999999999999", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str | None, seconds: float | None) -> None:
    assert retry_after_s(value, NOW) == seconds


def test_it_is_passed_on() -> None:
    failure = answer(429, b"", **{"Retry-After": "9"})
    assert isinstance(failure, SinkUnavailable)
    assert failure.retry_after_s == 9


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"error":"partial write: dropped=1"}\n', "partial write: dropped=1"),
        (b'{"code":"invalid","message":"no org"}', "no org"),
        (b"<html>\n  Bad   Gateway</html>", "<html> Bad Gateway</html>"),
        (b"\xff", "\ufffd"),
        (b"[" * 100_000, None),
        (b"", "(no explanation)"),
        (b'{"error":"half a character: \\ud800"}', "half a character: ?"),
    ],
)
def test_the_servers_words_in_one_bounded_line(body: bytes, text: str | None) -> None:
    said = message(body)
    assert text is None or said == text
    assert "\n" not in said
    assert len(said) <= MESSAGE_CHARACTERS


def test_a_long_explanation_keeps_its_end() -> None:
    said = message(b"partial write: " + b"x" * 5000 + b" dropped=1")
    assert said.startswith("partial write: ")
    assert said.endswith(" dropped=1")
    assert len(said) <= MESSAGE_CHARACTERS


@given(st.binary(), st.text())
def test_nothing_a_server_says_breaks_it(body: bytes, header: str) -> None:
    message(body)
    retry_after_s(header, NOW)
