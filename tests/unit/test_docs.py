"""The code and its pages in, agreement out: what is generated is current."""

from __future__ import annotations

from docs.generate import PAGE, render
from probe.telemetry.schema import MEASUREMENTS


def test_the_schema_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(), "docs/schema.md is stale: run `make docs`"


def test_the_schema_page_names_every_field() -> None:
    page = render()
    for measurement in MEASUREMENTS.values():
        assert f"## `{measurement.name}`" in page
        for field in measurement.fields:
            assert f"| `{field.name}` | {field.kind} |" in page


def test_no_measurement_has_a_tag_or_field_twice() -> None:
    for measurement in MEASUREMENTS.values():
        names = [*measurement.tags, *(field.name for field in measurement.fields)]
        # InfluxDB takes a tag and a field of one name, and then no query can say which is meant.
        assert len(names) == len(set(names)), measurement.name
