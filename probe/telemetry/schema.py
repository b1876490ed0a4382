"""Nothing in, the published schema out: every measurement with its tags and fields, as data.

The encoder, the collector's validation, `docs/schema.md` and the boards all read this table, so none of them
can drift from what is sent. Durations are integer ns with the suffix `_ns`; ratios are floats 0..1; counts
are integers. A field that has no value in a window is absent, never 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["int", "float", "bool", "str"]


@dataclass(frozen=True)
class Field:
    """One field of a measurement: its type on the wire, its unit and its meaning.

    kinds: of probe (the tag `kind`) that have it; empty: all.
    """

    name: str
    kind: Kind
    doc: str
    kinds: tuple[str, ...] = ()


@dataclass(frozen=True)
class Measurement:
    """One measurement; every line also has the tags `agent` (first, always) and `site` (where set)."""

    name: str
    tags: tuple[str, ...]
    fields: tuple[Field, ...]
    doc: str


def _ints(prefix: str, kinds: tuple[str, ...] = (), **docs: str) -> tuple[Field, ...]:
    return tuple(Field(prefix + name, "int", doc, kinds) for name, doc in docs.items())


def _one_way(way: str, doc: str) -> tuple[Field, ...]:
    return _ints(
        f"{way}_",
        ("stamp",),
        min_ns=f"smallest one-way delay {doc} (RFC 7679); negative where the clocks differ by more than it",
        mean_ns="arithmetic mean of the same",
        stddev_ns="population standard deviation of the same",
        p50_ns="median of the same",
        p90_ns="90th percentile of the same",
        p99_ns="99th percentile of the same",
        p999_ns="99.9th percentile of the same",
        max_ns="largest of the same",
    )


PROBE = Measurement(
    "probe",
    ("target", "venue", "line", "kind", "dscp", "flow"),
    (
        *_ints(
            "",
            sent="probes that left this host, of those due in the window",
            received="probes answered within the timeout",
            lost="sent - received",
            late="replies that came after the timeout; their probes are lost",
            duplicates="further replies to probes that were already answered",
            reordered="replies that arrived after the reply to a later probe (RFC 4737)",
            errors="probes that this host did not let out, and probes for which an ICMP error came",
        ),
        Field("loss", "float", "lost / sent; absent when nothing was sent"),
        *_ints(
            "",
            loss_burst_max="longest run of consecutive losses (RFC 3357)",
            rtt_min_ns="smallest round-trip time (RFC 2681)",
            rtt_mean_ns="arithmetic mean of the round-trip times",
            rtt_stddev_ns="population standard deviation of the round-trip times",
            rtt_p50_ns="median: percentiles are RFC 2330's (11.3), the smallest sample x with F(x) >= p",
            rtt_p90_ns="90th percentile",
            rtt_p99_ns="99th percentile",
            rtt_p999_ns="99.9th percentile",
            rtt_max_ns="largest round-trip time",
            jitter_ns="RFC 3550 section 6.4.1 estimator over the window's round-trip times, as they arrived",
            ipdv_mean_ns="mean absolute difference of the RTTs of consecutive probes (RFC 3393)",
            ipdv_p99_ns="99th percentile of the same",
            send_lag_max_ns="largest delay from when a probe was due to the tick that sent it",
            unstamped="received probes whose RTT is not from kernel or hardware stamps at both ends",
        ),
        *_ints(
            "",
            ("tcp", "connect"),
            open="received probes answered with SYN/ACK: somebody listens on the port",
            closed="received probes answered with RST: nobody does; open + closed = received",
        ),
        *_one_way("forward", "from here to the reflector"),
        *_one_way("backward", "from the reflector to here"),
        *_ints(
            "",
            ("stamp",),
            clock_error_ns="largest sum of both clocks' own bounds: so far a one-way delay may be off",
            forward_lost="lost probes that did not reach the reflector; absent where it numbers no replies",
            backward_lost="lost probes that the reflector answered; absent where it numbers no replies",
            unfollowed="received probes whose dwell time does not end with the reflector's kernel TX stamp",
        ),
        *_ints(
            "",
            hardware="received probes whose RTT is from the interface's own clock; absent where it has none",
        ),
    ),
    "one target over one window, all its flows together; and, with the tag `flow`, each flow of a target "
    "that has several (never add both); time is the window's start",
)
PROBE_HISTOGRAM = Measurement(
    "probe_histogram",
    ("target", "venue", "line", "kind", "dscp", "le"),
    _ints("", count="round-trip times in this bucket alone (not cumulative); empty buckets are absent"),
    "one bucket of a target's round-trip times, of all its flows, over the histogram window; `le`: the "
    "bucket's upper bound in ns, zero-padded to 12 digits, or +Inf; merging is adding",
)
EVENT = Measurement(
    "event",
    ("kind", "target", "interface"),
    (
        Field("text", "str", "what happened, in words"),
        Field("detail", "str", "the same as JSON"),
    ),
    "something that happened at an instant",
)
AGENT = Measurement(
    "agent",
    (),
    (
        *_ints(
            "",
            batch="number of the batch that carries this line, consecutive per spool: a gap is a lost batch",
            spool_batches="batches waiting for acknowledgement",
            spool_bytes="their bytes on disk",
            spool_dropped="batches dropped because spool or disk was full, ever since the spool was made",
            published="batches the broker took, repetitions included, since start",
            republished="batches published again: not acknowledged in time, or the connection was lost",
            acknowledged="batches a collector acknowledged, since start",
            reconnects="connections to the broker after the first one, since start",
            bad_acks="acknowledgements that were not heeded: malformed, or not for this spool, since start",
            unread="messages from the broker let go because too many waited to be read, since start",
            asks="questions over the broker that were answered, since start",
            asks_refused="questions that were not: malformed, not allowed, too many, since start",
            cpu_ns="processor time of the agent since it started (user + system)",
            rss_bytes="resident memory",
            socket_drops="packets the kernel dropped at our sockets because they were full, since start",
            foreign_packets="packets that carried our packet type but not this run's secret, since start",
            damaged_packets="packets the kernel dropped at our sockets for a wrong checksum, since start",
            late_ticks="engine ticks that began more than one tick late, since start",
            skipped="probes not sent because this host was stalled past their time, since start",
            stalls="times this host did not run the engine for over 100 ms, since start",
            clock_steps="steps of the wall clock by more than 200 us, since start",
            cpu_wait_ns="how long the engine was ready to run and no processor was free, since start",
            overrun="probes whose record was overwritten before their window closed, since start",
            windows_dropped="closed windows dropped because the disk did not keep up, since start",
            lines_dropped="lines dropped because the spool could not be written for too long, since start",
            lines_oversized="lines dropped because they fit into no batch, since start",
            clock_error_ns="the kernel's estimate of the wall clock's error (adjtimex maxerror)",
        ),
        Field("host_busy", "float", "share of all this host's processors in use in the last second, 0..1"),
        Field("spool", "str", "random id of the spool file that counts `batch`"),
        Field("clock_synchronised", "bool", "whether the kernel calls the wall clock synchronised"),
        Field("version", "str", "coloprobe's version"),
    ),
    "the agent about itself; the first line of every batch; time is the batch's making",
)
COLLECTOR = Measurement(
    "collector",
    ("collector",),
    (
        *_ints(
            "",
            batches="batches acknowledged, since start",
            lines="lines the sink took, since start",
            rejected="batches refused at the door, since start",
            quarantined="lines set aside because they are invalid or the sink rejects them, since start",
            over_limit="of these, lines of agents that have too many series (limits.series)",
            dropped="batches dropped unacknowledged because the sink did not keep up; agents send them again",
            retries="writes that had to be tried again, since start",
            held_bytes="bytes of batches waiting for the sink now",
            write_latency_ns="duration of the slowest successful write since the last line",
            lag_ns="now - time of the newest line written",
        ),
    ),
    "a collector about itself; `agent` is `collector`",
)
INTERFACE = Measurement(
    "interface",
    ("interface",),
    (
        *_ints(
            "",
            rx_packets="packets received, since the interface was made",
            tx_packets="packets sent, likewise",
            rx_bytes="bytes received, likewise",
            tx_bytes="bytes sent, likewise",
            rx_errors="packets received damaged, likewise",
            tx_errors="packets that could not be sent, likewise",
            rx_dropped="packets received and dropped for want of room or of a taker, likewise",
            tx_dropped="packets dropped on their way out, likewise",
            rx_missed="packets that the hardware had no room for, likewise",
            carrier_changes="times the link came or went, likewise",
            rx_queue_drops="packets that the driver's receive queues dropped, where ethtool tells",
            tx_queue_drops="packets that the driver's send queues dropped, where ethtool tells",
            speed_bps="speed of the link, bits a second; absent where the interface has none",
            mtu="largest packet, bytes",
            softnet_packets="packets that the kernel's processors took in, since boot; of `host` only",
            softnet_dropped="packets dropped because a processor's backlog was full; of `host` only",
            softnet_squeezed="times a processor had more to take in than time for it; of `host` only",
        ),
        Field("up", "bool", "whether it is up and has a carrier"),
    ),
    "counters of an interface; `host`, which is no interface, has those of all processors together",
)
SESSION = Measurement(
    "session",
    ("target", "venue", "line", "remote", "session"),
    (
        *_ints(
            "",
            rtt_ns="the kernel's smoothed round-trip time (tcpi_rtt, RFC 6298)",
            rttvar_ns="its mean deviation (tcpi_rttvar)",
            min_rtt_ns="smallest round-trip time lately (tcpi_min_rtt)",
            retransmits_total="segments sent again, since the connection began (tcpi_total_retrans)",
            lost="segments that the kernel takes for lost now (tcpi_lost)",
            unacked="segments sent and not acknowledged now (tcpi_unacked)",
            delivery_rate_bps="bits a second that arrived lately (tcpi_delivery_rate)",
            bytes_sent="payload bytes sent, repetitions included, since the connection began",
            bytes_received="payload bytes received, since the connection began",
            last_sent_ns="time since payload was sent",
            last_received_ns="time since payload was received",
            waiting_ns="how long payload has waited for its acknowledgement, at least; 0: none does",
            path_mtu="largest packet to there by the kernel's account, bytes (tcpi_pmtu)",
        ),
        Field("state", "str", "the connection's state (RFC 9293), for example ESTABLISHED"),
        Field("stalled", "bool", "whether what was sent has waited for an acknowledgement for too long"),
    ),
    "the kernel's account of one TCP connection of this host to a target; `session` is a small number that "
    "is used again; time is the reading's",
)
PATH = Measurement(
    "path",
    ("target", "flow"),
    (
        *_ints(
            "",
            hops="routers and the target itself on the way, as far as it was seen",
            mtu="largest packet that passes, bytes; absent where it was not found",
            mtu_hop="the last TTL that larger packets reach; absent where all that leave this host pass",
        ),
        Field("mtu_black_hole", "bool", "whether larger packets vanish there without an ICMP message"),
        Field("path_id", "str", "hash of the hops' addresses; a hop that is silent once does not change it"),
        Field("reached", "bool", "whether the target answered"),
        Field("protocol", "str", "what was sent: icmp, udp or tcp"),
        Field("hop_list", "str", "the hops' addresses in order, '*' for a silent one, '|' between several"),
        Field("answer", "str", "what ended the path: echo reply, syn-ack, reset, port unreachable, ..."),
    ),
    "the path of one flow; time is when it was asked for",
)
HOP = Measurement(
    "hop",
    ("target", "flow", "ttl"),
    (
        Field("address", "str", "who answered; absent where nobody did"),
        *_ints(
            "",
            rtt_ns="smallest round-trip time of its answers",
            sent="packets with this TTL",
            received="of these, answered",
            mtu="the largest packet that gets here, bytes; absent where it was not found",
        ),
        Field("loss", "float", "(sent - received) / sent; a router that answers seldom loses nothing"),
        Field("answer", "str", "what it said where that was not that the TTL was exceeded"),
    ),
    "one hop of a path, with the path's time",
)

MEASUREMENTS = {
    m.name: m for m in (PROBE, PROBE_HISTOGRAM, EVENT, AGENT, COLLECTOR, SESSION, INTERFACE, PATH, HOP)
}
