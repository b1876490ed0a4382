"""[defaults] and [[target]] in, what each target does out; keys that contradict each other are named."""

from __future__ import annotations

import socket
from pathlib import Path

import numpy as np
import pytest

from probe.engine.ledger import Ledger
from probe.errors import SettingsError
from probe.packets import icmp, stamp, tcp
from probe.settings import Target, load_agent
from probe.target_settings import KINDS
from probe.units import Duration

AGENT = '[agent]\nid = "ny4-01"\n'
TARGET = '[[target]]\nname = "cme-a"\naddress = "192.0.2.20"\n'
GOOD = AGENT + TARGET


def targets(tmp_path: Path, text: str) -> tuple[Target, ...]:
    path = tmp_path / "agent.toml"
    path.write_text(AGENT + text, encoding="utf-8")
    return load_agent(path).target


def test_each_kind_has_its_own_port_size_and_pace(tmp_path: Path) -> None:
    text = "".join(
        f'[[target]]\nname = "{kind}"\naddress = "192.0.2.1"\nkind = "{kind}"\n{more}'
        for kind, more in (("icmp", ""), ("stamp", ""), ("tcp", "port = 9000\n"), ("connect", "port = 1\n"))
    )
    got = [(t.kind, t.port, t.size, str(t.interval)) for t in targets(tmp_path, text)]
    assert got == [
        ("icmp", 0, 64, "100ms"),
        ("stamp", 862, 84, "100ms"),
        ("tcp", 9000, 24, "1s"),
        ("connect", 1, 40, "1s"),
    ]


def test_a_default_that_a_kind_has_no_use_for_means_nothing_to_it(tmp_path: Path) -> None:
    text = (
        '[defaults]\nsize = 100\nport = 9000\nkey_file = "/k"\nkind = "tcp"\n'
        + TARGET
        + TARGET.replace("cme-a", "b")
        + 'kind = "icmp"\n'
        + TARGET.replace("cme-a", "c")
        + 'kind = "stamp"\nport = 862\nsize = 172\n'
        + TARGET.replace("cme-a", "d")
        + 'kind = "stamp"\nkey_file = ""\n'
    )
    got = [(t.kind, t.port, t.size, t.key_file) for t in targets(tmp_path, text)]
    assert got == [
        ("tcp", 9000, 24, ""),
        ("icmp", 0, 100, ""),
        ("stamp", 862, 172, "/k"),
        ("stamp", 9000, 100, ""),
    ]


def test_a_key_makes_a_stamp_probe_larger(tmp_path: Path) -> None:
    (target,) = targets(tmp_path, TARGET + 'kind = "stamp"\nkey_file = "/etc/coloprobe/stamp.key"\n')
    assert (target.size, target.key_file) == (172, "/etc/coloprobe/stamp.key")


@pytest.mark.parametrize(
    ("defaults", "own", "interval"),
    [
        ("", "", "1s"),
        ('interval = "10ms"\n', "", "1s"),
        ('interval = "5s"\n', "", "5s"),
        ("flows = 4\n", "", "4s"),
        ("flows = 4\n", "burst = 3\n", "12s"),
        ('interval = "5s"\n', "flows = 4\n", "5s"),
        ('interval = "5s"\n', "flows = 64\nburst = 64\n", "4096s"),
        ("flows = 4\n", 'interval = "10ms"\n', "10ms"),
    ],
)
@pytest.mark.parametrize("kind", ["tcp", "connect"])
def test_a_gateways_port_sees_one_probe_a_second_unless_the_target_itself_says_otherwise(
    tmp_path: Path, kind: str, defaults: str, own: str, interval: str
) -> None:
    text = f'[defaults]\n{defaults}{TARGET}kind = "{kind}"\nport = 9000\n{own}'
    (target,) = targets(tmp_path, text)
    assert target.interval == Duration.parse(interval)
    assert "interval" in own or target.rate <= 1


def test_a_target_has_a_rate_and_its_source_a_family(tmp_path: Path) -> None:
    name = '[[target]]\nname = "n"\naddress = "gateway.example"\n'
    (target,) = targets(tmp_path, name + 'interval = "10ms"\nflows = 3\nburst = 2\nsource = "2001:db8::1"\n')
    assert (target.rate, target.family) == (600.0, socket.AF_INET6)
    for source, family in (("192.0.2.1", socket.AF_INET), ("fe80::1%eth0", socket.AF_INET6), ("", 0)):
        (target,) = targets(tmp_path, f'[defaults]\nsource = "{source}"\n{name}')
        assert (target.source, target.family) == (source, family)


