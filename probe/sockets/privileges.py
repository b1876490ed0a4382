"""A user name in, a process with CAP_NET_RAW and no other capability out (Linux capabilities(7), through
ctypes)."""

from __future__ import annotations

import ctypes
import os
import pwd
from pathlib import Path

from probe.errors import UsageError

CAP_NET_RAW = 13
_PR_SET_KEEPCAPS, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 8, 24, 38
_VERSION_3 = 0x20080522
_libc = ctypes.CDLL(None, use_errno=True)


def drop_privileges(user: str = "") -> None:
    """Keep CAP_NET_RAW where the process has it, give up every other capability, and leave uid 0 for `user`.

    Capabilities belong to a thread: call this before any thread is started. CAP_NET_RAW stays so that a
    changed settings
    file can open new sockets. Raises: UsageError where `user` does not exist or this process may not become
    it.
    """
    held = permitted()
    keep = held & (1 << CAP_NET_RAW)
    if os.geteuid() == 0:
        for capability in range(64):
            if capability != CAP_NET_RAW and _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
                break  # past the last capability of this kernel, or not ours to drop
    if user:
        _become(user)
    _set(keep)
    _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def _become(user: str) -> None:
    try:
        account = pwd.getpwnam(user)
    except KeyError:
        raise UsageError(
            f"agent.user: no user {user!r} on this host (create it, or leave the key out)"
        ) from None
    if account.pw_uid == os.geteuid():
        return
    _libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0)
    try:
        os.setgroups([])
        os.setresgid(account.pw_gid, account.pw_gid, account.pw_gid)
        os.setresuid(account.pw_uid, account.pw_uid, account.pw_uid)
    except PermissionError:
        raise UsageError(
            f"agent.user: only root can become {user!r} (start as root, or leave the key out)"
        ) from None


def permitted() -> int:
    """The capabilities this thread may use, as a bit mask."""
    for line in Path("/proc/thread-self/status").read_text().splitlines():
        if line.startswith("CapPrm:"):
            return int(line.split()[1], 16)
    return 0


def _set(mask: int) -> None:
    """capset(2): effective = permitted = `mask`, inheritable = none."""
    header = (ctypes.c_uint32 * 2)(_VERSION_3, 0)
    low, high = mask & 0xFFFFFFFF, mask >> 32
    data = (ctypes.c_uint32 * 6)(low, low, 0, high, high, 0)
    if _libc.capset(header, data) != 0:
        raise UsageError(f"cannot give up capabilities: {os.strerror(ctypes.get_errno())}")
