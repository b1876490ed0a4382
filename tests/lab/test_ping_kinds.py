"""`coloprobe ping` of every kind and many flows in, its words held against filters, wires and paths out."""

from __future__ import annotations

import functools
import itertools
import json
import os
import pty
import re
import select
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.lab.capture import Capture
from tests.lab.driving import address_of
from tests.lab.handshaking import listen, nobody_connected
from tests.lab.link import Chance
from tests.lab.netlab import Lab, Namespace
from tests.lab.reflecting import Reflecting, datagrams
from tests.lab.running import AS_NOBODY, Pinged, coloprobe_ping, together
from tests.lab.two_paths import BY_LABEL, TwoPaths
from tests.system.commands import DEADLINE_S, coloprobe, wait_for

Pair = tuple[Namespace, Namespace]

OPEN, CLOSED = 9000, 9001
SYN = "tcp flags & (syn|ack|rst) == syn"
CLOCK = ("--clock-error", "10us")
LATE = ("-W", "200ms")
FIELDS = ["flow", "seq", "sent_ns", "rtt_ns", "stamp", "outcome"]


@pytest.fixture(scope="module")
def with_reflector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with Lab() as lab:
        near, far = lab.pair()
        with Reflecting(far, tmp_path_factory.mktemp("reflector"), *CLOCK):
            yield near, far


@pytest.fixture
def reflected(with_reflector: Pair) -> Iterator[Pair]:
    """`near, far = reflected`: a pair with a reflector in `far`, and no rule of another test's."""
    yield with_reflector
    for namespace in with_reflector:
        namespace.nft("flush ruleset")


def both_versions(far: Namespace, kind: str, port: int = 0) -> list[str]:
    return [url(kind, far, version, port) for version in (4, 6)]


def told_by(near: Namespace, *arguments: Sequence[str]) -> list[str]:
    """What pings print that run at the same time; whether they succeed is in it."""
    runs = [functools.partial(near.run, coloprobe("ping", *each), check=False) for each in arguments]
    return [done.stdout for done in together(*runs)]


def url(kind: str, far: Namespace, version: int, port: int = 0) -> str:
    address = address_of(far, version)
    host = f"[{address}]" if version == 6 else address
    return f"{kind}://{host}" + (f":{port}" if port else "")


def flows_of(pinged: Pinged) -> dict[int, list[dict[str, Any]]]:
    """The probes of each flow, in the order in which they were told of."""
    found: dict[int, list[dict[str, Any]]] = {}
    for line in pinged.probes:
        if line.get("measurement") is None:
            found.setdefault(line["flow"], []).append(line)
    return found


def points_of(pinged: Pinged) -> list[dict[str, Any]]:
    """The points at the end: the target's, and those of its flows."""
    return [line for line in [*pinged.probes, pinged.summary] if line.get("measurement")]


