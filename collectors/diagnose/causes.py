"""Nothing in, everything that can be to blame out: each cause with its place, and how far it reaches.

A cause reaches what has some tags in common. `agent line` means: all that one agent measures over one line;
'' means everything. What it does there is its effects: the troubles that it would explain.
"""

from __future__ import annotations

from dataclasses import dataclass

UNKNOWN, NONE = "unknown", "none"
Attributes = tuple[str, ...]

# Of a track: what others can have in common with it, or not.
ATTRIBUTES: Attributes = ("agent", "line", "gateway", "kind", "variant")


@dataclass(frozen=True)
class Cause:
    """One thing that can go wrong.

    reaches: the sets of attributes that what it hits may have in common, each as words.
    effects: troubles of targets that it explains. own: troubles of hosts that are its own mark.
    only_all: it explains troubles of targets only where all within its reach have them.
    what: for the operator; `settle`: what would settle a doubt, with {agent}, {target}, {interface}.
    """

    id: str
    place: str
    reaches: tuple[Attributes, ...]
    effects: frozenset[str]
    own: frozenset[str]
    what: str
    settle: tuple[str, ...]
    only_all: bool = False


def _cause(
    name: str, place: str, reaches: str, effects: str, own: str, what: str, *settle: str
) -> tuple[str, Cause]:
    sets = tuple(tuple(words.split()) for words in reaches.split(","))
    return name, Cause(
        name,
        place,
        sets,
        frozenset(effects.split()),
        frozenset(own.split()),
        what,
        tuple(settle),
        only_all=name == "host-stalled",
    )


_LINE = "agent line, agent"
_KIND = "kind, agent kind, line kind, gateway kind, agent line kind, gateway line kind, agent gateway kind"
_VARIANT = (
    "variant, agent variant, line variant, gateway variant, agent line variant, gateway line variant, "
    "agent gateway variant"
)

CAUSES: dict[str, Cause] = dict(
    (
        _cause(
            "nic-drops",
            "interface",
            _LINE,
            "loss",
            "",
            "the host's interface drops packets",
            "coloprobe ask {agent} links    (do its drops grow?)",
            "ethtool -S INTERFACE on {agent}: which counter? ethtool -g: is its ring at the maximum?",
        ),
        _cause(
            "link-flap",
            "interface",
            _LINE,
            "loss down unsent",
            "carrier",
            "a link of the host goes down and comes up",
            "coloprobe ask {agent} links    (carrier changes)",
            "ethtool -m INTERFACE on {agent}: the light it receives; then cable, optics, patch",
        ),
        _cause(
            "neighbour-failover",
            "path",
            "agent line, agent, line",
            "loss down unsent slow",
            "neighbour",
            "the first router's address moved to other hardware",
            "ip neigh show on {agent}: whose MAC is it now?",
            "ask who runs the first router whether it failed over",
        ),
        _cause(
            "line-loss",
            "interface",
            _LINE,
            "loss down",
            "",
            "the cross-connect loses packets",
            "coloprobe ask {agent} ping {target}    (over this line, and one over the other)",
            "coloprobe ask {agent} links    (errors or drops? then it is this end)",
            "ask the carrier for the error counters of both ends of the cross-connect",
        ),
        _cause(
            "line-delay",
            "interface",
            _LINE,
            "slow",
            "",
            "the line has become longer",
            "coloprobe ask {agent} trace {target}    (is the first hop slower already?)",
            "ask the carrier whether the line was moved to another way",
        ),
        _cause(
            "route-change",
            "path",
            "agent line, line, agent, gateway line, agent gateway, agent gateway line",
            "slow loss down",
            "route",
            "packets take another way",
            "coloprobe ask {agent} trace {target}    (which hop is new?)",
            "ip route get ADDRESS on {agent}, and the routers' own tables from the first hop on",
        ),
        _cause(
            "ecmp-member",
            "path",
            ", agent",
            "loss slow",
            "",
            "one of several parallel paths is bad",
            "coloprobe ask {agent} trace {target}    (which hop have the bad flows in common, and no other?)",
            "coloprobe ping --flows 16 {target} on {agent}: which flows?",
        ),
        _cause(
            "firewall",
            "path",
            _KIND,
            "down",
            "",
            "one protocol is dropped, the others pass",
            "coloprobe ask {agent} trace {target}    (up to which hop does this protocol come?)",
            "ask who runs the filters on the way what was changed",
        ),
        _cause(
            "mtu-black-hole",
            "path",
            _VARIANT,
            "down",
            "",
            "large packets are dropped, and nobody says so",
            "coloprobe ask {agent} trace {target}    (the path's MTU)",
            "ping -M do -s 1472 ADDRESS on {agent}, then smaller: from which size on does it answer?",
        ),
        _cause(
            "gateway-slow",
            "gateway",
            "gateway",
            "slow",
            "",
            "the gateway, or the last link to it, answers late",
            "coloprobe ask {agent} trace {target}    (is the last hop the first slow one?)",
            "coloprobe ask {agent} sessions    (does the order flow see it too?)",
            "ask the exchange about this gateway",
        ),
        _cause(
            "gateway-down",
            "gateway",
            "gateway",
            "down unsent",
            "",
            "the gateway does not answer at all",
            "coloprobe ask {agent} trace {target}    (who is the last to answer?)",
            "ask the exchange about this gateway; use another one meanwhile",
        ),
        _cause(
            "port-closed",
            "gateway",
            "gateway kind, agent gateway line kind",
            "closed",
            "",
            "nobody listens on the gateway's port",
            "coloprobe ask {agent} ping {target}    (still RST?)",
            "ask the exchange whether this gateway is in service; log on elsewhere meanwhile",
        ),
        _cause(
            "far-network",
            "far-network",
            "gateway, gateway line, agent gateway, line, agent gateway line",
            "loss down slow",
            "",
            "it is beyond what the lines have in common",
            "coloprobe ask {agent} trace {target}    (from which hop on?)",
            "ask the exchange's network about this way",
        ),
        _cause(
            "host-stalled",
            "host",
            "agent",
            "slow unsent",
            "stall",
            "the host does not run its programs in time",
            "coloprobe ask {agent} check",
            "top, dmesg and the hypervisor's steal time on {agent}",
        ),
        _cause(
            "receive-buffer",
            "instrument",
            "agent",
            "unsent",
            "hidden",
            "the agent's receive buffer overflows; the network is not to blame",
            "coloprobe ask {agent} check    (engine.receive_buffer, net.core.rmem_max)",
        ),
        _cause(
            "clock-step",
            "instrument",
            "agent",
            "",
            "step",
            "the agent's clock was set; round-trip times stay right, one-way delays and time stamps do not",
            "coloprobe ask {agent} check",
            "chronyc tracking, or pmc, on {agent}: who set it?",
        ),
        _cause(
            "broker-away",
            "instrument",
            ", agent",
            "",
            "silent",
            "measurements do not arrive; the agent keeps them in its spool",
            "coloprobe agents    (is it online?)",
            "the broker's log, and the way from {agent} to it; if it is well, the agent and its host",
        ),
    )
)
