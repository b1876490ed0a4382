"""Two ends in, a wire between them out that can be cut, made lossy, made slow: a bridge in its own namespace.

Frames pass in the kernel; only while the wire is slow a process carries them (`tests.faults.relay`), because
not every kernel can delay packets itself.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field

from tests.lab.netlab import Namespace
from tests.system.commands import ROOT

NEAR, FAR = "near", "far"
_TABLE = """
table bridge wire {
  chain forward {
    type filter hook forward priority 0; policy accept;
  }
}
"""


@dataclass
class Wire:
    """`near` and `far` are its two ports, each one end of a veth pair whose other end is a host's."""

    namespace: Namespace
    _relay: subprocess.Popen[str] | None = field(default=None, repr=False)

    def join(self) -> None:
        """Bridge the two ports, once they are there."""
        self.namespace.run(
            ["ip", "-batch", "-"],
            stdin="link add wire type bridge forward_delay 0\n"
            f"link set dev {NEAR} master wire up\nlink set dev {FAR} master wire up\nlink set dev wire up\n",
        )
        self.namespace.nft(_TABLE)

    def lose(self, percent: int) -> None:
        """Lose so many of a hundred frames of IP, at random, each way."""
        self._rule(f"ether type ip numgen random mod 100 < {percent} counter drop")

    def garble(self, port: str, percent: int) -> None:
        """Have frames of IP leave `port` as ones of a protocol nobody knows: the host's interface drops them,
        and counts it."""
        self._rule(f'oifname "{port}" ether type ip numgen random mod 100 < {percent} ether type set 0x88b5')

    def mend(self) -> None:
        """As it was."""
        self.namespace.run(["nft", "flush", "chain", "bridge", "wire", "forward"])
        self._stop_relay()

    def down(self) -> None:
        """Take the near port down: the host there loses its carrier."""
        self.namespace.run(["ip", "link", "set", "dev", NEAR, "down"])

    def up(self) -> None:
        self.namespace.run(["ip", "link", "set", "dev", NEAR, "up"])

    def delay(self, ns: int) -> None:
        """Carry every frame `ns` later, each way."""
        relay = self.namespace.popen(
            ["setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "tests.faults.relay", NEAR, FAR],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
        )
        self._relay = relay
        assert relay.stdin is not None
        assert relay.stdout is not None
        assert relay.stdout.readline() == "ready\n", f"the relay did not begin: {relay.wait(10)}"
        self._rule("drop")
        relay.stdin.write(f"{ns}\n")
        relay.stdin.flush()

    def _rule(self, text: str) -> None:
        self.namespace.run(["nft", "add", "rule", "bridge", "wire", "forward", *text.split()])

    def _stop_relay(self) -> None:
        if self._relay is not None:
            assert self._relay.stdin is not None
            self._relay.stdin.close()
            try:
                self._relay.wait(5)
            except subprocess.TimeoutExpired:
                self._relay.kill()
                self._relay.wait()
            self._relay = None
