"""A real reflector, asked by somebody else's STAMP and by nobody's: what leaves it is what a capture saw."""

from __future__ import annotations

import hmac
import json
import random
import select
import signal
import socket
import struct
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest
from scapy.contrib.stamp import (
    ErrorEstimate,
    STAMPSessionReflectorTestUnauthenticated,
    STAMPSessionSenderTestUnauthenticated,
    STAMPTestTLV,
)

from probe.clock import SystemClock
from probe.limits import RateLimit
from probe.reflection import Reflection
from probe.reflector import Reflector
from probe.sockets import reflecting
from tests.lab.capture import Capture
from tests.lab.netlab import Lab, Namespace
from tests.lab.reflecting import PORT, Datagram, Reflecting, ask, datagrams, sender
from tests.lab.running import AS_NOBODY
from tests.system.commands import ROOT, coloprobe
from tests.unit.probe.packets.plain import internet_checksum

Pair = tuple[Namespace, Namespace]
U, INTEGRITY = 0x80, 0x20
PADDING, FOLLOW_UP = 1, 7
KEY = b"a key of more than sixteen bytes"


def request(
    seq: int, ssid: int = 42, tlvs: Sequence[tuple[int, bytes]] = (), t1: int = 0xEEADE678_80000001
) -> bytes:
    """A sender's packet, as scapy's layers make it."""
    packet = STAMPSessionSenderTestUnauthenticated(
        seq=seq,
        err_estimate=ErrorEstimate(S=1, Z=0, scale=9, multiplier=168),
        ssid=ssid,
        tlv_objects=[STAMPTestTLV(flags=U, type=kind, len=len(value), value=value) for kind, value in tlvs],
    )
    packet.fields["ts"] = t1
    return bytes(packet)


FOLLOWED = request(0, tlvs=[(PADDING, b"padding!"), (FOLLOW_UP, bytes(16))])


def unix(ntp: int) -> int:
    """Wall ns of an NTP timestamp of today."""
    return ((ntp >> 32) - 2_208_988_800) * 1_000_000_000 + round((ntp & 0xFFFFFFFF) * 1e9 / 2**32)


def follow_up(reply: bytes) -> tuple[int, int, int]:
    """What the second TLV of a reply to FOLLOWED tells: number, wall ns, mode."""
    seq, stamp, mode = struct.unpack_from(">IQB", reply, 60)
    return seq, unix(stamp) if stamp else 0, mode


def split(capture: Capture) -> tuple[list[Datagram], list[Datagram]]:
    """What came to the reflector, and what left it."""
    found = datagrams(capture.packets)
    return [d for d in found if not d.outgoing], [d for d in found if d.outgoing]


