"""A data directory in, a real server out: mosquitto, InfluxDB 1.6 and VictoriaMetrics on free loopback ports.

Each is a context manager around a `Server` that can be killed and started again on the same port and data:

    with influxdb(tmp_path) as influx:
        influx.create_database("coloprobe")
        influx.kill()
        influx.start()
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import pytest

PACKAGES = {
    "mosquitto": "mosquitto",
    "mosquitto_passwd": "mosquitto",
    "influxd": "influxdb",
    "victoria-metrics": "victoria-metrics",
}
START_DEADLINE_S = 60.0


def program(name: str) -> str:
    """The path of a server's program; fails naming its Debian package as root, skips saying so without."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found:
        return found
    missing = f"{name} is missing; it is in the Debian package {PACKAGES[name]!r}"
    if os.geteuid() == 0:
        pytest.fail(f"{missing} (make test installs it)", pytrace=False)
    pytest.skip(missing)


def free_port() -> int:
    """A loopback TCP port that nobody listens on, outside the range that the kernel deals to clients.

    So a server that is killed finds its port free when it comes back.
    """
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


class Answer(NamedTuple):
    status: int
    body: bytes


class Server:
    """One server process: started, killed, stopped and started again on the same port and data."""

    def __init__(self, name: str, argv: list[str], port: int, directory: Path, health: str = "") -> None:
        self.name = name
        self.port = port
        self.log = directory / f"{name}.log"
        self._argv = argv
        self.secure: ssl.SSLContext | None = None  # it speaks https, and this trusts its certificate
        self._health = health  # HTTP path that says 2xx once it serves; empty: a TCP connection will do
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and return once it serves."""
        assert not self.running(), f"{self.name} runs already"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(self._argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + START_DEADLINE_S
        while not self._serves():
            if not self.running() or time.monotonic() > deadline:
                self.kill()
                log_end = self.log.read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{self.name} did not start: {' '.join(self._argv)}\n{log_end}")
            time.sleep(0.02)

    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone. Harmless where it does not run."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        """SIGTERM, then SIGKILL after 10 s."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()

    def request(self, method: str, path: str, body: bytes | None = None) -> Answer:
        """One HTTP request. Raises: OSError, HTTPException."""
        connection = (
            HTTPSConnection("127.0.0.1", self.port, timeout=30, context=self.secure)
            if self.secure
            else HTTPConnection("127.0.0.1", self.port, timeout=30)
        )
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            return Answer(response.status, response.read())
        finally:
            connection.close()

    def _serves(self) -> bool:
        try:
            if self._health:
                return 200 <= self.request("GET", self._health).status < 300
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except (OSError, HTTPException):
            return False
        return True


class Influx(Server):
    """InfluxDB 1.6: `query` answers InfluxQL."""

    database = ""

    def create_database(self, name: str) -> None:
        """Create it, and make it the one that `query` asks."""
        self.query(f'CREATE DATABASE "{name}"')
        self.database = name

    def query(self, influxql: str, database: str = "") -> list[dict[str, Any]]:
        """Every row of every series as a dictionary: columns, group tags, `name`; integer ns."""
        form = {"q": influxql, "db": database or self.database, "epoch": "ns"}
        answer = self.request("POST", f"/query?{urlencode(form)}")
        document = json.loads(answer.body)
        results = document.get("results", [])
        errors = [problem for part in (document, *results) if (problem := part.get("error"))]
        if answer.status != 200 or errors:
            raise RuntimeError(f"{influxql}: HTTP {answer.status} {errors}")
        return [
            {
                "name": series.get("name", ""),
                **series.get("tags", {}),
                **dict(zip(series["columns"], row, strict=True)),
            }
            for result in results
            for series in result.get("series", [])
            for row in series.get("values", [])
        ]


