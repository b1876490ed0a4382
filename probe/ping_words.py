"""A summary, or what became of one probe in, text for people out. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from probe.telemetry.lines import Value
from probe.text import duration


def reply(
    source: str,
    seq: int,
    rtt: int,
    *,
    port: str = "",
    forward: int | None = None,
    backward: int | None = None,
    stamp: str = "kernel",
    unfollowed: bool = False,
    late: bool = False,
) -> str:
    """A reply; times in ns, `rtt` negative where there is none. port: open, closed, or nothing."""
    text = f"{source}: seq={seq} " + (f"{port} " if port else "")
    text += f"rtt={duration(rtt)}" if rtt >= 0 else "rtt=?"
    if forward is not None:
        text += f" fwd {duration(forward)}"
    if backward is not None:
        text += f" back {duration(backward)}"
    text += {"user": "  (no kernel timestamp)", "hw": "  (hardware)"}.get(stamp, "")
    text += "  (no follow-up)" if unfollowed else ""
    return text + ("  late" if late else "")


def summary(fields: Mapping[str, Value], name: str, no_delays: str = "") -> str:
    """The fields of a `probe` point in words. `no_delays`: why there are no one-way delays, where there might
    be."""
    if not fields:
        return "nothing was sent"
    loss = f"{fields['loss']:.2%}" if "loss" in fields else "-"
    counts = f"{fields['sent']} sent, {fields['received']} received, {fields['lost']} lost ({loss})"
    if "open" in fields:
        counts += f", {fields['open']} open, {fields['closed']} closed"
    more = [f"{fields[name]} {name}" for name in ("late", "duplicates", "reordered", "errors")]
    more.append(f"longest loss burst {fields['loss_burst_max']}")
    more.append(f"{fields['unstamped']} without kernel stamps")
    if "hardware" in fields:
        more.append(f"{fields['hardware']} with hardware stamps")
    lines = [f"\n--- {name}: {counts}", "    " + ", ".join(more)]
    if "forward_lost" in fields and fields["lost"]:
        lines.append(f"    lost: {fields['forward_lost']} on the way there, {fields['backward_lost']} back")
    if "rtt_min_ns" in fields:
        lines.append("rtt " + _spread(fields, "rtt"))
    if "jitter_ns" in fields:
        lines.append(f"jitter {_time(fields, 'jitter_ns')} (RFC 3550)")
    if "ipdv_mean_ns" in fields:
        mean, high = _time(fields, "ipdv_mean_ns"), _time(fields, "ipdv_p99_ns")
        lines[-1] += f"  ipdv mean {mean}  p99 {high} (RFC 3393)"
    if "clock_error_ns" in fields:
        ways = [way for way in ("forward", "backward") if f"{way}_min_ns" in fields]
        lines += [f"{way} {_spread(fields, way)}" for way in ways]
        lines.append(f"one-way delays: clock error at most {_time(fields, 'clock_error_ns')}")
    elif no_delays and fields["received"]:
        lines.append(f"no one-way delays: {no_delays}")
    if missed := int(fields.get("unfollowed", 0)):
        if missed == fields["received"] and "rtt_min_ns" in fields:
            why = "the reflector did not tell when its kernel sent its replies: its send call is in the RTTs"
        else:
            what, them = ("1 reply", "it") if missed == 1 else (f"{missed} replies", "them")
            why = f"no RTT is taken of {what}, as the reflector did not tell when its kernel sent {them}"
            why += " (of a flow's last reply it cannot)"
        lines.append(why)
    return "\n".join(lines)


def _spread(fields: Mapping[str, Value], prefix: str) -> str:
    names = ("min", "p50", "p90", "p99", "p999", "max", "mean", "stddev")
    return "  ".join(f"{name} {_time(fields, f'{prefix}_{name}_ns')}" for name in names)


def _time(fields: Mapping[str, Value], name: str) -> str:
    return duration(int(fields[name]))
