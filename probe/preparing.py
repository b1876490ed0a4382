"""A process with all its privileges in, one that can do without them out: what has to be done before that."""

from __future__ import annotations

import os
import resource
from contextlib import suppress
from importlib import import_module
from pathlib import Path

from probe.errors import SettingsError
from probe.telemetry.mqtt import load_client

_LATE = ("concurrent.futures.thread", "encodings.idna")  # for asyncio.to_thread, for getaddrinfo
# Kinds of probe that changed settings may bring: 1.5 MB.
_KINDS = (
    *("probe.engine.handshake", "probe.engine.source_ports", "probe.sockets.syn_socket"),
    *("probe.engine.reflection", "probe.sockets.datagram"),
    *("probe.engine.connection", "probe.sockets.connecting"),
)
_DESCRIPTORS = 65_536


def load_late_imports() -> None:
    """Import what is otherwise imported late: the user that we become may not be able to read it any more,
    and root without its privileges nothing that belongs to others."""
    for name in (*_LATE, *(_KINDS if os.geteuid() == 0 else ())):
        import_module(name)
    load_client()


def most_descriptors() -> int:
    """How many files and sockets an agent may have open: as its hard limit allows, and no more than anybody
    needs."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)


def allow_descriptors() -> None:
    """Have this process use them.

    The soft limit is 1,024 nearly everywhere, for programs that use select(2): sockets for 64 flows of
    several classes of service, and the reserved ports of TCP, may be more.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < most_descriptors():
        resource.setrlimit(resource.RLIMIT_NOFILE, (most_descriptors(), hard))


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
            state.mkdir(0o700, parents=True)
            os.chown(state, account.pw_uid, account.pw_gid)
