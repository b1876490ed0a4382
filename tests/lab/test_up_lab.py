"""`coloprobe up` without a target in a namespace in, points of loopback and of the default gateway out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.lab.netlab import Namespace
from tests.lab.running import AS_NOBODY
from tests.system.commands import DEADLINE_S, ROOT, coloprobe, run, wait_for


def test_without_a_target_it_probes_loopback_and_the_default_gateway(
    pair: tuple[Namespace, Namespace], tmp_path: Path
) -> None:
    near, far = pair
    near.route("0.0.0.0/0", far.ipv4)
    rule = far.rule("accept")
    arguments = ("--board", "127.0.0.1:0", "--broker", "127.0.0.1:0", "--state", tmp_path / "up")
    log = tmp_path / "up.log"
    with log.open("wb") as output:
        process = near.popen(coloprobe("up", *arguments), stdout=output, stderr=output, cwd=ROOT)

        def points() -> list[dict[str, Any]]:
            assert process.poll() is None, log.read_text()
            done = run("show", "--state", tmp_path / "up", "--json")
            found = [json.loads(line) for line in done.stdout.splitlines()]
            return [point for point in found if point["measurement"] == "probe"]

        wait_for(lambda: {p["target"] for p in points()} == {"loopback", "default-gateway"})
        found = points()
        process.terminate()
        assert process.wait(DEADLINE_S) == 0, log.read_text()
    assert "Traceback" not in log.read_text()
    assert {(point["lost"], point["errors"]) for point in found} == {(0, 0)}
    assert rule.counts().seen > 0


def test_without_any_privilege_it_names_both_ways(pair: tuple[Namespace, Namespace]) -> None:
    near, _ = pair
    near.sysctl("net.ipv4.ping_group_range", "1 0")
    command = [*AS_NOBODY, *coloprobe("up", "127.0.0.1", "--board", "127.0.0.1:0", "--broker", "127.0.0.1:0")]
    done = near.run([*command, "--state", "/nonexistent"], check=False)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "CAP_NET_RAW" in line
    assert "net.ipv4.ping_group_range" in line