# -- stamp ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrapper", [(), AS_NOBODY], ids=["root", "nobody"])
@pytest.mark.parametrize("version", [4, 6])
def test_stamp_says_on_which_way_a_probe_was_lost(
    reflected: Pair, version: int, wrapper: Sequence[str]
) -> None:
    near, far = reflected
    there = far.rule(every=7, matches=("udp dport 862",))
    back = far.rule(every=11, hook="output", matches=("udp sport 862",))
    with Capture(far, snap=256) as capture:
        pinged = coloprobe_ping(near, url("stamp", far, version), "-c", "60", *LATE, *CLOCK, wrapper=wrapper)
    assert pinged.status == 0
    # What a burst of a busy machine reorders, another one of is dropped: the capture knows which.
    asked, replied = seen(capture)
    order = sorted(asked, key=lambda number: (number - next(iter(asked))) % (1 << 32))
    assert len(order) == 60
    assert pinged.outcomes() == ["received" if number in replied else "lost" for number in order]
    summary = pinged.summary
    assert (summary["forward_lost"], summary["backward_lost"]) == (there.counts().hit, back.counts().hit)
    assert (there.counts().hit, back.counts().hit) == (8, 4)
    answered = [probe for probe in pinged.probes if probe["outcome"] == "received"]
    followed = [probe for probe in answered if "unfollowed" not in probe]
    # A busy machine may keep the reflector waiting, or send requests in bursts: lines are then printed before
    # their follow-ups come, and some follow-ups are overtaken.
    kept_waiting = max(replied[number] - asked[number] for number in replied) > 30_000_000
    in_bursts = min(later - time for time, later in itertools.pairwise(sorted(asked.values()))) < 5_000_000
    unfollowed = len(answered) - len(followed)
    assert unfollowed == summary["unfollowed"] in range(1, 8) or kept_waiting or in_bursts
    assert unfollowed >= summary["unfollowed"]
    assert all(list(probe) == [*FIELDS, "forward_ns", "backward_ns"] for probe in followed)
    assert all(probe["rtt_ns"] == probe["forward_ns"] + probe["backward_ns"] for probe in answered)
    assert {probe["stamp"] for probe in pinged.probes} == {"kernel"}
    assert summary["unstamped"] == 0
    for name, field in (("rtt", "rtt_ns"), ("forward", "forward_ns"), ("backward", "backward_ns")):
        values = [probe[field] for probe in (answered if name == "forward" else followed)]
        if unfollowed == summary["unfollowed"]:
            assert (summary[f"{name}_min_ns"], summary[f"{name}_max_ns"]) == (min(values), max(values))
        assert summary[f"{name}_min_ns"] <= min(values) <= max(values) <= summary[f"{name}_max_ns"]
    assert 20_000 <= summary["clock_error_ns"] <= 21_000


def seen(capture: Capture) -> tuple[dict[int, int], dict[int, int]]:
    """When each request came to the reflector, and when its reply left (ns), by the sender's number."""
    asked: dict[int, int] = {}
    replied: dict[int, int] = {}
    for one in datagrams(capture.packets):
        number = one.payload[24:28] if one.outgoing else one.payload[:4]
        (replied if one.outgoing else asked)[int.from_bytes(number, "big")] = one.time_ns
    return asked, replied


def test_stamp_in_words(reflected: Pair) -> None:
    near, far = reflected
    ping = (url("stamp", far, 4), "-c", "5", "-i", "20ms")
    told, blind = told_by(near, [*ping, *CLOCK], ping)
    time = r"-?[\d.]+ [num]s"
    one = rf"84 bytes from {far.ipv4}:862: seq=\d rtt={time} fwd {time} back {time}"
    assert len(re.findall(rf"^{one}$", told, re.MULTILINE)) == 4, told
    assert re.search(rf"^{one}  \(no follow-up\)$", told, re.MULTILINE), told
    assert re.search(
        r"^forward min .*\nbackward min .*\none-way delays: clock error at most 20\.\d us$", told, re.M
    )
    assert "no one-way delays: this host's clock is not synchronised" in blind
    assert "fwd" not in blind


def test_stamp_without_the_reflectors_clock_says_so(pair: Pair, tmp_path: Path) -> None:
    near, far = pair
    with Reflecting(far, tmp_path):
        told = near.run([*coloprobe("ping", url("stamp", far, 4), "-c", "3", "-i", "20ms"), *CLOCK]).stdout
    if "clock error at most" not in told:  # as it is where this machine's clock is synchronised
        assert "no one-way delays: the reflector's clock is not synchronised" in told


def test_a_silent_reflector_may_have_another_key(pair: Pair, tmp_path: Path) -> None:
    near, far = pair
    (tmp_path / "key").write_text("theirs", encoding="ascii")
    with Reflecting(far, tmp_path, *CLOCK, "--key-file", tmp_path / "key"):
        ping = (url("stamp", far, 4), "-c", "2", "-i", "20ms", *LATE)
        silent, keyed = told_by(near, ping, [*ping, "--key-file", str(tmp_path / "key")])
    assert re.search(r"^no answer: .* is the key \(", silent, re.M)
    assert "no answer" not in keyed
    assert "2 sent, 2 received" in keyed


