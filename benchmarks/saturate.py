"""A target and a number in, the engine as fast as it can go out: JSON with probes, received, processor time.

python -m benchmarks.saturate --target ADDRESS --count N [--backend ring]
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import json
import secrets
import time

from probe.clock import SECOND, SystemClock
from probe.engine.channel import Channel, Flow
from probe.engine.engine import Engine
from probe.engine.samples import Cut
from probe.engine.schedule import Saturated
from probe.host.netlink import Wanted, find_hops
from probe.sockets.heads import Outlet, Way
from probe.sockets.opening import SocketOptions, open_icmp
from probe.sockets.packet_socket import ProbeSocket
from probe.sockets.ring_opening import Secret, open_ring
from probe.targets import resolve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--target", required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--backend", choices=("raw", "ring"), default="raw")
    options = parser.parse_args()
    clock = SystemClock()
    address = resolve(options.target)
    secret = Secret(secrets.token_bytes(8), secrets.randbelow(1 << 16), 1)
    probe_socket: ProbeSocket
    if options.backend == "ring":
        (hop,) = find_hops([Wanted(address.family, address.sockaddr)], 1.0)
        if isinstance(hop, str):
            raise SystemExit(hop)
        outlet = Outlet(hop.index, hop.interface, hop.own_mac, hop.mtu)
        ways = [Way(hop.source, hop.mac)]
        probe_socket = open_ring(SocketOptions(address.family), outlet, ways, secret)
    else:
        probe_socket = open_icmp(SocketOptions(address.family))
    schedule = Saturated(1, options.count)
    channel = Channel(
        probe_socket,
        [Flow(0, address.sockaddr, 64)],
        schedule,
        capacity=max(options.count, 1),
        all_flows=1,
        token=secret.token,
        base_id=secret.first_id,
    )
    cuts: list[Cut] = []
    engine = Engine(
        [channel],
        clock,
        window=3600 * SECOND,
        timeout=SECOND,
        tick=SECOND // 500,
        flows=1,
        on_cut=cuts.append,
    )
    started, cpu = clock.mono(), time.process_time()
    while channel.ledger.head < options.count:
        engine.turn()
    engine.finish(time.sleep)
    answered = 0
    for cut in cuts:
        part = cut.samples[0]
        answered += int(((part.rx != 0) & (part.tx != 0) & ~part.unstamped).sum())
    record = {
        "probes": options.count,
        "received": answered,
        "cpu_s": time.process_time() - cpu,
        "wall_s": (clock.mono() - started) / 1e9,
    }
    print(json.dumps(record))


if __name__ == "__main__":
    main()
