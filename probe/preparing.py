"""A process with all its privileges in, one that can do without them out: what has to be done before that."""

from __future__ import annotations

import os
from contextlib import suppress
from importlib import import_module
from pathlib import Path

from probe.errors import SettingsError
from probe.telemetry.mqtt import load_client


def load_late_imports() -> None:
    """Import what is otherwise imported late: the user that we become may not be able to read it any more."""
    for name in ("concurrent.futures.thread", "encodings.idna"):  # for asyncio.to_thread, for getaddrinfo
        import_module(name)
    load_client()


def own_state_dir(state: Path, user: str, file: str) -> None:
    """Make the state directory for the user that we become; one that exists stays whose it is.

    Raises: SettingsError (no such user).
    """
    if not user:
        return
    import pwd

    try:
        account = pwd.getpwnam(user)
    except KeyError:
        raise SettingsError(
            file, "agent.user", f"no user {user!r} on this host", "a user that exists, or none"
        ) from None
    if os.geteuid() == 0 and not state.exists():
        with suppress(OSError):  # opening the spool says what is wrong
            state.mkdir(parents=True)
            os.chown(state, account.pw_uid, account.pw_gid)
