"""The command line in, every decoder fuzzed out: `make fuzz ARGS="--seconds 60 --only NAME --write"`."""

from __future__ import annotations

import argparse
import hashlib
import resource
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from tests.fuzz import driving, guided
from tests.fuzz.driving import Finding
from tests.fuzz.figures import PAGE, Figures, table, written
from tests.fuzz.table import TARGETS
from tests.fuzz.target import Target

GROWTH_MB = 256  # of this process, over all targets: a decoder that keeps what it is fed gets there


def main(arguments: Sequence[str] | None = None) -> int:
    """0: no findings; 1: some; 2: the command line is wrong."""
    asked = _parser().parse_args(arguments)
    if asked.input is not None:
        return _once([TARGETS[name] for name in asked.only] or list(TARGETS.values()), asked.input)
    chosen = [TARGETS[name] for name in asked.only] or list(TARGETS.values())
    lead = not asked.plain and guided.available()
    if not lead:
        print("without atheris: inputs are made by chance alone" if not asked.plain else "by chance alone")
    before = _memory_mb()
    figures = [_fuzz(target, asked.seed, asked.seconds, lead=lead) for target in chosen]
    grown = _memory_mb() - before
    tried = sum(one.outcome.tried for one in figures)
    findings = sum(one.outcome.finding is not None for one in figures)
    print(f"{len(figures)} targets, {tried:,} inputs, {findings} findings; memory grew by {grown:.0f} MB")
    if grown > GROWTH_MB:
        print(f"that is more than {GROWTH_MB} MB: something keeps what it is fed")
    if asked.write:
        page = PAGE.read_text(encoding="utf-8") if PAGE.exists() else "# Security\n"
        PAGE.write_text(written(page, table(figures, datetime.now(UTC).date())), encoding="utf-8")
        print(f"written into {PAGE}")
    return 1 if findings or grown > GROWTH_MB else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__, allow_abbrev=False)
    parser.add_argument("--seconds", type=float, default=10.0, help="for each target (10)")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", choices=sorted(TARGETS))
    parser.add_argument("--seed", type=int, default=1, help="what chance begins with (1)")
    parser.add_argument(
        "--plain", action="store_true", help="by chance alone, also where coverage could lead"
    )
    parser.add_argument(
        "--input", type=Path, metavar="FILE", help="feed this one input, to --only NAME or to all"
    )
    parser.add_argument("--write", action="store_true", help="write the figures into docs/security.md")
    return parser


def _fuzz(target: Target, seed: int, seconds: float, *, lead: bool) -> Figures:
    by_coverage = lead and target.guided
    if by_coverage:
        outcome = guided.drive(target, seed, seconds)
    else:
        outcome = driving.drive(target, seed, seconds=seconds)
    figures = Figures(target, outcome, by_coverage)
    print(figures, flush=True)
    for finding in (outcome.finding, driving.stretched(target)):
        if finding is not None:
            _save(target, finding)
            figures = Figures(
                target, driving.Outcome(target.name, outcome.tried, outcome.seconds, finding), by_coverage
            )
    return figures


def _save(target: Target, finding: Finding) -> None:
    digest = hashlib.sha256(finding.data).hexdigest()[:16]
    path = Path(tempfile.mkdtemp(prefix="coloprobe-finding-")) / f"{target.name}-{digest}"
    path.write_bytes(finding.data)
    print(finding.text[-4000:])
    print(f"saved as {path}; again: make fuzz ARGS='--only {target.name} --input {path}'", flush=True)


def _once(targets: Sequence[Target], path: Path) -> int:
    """One input again, to one target or to all."""
    found = 0
    for target in targets:
        with driving.impatient():
            finding = driving.judge(target, target.make(), path.read_bytes())
        print(finding.text if finding else f"{target.name}: no finding")
        found |= finding is not None
    return int(found)


def _memory_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    sys.exit(main())