@pytest.mark.parametrize("version", [4, 6])
def test_scapy_as_sender(pair: Pair, tmp_path: Path, version: int) -> None:
    near, far = pair
    address = far.ipv4 if version == 4 else far.ipv6
    tlvs = [(PADDING, b"12345678"), (FOLLOW_UP, bytes(16)), (0xF0, b"???")]
    with (
        Reflecting(far, tmp_path, "--clock-error", "20us") as reflector,
        Capture(far) as capture,
        sender(near, address) as asking,
    ):
        asking.setsockopt(
            *((socket.IPPROTO_IP, socket.IP_TTL) if version == 4 else (socket.IPPROTO_IPV6, 16)), 33
        )
        answers = [ask(asking, request(100 + n, 7, tlvs, n << 40 | 5)) for n in range(20)]
    came, left = split(capture)
    assert [d.payload for d in left] == answers
    assert [len(d.payload) for d in came] == [len(d.payload) for d in left]
    for n, answer in enumerate(answers):
        reply = STAMPSessionReflectorTestUnauthenticated(answer)
        assert (reply.seq, reply.seq_sender, reply.ssid, reply.ttl_sender) == (n, 100 + n, 7, 33)
        assert reply.fields["ts_sender"] == n << 40 | 5
        sent = reply.err_estimate_sender
        assert (sent.S, sent.Z, sent.scale, sent.multiplier) == (1, 0, 9, 168)
        own = reply.err_estimate
        assert (own.S, own.Z, own.scale, own.multiplier) == (1, 0, 9, 168)  # 20 us, rounded up
        assert (reply.mbz1, reply.mbz2) == (0, 0)
        padding, telling, unknown = reply.tlv_objects
        assert (int(padding.flags), padding.type, padding.value) == (0, PADDING, b"12345678")
        assert (int(unknown.flags), unknown.type, unknown.value) == (U, 0xF0, b"???")
        assert (int(telling.flags), telling.type, telling.len) == (0, FOLLOW_UP, 16)
        # T2 is the stamp that the capture has, too. T3 is read before the reply leaves.
        t3, t2 = unix(reply.fields["ts"]), unix(reply.fields["ts_rx"])
        assert t2 == came[n].time_ns
        assert t2 <= t3 <= left[n].time_ns
        seq, stamp, mode = struct.unpack(">IQB3x", telling.value)
        if n == 0:
            assert (seq, stamp, mode) == (0, 0, 0)
        else:
            # The kernel stamps in the driver, after the capture's tap, and before it could take the next one.
            assert (seq, mode) == (n - 1, 2)
            assert left[n - 1].time_ns <= unix(stamp) <= came[n].time_ns
    assert reflector.ended() == {"replies": 20, "packets": 20, "sessions": 1}


def sealed(seq: int, key: bytes = KEY, tlvs: bytes = b"") -> bytes:
    """An authenticated sender's packet, put together without this project's help (scapy knows none)."""
    signed = struct.pack(">I12xQHH68x", seq, 0xEEADE678_80000001, 0x89A8, 42)
    return signed + hmac.digest(key, signed, "sha256")[:16] + tlvs


def test_authenticated_mode(pair: Pair, tmp_path: Path) -> None:
    near, far = pair
    file = tmp_path / "key"
    file.write_bytes(KEY + b"\n")
    telling = struct.pack(">BBH16x", U, FOLLOW_UP, 16)
    with Reflecting(far, tmp_path, "--key-file", file) as reflector, sender(near, far.ipv4) as asking:
        for n in range(3):
            signature = hmac.digest(KEY, struct.pack(">I", n) + telling, "sha256")[:16]
            asking.send(sealed(n, b"another key"))
            asking.send(request(n))
            asking.send(sealed(n)[:-1])
            reply = ask(asking, sealed(n, tlvs=telling + struct.pack(">BBH", U, 8, 16) + signature))
            assert struct.unpack_from(">I12xQHH", reply)[::3] == (n, 42)
            assert reply[96:112] == hmac.digest(KEY, reply[:96], "sha256")[:16]
            assert struct.unpack_from(">I12xQH6xB", reply, 48) == (n, 0xEEADE678_80000001, 0x89A8, 64)
            assert reply[112:116] == bytes((0, FOLLOW_UP, 0, 16))
            assert struct.unpack_from(">I", reply, 116)[0] == max(0, n - 1)
            assert reply[132:136] == bytes((0, 8, 0, 16))
            assert reply[136:152] == hmac.digest(KEY, reply[:4] + reply[112:132], "sha256")[:16]
    ended = {"replies": 3, "packets": 12, "sessions": 1, "not authentic": 3, "too short": 6}
    assert reflector.ended() == ended


