"""The tree in, a wheel installed into a fresh environment out: what users get is what was tested."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*argv: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run(
        [str(word) for word in argv], capture_output=True, text=True, check=False, cwd=cwd, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder, cwd=ROOT)
    [path] = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of a fresh environment that has the wheel, and this one's libraries behind it."""
    folder = tmp_path_factory.mktemp("installed")
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    python = folder / "bin" / "python"
    run(
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        wheel,
    )
    # A .pth line adds a folder, but not that folder's own .pth files: the editable install stays out.
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    Path(site, "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return python


def test_the_wheel_holds_every_module_and_nothing_else_of_the_tree(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    sources = {
        str(p.relative_to(ROOT)) for top in ("probe", "collectors") for p in (ROOT / top).rglob("*.py")
    }
    assert sources <= names
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"probe", "collectors"}
    assert not [name for name in names if "__pycache__" in name]
    assert [name for name in names if name.endswith("licenses/LICENSE")]


def test_the_command_runs_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    where = run(installed, "-c", "import probe; print(probe.__file__)", cwd=tmp_path)
    assert Path(where).is_relative_to(installed.parents[1])
    text = run(installed.with_name("coloprobe"), "--help", cwd=tmp_path)
    assert "usage: coloprobe" in text
    for command in ("agent", "collect", "up", "ping", "show", "check"):
        assert command in text


def test_the_version_is_one(wheel: Path) -> None:
    import probe

    assert wheel.name.startswith(f"coloprobe-{probe.__version__}-")
