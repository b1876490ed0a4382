"""The schema in, `docs/schema.md` out: the published measurements as a page (`make docs`)."""

from __future__ import annotations

from pathlib import Path

from probe.telemetry.schema import MEASUREMENTS, Field, Measurement

PAGE = Path(__file__).with_name("schema.md")

_HEAD = """\
# What is published

<!-- Made by `make docs` from probe/telemetry/schema.py: change that, then run it again. -->

Every batch is Influx line protocol. Every line carries the tag `agent`, which stands first, and `site` where
the agent has one; a tag without a value is left out. Timestamps are integer ns since the epoch. Durations are
integer ns and end in `_ns`, ratios are floats from 0 to 1, counts are integers. **A field that has no value
is absent, never 0**: a window in which nothing came back has no round-trip time.

Points with the same measurement, tags and timestamp are the same point, so writing one twice is harmless.
"""


def render() -> str:
    """The whole page."""
    return "\n".join([_HEAD, *(_section(m) for m in MEASUREMENTS.values())])


def _section(measurement: Measurement) -> str:
    tags = ", ".join(f"`{tag}`" for tag in measurement.tags) or "none of its own"
    text = f"## `{measurement.name}`\n\n{_sentence(measurement.doc)}\n\nTags: {tags}.\n"
    if not measurement.fields:
        return text + "\nIts name and tags are reserved; this version does not send it.\n"
    if any(f.kinds for f in measurement.fields):
        text += "\nWhere kinds are named, the points of other kinds do not have the field.\n"
    rows = "".join(f"| `{f.name}` | {f.kind} | {_meaning(f)} |\n" for f in measurement.fields)
    return f"{text}\n| field | type | meaning |\n| --- | --- | --- |\n{rows}"


def _meaning(field: Field) -> str:
    kinds = f"**{', '.join(field.kinds)}**: " if field.kinds else ""
    return kinds + field.doc.replace("|", chr(92) + "|")


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
