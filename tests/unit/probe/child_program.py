"""One word in, what a child of that sort does out: run by tests of `probe.children`."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from pathlib import Path


def main(what: str) -> int:
    if what == "echo":
        sys.stdout.write(sys.stdin.read())
    elif what == "endless":
        while True:
            print("x" * 1000)
    elif what == "long":
        print("x" * (1 << 21))
    elif what == "fail":
        print("first\nit went wrong", file=sys.stderr)
        return 3
    elif what == "noisy":
        for n in range(1000):
            print(n, file=sys.stderr)
    elif what == "hang":
        if os.fork() == 0:
            time.sleep(600)
        print(os.getpid(), flush=True)
        time.sleep(600)
    elif what == "self":
        status = Path("/proc/self/status").read_text().splitlines()
        try:
            socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close()
            raw = True
        except PermissionError:
            raw = False
        secret = "COLOPROBE_MQTT_PASSWORD" in os.environ
        said = {"raw": raw, "nice": os.nice(0), "group": os.getpgid(0) == os.getpid(), "secret": secret}
        print(json.dumps({**said, **dict(line.split(":\t", 1) for line in status if line.startswith("Cap"))}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
