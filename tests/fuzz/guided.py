"""A target's name in, inputs that reach ever more of its code out: atheris, in a process of its own.

`python -m tests.fuzz.guided NAME CORPUS FINDINGS SECONDS` is that process; `drive` starts it and reads what
libFuzzer says at its end.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz.driving import PATIENCE_S, Finding, Outcome
from tests.fuzz.target import Target

_MEMORY_MB = 2048
_TRIED = re.compile(rb"^stat::number_of_executed_units:\s*(\d+)", re.MULTILINE)
_DONE = re.compile(rb"^Done (\d+) runs", re.MULTILINE)
_EDGES = re.compile(rb"^#(\d+)\s.*?\bcov: (\d+)", re.MULTILINE)


def available() -> bool:
    """Whether atheris is installed (the dependency group `fuzz`)."""
    return importlib.util.find_spec("atheris") is not None


def drive(target: Target, seed: int, seconds: float) -> Outcome:
    """Fuzz it for so long, or up to its first finding."""
    root = Path(__file__).parents[2]
    with tempfile.TemporaryDirectory(prefix="coloprobe-fuzz-") as name:
        here = Path(name)
        corpus, findings, rest = (here / part for part in ("corpus", "findings", "tmp"))
        for directory in (corpus, findings, rest):
            directory.mkdir()
        for number, data in enumerate(target.seeds()):
            (corpus / f"seed-{number}").write_bytes(data)
        argv = [sys.executable, "-m", "tests.fuzz.guided", target.name, str(corpus), f"{findings}/"]
        began = time.monotonic()
        done = subprocess.run(
            [*argv, str(seconds), str(seed)],
            cwd=root,
            env=os.environ | {"TMPDIR": str(rest)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=seconds + 300,
            check=False,
        )
        took = time.monotonic() - began
        found = sorted(findings.iterdir())
        finding = None
        if found or done.returncode:
            data = found[0].read_bytes() if found else b""
            finding = Finding(data, done.stderr[-6000:].decode(errors="replace"))
    tried, edges = said(done.stderr)
    return Outcome(target.name, tried, took, finding, edges)


def said(stderr: bytes) -> tuple[int, int | None]:
    """Inputs tried and edges reached, by what libFuzzer printed."""
    steps = _EDGES.findall(stderr)
    counts = [int(count) for count in (*_TRIED.findall(stderr), *_DONE.findall(stderr))]
    return max([*counts, *(int(step) for step, _ in steps)], default=0), int(steps[-1][1]) if steps else None


def main(name: str, corpus: str, findings: str, seconds: str, seed: str) -> None:
    """Never returns: libFuzzer ends the process."""
    import atheris

    logging.disable(logging.CRITICAL)
    with atheris.instrument_imports(include=["probe", "collectors"]):
        from tests.fuzz.table import TARGETS

        target = TARGETS[name]
        feed = target.make()

    def one(data: bytes) -> None:
        try:
            feed(data)
        except target.raises:
            return

    options = {
        "max_total_time": str(max(1, int(float(seconds)))),
        "max_len": str(target.longest),
        "timeout": str(int(PATIENCE_S)),
        "rss_limit_mb": str(_MEMORY_MB),
        "seed": str(int(seed) + 1),
        "artifact_prefix": findings,
        "print_final_stats": "1",
    }
    if target.words:
        words = Path(corpus).with_name("words")
        words.write_text("".join(f'"{_escaped(word)}"\n' for word in target.words if 0 < len(word) <= 64))
        options["dict"] = str(words)
    atheris.Setup([name, *(f"-{key}={value}" for key, value in options.items()), corpus], one)
    atheris.Fuzz()


def _escaped(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)


if __name__ == "__main__":
    main(*sys.argv[1:])
