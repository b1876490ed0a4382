"""A target in, the round-trip times that a Python library measures out, as JSON: icmplib and scapy.

    python -m benchmarks.libraries icmplib ADDRESS --count N --interval SECONDS [--each] [--targets T]
    python -m benchmarks.libraries scapy ADDRESS --count N [--each]

What the libraries' own `ping` and `sr1` do, with the sequence numbers beside the times: those of what was
answered are all that tells a lost probe from its neighbours. `--targets`: icmplib's multiping to so many
addresses from ADDRESS on, without sequence numbers. Prints one object: probes, received, and with `--each`
rtts_ns, pairs of sequence and ns.
"""

from __future__ import annotations

import argparse
import json
import time
from ipaddress import ip_address

Rtts = list[tuple[int, int]]


def _icmplib(address: str, count: int, interval: float) -> Rtts:
    from icmplib import ICMPLibError, ICMPRequest, ICMPv4Socket
    from icmplib.utils import unique_identifier

    rtts: Rtts = []
    identifier = unique_identifier()
    with ICMPv4Socket(None, True) as probe_socket:
        for sequence in range(count):
            if sequence and interval:
                time.sleep(interval)
            request = ICMPRequest(destination=address, id=identifier, sequence=sequence & 0xFFFF)
            try:
                probe_socket.send(request)
                reply = probe_socket.receive(request, 1)
                reply.raise_for_status()
            except ICMPLibError:
                continue
            rtts.append((sequence, round((reply.time - request.time) * 1e9)))
    return rtts


def _multiping(addresses: list[str], count: int, interval: float) -> tuple[int, int]:
    from icmplib import multiping

    # With raw sockets each of them would get the replies to all.
    hosts = multiping(
        addresses, count=count, interval=interval, concurrent_tasks=len(addresses), privileged=False
    )
    return sum(host.packets_sent for host in hosts), sum(host.packets_received for host in hosts)


def _scapy(address: str, count: int, interval: float) -> Rtts:
    from scapy.layers.inet import ICMP, IP
    from scapy.sendrecv import sr1

    rtts: Rtts = []
    for sequence in range(count):
        if sequence and interval:
            time.sleep(interval)
        request = IP(dst=address) / ICMP(id=4711, seq=sequence & 0xFFFF)
        reply = sr1(request, timeout=1, verbose=0)
        if reply is not None:
            took = float(reply.time) - float(request.sent_time or 0)
            rtts.append((sequence, round(took * 1e9)))
    return rtts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("library", choices=("icmplib", "scapy"))
    parser.add_argument("address")
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--interval", type=float, default=0.0)
    parser.add_argument("--targets", type=int)
    parser.add_argument("--each", action="store_true")
    options = parser.parse_args()
    if options.targets:
        first = ip_address(options.address)
        addresses = [str(first + n) for n in range(options.targets)]
        probes, received = _multiping(addresses, options.count, options.interval)
        print(json.dumps({"probes": probes, "received": received}))
        return
    measure = _icmplib if options.library == "icmplib" else _scapy
    rtts = measure(options.address, options.count, options.interval)
    record: dict[str, object] = {"probes": options.count, "received": len(rtts)}
    if options.each:
        record["rtts_ns"] = rtts
    print(json.dumps(record))


if __name__ == "__main__":
    main()
