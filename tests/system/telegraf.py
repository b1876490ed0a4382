"""config/telegraf.conf in, a consumer out: Telegraf itself where it is installed, else what its inputs do.

The stand-in does what Telegraf 1.37 was seen to do with this file: a persistent session with QoS 1; a message
is acknowledged once the database has all its lines; one that is not line protocol as a whole, as a gzip one,
is acknowledged and lost. InfluxDB is its parser.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
import time
import tomllib
from http.client import HTTPException
from pathlib import Path
from typing import Any

from tests.system.servers import Influx, Server

SHIPPED = Path(__file__).parents[2] / "config" / "telegraf.conf"


def consumer(home: Path, broker: Server, influxdb: Influx) -> Telegraf | StandIn:
    """Ready to be started."""
    text = SHIPPED.read_text(encoding="utf-8")
    for address, port in (("127.0.0.1:1883", broker.port), ("127.0.0.1:8086", influxdb.port)):
        assert text.count(address) == 1
        text = text.replace(address, f"127.0.0.1:{port}")
    file = home / "telegraf.conf"
    file.write_text(text, encoding="utf-8")
    return Telegraf(file) if shutil.which("telegraf") else StandIn(file, influxdb)


class Telegraf:
    """The real one."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and return once it has subscribed."""
        log = self._file.with_suffix(".log")
        with log.open("wb") as output:
            argv = ["telegraf", "--config", str(self._file)]
            self._process = subprocess.Popen(argv, stdout=output, stderr=output)
        deadline = time.monotonic() + 60
        while "Connected [" not in log.read_text():
            assert self._process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


class StandIn:
    """Takes messages, writes them, acknowledges them, in a thread; `kill` leaves the rest to the broker."""

    def __init__(self, file: Path, influxdb: Influx) -> None:
        settings = tomllib.loads(file.read_text(encoding="utf-8"))
        (self._input,) = settings["inputs"]["mqtt_consumer"]
        (self._output,) = settings["outputs"]["influxdb"]
        self._influxdb = influxdb
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        # What the stand-in takes for granted.
        assert settings["agent"]["omit_hostname"]
        assert self._input["topic_tag"] == ""
        assert self._input["persistent_session"]
        assert self._input["data_format"] == "influx"

    def start(self) -> None:
        """Connect and return once it has subscribed."""
        import paho.mqtt.client as paho
        from paho.mqtt.enums import CallbackAPIVersion

        subscribed = threading.Event()
        self._ended = ended = threading.Event()
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._input["client_id"],
            clean_session=False,
            manual_ack=True,
        )
        client.username_pw_set(self._input["username"], self._input["password"])

        def taken(_client: Any, _userdata: Any, message: paho.MQTTMessage) -> None:
            while not ended.is_set():
                if self._written(bytes(message.payload)):
                    client.ack(message.mid, message.qos)
                    return
                ended.wait(0.05)

        client.on_message = taken
        client.on_subscribe = lambda *_: subscribed.set()
        (server,) = self._input["servers"]
        host, port = re.fullmatch(r"tcp://(.*):(\d+)", server).groups()  # type: ignore[union-attr]
        client.connect(host, int(port))
        client.subscribe([(topic, self._input["qos"]) for topic in self._input["topics"]])

        def run() -> None:
            while not ended.is_set():
                client.loop(0.05)
            client._sock_close()

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()
        assert subscribed.wait(60)

    def kill(self) -> None:
        """Without a goodbye."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def _written(self, payload: bytes) -> bool:
        """Whether the database has it, or never will."""
        try:
            payload.decode()
        except UnicodeDecodeError:
            return True
        try:
            path = f"/write?db={self._output['database']}&precision=ns"
            return self._influxdb.request("POST", path, payload).status in (204, 400)
        except (OSError, HTTPException):
            return False
