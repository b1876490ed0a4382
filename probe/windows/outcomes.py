"""Samples in, what became of each out: left or not, received, late or lost, and its round-trip time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probe.engine.samples import ERROR, HIDDEN, LOCAL, SENT, SKIPPED, Samples

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Outcomes:
    """What became of each sample: masks of shape (n,), by the definitions of docs/measuring.md."""

    left: Mask  # the probe left this host, and what became of it can be told
    failed: Mask  # an ICMP error came for it, or this host did not let it out
    answered: Mask  # a reply came at some time
    received: Mask  # ... within the timeout
    unstamped: Mask  # ... but its RTT is neither from two kernel stamps nor from two of the interface
    stamped: Mask  # both kernel stamps are there, in order
    rtt: Ints  # ns; meaningful where `answered`; negative where it cannot be told
    hardware: Mask | None = None  # the RTT is from two stamps of the interface; None: no sample has any


def judge(samples: Samples, timeout: int) -> Outcomes:
    """Decide for every sample: left or not, received, late or lost. `timeout` in ns."""
    attempted = (samples.state & SKIPPED) == 0
    answered = samples.rx != 0
    stamped = (samples.tx != 0) & ~samples.unstamped
    # Stamps out of order are no measurement: fall back to our own clock and say so.
    stamped &= samples.rx >= samples.tx
    took = samples.rx - np.where(stamped, samples.tx, samples.sent)
    # The kernel stamps this flow's probes as they leave the host. One without a stamp that nobody answered
    # is still here:
    # dropped by a queue, or waiting for a neighbour.
    stuck = (samples.tx == 0) & samples.stamping[samples.flow]
    # Without the stamp that there should be, it only seems to have taken so long: that is no proof of
    # lateness.
    unsure = samples.unstamped | stuck
    unstamped = ~stamped
    hardware = None
    if samples.hard_rtt is not None:
        hardware = samples.hard_rtt != 0
        took = np.where(hardware, samples.hard_rtt, took)
        unstamped = unstamped & ~hardware
    # What this host itself gave up, or hid from us, tells nothing of the network.
    ours = (samples.state & (LOCAL | HIDDEN)) != 0
    left = attempted & ((samples.state & SENT) != 0) & (answered | ~(stuck | ours))
    failed = attempted & (~left | ((samples.state & ERROR) != 0))
    received = left & answered & ((took <= timeout) | unsure)
    rtt = took
    if samples.reflections is not None:
        dwell = samples.reflections.dwell
        # A reflector whose clock was set in between tells no dwell time, and nobody the RTT.
        rtt = np.where(dwell >= 0, took - dwell, -1)
    return Outcomes(left, failed, answered & left, received, unstamped, stamped, rtt, hardware)
