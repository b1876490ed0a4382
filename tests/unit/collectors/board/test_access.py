"""Who sees the board: heads of requests in, verdicts out."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors.board import access
from collectors.board.access import ATTEMPTS, MINUTE, Access, Head, Refusal, Token
from probe.errors import UsageError

TOKEN = Token("a-token-of-some-length", b"key", own=True)
LINK = f"token={TOKEN.text}"


def head(
    path: str = "/",
    query: str = "",
    *,
    method: str = "GET",
    client: str = "192.0.2.7",
    secure: bool = False,
    **headers: str,
) -> Head:
    return Head(method, path, query, headers, client, secure)


def guarded() -> Access:
    return Access(TOKEN, "c")


def cookie(judge: Access) -> str:
    """What a browser shows after it has opened the link."""
    answer = judge.judge(head(query=LINK), 0)
    assert answer is not None
    return dict(answer.headers)["Set-Cookie"].partition(";")[0]


def status(verdict: Refusal | None) -> int:
    return verdict.status if verdict else 200


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        *(
            (host, 200)
            for host in ("127.0.0.1:8080", "localhost:8080", "[::1]:8080", "LocalHost.", "127.9.9.9")
        ),
        *((host, 200) for host in ("app.localhost:1", "127.255.0.1:80")),
        *(
            (host, 421)
            for host in ("evil.example:8080", "192.0.2.1", "", "localhost.evil.example", "[", "0.0.0.0")
        ),
        *(
            (host, 421)
            for host in ("127.0.0.1@evil.example", "127.0.0.1.evil.example", "evil.example/127.0.0.1")
        ),
    ],
)
def test_a_board_on_loopback_answers_to_its_own_names_only(host: str, expected: int) -> None:
    for method in ("GET", "POST", "WEBSOCKET"):
        assert status(Access(None, "c").judge(head(method=method, host=host), 0)) == expected
    assert status(Access(None, "c").judge(head(), 0)) == 421  # it named none


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        ("http://127.0.0.1:8080", 200),
        ("http://localhost:9", 200),
        ("http://evil.example", 403),
        ("null", 403),
    ],
)
def test_pages_from_elsewhere_do_not_talk_to_a_board_on_loopback(origin: str, expected: int) -> None:
    asked = head("/_nicegui_ws/socket.io/", method="WEBSOCKET", host="127.0.0.1:8080", origin=origin)
    assert status(Access(None, "c").judge(asked, 0)) == expected


def test_with_a_token_everything_needs_it_but_the_sign_of_life() -> None:
    judge = guarded()
    for method in ("GET", "POST", "HEAD", "WEBSOCKET"):
        for path in (
            "/",
            "/board/board.js",
            "/_nicegui/3/static/nicegui.js",
            "/_nicegui_ws/socket.io/",
            "//healthz",
        ):
            assert status(judge.judge(head(path, method=method, host="127.0.0.1"), 0)) == 401
    assert judge.judge(head("/healthz"), 0) is None


def test_the_link_becomes_a_cookie_and_leaves_the_address() -> None:
    judge = guarded()
    answer = judge.judge(head("/", f"target=gw+a&{LINK}&span=1+h"), 0)
    assert answer is not None
    headers = dict(answer.headers)
    assert (answer.status, headers["Location"]) == (303, "/?target=gw+a&span=1+h")
    assert headers["Set-Cookie"].endswith("; Path=/; Max-Age=31536000; HttpOnly; SameSite=Strict")
    assert TOKEN.text not in repr(answer)
    shown = cookie(judge)
    for method in ("GET", "POST", "WEBSOCKET"):
        assert judge.judge(head(method=method, cookie=f"other=1; {shown}"), 0) is None
    # The same link again: it works, and leaves the address again. By https the cookie stays there.
    again = judge.judge(head(query=LINK, cookie=shown, secure=True), 0)
    assert again is not None
    assert dict(again.headers)["Location"] == "/"
    assert dict(again.headers)["Set-Cookie"].endswith("; Secure")


@pytest.mark.parametrize("path", ["//evil.example/x", "/\\evil.example", "///evil.example"])
def test_the_link_leads_nowhere_else(path: str) -> None:
    answer = guarded().judge(head(path, LINK), 0)
    assert answer is not None
    location = dict(answer.headers)["Location"]
    assert location.startswith("/")
    assert not location.startswith(("//", "/\\"))


def test_a_program_shows_the_token_in_a_header() -> None:
    judge = guarded()
    assert judge.judge(head(authorization=f"Bearer {TOKEN.text}"), 0) is None
    assert judge.judge(head(method="WEBSOCKET", authorization=f"bearer {TOKEN.text}"), 0) is None
    assert status(judge.judge(head(authorization=f"Basic {TOKEN.text}"), 0)) == 401


@pytest.mark.parametrize(
    "shown",
    [
        {"cookie": "c="},
        {"cookie": "c=" + "0" * 64},
        {"cookie": f"c={TOKEN.text}"},
        {"cookie": "c=\xff\xfe; \x00"},
        {"cookie": "d=1; c"},
        {"authorization": "Bearer"},
        {"authorization": "Bearer wrong"},
        {"authorization": "Bearer \xff"},
        {"query": "token="},
        {"query": "token=wrong&token=" + TOKEN.text},
        {"query": "token=%ff%fe"},
        {"query": LINK, "method": "POST"},
        {"query": LINK, "method": "WEBSOCKET"},
    ],
)
def test_nothing_else_opens_it(shown: dict[str, str]) -> None:
    assert status(guarded().judge(head(**shown), 0)) == 401  # type: ignore[arg-type]


def test_cookies_are_good_for_one_token_and_one_board() -> None:
    shown = cookie(guarded())
    for other in (Token("another-token-as-long", b"key"), Token(TOKEN.text, b"another board's key")):
        assert status(Access(other, "c").judge(head(cookie=shown), 0)) == 401
    assert guarded().judge(head(cookie=shown), 0) is None  # started again


def test_guesses_are_few_a_minute_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    judge = guarded()
    guess = head(query="token=guess")
    viewer = head(cookie=cookie(judge))
    assert [status(judge.judge(guess, n)) for n in range(ATTEMPTS + 3)] == [401] * ATTEMPTS + [429] * 3
    assert status(judge.judge(head(query=LINK), 0)) == 429  # not even looked at
    # Others, and who has been let in before, see nothing of that.
    assert judge.judge(viewer, 0) is None
    assert status(judge.judge(head(query=LINK, client="192.0.2.8"), 0)) == 303
    assert status(judge.judge(head(query=LINK), MINUTE)) == 303
    assert [status(judge.judge(guess, MINUTE)) for _ in range(ATTEMPTS + 1)] == [401] * ATTEMPTS + [429]
    (record,) = caplog.records
    assert (record.levelno, record.getMessage()) == (
        logging.WARNING,
        "a wrong token from 192.0.2.7 (told once)",
    )


def test_many_addresses_cost_no_memory(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "coloprobe.board")
    judge = guarded()
    for n in range(access.ADDRESSES + ATTEMPTS):
        judge.judge(head(query="token=guess", client=f"10.0.{n >> 8}.{n & 255}"), 0)
    assert len(judge._failures) == access.ADDRESSES + 1
    assert status(judge.judge(head(query=LINK, client="10.9.9.9"), 1)) == 429  # they share one account
    assert status(judge.judge(head(query=LINK, client="10.9.9.9"), MINUTE)) == 303
    # One host of IPv6 has more addresses than that.
    for n in range(ATTEMPTS):
        judge.judge(head(query="token=guess", client=f"2001:db8::{n:x}"), MINUTE)
    assert status(judge.judge(head(query=LINK, client="2001:db8::ffff"), MINUTE)) == 429


def test_a_token_is_made_once_and_is_its_owners_alone(tmp_path: Path) -> None:
    first, again = (access.token(tmp_path, None) for _ in range(2))
    assert first == again
    assert len(first.text) >= 32
    assert first.text not in repr(first)
    file = tmp_path / "board.token"
    assert file.stat().st_mode & 0o777 == 0o600
    assert access.token(tmp_path, "sixteen-letters!").own


def test_a_token_that_others_could_read_is_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = access.token(tmp_path, None)
    file = tmp_path / "board.token"
    file.chmod(0o644)
    second = access.token(tmp_path, None)
    assert second.text != first.text
    assert file.stat().st_mode & 0o777 == 0o600
    assert f"{file}: others may read it (mode 0644); a new token was made" in caplog.text
    file.write_text("short")
    assert len(access.token(tmp_path, None).text) >= 32
    assert "it holds no token" in caplog.text
    assert first.text not in caplog.text + second.text


@pytest.mark.parametrize("own", ["fifteen-letters", "a space is no good", "sixteen-lettersé", ""])
def test_a_token_of_ones_own_has_to_be_one(tmp_path: Path, own: str) -> None:
    with pytest.raises(UsageError, match=r"16 characters or more.*openssl rand"):
        access.token(tmp_path, own)


def test_a_token_that_cannot_be_kept_is_told(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(UsageError, match=r"cannot keep the board's token in .*: Not a directory"):
        access.token(file, None)


BYTES = st.text(st.characters(max_codepoint=255), max_size=60)  # a header as it arrives, Latin-1
TEXTS = st.text(max_size=40).filter(lambda text: text.isprintable())


@given(
    st.fixed_dictionaries(
        {},
        optional={
            name: BYTES
            | st.sampled_from([f"c={TOKEN.text}", f"Bearer {TOKEN.text}x", "c", "Bearer", "127.0.0.1"])
            for name in ("host", "origin", "cookie", "authorization")
        },
    ),
    st.sampled_from(["GET", "POST", "HEAD", "WEBSOCKET", "BREW"]),
    TEXTS,
    TEXTS | TEXTS.map(lambda text: f"token={text}"),
    TEXTS,
)
def test_no_other_request_gets_in_or_breaks_it(
    headers: dict[str, str], method: str, path: str, query: str, client: str
) -> None:
    judge = guarded()
    asked = Head(method, f"/x{path}", query, headers, client)
    assert status(judge.judge(asked, 0)) in (401, 429)
    assert status(Access(None, "c").judge(asked, 0)) in (200, 403, 421)


def test_hostile_cookies_take_linear_time() -> None:
    # http.cookies takes 15 s for this, and the event loop with it; nobody needs a token to send it.
    assert status(guarded().judge(head(cookie='c="' + "\\" * 2_000_000 + '"'), 0)) == 401


def test_the_cookie_is_found_among_others() -> None:
    judge = guarded()
    assert status(judge.judge(head(cookie=f"a=b; c=wrong;{cookie(judge)} ; c"), 0)) == 200
