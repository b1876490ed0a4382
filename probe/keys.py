"""A file in, the key of authenticated STAMP out; and of any secret's file, whether everybody may open it."""

from __future__ import annotations

from pathlib import Path

from probe.errors import SocketError, UsageError

_MOST = 4096


def read_key(path: str | Path) -> bytes:
    """The file's bytes without white space at their ends: what both ends of a session have to share.

    Raises: SocketError, naming the file and what it has to hold.
    """
    try:
        with Path(path).open("rb") as file:
            key = file.read(_MOST + 1).strip()
    except OSError as problem:
        raise SocketError(f"cannot read key_file {path}: {problem.strerror}") from None
    if not key:
        raise SocketError(f"key_file {path} is empty (make a key with: openssl rand -hex 32)")
    if len(key) > _MOST:
        raise SocketError(f"key_file {path} is no key: it has more than {_MOST} bytes")
    return key


def read_key_option(path: str | Path) -> bytes:
    """The same for the command line's `--key-file`. Raises: UsageError."""
    try:
        return read_key(path)
    except SocketError as problem:
        raise UsageError(str(problem).replace("key_file", "--key-file", 1)) from None


def exposed(path: str | Path) -> tuple[str, str] | None:
    """What is wrong with the mode of a secret's file, and what to do; None: nothing, or it is not there."""
    try:
        mode = Path(path).stat().st_mode & 0o777
    except OSError:  # who wants to read it says so
        return None
    if not mode & 0o006:
        return None
    do = "read" if mode & 0o004 else "change"
    return (
        f"everybody on this host may {do} {path} (mode {mode:04o})",
        f"chmod 600 {path} (640 where the service reads it by its group)",
    )
