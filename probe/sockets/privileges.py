"""A user name in, a process with CAP_NET_RAW and no other capability out, whose children may have it too.

Linux capabilities(7), through ctypes.
"""

from __future__ import annotations

import ctypes
import os
import pwd
from pathlib import Path

from probe.errors import UsageError

CAP_NET_RAW = 13
_PR_SET_KEEPCAPS, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 8, 24, 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE = 47, 2
_VERSION_3 = 0x20080522
_libc = ctypes.CDLL(None, use_errno=True)


def drop_privileges(user: str = "") -> None:
    """Keep CAP_NET_RAW where the process has it, give up every other capability, and leave uid 0 for `user`.

    Capabilities belong to a thread: call this before any thread is started. CAP_NET_RAW stays so that a
    changed settings
    file can open new sockets. Raises: UsageError where `user` does not exist or this process may not become
    it.
    """
    keep = permitted() & (1 << CAP_NET_RAW)
    if os.geteuid() == 0:
        for capability in range(64):
            if capability != CAP_NET_RAW and _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
                break  # past the last capability of this kernel, or not ours to drop
    if user:
        _become(user)
    _set(keep)
    _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def drop_everything() -> None:
    """Give up every capability, for good: for a process whose sockets are open. Raises: UsageError."""
    drop_privileges()
    _set(0)


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


def hand_on() -> bool:
    """Programs that the calling *thread* starts from now on have CAP_NET_RAW where the thread has it.

    Call it in a thread that ends when it has started them: only theirs shall be handed on. It takes nothing
    but the ambient set, so it works for any user and with no_new_privs. Returns whether they will have it.
    """
    held = permitted()
    wanted = held & (1 << CAP_NET_RAW)
    if not wanted:
        return False
    try:
        _set(held, inheritable=wanted)
    except UsageError:
        return os.geteuid() == 0
    # Where the ambient set is locked (SECBIT_NO_CAP_AMBIENT_RAISE), root's programs have it all the same.
    raised = _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, CAP_NET_RAW, 0, 0) == 0
    return raised or os.geteuid() == 0


def permitted() -> int:
    """The capabilities this thread may use, as a bit mask."""
    for line in Path("/proc/thread-self/status").read_text().splitlines():
        if line.startswith("CapPrm:"):
            return int(line.split()[1], 16)
    return 0


def _set(mask: int, inheritable: int = 0) -> None:
    """capset(2) of the calling thread: effective = permitted = `mask`."""
    header = (ctypes.c_uint32 * 2)(_VERSION_3, 0)
    low, high, passed = mask & 0xFFFFFFFF, mask >> 32, inheritable
    data = (ctypes.c_uint32 * 6)(low, low, passed & 0xFFFFFFFF, high, high, passed >> 32)
    if _libc.capset(header, data) != 0:
        raise UsageError(f"cannot give up capabilities: {os.strerror(ctypes.get_errno())}")
