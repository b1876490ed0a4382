"""A small test run in, its verdict out: where nothing may be left out, a skip is a failure."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests import conftest

pytest_plugins = ["pytester"]

SKIPPED = "import pytest\n\ndef test_a():\n    pytest.skip('no server')\n"


@pytest.fixture
def session(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # their imports would be most of the time
    pytester.makeini("[pytest]\nmarkers =\n" + "".join(f"    {marker}: x\n" for marker in conftest.NEEDS))
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


@pytest.mark.parametrize("strict", [False, True])
def test_a_device_that_a_container_lacks_cannot_be_installed(session: pytest.Pytester, strict: bool) -> None:
    if strict:
        session.path.joinpath("strict").touch()
    session.path.joinpath("lacks-stress-ng").touch()
    session.mkdir("lacks-").joinpath("dev", "net").mkdir(parents=True)
    session.path.joinpath("lacks-", "dev", "net", "tun").touch()
    session.makepyfile(
        test_a="import pytest\n@pytest.mark.emulator\ndef test_a():\n    pass\n"
        "@pytest.mark.stress\ndef test_b():\n    pass\n"
    )
    result = session.runpytest()
    result.assert_outcomes(skipped=2 - strict, errors=int(strict))  # stress-ng can be had
    result.stdout.fnmatch_lines(
        [
            "left out: 1 emulator tests, because this run lacks: /dev/net/tun",
            "left out: 1 stress tests, because this run lacks: stress-ng",
        ]
    )


# Calls that need more than a laboratory does, and the marker that says so.
CALLS = {"emulated": "emulator", "EmulatedLink": "emulator", "hogged": "stress"}
LAB = Path(conftest.__file__).parent / "lab"


@pytest.mark.parametrize("path", sorted(LAB.glob("test_*.py")), ids=lambda path: path.stem)
def test_what_a_lab_test_calls_is_what_it_is_marked_with(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    of_all = {
        word.attr
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark"
        for word in ast.walk(node.value)
        if isinstance(word, ast.Attribute)
    }
    for function in tree.body:
        if not isinstance(function, ast.FunctionDef) or not function.name.startswith("test_"):
            continue
        called = {
            call.func.attr if isinstance(call.func, ast.Attribute) else ast.unparse(call.func)
            for call in ast.walk(function)
            if isinstance(call, ast.Call)
        }
        marked = of_all | {
            word.attr
            for decorator in function.decorator_list
            for word in ast.walk(decorator)
            if isinstance(word, ast.Attribute)
        }
        wanted = {CALLS[name] for name in called & CALLS.keys()}
        assert wanted <= marked, f"{path.name}: {function.name} lacks the marker {wanted - marked}"