def test_what_a_packet_carries_may_be_said_once_for_all(tmp_path: Path) -> None:
    (target,) = targets(
        tmp_path,
        '[defaults]\nttl = 7\ninterface = "eth0.100"\ndont_fragment = true\n' + TARGET + 'interface = ""\n',
    )
    assert (target.ttl, target.interface, target.dont_fragment) == (7, "", True)
    (target,) = targets(tmp_path, TARGET)
    assert (target.ttl, target.source, target.interface, target.dont_fragment) == (0, "", "", False)


def held(thing: object) -> int:
    """Bytes of the arrays in an object and in the project's objects that it holds."""
    if isinstance(thing, np.ndarray):
        return thing.nbytes if thing.base is None else 0
    inner = (
        vars(thing).values()
        if type(thing).__module__.startswith("probe.") and hasattr(thing, "__dict__")
        else ()
    )
    return sum(held(each) for each in inner)


def test_memory_for_probes_is_counted_as_what_a_ledger_takes() -> None:
    probes = 1 << 20
    assert held(Ledger(probes, 1)) // probes == KINDS["icmp"].row == KINDS["connect"].row
    assert held(Ledger(probes, 1, reflecting=True)) // probes == KINDS["stamp"].row


UDP = 8


def test_sizes_are_those_of_the_packets() -> None:
    assert KINDS["icmp"].smallest == icmp.HEADER
    assert KINDS["tcp"].size == tcp.SIZE


@pytest.mark.parametrize("sealed", [False, True])
def test_a_stamp_probe_holds_by_default_all_that_we_ask_a_reflector(tmp_path: Path, sealed: bool) -> None:
    key = 'key_file = "/k"\n' if sealed else ""
    (target,) = targets(tmp_path, f'{TARGET}kind = "stamp"\n{key}')
    assert stamp.Layout.of(target.size - UDP, sealed).follow_up
    assert not stamp.Layout.of(target.size - UDP - 1, sealed).follow_up
    smallest = UDP + (stamp.SEALED if sealed else stamp.OPEN)
    assert targets(tmp_path, f'{TARGET}kind = "stamp"\n{key}size = {smallest}\n')[0].size == smallest
    with pytest.raises(SettingsError, match=f"allowed: {smallest} to 9000"):
        targets(tmp_path, f'{TARGET}kind = "stamp"\n{key}size = {smallest - 1}\n')


