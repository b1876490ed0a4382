"""The code and its pages in, agreement out: what is generated is current."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from collectors.diagnose.rules import RULES
from docs.generate import PAGE, RULES_PAGE, render, render_rules
from probe.telemetry.schema import MEASUREMENTS


def test_the_schema_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(), "docs/schema.md is stale: run `make docs`"


def test_the_page_of_rules_is_current_and_has_them_all() -> None:
    page = RULES_PAGE.read_text(encoding="utf-8")
    assert page == render_rules(), "docs/rules.md is stale: run `make docs`"
    assert all(f"(`{rule.symptom}`)" in page for rule in RULES)


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


OPERATING = PAGE.with_name("operating.md")


def test_the_operators_page_explains_every_field_of_agent_and_collector() -> None:
    page = OPERATING.read_text(encoding="utf-8")
    for name in ("agent", "collector"):
        missing = {field.name for field in MEASUREMENTS[name].fields if f"`{field.name}`" not in page}
        assert not missing, name


def test_the_log_lines_on_the_operators_page_are_those_that_are_written() -> None:
    page = OPERATING.read_text(encoding="utf-8")
    root = PAGE.parents[1]
    source = "\n".join(
        path.read_text(encoding="utf-8")
        for part in ("probe", "collectors")
        for path in (root / part).rglob("*.py")
    )
    section = page.split("## What the log says")[1].split("\n## ")[0]
    lines = [
        text
        for row in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
        for text in re.findall("`(.+?)`", row)
    ]
    assert len(lines) > 15
    for line in lines:
        for words in filter(None, (piece.strip(" :;") for piece in line.split("…"))):
            assert words in source, line


ROOT = PAGE.parents[1]


@pytest.mark.parametrize("page", [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")], ids=lambda page: page.name)
def test_every_link_between_pages_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    for link in links:
        if not re.match(r"[a-z]+:", link):
            assert (page.parent / link).exists(), link
