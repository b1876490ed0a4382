"""The example of collector.toml: it loads, says the defaults, and mentions every key."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from probe.settings import CollectorSettings, load_collector

EXAMPLE = Path(__file__).parents[3] / "config" / "collector.toml"


def test_it_loads_and_what_it_sets_is_the_default() -> None:
    settings = load_collector(EXAMPLE)
    plain = CollectorSettings(collector=settings.collector)
    assert msgspec.structs.replace(settings, influx=plain.influx) == plain
    assert msgspec.structs.replace(settings.influx, org="") == plain.influx


def test_it_mentions_every_key_of_every_table() -> None:
    tables = re.split(r"^\[(\w+)\]$", EXAMPLE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    shown = {
        name: set(re.findall(r"^(?:# )?(\w+) = ", text, re.MULTILINE))
        for name, text in zip(tables[1::2], tables[2::2], strict=True)
    }
    known = {
        table.name: {key.name for key in msgspec.structs.fields(table.type)}
        for table in msgspec.structs.fields(CollectorSettings)
    }
    assert shown == known
