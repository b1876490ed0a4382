"""Paths in, the words that people read out; and a terminal that shows them as they grow."""

from __future__ import annotations

import io

from probe.clock import SECOND
from probe.paths.records import Answer, Done, Hop, Path, Request, Start
from probe.trace_view import Growing, Live, headline, told


def path(flow: int, *routers: str, **more: object) -> Path:
    hops = tuple(Hop(n, (who,) if who != "*" else (), 3, 3, 1000) for n, who in enumerate(routers, start=1))
    fields: dict[str, object] = {"reached": True, "answer": "syn-ack", **more}
    return Path(flow, hops, **fields)  # type: ignore[arg-type]


def words(*paths: Path) -> str:
    return "\n".join(told(paths, None, None))


def test_the_headline_says_what_is_sent_where() -> None:
    request = Request("192.0.2.1", 2, "tcp", 9000, flows=1)
    assert headline("gw", request) == "TRACE gw (192.0.2.1) port 9000: tcp, 1 flow, at most 30 hops"
    assert headline("192.0.2.1", Request("192.0.2.1", 2, "icmp")) == (
        "TRACE 192.0.2.1: icmp, 4 flows, at most 30 hops"
    )


def test_the_verdict_says_who_arrived_and_on_how_many_paths() -> None:
    one, other = path(0, "a", "b", "t"), path(1, "a", "x", "y", "t")
    assert "reached by every flow in 3 hops (syn-ack)\n" in words(one, path(1, "a", "b", "t")) + "\n"
    assert "reached by every flow in 3 to 4 hops (syn-ack), on 2 different paths" in words(one, other)
    lost = path(1, "a", reached=False, answer="")
    assert "reached by 1 of 2 flows in 3 hops (syn-ack), on 2 different paths" in words(one, lost)
    assert "not reached: nothing answers beyond hop 1" in words(lost)
    assert "not reached: prohibited at hop 2" in words(path(0, "a", "b", reached=False, answer="prohibited"))
    assert words(path(0, reached=False, answer="")) == "nothing answers at all"


def test_the_mtu_and_where_it_ends() -> None:
    assert "path MTU 1500" in words(path(0, "a", "t", mtu=1500))
    silent = path(0, "a", "b", "t", mtu=1400, mtu_hop=2, black_hole=True)
    assert (
        "path MTU 1400: larger packets vanish behind hop 2 (b) without a word (an MTU black hole)"
        in words(silent)
    )
    loud = path(0, "a", "b", "t", mtu=1400, mtu_hop=2)
    assert "path MTU 1400: a router says so; larger packets end at hop 2 (b)" in words(loud)
    first = path(0, "a", "t", mtu=1400, mtu_hop=0)
    assert "larger packets end at the first link" in words(first)


def test_whose_clock_it_was_and_what_did_not_leave() -> None:
    start = Start("192.0.2.9", (1,))
    text = told([path(0, "t")], start, Done(9, 8, 0, 2, "Operation not permitted"))
    assert text[-2:] == [
        "from 192.0.2.9, 9 packets, 8 answers; round-trip times by the kernel's clock",
        "this host did not let 2 packets out: Operation not permitted",
    ]
    text = told([path(0, "t")], start, Done(9, 8, 3))
    assert text[-1].endswith("3 round-trip times by this program's own clock, the others by the kernel's")


def answers() -> list[Answer]:
    return [
        Answer(0, 1, "a", 1000, "kernel", "exceeded"),
        Answer(1, 1, "a", 900, "kernel", "exceeded"),
        Answer(0, 3, "t", 3000, "kernel", "echo reply"),
        Answer(0, 4, "t", 3000, "kernel", "echo reply"),
    ]


def test_paths_grow_with_every_answer() -> None:
    growing = Growing()
    assert growing.paths() == []
    for answer in answers():
        growing.add(answer)
    first, second = growing.paths()
    assert [hop.address for hop in first.hops] == ["a", "", "t"]
    assert (first.reached, first.answer, second.reached) == (True, "echo reply", False)


def test_a_terminal_is_drawn_over_four_times_a_second_and_left_clear() -> None:
    out = io.StringIO()
    live = Live(out, lambda: (60, 5))
    for n, answer in enumerate(answers()):
        live.show(answer, n * SECOND // 8)
    live.end()
    drawn = out.getvalue()
    assert drawn.count("\x1b[J") == 2  # once over the first graph, once at the end
    assert drawn.endswith("F\x1b[J")
    assert all(len(line) < 70 for line in drawn.splitlines())
    small = io.StringIO()
    live = Live(small, lambda: (60, 4))
    for flow in range(9):
        live.show(Answer(flow, 1, f"r{flow}", 1, "kernel", "exceeded"), flow * SECOND)
    assert "... " in small.getvalue()
