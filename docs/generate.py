"""The schema and the rules of diagnosis in, `docs/schema.md` and `docs/rules.md` out (`make docs`)."""

from __future__ import annotations

from pathlib import Path

from collectors.diagnose import rules
from collectors.diagnose.causes import CAUSES, Cause
from probe.telemetry.schema import MEASUREMENTS, Field, Measurement

PAGE = Path(__file__).with_name("schema.md")

RULES_PAGE = PAGE.with_name("rules.md")

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


_RULES_HEAD = f"""\
# The rules of `coloprobe diagnose`

<!-- Made by `make docs` from collectors/diagnose/: change causes.py or rules.py there, then run it again. -->

How to read a verdict is in [troubleshooting.md](troubleshooting.md). A weight is in bits: +3 says that one
sees this eight times as often where the cause is at work as where it is not, -3 the contrary. Weights add up;
a cause below +{rules.CHANCE:g} in all is not named.

## Causes

What a cause hits has some tags in common: that is its reach. `agent line` is all that one agent measures over
one line. Its effects on targets are what it explains; a cause with marks weighs {rules.UNMARKED:g} where none
is seen.
"""


def render_rules() -> str:
    """The page of rules."""
    causes = "".join(map(_cause, CAUSES.values()))
    rows = "".join(f"| {rule.what} (`{rule.symptom}`) | {_weights(rule)} |\n" for rule in rules.RULES)
    return (
        f"{_RULES_HEAD}\n| cause | place | what | reach | explains | mark |\n"
        f"| --- | --- | --- | --- | --- | --- |\n"
        f"{causes}\n## Symptoms\n\n| symptom | weighs, for |\n| --- | --- |\n{rows}"
    )


def _cause(cause: Cause) -> str:
    reach = "; ".join(" ".join(words) or "everything" for words in cause.reaches)
    explains = ", ".join(sorted(cause.effects | cause.own))
    marks = ", ".join(f"`{name}`" for name in sorted(rules.MARKS.get(cause.id, ()))) or "none"
    return f"| `{cause.id}` | {cause.place} | {cause.what} | {reach} | {explains} | {marks} |\n"


def _weights(rule: rules.Rule) -> str:
    by_weight: dict[float, list[str]] = {}
    for cause, weight in rule.weights.items():
        by_weight.setdefault(weight, []).append(cause)
    named = [f"{weight:+g} {', '.join(causes)}" for weight, causes in sorted(by_weight.items(), reverse=True)]
    rest = [f"{rule.other:+g} {'the others' if named else 'all'}"] if rule.other else []
    return "; ".join([*(words for words in named if not words.startswith("+0 ")), *rest]) + (
        f"; nothing for {', '.join(by_weight[0.0])}" if rule.other and 0.0 in by_weight else ""
    )


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
    RULES_PAGE.write_text(render_rules(), encoding="utf-8")
