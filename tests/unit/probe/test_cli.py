"""Output that cannot be written in, an exit status and a line about it out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_a_full_disk_is_an_error_in_words() -> None:
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "probe.cli", "completion", "bash"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (ended.returncode, ended.stderr) == (1, "coloprobe: cannot write: No space left on device\n")