def test_replies_that_cannot_be_believed_are_told_of(reflected: Pair, tmp_path: Path) -> None:
    near, far = reflected
    key = tmp_path / "stamp.key"
    key.write_text("secret\n", encoding="ascii")
    ping = (url("stamp", far, 4), "-c", "3", "-i", "20ms", *LATE)
    keyed, plain = told_by(near, [*ping, "--key-file", str(key)], ping)
    assert re.search(r"^packets that are no replies to these probes: 3; .* key \(", keyed, re.M)
    assert "no replies" not in plain
    assert "3 sent, 3 received" in plain


def test_without_a_reflector_the_error_is_told(pair: Pair) -> None:
    near, far = pair
    pinged = coloprobe_ping(near, url("stamp", far, 4), "-c", "3", *LATE)
    assert pinged.status == 1
    assert pinged.outcomes() == ["error"] * 3
    assert (pinged.summary["lost"], pinged.summary["errors"]) == (3, 3)


# -- tcp and connect -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("kind", ["tcp", "connect"])
def test_open_closed_and_lost(pair: Pair, kind: str, version: int) -> None:
    near, far = pair
    rules = [far.rule(every=5, matches=(f"tcp dport {port} {SYN}",)) for port in (OPEN, CLOSED)]
    ping = functools.partial(coloprobe_ping, near, wrapper=AS_NOBODY if kind == "connect" else ())
    targets = [url(kind, far, version, port) for port in (OPEN, CLOSED)]
    with listen(far, version, OPEN) as server:
        opened, closed = together(*(functools.partial(ping, one, "-c", "20", *LATE) for one in targets))
        assert kind == "connect" or nobody_connected(server)
    assert [rule.counts().hit for rule in rules] == [4, 4]
    for pinged, state in ((opened, "open"), (closed, "closed")):
        assert pinged.status == 0
        assert pinged.outcomes() == ["received" if n % 5 else "lost" for n in range(1, 21)]
        answered = [probe for probe in pinged.probes if probe["outcome"] == "received"]
        assert all(list(probe) == [*FIELDS, "state"] for probe in answered)
        assert {probe["state"] for probe in answered} == {state}
        counts = {name: pinged.summary[name] for name in ("sent", "received", "lost", "open", "closed")}
        assert counts == {"sent": 20, "received": 16, "lost": 4, "open": 0, "closed": 0, state: 16}
    assert {probe["stamp"] for probe in opened.probes} == {"kernel"}
    if kind == "tcp":
        assert {probe["stamp"] for probe in closed.probes} == {"kernel"}
        assert closed.summary["unstamped"] == 0


def test_a_port_in_words(pair: Pair) -> None:
    near, far = pair
    with listen(far, 6, OPEN):
        pings = [(url("tcp", far, 6, port), "-c", "2", "-i", "20ms") for port in (OPEN, CLOSED)]
        opened, closed = told_by(near, *pings)
    assert f"[{far.ipv6}]:{OPEN}: seq=1 open rtt=" in opened
    assert f"[{far.ipv6}]:{CLOSED}: seq=1 closed rtt=" in closed
    assert "2 sent, 2 received, 0 lost (0.00%), 0 open, 2 closed" in closed


def test_only_an_interval_lifts_the_polite_limit(pair: Pair) -> None:
    """Two flows are due every two seconds then, one after the other."""
    near, far = pair
    with Capture(near) as capture:
        done = near.run(coloprobe("ping", url("tcp", far, 4, CLOSED), "-c", "2", "--flows", "2"))
    assert "2 flows, a probe each every 2s" in done.stdout
    sent = [packet.time_ns for packet in capture.packets if packet.outgoing and packet.data[33] == 2]
    assert len(sent) == 4
    assert min(b - a for a, b in itertools.pairwise(sent)) > 900_000_000


def test_tcp_without_the_privilege_names_the_way_out(pair: Pair) -> None:
    near, far = pair
    pinged = coloprobe_ping(near, url("tcp", far, 4, OPEN), "-c", "1", wrapper=AS_NOBODY)
    assert pinged.status == 1
    assert "CAP_NET_RAW" in pinged.stderr
    assert "connect" in pinged.stderr


