"""What only some kinds of probe put into the ledger: refusals, and stamps by an interface's own clock."""

from __future__ import annotations

import numpy as np

from probe.engine.ledger import Ledger
from probe.engine.samples import CLOSED, SENT
from tests.unit.probe.engine.test_ledger import array, ids, send


def probes(count: int, *, hardware: bool = False) -> Ledger:
    ledger = Ledger(10, 1, hardware=hardware)
    send(ledger, count)
    return ledger


def test_a_refusal_marks_its_probe_unless_that_was_answered_before() -> None:
    ledger = probes(3)
    ledger.answered(array(1), array(1_500), 2_000)  # somebody listens
    for number in (0, 1):
        ledger.refused(array(number))
        ledger.answered(array(number), array(1_600), 2_000)
    ledger.refused(array(99, -1))  # none of ours
    samples = ledger.cut(9_999, 1_000)
    assert samples.state.tolist() == [SENT | CLOSED, SENT, SENT]
    assert samples.duplicates.tolist() == [0, 1, 0]


def test_an_rtt_by_the_interfaces_clock_needs_both_stamps_of_the_first_reply() -> None:
    ledger = probes(4, hardware=True)
    ledger.stamped(ids(0, 1, 2, 3), array(1_003, 1_013, 1_023, 1_033))
    ledger.stamped_hard(ids(3, 0, 1), array(70_033, 70_003, 70_013))
    # Probe 0 is answered twice; 1 without a stamp by that clock; 2 has no stamp of its leaving by that clock.
    came = array(0, 0, 1, 2)
    stamps, hard = array(2_003, 2_050, 2_013, 2_023), array(70_903, 70_950, 0, 70_923)
    ledger.answered(came, stamps, 3_000, hard)
    ledger.answered(array(0), array(2_060), 3_000, array(70_990))
    samples = ledger.cut(9_999, 5_000)
    assert samples.hard_rtt is not None
    assert samples.hard_rtt.tolist() == [900, 0, 0, 0]
    assert (samples.rx - samples.tx)[:3].tolist() == [1_000, 1_000, 1_000]


def test_a_row_that_is_used_again_has_no_stamp_of_the_probe_before() -> None:
    ledger = probes(1, hardware=True)
    ledger.stamped_hard(ids(0), array(70_003))
    ledger.answered(array(0), array(2_003), 3_000, array(70_903))
    ledger.cut(9_999, 5_000)
    while ledger.head <= ledger.size:
        send(ledger, 64)
    samples = ledger.cut(1 << 62, 5_000)
    assert samples.hard_rtt is not None
    assert not samples.hard_rtt.any()


def test_a_ledger_without_a_clock_of_an_interface_takes_no_notice_of_one() -> None:
    ledger = probes(1)
    ledger.stamped_hard(ids(0), array(70_003))
    ledger.answered(array(0), array(2_003), 3_000, array(70_903))
    assert ledger.cut(9_999, 5_000).hard_rtt is None
    assert len(ledger.hard_tx) == 0
    assert np.count_nonzero(ledger.rx) == 1