def test_replies_are_numbered_for_each_sender_by_what_arrived(pair: Pair, tmp_path: Path) -> None:
    near, far = pair
    rule = far.rule(every=3, matches=[f"udp dport {PORT}"])
    numbers: dict[tuple[int, int], list[int]] = {}
    with (
        Reflecting(far, tmp_path) as reflector,
        sender(near, far.ipv4, timeout_s=0.2) as one,
        sender(near, far.ipv4, timeout_s=0.2) as other,
    ):
        for n in range(18):
            which, ssid = n % 2, 1 + n // 2 % 2
            asking = (one, other)[which]
            asking.send(request(n, ssid))
            try:
                seq, sender_seq = struct.unpack_from(">I20xI", asking.recv(100))
            except TimeoutError:
                continue
            assert sender_seq == n
            numbers.setdefault((which, ssid), []).append(seq)
    assert len(numbers) == 4
    assert all(seen == list(range(len(seen))) for seen in numbers.values())
    assert sum(map(len, numbers.values())) == 18 - rule.counts().hit == 12
    assert reflector.ended() == {"replies": 12, "packets": 12, "sessions": 4}


@pytest.mark.parametrize("version", [4, 6])
def test_a_reply_comes_from_the_address_that_was_asked_with_the_same_dscp(
    pair: Pair, tmp_path: Path, version: int
) -> None:
    near, far = pair
    network, asked = ("10.77.0.0/24", "10.77.0.9") if version == 4 else ("fd77::/64", "fd77::9")
    far.answer_for(network)
    near.route(network, far.ipv4 if version == 4 else far.ipv6)
    option = (socket.IPPROTO_IP, socket.IP_TOS) if version == 4 else (socket.IPPROTO_IPV6, 67)
    with Reflecting(far, tmp_path), Capture(far) as capture:
        for address in (asked, far.ipv4 if version == 4 else far.ipv6):
            for dscp in (46, 0):
                with sender(near, address) as asking:
                    asking.setsockopt(*option, dscp << 2 | 1)
                    ask(asking, request(1))
    came, left = split(capture)
    assert [d.source for d in left] == [d.destination for d in came]
    assert [d.destination for d in left] == [d.source for d in came]
    # ECN is the network's to set, and each direction's own.
    assert [d.traffic_class for d in came] == [46 << 2 | 1, 1] * 2
    assert [d.traffic_class for d in left] == [46 << 2, 0] * 2


class Spoofer:
    """Sends IPv4 packets from whatever address one likes, past the kernel that would know better."""

    def __init__(self, near: Namespace, far: Namespace) -> None:
        listing = json.loads(far.run(["ip", "-j", "link", "show", far.interface]).stdout)
        mac = bytes.fromhex(listing[0]["address"].replace(":", ""))
        with near.inside():
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
        self._where = near.interface, 0x0800, 0, 0, mac

    def send(self, source: str, destination: str, port: int, payload: bytes, to: int = PORT) -> None:
        udp = struct.pack(">HHHH", port, to, 8 + len(payload), 0) + payload
        addresses = socket.inet_aton(source) + socket.inet_aton(destination)
        head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0) + addresses
        head = head[:10] + internet_checksum(head).to_bytes(2, "big") + head[12:]
        self._socket.sendto(head + udp, self._where)

    def close(self) -> None:
        self._socket.close()