# -- flows ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["icmp", "stamp", "tcp", "connect"])
def test_flows_are_told_apart_and_together(reflected: Pair, kind: str) -> None:
    near, far = reflected
    targets = both_versions(far, kind, OPEN if kind in ("tcp", "connect") else 0)
    flows = ("--flows", "5", "-c", "8", *LATE)
    runs = [functools.partial(coloprobe_ping, near, target, *flows) for target in targets]
    with listen(far, 4, OPEN), listen(far, 6, OPEN):
        # A reflector that is kept waiting tells of a reply later than a line waits for it.
        both = [run() for run in runs] if kind == "stamp" else together(*runs)
    for target, pinged in zip(targets, both, strict=True):
        name = target if kind != "icmp" else re.sub(r"icmp://|[][]", "", target)
        told_apart_and_together(pinged, kind, name)


def told_apart_and_together(pinged: Pinged, kind: str, target: str) -> None:
    assert pinged.status == 0
    flows = flows_of(pinged)
    assert sorted(flows) == list(range(5))
    for mine in flows.values():
        assert [probe["seq"] for probe in mine] == list(range(8))
        assert {probe["outcome"] for probe in mine} == {"received"}
        # 10 ms apart, each flow by its own schedule.
        assert mine[-1]["sent_ns"] - mine[0]["sent_ns"] > 60_000_000
    whole, *each = points_of(pinged)
    assert (whole["kind"], whole["target"]) == (kind, target)
    assert "flow" not in whole
    assert [point["flow"] for point in each] == list("01234")
    assert (whole["sent"], [point["sent"] for point in each]) == (40, [8] * 5)
    for point in each:
        mine = flows[int(point["flow"])]
        unfollowed = [probe for probe in mine if "unfollowed" in probe]  # the summary leaves these out
        assert len(unfollowed) == point.get("unfollowed", 0)
        rtts = [probe["rtt_ns"] for probe in mine if probe not in unfollowed]
        assert (point["rtt_min_ns"], point["rtt_max_ns"]) == (min(rtts), max(rtts))
    assert whole["rtt_max_ns"] == max(point["rtt_max_ns"] for point in each)


def test_each_flow_has_a_source_port_of_its_own_and_the_table_names_it(reflected: Pair) -> None:
    near, far = reflected
    with Capture(near, snap=256) as capture:
        done = near.run(coloprobe("ping", url("stamp", far, 4), "--flows", "4", "-c", "5", "-i", "20ms"))
    ports = Counter(d.source[1] for d in datagrams(capture.packets) if d.outgoing)
    named = re.findall(r"^ +(\d)  +(\d+) +5 +0 +0\.0% ", done.stdout, re.MULTILINE)
    assert [flow for flow, _ in named] == list("0123")
    assert ports == {int(port): 5 for _, port in named}


def test_each_icmp_flow_has_an_identifier_of_its_own(pair: Pair) -> None:
    near, far = pair
    with Capture(near) as capture:
        done = near.run(coloprobe("ping", far.ipv4, "--flows", "4", "-c", "5", "-i", "20ms"))
    ids = Counter(echo.identifier for echo in capture.echoes() if echo.request)
    named = re.findall(r"^ +\d  +(\d+) +5 +0 +0\.0% ", done.stdout, re.MULTILINE)
    assert ids == {int(one): 5 for one in named}
    assert len(ids) == 4


def test_it_says_where_flows_may_not_keep_a_path_each(pair: Pair) -> None:
    near, far = pair
    ping = functools.partial(coloprobe_ping, near)
    flows = ("--flows", "2", "-c", "2", *LATE)
    tcp = url("tcp", far, 4, CLOSED)
    unprivileged, raw, fast, slow = together(
        functools.partial(ping, far.ipv4, *flows, wrapper=AS_NOBODY),
        functools.partial(ping, far.ipv4, *flows),
        functools.partial(ping, tcp, *flows),
        functools.partial(ping, tcp, *flows, interval="350ms"),
    )
    assert "ICMP flows over IPv4 do not differ" in unprivileged.stderr
    assert "take several source ports in turn" in fast.stderr
    assert raw.stderr == slow.stderr == ""


