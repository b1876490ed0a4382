"""Nothing in, sixteen faults out, each as what it does to the packets of `.site`."""

from __future__ import annotations

from collections.abc import Callable

from tests.unit.collectors.diagnose.site import QUIET, Fault, Flow, Packets, event, paths

MS = 1_000_000
_BEHIND_XA = ["g1-a", "g1-a-tcp", "g1-a-stamp", "g1-a-big", "g2-a", "g2-a-tcp", "edge-a"]


def _where(condition: Callable[[Flow], bool], **change: float) -> Callable[[Flow, Packets], None]:
    def hits(flow: Flow, packets: Packets) -> None:
        if condition(flow):
            for name, value in change.items():
                if name == "loss":
                    packets.loss = 1 - (1 - packets.loss) * (1 - value)
                elif name == "delay_ns":
                    packets.delay_ns += int(value)
                else:
                    setattr(packets, name, value)

    return hits


def _cross_connect(flow: Flow) -> bool:
    return flow.agent == "agent-1" and flow.line == "A"


def _line_a(flow: Flow) -> bool:
    return flow.line == "A" and flow.gateway != "edge"


def catalogue() -> dict[str, Fault]:
    """By the cause that should be named."""
    return {
        "nic-drops": Fault(
            _where(_cross_connect, loss=0.08, forward=0.0), interface={"rx_dropped": 30}, agent={}
        ),
        "link-flap": Fault(
            _where(_cross_connect, unsent=0.5),
            lambda: iter(
                [
                    event(QUIET + 0.2, "link", "xa lost its carrier", what="carrier", targets=_BEHIND_XA),
                    event(QUIET + 0.6, "link", "xa has a carrier again", what="carrier", targets=_BEHIND_XA),
                ]
            ),
            interface={"carrier_changes": 2},
            end=QUIET + 2,
        ),
        "neighbour-failover": Fault(
            _where(_cross_connect, loss=0.2),
            lambda: iter(
                [
                    event(
                        QUIET + 0.3,
                        "neighbour",
                        "the gateway has another MAC address (failover?)",
                        what="mac",
                        before="02:00:00:00:00:01",
                        after="02:00:00:00:00:02",
                        targets=_BEHIND_XA,
                    )
                ]
            ),
            end=QUIET + 1,
        ),
        "route-change": Fault(
            _where(_line_a, delay_ns=2 * MS),
            lambda: iter([paths(1, "e", "c", "g"), paths(QUIET + 1.5, "e", "x", "y", "c", "g")]),
        ),
        "ecmp-member": Fault(_where(lambda f: f.gateway != "edge" and f.path == 1, loss=0.3, forward=1.0)),
        "line-loss": Fault(_where(_cross_connect, loss=0.08)),
        "line-delay": Fault(_where(_cross_connect, delay_ns=2 * MS)),
        "gateway-slow": Fault(_where(lambda f: f.gateway == "g1", delay_ns=3 * MS)),
        "port-closed": Fault(_where(lambda f: f.gateway == "g1" and f.kind == "tcp", closed=True)),
        "gateway-down": Fault(_where(lambda f: f.gateway == "g1", loss=1.0)),
        "firewall": Fault(_where(lambda f: f.kind == "tcp", loss=1.0)),
        "mtu-black-hole": Fault(_where(lambda f: f.large, loss=1.0)),
        "host-stalled": Fault(agent={"stalls": 2, "skipped": 90}),
        "receive-buffer": Fault(
            _where(lambda f: f.agent == "agent-1", unsent=0.8), agent={"socket_drops": 400}
        ),
        "clock-step": Fault(
            tells=lambda: iter([event(QUIET + 0.5, "clock", "wall clock stepped by +250.000 ms")]),
            agent={"clock_steps": 1},
            end=QUIET + 1,
        ),
        "broker-away": Fault(silent=True, end=QUIET + 6),
    }
