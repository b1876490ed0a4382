"""Command lines in, what was asked for out: what was not given is absent, and defaults are the program's."""

from __future__ import annotations

from probe.arguments import KNOBS, knobs
from probe.command_line import parser
from probe.reflector import ReflectOptions, parse_bind
from probe.settings import Knobs
from probe.target_settings import KINDS


def test_only_what_was_given_is_a_knob() -> None:
    assert knobs(parser().parse_args(["ping", "a"])) == {}
    line = (
        "ping tcp://a:1 -i 0.5 -s 100 --dscp 46 --flows 16 --burst 3 --poisson --ttl 5 --source 192.0.2.1 "
        "--interface eth1 --dont-fragment --key-file /k -c 5 -W 2s -6 --json"
    )
    got = knobs(parser().parse_args(line.split()))
    assert set(got) == set(KNOBS)
    assert (got["interval"], got["size"], got["dscp"], got["flows"]) == (500_000_000, 100, 46, 16)
    assert (got["schedule"], got["burst"], got["ttl"], got["dont_fragment"]) == ("poisson", 3, 5, True)
    assert (got["source"], got["interface"], got["key_file"]) == ("192.0.2.1", "eth1", "/k")


def test_every_knob_of_a_settings_file_is_an_option() -> None:
    # The TARGET says these two.
    assert {*KNOBS, "kind", "port"} == set(Knobs.__struct_fields__)


def test_what_the_help_says_of_sizes_is_true() -> None:
    import argparse

    commands = next(a for a in parser()._actions if isinstance(a, argparse._SubParsersAction))
    (size,) = (a for a in commands.choices["ping"]._actions if a.dest == "size")
    for kind in ("icmp", "stamp"):
        known = KINDS[kind]
        assert f"{kind}: {known.smallest} to {known.largest}, {known.size}" in str(size.help)


def test_a_reflectors_defaults_are_the_programs() -> None:
    arguments = parser().parse_args(["reflect"])
    host, port = parse_bind(arguments.bind)
    got = ReflectOptions(host, port, arguments.key_file, arguments.clock_error, arguments.rate)
    assert got == ReflectOptions()
