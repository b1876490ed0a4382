"""Names of drivers' counters in, those that count drops out; and what this host's own kernel tells."""

from __future__ import annotations

import pytest

from probe.host.counters import Driver, Softnet, dropping, parse_softnet, softnet


@pytest.mark.parametrize(
    ("names", "rx", "tx"),
    [
        (
            ["peer_ifindex", "rx_queue_0_xdp_packets", "rx_queue_0_drops", "rx_queue_0_xdp_drops"],
            ["rx_queue_0_drops"],
            [],
        ),
        # Queue by queue, and the total of them: once is enough.
        (
            ["rx_dropped", "rx0_drops", "rx1_drops", "tx0_xdp_tx_drops", "tx_queue_0_dropped"],
            ["rx0_drops", "rx1_drops"],
            ["tx_queue_0_dropped"],
        ),
        # As mlx5 has them; what programs and filters drop, they mean to.
        (
            ["rx_packets", "rx_out_of_buffer", "rx_discards_phy", "rx_xdp_drop", "rx_vlan_filter_dropped"],
            ["rx_out_of_buffer", "rx_discards_phy"],
            [],
        ),
        (["rx_missed_errors", "rx_no_buffer_count", "rx_fifo_errors", "tx_fifo_errors"], [0, 1, 2], [3]),
        (["collisions", "rx_bytes", "tx_timeout_count"], [], []),
    ],
)
def test_which_numbers_count_packets_that_queues_dropped(
    names: list[str], rx: list[str | int], tx: list[str | int]
) -> None:
    found = dropping(names)
    assert [[names[n] for n in which] for which in found] == [
        [name if isinstance(name, str) else names[name] for name in which] for which in (rx, tx)
    ]


def test_softnet_is_the_sum_of_all_processors() -> None:
    text = "12b39dc2 00000017 000000a1 0 0\n00000001 00000002 00000003 0 0\n"
    assert parse_softnet(text) == Softnet(0x12B39DC3, 0x19, 0xA4)
    assert parse_softnet("") is None
    assert parse_softnet("nonsense is here\n") is None
    here = softnet()
    assert here is not None
    assert here.packets > 0


def test_an_interface_that_tells_nothing_and_one_that_is_not_there() -> None:
    for name in ("lo", "none0", "a-name-that-is-too-long"):
        driver = Driver(name)
        assert (driver.speed(), driver.drops()) == (0, None)