def test_nobody_gets_a_reply_who_did_not_ask(pair: Pair, tmp_path: Path) -> None:
    near, far = pair
    # As a host that checks nothing: what the kernel would keep away comes through.
    for name in ("all", far.interface):
        far.sysctl(f"net.ipv4.conf.{name}.rp_filter", "0")
    whole = request(1)
    cases = {
        "from STAMP's port": (near.ipv4, far.ipv4, PORT, whole),
        "from port 0": (near.ipv4, far.ipv4, 0, whole),
        "to broadcast": (near.ipv4, "10.99.0.255", 50_000, whole),
        "to all": (near.ipv4, "255.255.255.255", 50_000, whole),
        "to a group": (near.ipv4, "224.0.0.1", 50_000, whole),
        "from broadcast": ("10.99.0.255", far.ipv4, 50_000, whole),
        "from all": ("255.255.255.255", far.ipv4, 50_000, whole),
        "from a group": ("224.0.0.1", far.ipv4, 50_000, whole),
        "from nobody": ("0.0.0.0", far.ipv4, 50_000, whole),
        "too short": (near.ipv4, far.ipv4, 50_000, whole[:43]),
        "empty": (near.ipv4, far.ipv4, 50_000, b""),
    }
    with near.inside():
        six = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        index = socket.if_nametoindex(near.interface)
    with Reflecting(far, tmp_path) as reflector, Capture(far) as capture:
        with six, closing(Spoofer(near, far)) as spoofer:
            for source, destination, port, payload in cases.values():
                spoofer.send(source, destination, port, payload)
            six.sendto(whole, ("ff02::1", PORT, 0, index))
        with sender(near, far.ipv4) as asking:
            # Everything before has been dealt with when this comes back.
            ask(asking, whole)
    came, left = split(capture)
    assert len(came) == len(cases) + 2, "all of them were on the wire"
    assert len(left) == 1
    ended = reflector.ended()
    assert ended["replies"] == 1
    assert ended["from a reflector's port"] == 1
    assert ended["to broadcast or multicast"] == 4
    assert ended["too short"] == 2
    assert ended["from an address that nobody has"] >= 1
    refused = [count for what, count in ended.items() if what.startswith("replies refused by the kernel")]
    # What is not counted here, the kernel itself dropped.
    assert ended["packets"] == 1 + 1 + 4 + 2 + ended["from an address that nobody has"] + sum(refused)


def test_two_reflectors_do_not_keep_each_other_busy(pair: Pair, tmp_path: Path) -> None:
    near, far = pair
    (tmp_path / "near").mkdir()
    with (
        Reflecting(far, tmp_path) as one,
        Reflecting(near, tmp_path / "near") as other,
        closing(Spoofer(near, far)) as spoofer,
        Capture(far) as capture,
        sender(near, far.ipv4) as asking,
    ):
        spoofer.send(near.ipv4, far.ipv4, PORT, request(1))
        ask(asking, request(2))
    assert len(split(capture)[1]) == 1
    assert one.ended() == {"replies": 1, "packets": 2, "sessions": 1, "from a reflector's port": 1}
    assert other.ended() == {"replies": 0, "packets": 0, "sessions": 0}


def test_two_reflectors_on_other_ports_do_not_either(pair: Pair, tmp_path: Path) -> None:
    """Neither can know the other's port; a reply tells by the time in it that it came from here."""
    near, far = pair
    (tmp_path / "near").mkdir()
    with (
        Reflecting(far, tmp_path, "--bind", ":8620") as one,
        Reflecting(near, tmp_path / "near", "--bind", ":8621") as other,
        closing(Spoofer(near, far)) as spoofer,
    ):
        spoofer.send(near.ipv4, far.ipv4, 8621, request(1), to=8620)
        with sender(near, far.ipv4, 8620) as asking:
            for n in range(50):  # a packet that goes round and round would come between many times
                ask(asking, request(n))
    # The forged packet, and the reply to its reply.
    assert one.ended() == {"replies": 51, "packets": 52, "sessions": 2, "a reply come back": 1}
    assert other.ended() == {"replies": 1, "packets": 1, "sessions": 1}


def test_a_flood_gets_as_many_replies_as_are_allowed(pair: Pair, tmp_path: Path) -> None:
    near, far = pair
    with Reflecting(far, tmp_path, "--rate", "20") as reflector, Capture(far) as capture:
        begin = time.monotonic()
        with sender(near, far.ipv4) as flooding:
            for n in range(500):
                flooding.send(request(n))
            with sender(near, far.ipv6) as asking:
                ask(asking, request(1))  # another address has its own share
            lasted = time.monotonic() - begin
    came, left = split(capture)
    to_near = [d for d in left if d.destination[0] == near.ipv4]
    assert len(came) == 501
    assert 16 <= len(to_near) <= 16 + 20 * lasted + 1
    assert len(left) == len(to_near) + 1
    ended = reflector.ended()
    assert ended == {
        "replies": len(left),
        "packets": 501,
        "sessions": 2,
        "over the rate limit": 500 - len(to_near),
    }


