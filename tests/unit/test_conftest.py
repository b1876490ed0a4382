"""A small test run in, its verdict out: where nothing may be left out, a skip is a failure."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import conftest

pytest_plugins = ["pytester"]

SKIPPED = "import pytest\n\ndef test_a():\n    pytest.skip('no server')\n"


@pytest.fixture
def session(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # their imports would be most of the time
    pytester.makeini("[pytest]\nmarkers =\n    root: x\n    lab: x\n    system: x\n    browser: x\n")
    pytester.makeconftest(Path(conftest.__file__).read_text(encoding="utf-8") + _STUBS)
    return pytester


# What the run inside believes of its machine.
_STUBS = """
from pathlib import Path as _Path
nothing_may_be_left_out = lambda: _Path("strict").exists()
_has = lambda need: not _Path("lacks-" + need).exists()
"""


def test_elsewhere_a_skip_is_a_skip_and_is_told(session: pytest.Pytester) -> None:
    session.makepyfile(test_a=SKIPPED)
    result = session.runpytest()
    result.assert_outcomes(skipped=1)


def test_where_nothing_may_be_left_out_a_skip_fails(session: pytest.Pytester) -> None:
    session.path.joinpath("strict").touch()
    session.makepyfile(test_a=SKIPPED)
    result = session.runpytest()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*was skipped, but root on Debian leaves nothing out*no server*"])


def test_a_module_that_skips_itself_fails_too(session: pytest.Pytester) -> None:
    session.path.joinpath("strict").touch()
    session.makepyfile(test_a="import pytest\npytest.importorskip('no_such_module')\n")
    result = session.runpytest()
    result.assert_outcomes(errors=1)


def test_an_expected_failure_is_no_skip(session: pytest.Pytester) -> None:
    session.path.joinpath("strict").touch()
    session.makepyfile(test_a="import pytest\n@pytest.mark.xfail\ndef test_a():\n    assert False\n")
    session.runpytest().assert_outcomes(xfailed=1)


def test_what_a_folder_needs_and_lacks_is_one_line(session: pytest.Pytester) -> None:
    session.path.joinpath("lacks-root").touch()
    session.path.joinpath("lacks-nft").touch()
    for name in ("lab", "system"):
        session.mkdir(name).joinpath(f"test_{name}.py").write_text(
            "def test_a():\n    pass\n\ndef test_b():\n    pass\n", encoding="utf-8"
        )
    result = session.runpytest()
    result.assert_outcomes(passed=2, skipped=2)
    result.stdout.fnmatch_lines(["left out: 2 lab tests, because this run lacks: root, nft"])
    result.stdout.no_fnmatch_line("left out: * system tests*")
