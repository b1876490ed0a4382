"""Agents to look at in, when a query of InfluxDB first answered with each of their batches out.

    python -m benchmarks.fleet.watch PORT DATABASE EVERY_MS AGENT...

A process of its own, so that nobody's event loop delays it. It asks again and again for the last `batch` of
these agents, until its standard input is closed; then it prints, as JSON, `seen` (agent, number, monotonic ns
at which the answer was here) and what the asking took. A batch is seen at most one interval late.
"""

from __future__ import annotations

import json
import select
import sys
import time
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlencode


def main(argv: list[str]) -> int:
    port, database, every_ms, *agents = argv
    names = "|".join(agents)
    ask = f"select last(batch) from agent where agent =~ /^({names})$/ group by agent"
    target = f"/query?{urlencode({'db': database, 'q': ask})}"
    connection = HTTPConnection("127.0.0.1", int(port), timeout=60)
    seen: list[tuple[str, int, int]] = []
    last = dict.fromkeys(agents, 0)
    took: list[int] = []
    print("watching", flush=True)
    while not select.select([sys.stdin], [], [], 0)[0]:
        began = time.monotonic_ns()
        connection.request("GET", target)
        answer: dict[str, Any] = json.loads(connection.getresponse().read())
        now = time.monotonic_ns()
        took.append(now - began)
        for series in answer["results"][0].get("series", []):
            agent, number = series["tags"]["agent"], int(series["values"][0][1])
            seen += [(agent, n, now) for n in range(last[agent] + 1, number + 1)]
            last[agent] = max(last[agent], number)
        time.sleep(max(0.0, int(every_ms) / 1000 - (time.monotonic_ns() - began) / 1e9))
    print(json.dumps({"seen": seen, "took_ns": took}))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:  # a terminal's Ctrl-C is for whoever started this, and reaches both
        sys.exit(130)