def test_a_reason_for_one_flow_is_told(reflected: Pair) -> None:
    """Every fourth packet is refused: as the flows take turns, they are all of one flow."""
    near, far = reflected
    near.rule(hook="output", every=4, matches=("udp dport 862",))
    done = near.run(coloprobe("ping", url("stamp", far, 4), "--flows", "4", "-c", "10", "-i", "100ms"))
    assert "this host refuses to send IPv4 probes: EPERM" in done.stderr
    assert re.search(r"^   3 +- |^   3 .* <- errors$", done.stdout, re.MULTILINE), done.stdout
    assert done.stdout.rstrip().endswith("errors on flow 3")


def test_a_stall_is_told_with_several_sockets(reflected: Pair, tmp_path: Path) -> None:
    near, far = reflected
    with (tmp_path / "out").open("w") as out, (tmp_path / "err").open("w") as err:
        ping = coloprobe("ping", url("stamp", far, 4), "--flows", "4", "-c", "100", "-i", "10ms", "--json")
        child = near.popen(ping, stdout=out, stderr=err)
        wait_for(lambda: (tmp_path / "out").stat().st_size, "the first probes")
        os.kill(child.pid, signal.SIGSTOP)
        time.sleep(0.6)  # this is the stall
        os.kill(child.pid, signal.SIGCONT)
        assert child.wait(DEADLINE_S) == 0
    lines = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    outcomes = Counter(line["outcome"] for line in lines if "outcome" in line)
    assert outcomes["received"] + outcomes["error"] == 400
    assert outcomes["error"] >= 4 * 20  # what was due meanwhile, but for the last 250 ms
    assert re.search(r"^this host did not run|stopped|paused", (tmp_path / "err").read_text(), re.MULTILINE)


@pytest.mark.parametrize("kind", ["icmp", "stamp", "tcp", "connect"])
def test_a_link_local_address_is_measured_on_its_interface(lab: Lab, kind: str) -> None:
    """The other link, which is the first, has the same addresses."""
    near, _ = lab.pair()
    far = lab.namespace("far")
    lab.link(near, far)
    listing = far.run(["ip", "-6", "-o", "address", "show", "scope", "link"]).stdout
    address = listing.partition("inet6 ")[2].partition("/")[0]
    rule = far.rule("accept", matches=("ip6 nexthdr { icmpv6, udp, tcp } ip6 daddr fe80::/10",))
    port = "" if kind in ("icmp", "stamp") else f":{CLOSED}"
    pinged = coloprobe_ping(near, f"{kind}://[{address}%veth1]{port}", "-c", "3", *LATE)
    assert rule.counts().hit >= 3
    assert pinged.outcomes() == ["error" if kind == "stamp" else "received"] * 3


# -- a terminal ----------------------------------------------------------------------------------------------


def on_a_terminal(namespace: Namespace, argv: Sequence[str]) -> str:
    """What a program wrote to a terminal."""
    master, slave = pty.openpty()
    child = namespace.popen(argv, stdout=slave, stderr=subprocess.PIPE, env={**os.environ, "COLUMNS": "100"})
    os.close(slave)
    seen, end = b"", time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        if select.select([master], [], [], 1)[0]:
            try:
                seen += os.read(master, 65536)
            except OSError:  # nobody has the other end any more
                break
    os.close(master)
    assert child.wait(DEADLINE_S) == 0
    return seen.decode()


def test_on_a_terminal_the_table_lives(pair: Pair) -> None:
    near, far = pair
    screen = on_a_terminal(near, coloprobe("ping", far.ipv4, "--flows", "3", "-c", "10", "-i", "100ms"))
    assert screen.count("\x1b[5F\x1b[J") >= 3
    assert "seq=" not in screen
    last = screen.rpartition("\x1b[J")[2]
    assert re.search(r"--- .*: 30 sent, 30 received", last)
    assert last.count("flow  ICMP id") == 1


# -- two paths -----------------------------------------------------------------------------------------------


