"""What an agent does before it gives up its privileges."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from probe.preparing import allow_descriptors, most_descriptors

_LOADED = """
import os, sys
os.geteuid = lambda: {uid}
from probe.preparing import load_late_imports
load_late_imports()
print(*(name for name in sys.modules if name.startswith("probe.")))
"""


def loaded(uid: int) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", _LOADED.format(uid=uid)], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_root_loads_every_kind_while_it_can_read_it_and_others_what_they_use() -> None:
    # What a change of the settings may ask of `probe.kinds`.
    kinds = {"probe.engine.handshake", "probe.engine.reflection", "probe.engine.connection"}
    kinds |= {"probe.sockets.syn_socket", "probe.sockets.datagram", "probe.sockets.connecting"}
    assert kinds <= loaded(0)
    assert not kinds & loaded(1000)


@pytest.mark.parametrize(
    ("limits", "most", "soft"),
    [
        ((1024, 20_000), 20_000, 20_000),
        ((1024, 524_288), 65_536, 65_536),
        ((1024, resource.RLIM_INFINITY), 65_536, 65_536),
        ((100_000, 524_288), 65_536, None),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), 65_536, None),
        ((4096, 4096), 4096, None),
    ],
)
def test_the_hard_limit_is_used_as_far_as_anybody_needs(
    monkeypatch: pytest.MonkeyPatch, limits: tuple[int, int], most: int, soft: int | None
) -> None:
    changed: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda _, wanted: changed.append(wanted))
    assert most_descriptors() == most
    allow_descriptors()
    assert changed == ([] if soft is None else [(soft, limits[1])])
