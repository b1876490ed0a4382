"""A network that is well and then is not in, what `coloprobe diagnose` says of it from afar out.

The whole catalogue is `make faults`; here are four faults, one of each kind of place, with shorter windows.
"""

from __future__ import annotations

from pathlib import Path

from tests.faults.catalogue import catalogue
from tests.faults.run import Runner, label, lasting
from tests.faults.topology import Site

FAULTS = ("line-delay", "port-closed", "mtu-black-hole", "clock-step")
LEARNING_S = 8.0
WINDOWS = 15  # seconds here, in which a busy machine has time; usually it takes three


def test_what_is_wrong_is_named_and_nothing_where_nothing_is(tmp_path: Path) -> None:
    faults = {fault.id: fault for fault in catalogue()}
    with Site(tmp_path, window_s=1.0) as site:
        site.start()
        runner = Runner(site, print, windows=WINDOWS)
        runner.learn(LEARNING_S)
        in_quiet = runner.verdicts()
        assert not lasting(in_quiet), in_quiet
        for name in FAULTS:
            outcome = runner.one(faults[name], calm=name != FAULTS[-1])
            assert outcome.right, f"{name}: {label(outcome.verdicts)}\n{runner.report()}"
