"""Nothing in, namespaces out, gone at the test's end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab.netlab import Lab, Namespace


@pytest.fixture
def lab() -> Iterator[Lab]:
    """An empty lab."""
    with Lab() as lab:
        yield lab


@pytest.fixture
def pair(lab: Lab) -> tuple[Namespace, Namespace]:
    """`near, far = pair`: two namespaces joined by a veth pair."""
    return lab.pair()
