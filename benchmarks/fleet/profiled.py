"""A collector's settings in, `coloprobe collect` run under cProfile and its figures in a file out.

    python -m benchmarks.fleet.profiled SETTINGS FILE

FILE has the functions of the main thread by their own time, and FILE.pstats all of it. Threads (writes to the
sink) are not in it.
"""

from __future__ import annotations

import cProfile
import logging
import pstats
import sys
from pathlib import Path

from collectors.collector import main as collect


def main(argv: list[str]) -> int:
    settings, file = argv
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    profile = cProfile.Profile()
    status = profile.runcall(collect, settings)
    profile.dump_stats(f"{file}.pstats")
    with Path(file).open("w", encoding="utf-8") as out:
        stats = pstats.Stats(profile, stream=out)
        stats.sort_stats("tottime").print_stats(45)
        stats.sort_stats("cumulative").print_stats(45)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
