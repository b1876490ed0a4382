"""A source tree in, every import that breaks the project's rules out; read from the syntax, nothing is run.

Imports inside functions and under TYPE_CHECKING count like any other: knowing a module late is knowing it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGES = ("probe", "collectors")

# The stages of the flow, and what each may know of the others. The agent and the commands join them.
STAGES = {
    "probe.packets": (),
    "probe.sockets": ("probe.packets",),
    "probe.engine": ("probe.packets", "probe.sockets", "probe.host.processors"),
    "probe.windows": ("probe.engine.samples",),
    "probe.detect": ("probe.windows", "probe.text"),
    "probe.telemetry": ("probe.windows",),
    "probe.host": (),
    # A process of its own, beside the flow: it opens sockets as others do.
    "probe.paths": ("probe.packets", "probe.sockets"),
}
# What every stage may use.
COMMON = ("probe.errors", "probe.clock", "probe.units", "probe.settings")
# Pure: bytes, numbers and text in and out, so that they are tested without a network and without waiting.
PURE = (
    "probe.packets",
    "probe.windows",
    "probe.detect",
    "probe.telemetry.lines",
    "probe.telemetry.schema",
    "probe.telemetry.topics",
)
IMPURE = {
    "a socket": (
        "socket",
        "_socket",
        "select",
        "selectors",
        "ssl",
        "http",
        "urllib.request",
        "urllib3",
        "pyroute2",
    ),
    "an event loop or thread": ("asyncio", "threading", "concurrent", "multiprocessing", "subprocess"),
    "a clock": ("time", "datetime", "sched", "probe.clock"),
    "MQTT": ("aiomqtt", "paho", "amqtt", "probe.telemetry.mqtt"),
    "files": ("pathlib", "io", "os", "shutil", "sqlite3", "tempfile"),
}
# The collector may run on a host without an agent: this is all that it shares with one.
SHARED = ("probe.telemetry", "probe.settings", "probe.errors", "probe.clock", "probe.units")
# Third-party clients: one module each knows their names and translates their exceptions.
CLIENTS = {
    "MQTT": ("aiomqtt", "paho"),
    "the MQTT broker": ("amqtt",),
    "InfluxDB": ("influxdb_client",),
    "netlink": ("pyroute2",),
}


@dataclass(frozen=True)
class Import:
    """`importer` names `target`, a module, on `line`; `late`: inside a function."""

    importer: str
    target: str
    line: int
    late: bool

    def __str__(self) -> str:
        return f"{self.importer}, line {self.line}: imports {self.target}"


def modules(root: Path) -> dict[str, Path]:
    """Every module of the project by its dotted name."""
    found: dict[str, Path] = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(root: Path) -> dict[str, list[Import]]:
    """What every module imports, wherever in it."""
    known = modules(root)
    return {name: list(_imports_of(name, path, known)) for name, path in known.items()}


def violations(root: Path) -> list[str]:
    """One line for every broken rule."""
    graph = imports(root)
    everything = [found for rows in graph.values() for found in rows]
    return sorted(
        {
            *_stages(everything),
            *_purity(graph),
            *_sharing(everything),
            *_numpy(graph),
            *_scapy(everything),
            *_clients(everything),
        }
    )


def _stages(everything: Iterable[Import]) -> Iterator[str]:
    for found in everything:
        stage = next((s for s in STAGES if _within(found.importer, s)), None)
        if stage is None or not _within(found.target, *PACKAGES) or found.target in PACKAGES:
            continue
        if not _within(found.target, stage, *STAGES[stage], *COMMON):
            yield f"{found}: a stage knows its own records and those of the stage before it"


def _purity(graph: dict[str, list[Import]]) -> Iterator[str]:
    for start in graph:
        if not _within(start, *PURE):
            continue
        for found in _closure(start, graph):
            for what, names in IMPURE.items():
                if _within(found.target, *names):
                    through = "" if found.importer == start else f" (through {found.importer})"
                    yield f"{start}: is pure, but reaches {what}, {found.target}{through}"


def _sharing(everything: Iterable[Import]) -> Iterator[str]:
    for found in everything:
        if _within(found.importer, "collectors") and _within(found.target, "probe"):
            # `from probe import __version__` names the package itself.
            if found.target != "probe" and not _within(found.target, *SHARED):
                yield f"{found}: a collector shares with an agent only {', '.join(SHARED)}"
        elif _within(found.importer, "probe") and _within(found.target, "collectors"):
            if found.importer != "probe.cli":
                yield f"{found}: only probe.cli may know the collectors"
            elif not found.late:
                yield f"{found}: late, inside a function, or every command pays for it"


def _numpy(graph: dict[str, list[Import]]) -> Iterator[str]:
    for start in graph:
        if _within(start, "collectors"):
            for found in _closure(start, graph):
                if _within(found.target, "numpy", "pandas"):
                    yield f"{start}: a collector does without numpy, but reaches it through {found.importer}"


def _scapy(everything: list[Import]) -> Iterator[str]:
    users = {found.importer for found in everything if _within(found.target, "scapy")}
    for found in everything:
        if _within(found.target, "scapy") and not _within(found.importer, "probe.paths"):
            yield f"{found}: scapy stays in probe.paths"
        if found.target in users and found.importer != found.target:
            yield f"{found}: which imports scapy, and so has to run in a process of its own"


def _clients(everything: Iterable[Import]) -> Iterator[str]:
    users: dict[str, set[str]] = {what: set() for what in CLIENTS}
    for found in everything:
        for what, names in CLIENTS.items():
            if _within(found.target, *names):
                users[what].add(found.importer)
    for what, importers in users.items():
        if len(importers) > 1:
            yield f"{what}: is touched in {', '.join(sorted(importers))}, and may be in one module only"


def _closure(start: str, graph: dict[str, list[Import]]) -> Iterator[Import]:
    """Every import that is met when `start` and all project modules that it reaches are loaded and run."""
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        name = waiting.pop()
        if name in seen or name not in graph:
            continue
        seen.add(name)
        # Python runs the packages around a module first.
        waiting.extend(name.rsplit(".", n)[0] for n in range(1, name.count(".") + 1))
        for found in graph[name]:
            yield found
            waiting.append(found.target)


def _within(name: str, *parents: str) -> bool:
    return any(name == parent or name.startswith(parent + ".") for parent in parents)


def _imports_of(name: str, path: Path, known: dict[str, Path]) -> Iterator[Import]:
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]

    def visit(node: ast.AST, late: bool) -> Iterator[Import]:
        for target in _targets(node, package, known):
            yield Import(name, target, getattr(node, "lineno", 0), late)
        inner = late or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, inner)

    yield from visit(ast.parse(path.read_text(encoding="utf-8"), str(path)), False)


def _targets(node: ast.AST, package: str, known: dict[str, Path]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            base = ".".join(
                [*package.split(".")[: package.count(".") + 2 - node.level], *base.split(".")]
            ).strip(".")
        for alias in node.names:
            # `from probe import errors` names a module, `from probe.errors import LineError` a thing in one.
            whole = f"{base}.{alias.name}"
            yield whole if whole in known else base
    elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if called in ("import_module", "__import__") and isinstance(node.args[0].value, str):
            yield node.args[0].value
