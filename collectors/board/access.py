"""The head of a request in, a pass or a refusal out: who may see the board. Pure but for the token's file.

On loopback nobody needs a token, but requests have to name loopback: a page from elsewhere whose name
suddenly means 127.0.0.1 (DNS rebinding) does not. With a token every request needs it: once in the link,
which turns it into a cookie, or as `Authorization: Bearer`. An address may guess a few times a minute.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from probe.clock import SECOND
from probe.errors import UsageError

TOKEN_FILE = "board.token"  # noqa: S105 - its name
SHORTEST = 16  # characters of a token
ATTEMPTS = 10  # wrong tokens a minute from one address; then none of its tokens is looked at
ADDRESSES = 1024  # that are remembered; those beyond share one account
COOKIE_S = 365 * 86_400
MINUTE = 60 * SECOND
_OWN = re.compile(r"[\x21-\x7e]+")

log = logging.getLogger("coloprobe.board")


@dataclass(frozen=True)
class Head:
    """What is known of a request before its body. Header names are in lower case."""

    method: str  # GET, ..., or WEBSOCKET
    path: str
    query: str
    headers: Mapping[str, str]
    client: str  # address
    secure: bool = False  # came by https


@dataclass(frozen=True)
class Refusal:
    """An answer in the board's place."""

    status: int
    text: str
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Token:
    """`text` is what viewers show; `key` makes cookies of it; `own`: somebody chose it."""

    text: str = field(repr=False)
    key: bytes = field(repr=False)
    own: bool = False


def token(folder: Path, own: str | None) -> Token:
    """The token of the board that keeps its state in `folder`; made once, so that links stay valid.

    Raises: UsageError (`own` is too short or no token, the file cannot be written).
    """
    if own is not None and (len(own) < SHORTEST or not _OWN.fullmatch(own)):
        raise UsageError(
            f"the board's token needs {SHORTEST} characters or more, letters, digits and signs of ASCII "
            "(make one with: openssl rand -hex 24)"
        )
    path = folder / TOKEN_FILE
    try:
        kept = _kept(path)
        if kept is None:
            kept = secrets.token_urlsafe(24)
            path.unlink(missing_ok=True)
            with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
                file.write(f"{kept}\n")
    except OSError as problem:
        raise UsageError(f"cannot keep the board's token in {path}: {problem.strerror}") from None
    return Token(own or kept, kept.encode(), own is not None)


def _kept(path: Path) -> str | None:
    if not path.exists():
        return None
    mode = path.stat().st_mode & 0o777
    kept = path.read_text(encoding="utf-8", errors="replace").strip()
    if mode & 0o077 or len(kept) < SHORTEST or not _OWN.fullmatch(kept):
        what = f"others may read it (mode {mode:04o})" if mode & 0o077 else "it holds no token"
        log.warning("%s: %s; a new token was made, older links are no longer valid", path, what)
        return None
    return kept


class Access:
    """Judges requests. Without a token it is a board on loopback."""

    def __init__(self, token: Token | None, cookie: str) -> None:
        """`cookie`: its name; one for each board of a host, whose ports browsers do not tell apart."""
        self._token = token
        self._cookie = cookie
        self._proof = (
            hmac.new(token.key, f"board:{token.text}".encode(), hashlib.sha256).hexdigest() if token else ""
        )
        self._failures: dict[str, tuple[int, int]] = {}  # address: since when (ns), how many

    def judge(self, head: Head, now: int) -> Refusal | None:
        """None: let it through. `now`: monotonic ns."""
        if head.path == "/healthz":  # says that something runs here, which the open port says as well
            return None
        if self._token is None:
            return _local(head)
        asked = [] if head.method == "WEBSOCKET" else parse_qsl(head.query, keep_blank_values=True)
        shown = [value for name, value in asked if name == "token"]
        clean = self._redirect(head, [(name, value) for name, value in asked if name != "token"])
        if self._has_cookie(head):
            return clean if shown and head.method == "GET" else None
        scheme, _, bearer = head.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            shown = [bearer.strip()]
        elif head.method != "GET":
            shown = []
        if not shown:
            return _unknown("This board asks for its token: open the link that coloprobe up printed.")
        if self._blocked(head.client, now):
            return Refusal(429, "Too many wrong tokens from your address.", (("Retry-After", "60"),))
        if not hmac.compare_digest(shown[0].encode(), self._token.text.encode()):
            self._failed(head.client, now)
            return _unknown("This is not the board's token.")
        return None if scheme.lower() == "bearer" else clean

    def _redirect(self, head: Head, rest: list[tuple[str, str]]) -> Refusal:
        """To the address without the token, which is neither kept in the history nor shown on the screen."""
        where = quote("/" + head.path.lstrip("/")) + (f"?{urlencode(rest)}" if rest else "")
        cookie = f"{self._cookie}={self._proof}; Path=/; Max-Age={COOKIE_S}; HttpOnly; SameSite=Strict"
        more = "; Secure" if head.secure else ""
        return Refusal(303, "", (("Location", where), ("Set-Cookie", cookie + more)))

    def _has_cookie(self, head: Head) -> bool:
        # Not by http.cookies: until Python 3.11.10 and 3.12.6 hostile quotes cost it quadratic time.
        cookies = (cookie.partition("=") for cookie in head.headers.get("cookie", "").split(";"))
        shown = [value.strip() for name, _, value in cookies if name.strip() == self._cookie]
        return any(hmac.compare_digest(value.encode(), self._proof.encode()) for value in shown)

    def _blocked(self, client: str, now: int) -> bool:
        since, count = self._failures.get(self._account(client), (now, 0))
        return count >= ATTEMPTS and now - since < MINUTE

    def _failed(self, client: str, now: int) -> None:
        if len(self._failures) >= ADDRESSES:
            self._failures = {who: known for who, known in self._failures.items() if now - known[0] < MINUTE}
        account = self._account(client)
        since, count = self._failures.get(account, (now, 0))
        if not count:
            log.warning("a wrong token from %s (told once)", client[:64])
        elif now - since >= MINUTE:
            since, count = now, 0
        self._failures[account] = since, count + 1

    def _account(self, client: str) -> str:
        """One for an IPv4 address, or for the network that an IPv6 host may choose its addresses in."""
        try:
            address = ipaddress.ip_address(client.partition("%")[0])
        except ValueError:
            return ""
        if address.version == 6:
            address = address.ipv4_mapped or ipaddress.ip_address(int(address) >> 64 << 64)
        account = str(address)
        return account if account in self._failures or len(self._failures) < ADDRESSES else ""


def is_loopback(host: str) -> bool:
    """Whether a host's name or address is this host's own for itself."""
    host = host.lower().rstrip(".")
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _local(head: Head) -> Refusal | None:
    if not is_loopback(_host(f"//{head.headers.get('host', '')}")):
        return Refusal(
            421,
            "This board is for this host alone: open it by http://127.0.0.1 or localhost. To have it answer "
            "to other names, behind a proxy for example, set COLOPROBE_BOARD_TOKEN.",
        )
    if "origin" in head.headers and not is_loopback(_host(head.headers["origin"])):
        return Refusal(
            403, "A page from elsewhere asks for this board, and this board is for this host alone."
        )
    return None


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _unknown(text: str) -> Refusal:
    return Refusal(401, text, (("WWW-Authenticate", "Bearer"),))