def verdict(told: str) -> tuple[list[int], list[int]]:
    """The flows of both groups."""
    one = r"(\d+)(?: flows?)? around ([\d.]+) ms \(([\d, -]+)\)"
    match = re.fullmatch(f"two groups: {one}, {one}", told.splitlines()[-1])
    assert match is not None, told
    many, low, first, rest, high, second = match.groups()
    groups = expand(first), expand(second)
    assert [len(group) for group in groups] == [int(many), int(rest)]
    # How late an emulator comes on a busy machine is not ping's: tests of truth hold it against the wire.
    assert 1.0 <= float(low) < 2.5
    assert 9.0 <= float(high) < 10.5
    return groups


def expand(text: str) -> list[int]:
    """The numbers of "0-2, 5"."""
    runs = (part.split("-") for part in text.split(", "))
    return [n for run in runs for n in range(int(run[0]), int(run[-1]) + 1)]


@pytest.mark.emulator
def test_flows_over_two_paths_are_two_groups(lab: Lab, tmp_path: Path) -> None:
    paths = TwoPaths(lab, fast=1_000_000, slow=9_000_000)
    runs, rules = [], []
    for host, ip in ((paths.ipv4, "ipv4"), (f"[{paths.ipv6}]", "ipv6")):
        for target, of in (
            ("stamp://{}", "udp dport 862"),
            (f"tcp://{{}}:{CLOSED}", f"tcp dport {CLOSED} {SYN}"),
        ):
            # 0.4 s: a TCP flow then keeps one source port.
            ping = coloprobe("ping", target.format(host), "--flows", "16", "-c", "10", "-i", "400ms", *CLOCK)
            runs.append(functools.partial(paths.near.run, ping))
            rules.append(
                [
                    paths.far.rule("accept", matches=[f'iifname "{link}" meta nfproto {ip} {of}'])
                    for link in paths.devices
                ]
            )
    with Reflecting(paths.far, tmp_path, *CLOCK):
        told = [verdict(done.stdout) for done in together(*runs)]
    for (fast, slow), ways in zip(told, rules, strict=True):
        assert sorted(fast + slow) == list(range(16))
        assert [way.counts().hit for way in ways] == [10 * len(fast), 10 * len(slow)]
    assert paths.carried() == tuple(10 * sum(map(len, ways)) for ways in zip(*told, strict=True))


@pytest.mark.emulator
def test_icmp_flows_have_flow_labels_that_lead_over_two_paths(lab: Lab) -> None:
    paths = TwoPaths(lab, fast=1_000_000, slow=9_000_000, hashing=BY_LABEL)
    done = paths.near.run(coloprobe("ping", paths.ipv6, "--flows", "16", "-c", "10", "-i", "100ms"))
    fast, slow = verdict(done.stdout)
    assert paths.carried() == (10 * len(fast), 10 * len(slow))
    assert len(set(re.findall(r" 0x[0-9a-f]{5} ", done.stdout))) == 16


@pytest.mark.emulator
def test_a_path_that_loses_is_found_among_its_flows(lab: Lab, tmp_path: Path) -> None:
    # So many that even two good flows beside fourteen bad ones are no chance.
    paths = TwoPaths(lab, fast=1_000_000, slow=1_000_000, loss=Chance(0.4))
    with Reflecting(paths.far, tmp_path, *CLOCK):
        ping = (f"stamp://{paths.ipv4}", "--flows", "16", "-c", "40", *LATE, *CLOCK)
        with ThreadPoolExecutor() as pool:
            counting = pool.submit(coloprobe_ping, paths.near, *ping, interval="50ms")
            telling = pool.submit(told_by, paths.near, [*ping, "-i", "50ms"])
        pinged, (told,) = counting.result(), telling.result()
    whole, *each = points_of(pinged)
    assert (whole["forward_lost"] > 0, whole["backward_lost"]) == (True, 0)
    # Of what was lost behind a flow's last reply nobody knows where: two of three times nothing.
    assert whole["lost"] - 16 * 3 <= whole["forward_lost"] <= whole["lost"]
    lossy = [point["flow"] for point in each if point["lost"]]
    assert 0 < len(lossy) < 16
    marked = re.findall(r"^ +(\d+) .* <- loss$", told, re.MULTILINE)
    assert 0 < len(marked) < 16, told
    assert re.search(r"^flows? [\d, -]+ loses? .* the other .* lose nothing: ", told, re.MULTILINE), told