# Text, then what stands behind "agent.toml: ".
ERRORS = [
    (
        GOOD + "port = 9000\n",
        'target[0].port: kind = "icmp" has no ports '
        '(allowed: no port, or kind = "stamp", "tcp" or "connect")',
    ),
    (GOOD + 'kind = "tcp"\n', 'target[0].port: is missing, for kind = "tcp" (allowed: 1 to 65535)'),
    (
        AGENT + '[defaults]\nkind = "connect"\n' + TARGET,
        'target[0].port: is missing, for kind = "connect" (allowed: 1 to 65535)',
    ),
    (GOOD + 'kind = "stamp"\nport = 0\n', "target[0].port: 0 is not allowed (allowed: 1 to 65535)"),
    (
        AGENT + "[defaults]\nport = 65536\n" + TARGET,
        "defaults.port: 65536 is not allowed (allowed: 1 to 65535)",
    ),
    (
        GOOD + 'kind = "tcp"\nport = 1\nsize = 24\n',
        'target[0].size: kind = "tcp" always sends 24 bytes (allowed: no size for this target)',
    ),
    (
        GOOD + 'kind = "connect"\nport = 1\nsize = 64\n',
        'target[0].size: kind = "connect" always sends 40 bytes (allowed: no size for this target)',
    ),
    (
        GOOD + 'kind = "stamp"\nsize = 51\n',
        'target[0].size: 51 is not allowed for kind = "stamp" (allowed: 52 to 9000)',
    ),
    (
        GOOD + 'kind = "stamp"\nkey_file = "/k"\nsize = 119\n',
        'target[0].size: 119 is not allowed for kind = "stamp" with a key_file (allowed: 120 to 9000)',
    ),
    (
        AGENT + "[defaults]\nsize = 32\n" + TARGET + TARGET.replace("cme-a", "b") + 'kind = "stamp"\n',
        "defaults.size: 32 is not allowed for target 'b', kind = \"stamp\" "
        "(allowed: 52 to 9000, or that target's own size)",
    ),
    (GOOD + "size = 9001\n", "target[0].size: 9001 is not allowed (allowed: 24 to 9000)"),
    (
        GOOD + 'key_file = "/k"\n',
        'target[0].key_file: kind = "icmp" has no keys (allowed: no key_file, or kind = "stamp")',
    ),
    (
        GOOD + 'kind = "stamp"\nkey_file = "a\\n"\n',
        "target[0].key_file: 'a\\n' is not a file's path (allowed: a file with the key, or none)",
    ),
    (GOOD + "flows = 0\n", "target[0].flows: 0 is not allowed (allowed: 1 to 64)"),
    (GOOD + "burst = 65\n", "target[0].burst: 65 is not allowed (allowed: 1 to 64)"),
    (GOOD + "ttl = 0\n", "target[0].ttl: 0 is not allowed (allowed: 1 to 255)"),
    (AGENT + "[defaults]\nttl = 256\n" + TARGET, "defaults.ttl: 256 is not allowed (allowed: 1 to 255)"),
    (GOOD + "dont_fragment = 1\n", "target[0].dont_fragment: 1 is not allowed (allowed: true or false)"),
    (
        GOOD + 'source = "eth0"\n',
        "target[0].source: 'eth0' is not an address that packets can come from "
        "(allowed: an IP address of this host)",
    ),
    (
        GOOD + 'source = "224.0.0.1"\n',
        "target[0].source: '224.0.0.1' is not an address that packets can come from "
        "(allowed: an IP address of this host)",
    ),
    (
        GOOD + 'source = "2001:db8::1"\n',
        "target[0].source: '2001:db8::1' is not of the family of target[0].address = '192.0.2.20' "
        "(allowed: an IPv4 address of this host)",
    ),
    (
        AGENT
        + '[defaults]\nsource = "192.0.2.1"\n'
        + TARGET
        + '[[target]]\nname = "six"\naddress = "fe80::1%eth0"\n',
        "defaults.source: '192.0.2.1' is not of the family of target[1].address = 'fe80::1%eth0' "
        "(allowed: an IPv6 address of this host)",
    ),
    (
        GOOD + 'interface = "sixteen-letters!"\n',
        "target[0].interface: 'sixteen-letters!' is not an interface's name "
        "(allowed: at most 15 bytes without spaces, / and :, for example eth0)",
    ),
    (
        AGENT + '[defaults]\ninterface = "eth 0"\n' + TARGET,
        "defaults.interface: 'eth 0' is not an interface's name "
        "(allowed: at most 15 bytes without spaces, / and :, for example eth0)",
    ),
    (
        AGENT + "[defaults]\nflows = 64\nburst = 64\n" + TARGET + 'interval = "20ms"\n',
        "target: all targets together ask for 204,800 probes/s "
        "(allowed: at most 200,000: longer intervals, fewer flows or smaller bursts)",
    ),
    (
        GOOD + 'kind = "stamp"\ninterval = "1ms"\nflows = 64\n[window]\nlength = "2m"\nhistogram = "2m"\n',
        "window.length: 2m at 64,000 probes/s means remembering 7,808,000 probes in 750 MB (allowed: at most "
        "430 MB: shorter windows and timeouts, longer intervals, fewer flows or smaller bursts)",
    ),
]


@pytest.mark.parametrize(("text", "says"), ERRORS, ids=[says.partition(" (")[0] for _, says in ERRORS])
def test_a_contradiction_names_file_key_problem_and_what_is_allowed(
    text: str, says: str, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError) as caught:
        targets(tmp_path, text.removeprefix(AGENT))
    assert str(caught.value) == f"{tmp_path / 'agent.toml'}: {says}"
    error = caught.value
    assert str(error) == f"{error.file}: {error.key}: {error.problem} (allowed: {error.allowed})"
