"""A file in, the key of STAMP's authenticated mode out."""

from __future__ import annotations

from pathlib import Path

from probe.errors import UsageError

LEAST = 16  # bytes: less than an HMAC's own length makes it weaker than it looks
_MOST = 4096


def read_key(path: str | Path) -> bytes:
    """The bytes of the file without the line end. Both ends need the same; text or binary is alike.

    Raises: UsageError, naming the file and what it has to hold.
    """
    try:
        with Path(path).open("rb") as file:
            key = file.read(_MOST + 1)
    except OSError as problem:
        raise UsageError(f"{path}: the key cannot be read: {problem.strerror}") from None
    key = key.removesuffix(b"\n").removesuffix(b"\r")
    if not LEAST <= len(key) <= _MOST:
        held = f"more than {_MOST}" if len(key) > _MOST else str(len(key))
        raise UsageError(
            f"{path}: holds {held} bytes (allowed: a key of {LEAST} to {_MOST}; make one with: "
            "openssl rand -hex 32)"
        )
    return key
