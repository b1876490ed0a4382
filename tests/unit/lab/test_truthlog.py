"""Records in, a file and the same records read back out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.lab.truthlog import (
    BACKWARD,
    DELIVERED,
    FORWARD,
    IN_FLIGHT,
    LOST,
    Copy,
    LoggedPacket,
    encode,
    read,
)


def test_what_is_written_is_what_is_read_in_order_of_arrival(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    lines = [
        encode(BACKWARD, 1, 30, 84, "", (1, 2, 3, 4), [(40, 41, ""), (50, None, "")], b"\x45\x00"),
        encode(FORWARD, 2, 20, 84, "every", (0, 0, 0, 0), [], b"\x60"),
        encode(FORWARD, 1, 10, 84, "", (0, 0, 0, 0), [(10, None, "Input/output error")], b""),
    ]
    path.write_text('{"seed": 7}\n' + "".join(lines), encoding="utf-8")
    log = read(path)
    assert log.settings == {"seed": 7}
    assert log.packets == [
        LoggedPacket(FORWARD, 1, 10, 84, "", 0, 0, 0, 0, (Copy(10, None, "Input/output error"),), b""),
        LoggedPacket(FORWARD, 2, 20, 84, "every", 0, 0, 0, 0, (), b"\x60"),
        LoggedPacket(BACKWARD, 1, 30, 84, "", 1, 2, 3, 4, (Copy(40, 41), Copy(50, None)), b"\x45\x00"),
    ]
    assert [packet.outcome for packet in log.packets] == [IN_FLIGHT, LOST, DELIVERED]
    assert log.reasons == {(FORWARD, "every"): 1}
    assert log.of(BACKWARD) == log.packets[2:]


@pytest.mark.parametrize("line", ["{", '{"direction": "forward"}', "[1]", json.dumps({"copies": 1})])
def test_a_line_that_is_no_record_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(f"{{}}\n{line}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"log\.jsonl, line 2: no record of a packet"):
        read(path)