def test_any_bytes_get_a_reply_of_their_length_or_none(pair: Pair, tmp_path: Path) -> None:
    near, far = pair
    chance = random.Random(4656)
    seeds = [request(1), FOLLOWED, sealed(1, tlvs=bytes((U, 8, 0, 16)) + bytes(16))]
    with Reflecting(far, tmp_path) as reflector, Capture(far) as capture, sender(near, far.ipv4) as asking:
        for n in range(2000):
            packet = bytearray(chance.choice(seeds) + chance.randbytes(chance.choice((0, 0, 5, 100))))
            for _ in range(chance.randrange(6)):
                packet[chance.randrange(len(packet))] = chance.randrange(256)
            asking.send(packet[: chance.choice((len(packet), chance.randrange(len(packet) + 1)))])
            if n % 50 == 49:
                while select.select([asking], [], [], 0.01)[0]:
                    asking.recv(2000)
        ask(asking, request(0, ssid=9))
    came, left = split(capture)
    assert len(came) == 2001
    ended = reflector.ended()
    assert len(left) == ended["replies"] == 2001 - ended["too short"]
    lengths = [len(d.payload) for d in came if len(d.payload) >= 44]
    assert [len(d.payload) for d in left] == lengths


@pytest.mark.parametrize(("mtu", "sizes"), [(9000, (48, 1472, 8972)), (1500, (1473, 8992, 9216))])
def test_probes_of_every_size(lab: Lab, tmp_path: Path, mtu: int, sizes: Sequence[int]) -> None:
    near, far = lab.pair(mtu=mtu)
    chance = random.Random(mtu)
    with Reflecting(far, tmp_path) as reflector:
        for address in (far.ipv4, far.ipv6):
            with sender(near, address) as asking:
                for size in sizes:
                    tail = struct.pack(">BBH", U, PADDING, size - 48) + chance.randbytes(size - 48)
                    reply = ask(asking, request(size) + tail)
                    assert len(reply) == size
                    assert reply[45:] == tail[1:]
                asking.send(bytes(9217))
                ask(asking, request(1))
    count = 2 * (len(sizes) + 1)
    assert reflector.ended() == {
        "replies": count,
        "packets": count + 2,
        "sessions": 2,
        "too long": 2,
    }


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("choose_id", [True, False])
def test_follow_up_stamps_are_of_the_reply_that_they_name(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, version: int, choose_id: bool
) -> None:
    """In bursts, and where the packet filter refuses some replies; by our own stamp ids and the kernel's."""
    near, far = pair
    monkeypatch.setattr(reflecting, "kernel_takes_ids", lambda: choose_id)
    family, address = (socket.AF_INET, far.ipv4) if version == 4 else (socket.AF_INET6, far.ipv6)
    rule = far.rule(every=5, hook="output", matches=[f"udp sport {PORT}"])
    with far.inside():
        opened = reflecting.open_reflecting(family, "", PORT)
    limit = RateLimit(1_000_000, 1_000_000)
    reflector = Reflector([opened], Reflection(b"", PORT, limit), SystemClock(), lambda: 0x8601)
    replies: list[bytes] = []
    with Capture(far) as capture, sender(near, address) as asking:
        asking.setblocking(False)
        for burst in (1, 1, 1, 8, 8, 1, 3, 64, 64, 1, 1) * 3:
            for _ in range(burst):
                asking.send(FOLLOWED)
            reflector.turn()
            while select.select([asking], [], [], 0)[0]:
                replies.append(asking.recv(2000))
    opened.close()
    _, left = split(capture)
    if version == 4:
        # The rest of a batch is tried again, and by this rule gets through.
        assert set(opened.unsent) == {"EPERM: Operation not permitted"}
        assert 0 < opened.unsent.total() <= rule.counts().hit
    assert [d.payload for d in left] == replies
    numbers = [struct.unpack_from(">I", d.payload)[0] for d in left]
    after = {seq: later.time_ns for seq, later in zip(numbers, [*left[1:], None], strict=True) if later}
    wire = {seq: d.time_ns for seq, d in zip(numbers, left, strict=True)}
    told = [follow_up(reply) for reply in replies]
    known = [(seq, stamp) for seq, stamp, mode in told if mode]
    assert len({seq for seq, _ in known}) == len(known), "each is told once"
    assert len(known) > 0.5 * len(replies)
    for seq, stamp in known:
        assert wire[seq] <= stamp, "and only of replies that left"
        # The next one passed the tap when this one had passed the driver.
        assert stamp <= after.get(seq, stamp)


