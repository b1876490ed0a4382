"""A file in, a key out, or what the file has to hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from probe.errors import SocketError
from probe.keys import read_key


@pytest.mark.parametrize("content", [b"a key", b"a key\n", b" a key\r\n\n"])
def test_white_space_at_the_ends_is_no_part_of_a_key(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "key"
    file.write_bytes(content)
    assert read_key(file) == read_key(str(file)) == b"a key"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "cannot read key_file {}: No such file or directory"),
        (b"", "key_file {} is empty (make a key with: openssl rand -hex 32)"),
        (b" \n", "key_file {} is empty (make a key with: openssl rand -hex 32)"),
        (b"x" * 4097, "key_file {} is no key: it has more than 4096 bytes"),
    ],
)
def test_what_is_no_key_is_named(tmp_path: Path, content: bytes | None, sentence: str) -> None:
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SocketError) as problem:
        read_key(file)
    assert str(problem.value) == sentence.format(file)
