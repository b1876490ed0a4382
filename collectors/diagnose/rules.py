"""Nothing in, the table of rules out: what each symptom weighs for each cause, in bits.

A weight is a weight of evidence (I. J. Good, Probability and the Weighing of Evidence, 1950) in bits: +3 says
that one sees this 8 times as often where the cause is at work as where it is not, -3 the contrary. Weights
add up, as if symptoms were independent; they are not quite, so they are kept small. `other` is the row's
weight for all causes that it does not name: most symptoms say nothing of those (0).

docs/rules.md shows this table; `make docs` writes it there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from collectors.diagnose.causes import CAUSES


@dataclass(frozen=True)
class Rule:
    """One row. what: the symptom in words, for the page; weights: bits by cause."""

    symptom: str
    what: str
    weights: Mapping[str, float] = field(default_factory=dict)
    other: float = 0.0

    def weight(self, cause: str) -> float:
        return self.weights.get(cause, self.other)


def _rule(symptom: str, what: str, other: float = 0.0, **weights: float) -> Rule:
    return Rule(symptom, what, {name.replace("_", "-"): bits for name, bits in weights.items()}, other)


def _reach(symptom: str, what: str, other: float, **weights: float) -> Rule:
    """A row about whom it hits; agents and hosts that fail show that in themselves."""
    return _rule(symptom, what, other, **{**dict.fromkeys(_THEMSELVES, 0.0), **weights})


_THEMSELVES = ("host_stalled", "receive_buffer", "clock_step", "broker_away")

RULES: tuple[Rule, ...] = (
    # -- how far it reaches: the same for every cause, because each says itself what it would reach ----------
    _reach("all-hit", "everything within the cause's reach is hit", 2, ecmp_member=0),
    _reach("one-hit", "there is only one target within its reach, and it is hit", 0.5, ecmp_member=0),
    _reach("some-clean", "some targets within its reach are clean", -4, ecmp_member=1),
    _rule(
        "nearer-clean",
        "the nearer targets of the line are clean, the farther ones are hit",
        0,
        nic_drops=-4,
        link_flap=-4,
        line_loss=-4,
        line_delay=-4,
        neighbour_failover=-4,
        route_change=2,
        far_network=1,
    ),
    _rule(
        "nearest-hit",
        "the nearest target of a line is hit as the farther ones are",
        0,
        line_loss=1.5,
        line_delay=1.5,
        nic_drops=1.5,
        link_flap=1,
        neighbour_failover=1,
        route_change=-2,
        far_network=-3,
    ),
    _reach("other-line-clean", "the same over another line is clean", 2),
    _reach("other-line-too", "the same over another line is hit as well", -4),
    _reach("other-gateway-clean", "other gateways, by the same way, are clean", 2),
    _reach("other-gateway-too", "other gateways, by the same way, are hit as well", -4),
    _reach("other-kind-clean", "the same by another protocol is clean", 2),
    _reach("other-kind-too", "the same by another protocol is hit as well", -4),
    _reach("other-variant-clean", "the same with other packets is clean", 2),
    _reach("other-variant-too", "the same with other packets is hit as well", -4),
    _reach("other-agent-clean", "other agents' way to the same is clean", 1.5),
    _reach(
        "other-agent-too",
        "other agents' way to the same is hit as well",
        -3,
        neighbour_failover=-0.5,
    ),
    _reach("several-lines", "it is seen over several lines", 1),
    _reach("several-gateways", "it is seen at several gateways", 1),
    _reach("several-kinds", "it is seen by several protocols", 1, mtu_black_hole=0),
    _rule(
        "several-agents",
        "several agents see it",
        1,
        broker_away=1,
        host_stalled=0,
        receive_buffer=0,
        clock_step=0,
    ),
    # -- what it does ---------------------------------------------------------------------------------------
    _rule("total", "no probe is answered", 0, firewall=2, mtu_black_hole=2, gateway_down=2, line_loss=-1),
    _rule(
        "partial",
        "some probes are answered",
        0,
        firewall=-5,
        mtu_black_hole=-5,
        gateway_down=-6,
        line_loss=1,
        route_change=-2,
    ),
    _rule(
        "brief", "it was over at once", 0, line_loss=-1, nic_drops=-1, link_flap=0.5, neighbour_failover=0.5
    ),
    _rule(
        "icmp-errors", "routers answer with ICMP errors", 0, firewall=0.5, gateway_down=1, mtu_black_hole=-1
    ),
    _rule(
        "equal-shift", "all are slower by the same time", 0, line_delay=1, route_change=0.5, gateway_slow=1
    ),
    _rule("unequal-shift", "they are slower by different times", 0, line_delay=-2, gateway_slow=-1),
    _rule("large-named", "the packets are large, as the target's name says", 0, mtu_black_hole=2),
    _rule("mtu-shrunk", "path MTU discovery finds a smaller MTU than before", 0, mtu_black_hole=4),
    _rule("one-way", "it is in one direction alone", 0, nic_drops=0.5, ecmp_member=0.5, line_delay=-0.5),
    _rule("both-ways", "it is in both directions", 0, nic_drops=-1, line_loss=0.5, line_delay=0.5),
    _reach(
        "flows-split",
        "some flows of a target are hit, its other flows are not",
        -4,
        ecmp_member=8,
    ),
    _rule("flows-alike", "all flows of a target fare alike", 0, ecmp_member=-6),
    # -- what the host says ---------------------------------------------------------------------------------
    _rule(
        "interface-drops",
        "an interface of the host drops packets in the same time, many for the loss",
        0,
        nic_drops=6,
        line_loss=-3,
        neighbour_failover=-2,
        ecmp_member=-1,
        far_network=-2,
        route_change=-2,
    ),
    _rule("no-drops", "no interface of the host counts drops", 0, nic_drops=-6, line_loss=0.5),
    _rule(
        "host-drops",
        "the host's processors drop packets (softnet)",
        0,
        nic_drops=4,
        host_stalled=1,
        line_loss=-2,
    ),
    _rule(
        "carrier",
        "a link of the host goes down or comes up",
        0,
        link_flap=7,
        line_loss=-4,
        nic_drops=-3,
        neighbour_failover=-2,
        gateway_down=-3,
        far_network=-3,
        route_change=-3,
    ),
    _rule(
        "mac-changed",
        "the address of the first router moved to another MAC",
        0,
        neighbour_failover=7,
        line_loss=-3,
        nic_drops=-3,
        link_flap=-1,
        far_network=-2,
        route_change=-1,
    ),
    _rule("route-event", "the host's routing table changed", 0, route_change=6, line_delay=-3, line_loss=-2),
    _rule("stalled", "the host did not run the agent", 0, host_stalled=4.5),
    _rule("hidden", "the kernel dropped packets at the agent's full sockets", 0, receive_buffer=7),
    _rule("stepped", "the wall clock was set", 0, clock_step=7),
    _rule("silence", "nothing comes from an agent, or came late out of its spool", 0, broker_away=7),
    # -- what paths and sessions say ------------------------------------------------------------------------
    _rule(
        "path-changed",
        "the path goes through other hops than before",
        0,
        route_change=5,
        line_delay=-4,
        gateway_slow=-3,
        line_loss=-1,
        far_network=-1,
        mtu_black_hole=-1,
    ),
    _rule("path-same", "the path goes through the same hops as before", 0, route_change=-5, line_delay=1),
    _rule("first-hop", "the first hop is slow already", 0, line_delay=3, gateway_slow=-4, far_network=-3),
    _rule(
        "middle-hop",
        "a hop in the middle is the first slow one",
        0,
        far_network=2,
        route_change=1,
        line_delay=-2,
    ),
    _rule("last-hop", "the last hop alone is slow", 0, gateway_slow=3, line_delay=-4, route_change=-2),
    _rule(
        "session-too",
        "the host's own TCP sessions suffer as well",
        0,
        firewall=0.5,
        gateway_slow=0.5,
        line_loss=0.5,
    ),
    _rule(
        "session-fine",
        "the host's own TCP sessions go on",
        0,
        gateway_down=-4,
        mtu_black_hole=0.5,
        line_loss=-1,
    ),
)
BY_SYMPTOM = {rule.symptom: rule for rule in RULES}

# What a cause has to show, or it is none: everything but its mark may have other reasons.
MARKS: Mapping[str, frozenset[str]] = {
    "nic-drops": frozenset({"interface-drops", "host-drops"}),
    "link-flap": frozenset({"carrier"}),
    "neighbour-failover": frozenset({"mac-changed"}),
    "ecmp-member": frozenset({"flows-split"}),
    "firewall": frozenset({"other-kind-clean"}),
    "mtu-black-hole": frozenset({"other-variant-clean", "mtu-shrunk"}),
    "host-stalled": frozenset({"stalled"}),
    "receive-buffer": frozenset({"hidden"}),
    "clock-step": frozenset({"stepped"}),
    "broker-away": frozenset({"silence"}),
}
# Without it such a cause is not ruled out, only unlikely: perhaps nobody was there to see it.
UNMARKED = -6.0
# What a fault that nobody knows would weigh; a cause below that is not named.
CHANCE = 2.0
# Some troubles are as likely as others, but these are what one hopes to find last.
PRIOR: Mapping[str, float] = {"far-network": -1.0, "route-change": -0.5, "mtu-black-hole": 0.0}

assert all(set(rule.weights) <= set(CAUSES) for rule in RULES), "a rule names a cause that is none"
