"""A pytest run in, the same run out, with every test that this machine cannot run named: nothing hides.

`tests/lab` and `tests/system` mark their tests by folder; `root`, `icmp` and `browser` are set by hand. What
a marker needs is the table below. Where it is missing the tests are left out, and the end of the run says so
in one line each. Root on Debian lacks nothing (`make test` installs it), so there a skip is a failure; but
for a device that a container was not given.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import sys
import tempfile
from collections import Counter
from collections.abc import Generator
from pathlib import Path

import pytest

NEEDS: dict[str, tuple[str, ...]] = {
    "root": ("root",),
    "icmp": ("a way to open ICMP sockets",),
    "lab": ("root", "ip", "nft", "ping", "fping", "cc"),
    "emulator": ("/dev/net/tun",),
    "stress": ("stress-ng",),
    "system": ("mosquitto", "influxd", "victoria-metrics"),
    "bench": ("irtt", "prometheus-smokeping-prober", "mosquitto", "influxd"),
    "browser": ("chromium",),
}
FOLDERS = {"lab": "lab", "system": "system"}

# An ordinary user's PATH has no sbin, where Debian keeps mosquitto and nft.
os.environ["PATH"] = os.environ.get("PATH", os.defpath) + ":/usr/local/sbin:/usr/sbin:/sbin"

_COMPLAINT = "{} was skipped, but root on Debian leaves nothing out: {}"
_cannot_be_installed = pytest.StashKey[bool]()
_left_out: Counter[tuple[str, str]] = Counter()


def _is_debian() -> bool:
    release = Path("/etc/os-release")
    return release.exists() and "ID=debian" in release.read_text(encoding="utf-8").splitlines()


def nothing_may_be_left_out() -> bool:
    """Root on Debian has, or can install, all that any test needs."""
    return os.geteuid() == 0 and _is_debian()


def _has(need: str) -> bool:
    if need == "root":
        return os.geteuid() == 0
    if need == NEEDS["icmp"][0]:
        return _can_probe()
    if need.startswith("/dev/"):
        return _opens(Path(need))
    return shutil.which(need) is not None


def _can_probe() -> bool:
    """Whether this process may open a raw socket, or a ping socket (sysctl net.ipv4.ping_group_range)."""
    for kind in (socket.SOCK_RAW, socket.SOCK_DGRAM):
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET, kind, socket.IPPROTO_ICMP):
            return True
    return False


def _opens(device: Path) -> bool:
    """Whether it is there, and this process's container may use it."""
    try:
        with device.open("r+b", buffering=0):
            return True
    except OSError:
        return False


def pytest_configure(config: pytest.Config) -> None:
    # A checkout may be read-only: nothing is written into it, by hypothesis's examples or pytest's cache.
    from hypothesis import settings

    settings.register_profile("anywhere", database=None, print_blob=True)
    settings.load_profile("anywhere")
    config.addinivalue_line("filterwarnings", "ignore::pytest.PytestCacheWarning")
    _keep_bytecode_of_children(config)


def _keep_bytecode_of_children(config: pytest.Config) -> None:
    """Some hundred commands are started: where Python keeps no bytecode beside the sources, each would
    compile all that it imports anew, which takes longer than many a measurement. It is kept for this run."""
    kept = not sys.dont_write_bytecode and os.access(Path(__file__).parent, os.W_OK)
    if not kept and "PYTHONPYCACHEPREFIX" not in os.environ:
        folder = tempfile.TemporaryDirectory(prefix="coloprobe-bytecode-", ignore_cleanup_errors=True)
        config.add_cleanup(folder.cleanup)
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["PYTHONPYCACHEPREFIX"] = folder.name


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    missing = {marker: [need for need in needs if not _has(need)] for marker, needs in NEEDS.items()}
    for item in items:
        folder = item.path.relative_to(here).parts[0] if item.path.is_relative_to(here) else ""
        if folder in FOLDERS:
            item.add_marker(FOLDERS[folder])
        for marker, needs in missing.items():
            if needs and item.get_closest_marker(marker):
                _left_out[marker, ", ".join(needs)] += 1
                item.add_marker(pytest.mark.skip(reason=f"{marker} tests need {', '.join(needs)}"))
                item.stash[_cannot_be_installed] = all(need.startswith("/dev/") for need in needs)
                break


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    may_be = hasattr(report, "wasxfail") or item.stash.get(_cannot_be_installed, False)
    if report.skipped and not may_be and nothing_may_be_left_out():
        report.outcome = "failed"
        report.longrepr = _COMPLAINT.format(item.nodeid, report.longrepr)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if report.skipped and nothing_may_be_left_out():
        report.outcome = "failed"
        report.longrepr = _COMPLAINT.format(collector.nodeid, report.longrepr)
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for (marker, needs), count in sorted(_left_out.items()):
        terminalreporter.write_line(f"left out: {count} {marker} tests, because this run lacks: {needs}")