def test_what_cannot_be_listened_on_is_said(pair: Pair, tmp_path: Path) -> None:
    _, far = pair
    command = [*AS_NOBODY, *coloprobe("reflect")]
    done = far.run(command, check=False)
    assert done.returncode == 1
    assert "may not listen on IPv4:862" in done.stderr
    assert "CAP_NET_BIND_SERVICE" in done.stderr
    assert "net.ipv4.ip_unprivileged_port_start=862" in done.stderr
    with Reflecting(far, tmp_path):
        taken = far.run(coloprobe("reflect", "--bind", far.ipv4), check=False)
    assert taken.returncode == 1
    assert f"{far.ipv4}:862 is in use" in taken.stderr
    assert "ss -ulnp 'sport = :862'" in taken.stderr
    for address in ("10.98.0.1", "[fd98::1]"):
        strange = far.run(coloprobe("reflect", "--bind", f"{address}:8620"), check=False)
        assert strange.returncode == 1
        assert f"{address}:8620: no interface of this host has that address" in strange.stderr


def test_no_privilege_is_needed_above_port_1023_and_none_is_kept(pair: Pair, tmp_path: Path) -> None:
    near, far = pair
    unprivileged = far.popen(
        [*AS_NOBODY, *coloprobe("reflect", "--bind", ":8620")], cwd=ROOT, stderr=-1, stdout=-1
    )
    assert unprivileged.stderr is not None
    assert "[::]:8620" in unprivileged.stderr.readline()
    with sender(near, far.ipv6, 8620) as asking:
        assert len(ask(asking, request(1))) == 44
    unprivileged.terminate()
    assert unprivileged.wait(10) == 0
    with Reflecting(far, tmp_path) as reflector:
        process = reflector._process
        assert process is not None
        status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
        held = int(status.partition("CapEff:")[2].split()[0], 16)
        assert held in (0, 1 << 13)


def test_within_a_link_addresses_need_their_interface_and_get_it(pair: Pair, tmp_path: Path) -> None:
    near, far = pair
    listing = json.loads(far.run(["ip", "-j", "-6", "addr", "show", far.interface]).stdout)
    (address,) = (info["local"] for info in listing[0]["addr_info"] if info["scope"] == "link")
    with (
        Reflecting(far, tmp_path),
        near.inside(),
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as asking,
    ):
        asking.settimeout(10)
        asking.connect((address, PORT, 0, socket.if_nametoindex(near.interface)))
        assert [int.from_bytes(ask(asking, request(9))[:4], "big") for _ in range(3)] == [0, 1, 2]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP], ids=["SIGINT", "SIGHUP"])
def test_it_ends_well_when_asked_to(lab: Lab, tmp_path: Path, number: signal.Signals) -> None:
    here = lab.namespace()
    with Reflecting(here, tmp_path) as reflector:
        assert reflector._process is not None
        reflector._process.send_signal(number)
        assert reflector._process.wait(10) == 0
    assert reflector.ended() == {"replies": 0, "packets": 0, "sessions": 0}
