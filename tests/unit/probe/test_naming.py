"""Names that are asked for again, and what is said when one has moved."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from probe.measurement import Unmeasured
from probe.naming import asked_again, moved
from probe.settings import Target
from probe.targets import Address, resolve, resolve_all


class Measured:
    """As much of a measurement as names need."""

    def __init__(self, addresses: dict[Any, Address], *unmeasured: Unmeasured) -> None:
        self.addresses, self.unmeasured = addresses, list(unmeasured)


OLD, NEW = resolve("127.0.0.1"), resolve("127.0.0.2")


def test_numbers_are_not_asked_for_and_sockets_are_not_names() -> None:
    waiting = Unmeasured(Target(name="a", address="late.example"), "no address", unresolved=True)
    broken = Unmeasured(Target(name="b", address="broken.example"), "no such interface")
    measured: Any = Measured({("127.0.0.1", 0): OLD, ("gw.example", 10): OLD}, waiting, broken)
    assert asked_again(measured) == [("late.example", 0), ("gw.example", 10)]


def test_what_has_moved_is_said_with_both_addresses() -> None:
    measured: Any = Measured({("gw.example", 0): OLD, ("same.example", 0): OLD})
    found = {("gw.example", 0): NEW, ("same.example", 0): OLD, ("late.example", 0): NEW}
    assert moved(measured, found) == [
        (("gw.example", 0), "gw.example is 127.0.0.2 now, and was 127.0.0.1"),
        (("late.example", 0), "late.example has an address now: 127.0.0.2"),
    ]


@pytest.mark.parametrize("first", ["127.0.0.1", "127.0.0.2"])
def test_a_name_with_several_addresses_keeps_the_one_that_is_measured(
    first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = "127.0.0.2" if first == "127.0.0.1" else "127.0.0.1"

    def rotating(host: str, *_: Any, **options: Any) -> Any:
        if options.get("flags"):
            raise socket.gaierror(socket.EAI_NONAME, "a name")
        return [(socket.AF_INET, socket.SOCK_RAW, 0, "", (text, 0)) for text in (first, second)]

    asked = ("gw.example", 0)
    monkeypatch.setattr(socket, "getaddrinfo", rotating)
    assert resolve_all([asked], {asked: OLD}) == {asked: OLD}
    assert resolve_all([asked]) == {asked: resolve_all([asked])[asked]}
    third = Address(OLD.family, "127.0.0.3", OLD.sockaddr)
    assert resolve_all([asked], {asked: third})[asked].text == first  # type: ignore[union-attr]