class VictoriaMetrics(Server):
    """VictoriaMetrics: `export` answers with what it stores."""

    def export(self, selector: str) -> list[dict[str, Any]]:
        """Series that match, for example '{__name__=~"probe_.*"}': `metric`, `values`, `timestamps` (ms)."""
        self.request("GET", "/internal/force_flush")
        answer = self.request("GET", f"/api/v1/export?{urlencode({'match[]': selector})}")
        if answer.status != 200:
            raise RuntimeError(f"{selector}: HTTP {answer.status} {answer.body!r}")
        return [json.loads(line) for line in answer.body.splitlines()]


@contextmanager
def mosquitto(tmp_path: Path, *, extra_conf: str = "") -> Iterator[Server]:
    """A broker that lets everybody in unless `extra_conf` (lines of mosquitto.conf) says otherwise."""
    binary, port, directory = program("mosquitto"), free_port(), _directory(tmp_path, "mosquitto")
    lines = [f"listener {port} 127.0.0.1", "log_dest stderr"]
    if os.geteuid() == 0 and not re.search(r"^user ", extra_conf, re.MULTILINE):
        lines.append("user root")  # or it gives up root and cannot read pytest's directories
    if not re.search(r"^allow_anonymous ", extra_conf, re.MULTILINE):
        lines.append("allow_anonymous true")
    configuration = directory / "mosquitto.conf"
    configuration.write_text("\n".join([*lines, extra_conf, ""]))
    server = Server("mosquitto", [binary, "-c", str(configuration)], port, directory)
    with _running(server):
        yield server


@contextmanager
def influxdb(
    tmp_path: Path, *, extra_http: str = "", secure: ssl.SSLContext | None = None
) -> Iterator[Influx]:
    """InfluxDB 1.6; `extra_http`: further lines of the section [http] (auth-enabled, max-body-size, ...).

    With `secure` these lines have to switch https on.
    """
    binary, port, rpc, directory = (
        program("influxd"),
        free_port(),
        free_port(),
        _directory(tmp_path, "influxdb"),
    )
    configuration = directory / "influxdb.conf"
    http = f"127.0.0.1:{port}"
    configuration.write_text(influxdb_settings(directory, http, f"127.0.0.1:{rpc}", extra_http=extra_http))
    server = Influx("influxdb", [binary, "-config", str(configuration)], port, directory, health="/ping")
    server.secure = secure
    with _running(server):
        yield server


def influxdb_settings(directory: Path, http: str, rpc: str, *, extra_http: str = "") -> str:
    """influxdb.conf of a server that keeps its data there and says nothing but what it is asked."""
    return f"""
        reporting-disabled = true
        bind-address = "{rpc}"
        [meta]
        dir = "{directory}/meta"
        [data]
        dir = "{directory}/data"
        wal-dir = "{directory}/wal"
        query-log-enabled = false
        [http]
        bind-address = "{http}"
        log-enabled = false
        {extra_http}
        [monitor]
        store-enabled = false
        [subscriber]
        enabled = false
        [continuous_queries]
        enabled = false
        """


@contextmanager
def victoria_metrics(tmp_path: Path) -> Iterator[VictoriaMetrics]:
    """VictoriaMetrics, whose points can be read back at once."""
    binary, port, directory = (
        program("victoria-metrics"),
        free_port(),
        _directory(tmp_path, "victoria-metrics"),
    )
    argv = [
        binary,
        f"-httpListenAddr=127.0.0.1:{port}",
        f"-storageDataPath={directory}/data",
        "-search.latencyOffset=0s",
        "-memory.allowedBytes=128MB",
        "-retentionPeriod=10y",
    ]
    server = VictoriaMetrics("victoria-metrics", argv, port, directory, health="/health")
    with _running(server):
        yield server


def _directory(tmp_path: Path, name: str) -> Path:
    directory = tmp_path / f"{name}-{random.randrange(1 << 32):08x}"
    directory.mkdir()
    return directory


@contextmanager
def _running(server: Server) -> Iterator[None]:
    try:
        server.start()
        yield
    finally:
        server.kill()
