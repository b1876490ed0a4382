"""Settings files in namespaces in, what `coloprobe check` says of them there out."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path

from tests.lab.netlab import Namespace
from tests.lab.running import AS_NOBODY
from tests.system.commands import ROOT, coloprobe

Pair = tuple[Namespace, Namespace]
Said = dict[str, tuple[str, str, str]]


def check(namespace: Namespace, directory: Path, targets: str, *, nobody: bool = False) -> Said:
    """State, text and remedy of each part."""
    file = directory / "agent.toml"
    state = f'[agent]\nid = "lab"\nstate_dir = "{directory}/state"\n'
    file.write_text(state + targets, encoding="utf-8")
    argv = [*(AS_NOBODY if nobody else ()), *coloprobe("check", "-c", file, "--json")]
    done = namespace.run(argv, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return {one["part"]: (one["state"], one["text"], one.get("remedy", "")) for one in found}


def target(name: str, address: str, more: str) -> str:
    return f'[[target]]\nname = "{name}"\naddress = "{address}"\n{more}\n'


def test_what_fits_the_line_and_what_does_not(pair: Pair, tmp_path: Path) -> None:
    near, far = pair
    text = "".join(
        target(f"{kind}{size}-{n}", address, f'kind = "{kind}"\nsize = {size}\ndont_fragment = true')
        for n, (address, most) in enumerate(((far.ipv4, 1480), (far.ipv6, 1460)))
        for kind in ("icmp", "stamp")
        for size in (most, most + 1)
    )
    said = check(near, tmp_path, text)
    sizes = {part.removeprefix("size of target "): says for part, says in said.items() if "size" in part}
    assert set(sizes) == {"icmp1481-0", "stamp1481-0", "icmp1461-1", "stamp1461-1"}
    for state, problem, remedy in sizes.values():
        assert state == "failed"
        assert f"the MTU of {near.interface} (1500)" in problem
        assert remedy.startswith(f"a size of at most {1460 if '1461' in problem else 1480}, ")


def test_sources_and_interfaces_are_those_of_the_namespace(pair: Pair, tmp_path: Path) -> None:
    near, far = pair
    said = check(
        near,
        tmp_path,
        target("a", far.ipv4, f'kind = "stamp"\nsource = "{near.ipv4}"\ninterface = "{near.interface}"')
        + target("b", far.ipv6, f'kind = "tcp"\nport = 9\nsource = "{near.ipv6}"')
        + target("c", far.ipv6, f'kind = "tcp"\nport = 9\nsource = "{far.ipv6}"'),
    )
    assert said[f"source {near.ipv4} interface {near.interface}"][0] == "ok"
    assert said[f"source {near.ipv6}"][0] == "ok"
    state, text, remedy = said[f"source {far.ipv6}"]
    assert state == "failed"
    assert text == f"cannot send from {far.ipv6}: Cannot assign requested address (asked for by target c)"
    assert remedy.endswith(f"interfaces: lo, {near.interface}")


def test_tcp_probes_need_a_privilege_and_connect_does_not(pair: Pair, tmp_path: Path) -> None:
    near, far = pair
    text = target("t4", far.ipv4, 'kind = "tcp"\nport = 9\nflows = 3') + target(
        "t6", far.ipv6, 'kind = "tcp"\nport = 9'
    )
    root = check(near, tmp_path, text)
    assert root["TCP probes IPv4"] == (
        "ok",
        "raw socket (CAP_NET_RAW), kernel stamps both ways, 3 source ports reserved",
        "",
    )
    assert root["TCP probes IPv6"][1].endswith("1 source port reserved")
    nobody = check(near, tmp_path, text, nobody=True)
    for part in ("TCP probes IPv4", "TCP probes IPv6"):
        assert nobody[part] == (
            "failed",
            "raw TCP sockets are not allowed",
            "give the agent CAP_NET_RAW (run it as root, or with AmbientCapabilities=CAP_NET_RAW in its "
            'systemd unit), or set kind = "connect", which needs no privilege',
        )
    plain = target("c", far.ipv4, 'kind = "connect"\nport = 9') + target("s", far.ipv4, 'kind = "stamp"')
    nobody = check(near, tmp_path, plain, nobody=True)
    assert {part for part, (state, _, _) in nobody.items() if state == "failed"} <= {
        "agent.state_dir",
        "broker",
    }


def test_the_packet_filter_that_the_operators_page_shows_lets_in_whom_it_names(pair: Pair) -> None:
    near, far = pair
    page = (ROOT / "docs/operating.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"^   ```\n(   table .*?)^   ```", page, re.MULTILINE | re.DOTALL)
    assert "192.0.2.0/24" in script

    def answered() -> bool:
        """Whether a closed port says so: it can, unless the filter drops what asks."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.settimeout(0.2)
            sender.connect((far.ipv4, 862))
            for _ in range(5):
                try:
                    sender.send(b"?")
                    sender.recv(1)
                except ConnectionRefusedError:
                    return True
                except TimeoutError:
                    continue
        return False

    far.nft(script)
    assert not near.call(answered)
    far.nft("add element inet coloprobe agents { " + near.ipv4 + " }")
    assert near.call(answered)
