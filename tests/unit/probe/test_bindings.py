"""What targets are tied to, whether it is there, and what is done when it comes back."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from probe import bindings
from probe.bindings import Binding, binding_of, keep_bindings, returned, stand, standing
from probe.clock import SystemClock
from probe.engine.engine import Notice
from probe.errors import SocketError
from probe.settings import Target
from probe.targets import resolve

HERE = resolve("127.0.0.1")
LO = socket.if_nametoindex("lo")


def bound(**knobs: Any) -> Binding:
    made = binding_of(Target(name="t", address="127.0.0.1", **knobs), HERE)
    assert made is not None
    return made


def test_a_target_without_wishes_is_bound_to_nothing() -> None:
    assert binding_of(Target(name="t", address="127.0.0.1"), HERE) is None
    assert stand([(Target(name="t", address="127.0.0.1"), HERE)]) == {}


def test_what_it_is_bound_to_is_said_as_in_the_settings() -> None:
    assert str(bound(source="127.0.0.1", interface="lo")) == "source 127.0.0.1 and interface lo"
    local = Target(name="t", address="fe80::1%lo")
    assert str(binding_of(local, resolve("fe80::1%lo"))) == "interface lo"


def test_what_stands_has_numbers_and_what_does_not_has_none() -> None:
    assert standing(bound(source="127.0.0.1")) == (0, 0, 0)
    assert standing(bound(interface="lo")) == (LO, 0, 0)
    assert standing(bound(source="203.0.113.77")) == ()
    assert standing(bound(interface="none0")) == ()
    local = binding_of(Target(name="t", address="fe80::1%lo"), resolve("fe80::1%lo"))
    assert local is not None
    assert standing(local) == (0, 0, LO)


def test_only_what_is_there_now_and_was_not_or_was_another_has_returned() -> None:
    there, gone = bound(interface="lo"), bound(interface="none0")
    assert returned({there: (LO, 0, 0), gone: (7, 0, 0)}) == []
    assert returned({there: ()}) == ["interface lo is there now"]
    both = {there: (LO + 1, 0, 0), Binding(socket.AF_INET6, "", "lo", ""): (LO + 1, 0, 0)}
    assert returned(both) == ["interface lo is another one now"]


class Measured:
    def __init__(self) -> None:
        self.bindings: dict[Binding, tuple[int, ...]] = {bound(interface="lo"): ()}


class Stepping(SystemClock):
    """A twentieth of what is steady passes each time it is asked."""

    asked = 0

    def mono(self) -> int:
        self.asked += 1
        return self.asked * bindings.STEADY // 20


@pytest.mark.parametrize("refused", [False, True])
def test_it_is_built_anew_and_not_again_before_it_is_steady(
    monkeypatch: pytest.MonkeyPatch, refused: bool
) -> None:
    monkeypatch.setattr(bindings, "EVERY_S", 0.0)
    measured: Any = Measured()
    clock, said, built = Stepping(), list[Notice](), list[int]()

    async def body() -> None:
        twice = asyncio.Event()

        async def rebuild() -> None:
            built.append(clock.asked)
            if len(built) == 2:
                twice.set()
            if refused:
                raise SocketError("no more ports")

        watching = asyncio.create_task(keep_bindings(lambda: measured, clock, said.append, rebuild))
        await asyncio.wait_for(twice.wait(), 30)
        await asyncio.sleep(0)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)

    asyncio.run(body())
    assert built[1] - built[0] >= 20
    assert said[0].text == "interface lo is there now"
    assert (said[1].text == "interface lo is there now") != refused
    assert not refused or said[1].text.endswith("the measurement has not changed: no more ports")
