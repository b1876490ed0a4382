"""Columns in, STAMP requests out; golden replies in, columns out: as the golden exchanges have them."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from probe.packets import stamp
from probe.packets.stamp import Layout
from probe.packets.timestamps import from_ntp_each, to_ntp
from tests.unit.probe.packets.stamping import KEY, RECEIVED, SENT, T1, Exchange, exchange, exchanges

TOKEN = b"abcdefgh"
PITCH = 320


def written(layout: Layout, count: int = 1, offset: int = 0, first: int = 5) -> NDArray[np.uint8]:
    """Rows with probes, as a sender makes them: numbers from `first` on, all else as in the golden ones."""
    rows = np.full((count, PITCH), 0xEE, np.uint8)
    rows[:, offset : offset + layout.size] = np.frombuffer(layout.template(TOKEN), np.uint8)
    view = stamp.request_view(rows, layout.sealed, offset)
    view["seq"] = np.arange(first, first + count)
    view["timestamp"] = to_ntp(T1)
    view["error"] = 0x89A8
    view["ssid"] = 42
    if layout.sealed:
        layout.seal(rows, KEY, offset)
    return rows


def kept(packet: bytes, offset: int = 0) -> NDArray[np.uint8]:
    """A received packet in a row, which is longer."""
    row = np.zeros((1, PITCH), np.uint8)
    row[0, offset : offset + len(packet)] = np.frombuffer(packet, np.uint8)
    return row


@pytest.mark.parametrize("offset", [0, 8, 28])
@pytest.mark.parametrize("what", ["unauthenticated", "authenticated"])
def test_golden_requests(what: str, offset: int) -> None:
    golden = exchange(what)
    layout = Layout.of(len(golden.request), bool(golden.key))
    rows = written(layout, offset=offset)
    assert rows[0, offset : offset + layout.size].tobytes() == golden.request
    assert (rows[0, :offset] == 0xEE).all()
    assert (rows[0, offset + layout.size :] == 0xEE).all()


def test_the_golden_request_with_signed_tlvs() -> None:
    golden = exchange("authenticated, with TLVs and their HMAC").request
    layout = Layout.of(len(golden), True)
    row = written(layout)[0, : layout.size]
    assert layout == Layout(len(golden), True, 116, 128, 148, 164)
    row[-1] = 0x77  # the padding behind the HMAC has the file's own value
    assert row.tobytes() == golden


@pytest.mark.parametrize("golden", exchanges(), ids=str)
def test_golden_replies(golden: Exchange) -> None:
    for offset in (0, 20):
        row = stamp.reply_view(kept(golden.reply, offset), bool(golden.key), offset)[0]
        assert (row["seq"], row["sender_seq"], row["ttl"], row["error"]) == (3, 5, 64, 0x8601)
        assert row["sender_error"] == (1 if "8762 alone" in golden.what else 0x89A8)
        assert row["ssid"] == (0 if "8762 alone" in golden.what else 42)
        raw = np.array([row["timestamp"], row["received"], row["sender_timestamp"]], np.uint64)
        assert from_ntp_each(raw).tolist() == [SENT, RECEIVED, T1]


@pytest.mark.parametrize(
    ("what", "at"),
    [("unauthenticated, with TLVs", 60), ("authenticated, with TLVs and their HMAC", 128)],
)
def test_the_columns_of_follow_up_telemetry_and_token(what: str, at: int) -> None:
    golden = exchange(what)
    layout = Layout.of(len(golden.request), bool(golden.key))
    assert layout.follow_up == at
    for offset in (0, 20):
        row = stamp.follow_up_view(kept(golden.reply, offset), layout.follow_up + offset)[0]
        assert (row["header"], row["seq"], row["mode"]) == (stamp.FOLLOWED, 2, stamp.SOFTWARE)
        assert row["timestamp"] == 0xEEADE678_40000000
        token = stamp.token_view(kept(golden.reply, offset), layout.token + offset)
        assert token.tobytes() == TOKEN
    asked = stamp.follow_up_view(kept(golden.request), layout.follow_up)[0]
    assert asked["header"] != stamp.FOLLOWED


def walk(packet: bytes, base: int) -> list[tuple[int, int]]:
    """Type and place of the value of each TLV; fails where they do not fill the packet."""
    found, at = [], base
    while at < len(packet):
        assert packet[at] == 0x80
        found.append((packet[at + 1], at + 4))
        at += 4 + int.from_bytes(packet[at + 2 : at + 4], "big")
    assert at == len(packet)
    return found


@pytest.mark.parametrize("sealed", [False, True])
def test_probes_of_every_size_are_whole_tlvs(sealed: bool) -> None:
    base = 112 if sealed else 44
    full = 12 + 20 + (20 if sealed else 0)
    for size in range(base, base + 200):
        layout = Layout.of(size, sealed)
        packet = layout.template(TOKEN)
        assert len(packet) == size
        if size < base + 4:
            assert packet == bytes(size)
            continue
        tlvs = walk(packet, base)
        assert bool(layout.token) == (size >= base + 12)
        assert bool(layout.follow_up) == (size >= base + full)
        if layout.token:
            assert tlvs[0] == (stamp.EXTRA_PADDING, layout.token)
            assert packet[layout.token : layout.token + 8] == TOKEN
        if layout.follow_up:
            assert tlvs[1] == (stamp.FOLLOW_UP, layout.follow_up)
            assert ((stamp.HMAC, layout.mac) in tlvs) == sealed
            assert layout.end == (layout.mac if sealed else layout.follow_up) + 16
        # Unless padding is all there is, TLVs of authenticated mode are signed.
        assert not sealed or [kind for kind, _ in tlvs] == [1] or stamp.HMAC in dict(tlvs)


@pytest.mark.parametrize(("size", "sealed"), [(43, False), (111, True)])
def test_a_probe_that_is_too_small_is_named(size: int, sealed: bool) -> None:
    with pytest.raises(ValueError, match=f"at least {size + 1} bytes of UDP payload, not {size}"):
        Layout.of(size, sealed)


def test_a_reply_is_genuine_as_far_as_its_hmacs_are_right() -> None:
    golden = exchange("authenticated, with TLVs and their HMAC")
    layout = Layout.of(len(golden.reply), True)

    def judged(packet: bytes, offset: int = 0) -> tuple[bool, bool]:
        packets, tlvs = layout.genuine(kept(packet, offset), KEY, offset)
        return bool(packets[0]), bool(tlvs[0])

    def changed(at: int) -> bytes:
        packet = bytearray(golden.reply)
        packet[at] ^= 1
        return bytes(packet)

    assert judged(golden.reply) == judged(golden.reply, 20) == (True, True)
    for at in (0, 3, 40, 95, 96, 111):
        assert judged(changed(at)) == (False, False)
    for at in (112, 120, 132, 147, 148, 163):
        assert judged(changed(at)) == (True, False)
    # A reflector that knows no TLVs fills up with zeros; one that failed to verify ours says so.
    assert judged(golden.reply[:112] + bytes(57)) == (True, False)
    failed = exchange("authenticated, with TLVs and a wrong HMAC of theirs")
    assert judged(failed.reply + bytes(17)) == (True, False)


def test_sealing_many_rows() -> None:
    layout = Layout.of(180, True)
    rows = written(layout, count=5)
    alone = [written(layout, first=5 + n)[0, :180].tobytes() for n in range(5)]
    assert [row[:180].tobytes() for row in rows] == alone
    assert len(set(alone)) == 5
