"""Real certificates, good and bad, at a real broker and a real database: each refusal names the way out."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import re
import socket
import ssl
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from collectors.sinks.influx import open_sink
from probe.check import check
from probe.errors import MqttRefused, MqttUnavailable, SettingsError, SinkRefused
from probe.settings import CollectorSettings, CollectorTable, InfluxTable, MqttTable
from probe.telemetry.mqtt import connect
from tests.system import servers
from tests.system.certificates import Authority, Certificate, openssl
from tests.system.commands import Command, wait_for

GOOD = b"probe,agent=a sent=40i 1790000000000000001\n"
SETTINGS = """
[{kind}]
id = "{id}"
state_dir = "{directory}/state"
[[target]]
name = "one"
address = "127.0.0.1"
kind = "connect"
port = 9
"""


@dataclass(frozen=True)
class Files:
    """What the authorities made: `servers` by what is wrong with them, and our own."""

    ca: Path
    other_ca: Path
    servers: dict[str, Certificate]
    client: Certificate
    expired_client: Certificate
    strangers: Certificate  # of the other authority
    locked: Path  # the client's key with a password


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    home = tmp_path_factory.mktemp("certificates")
    ours, theirs = Authority(home / "ours"), Authority(home / "theirs", "other")
    made = {
        "good": ours.certificate("localhost"),  # a common name is no host name: "localhost" is refused
        "expired": ours.certificate("expired", days=(-9, -1)),
        "future": ours.certificate("future", days=(1, 9)),
        "elsewhere": ours.certificate("elsewhere", names="DNS:broker.example"),
    }
    client = ours.certificate("ny4-01")
    locked = home / "locked.key"
    openssl("ec", "-in", client.key, "-aes256", "-passout", "pass:x", "-out", locked)
    return Files(
        ours.pem,
        theirs.pem,
        made,
        client,
        ours.certificate("old", days=(-9, -1)),
        theirs.certificate("ny4-01"),
        locked,
    )


@dataclass(frozen=True)
class Broker:
    """A mosquitto with a listener for each certificate; `mutual` wants one from its clients."""

    ports: dict[str, int]
    ca: Path

    def table(self, listener: str, host: str = "127.0.0.1", **more: Any) -> MqttTable:
        url = f"mqtts://{host}:{self.ports[listener]}"
        return MqttTable(url=url, **{"ca_file": str(self.ca), **more})


@pytest.fixture(scope="module")
def broker(files: Files, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    ports: dict[str, int] = {}
    lines: list[str] = []
    for name in (*files.servers, "mutual"):
        made = files.servers.get(name, files.servers["good"])
        ports[name] = servers.free_port()
        lines += [f"listener {ports[name]} 127.0.0.1", f"cafile {files.ca}"]
        lines += [f"certfile {made.pem}", f"keyfile {made.key}"]
        lines += ["require_certificate true"] * (name == "mutual")
    with servers.mosquitto(tmp_path_factory.mktemp("broker"), extra_conf="\n".join(lines)) as server:
        yield Broker({"plain": server.port, **ports}, files.ca)


async def works(mqtt: MqttTable, size: int = 1) -> None:
    async with connect(mqtt, client_id="a", username="", password=None) as connection:
        await connection.subscribe("t")
        await connection.publish("t", b"x" * size)
        assert len((await anext(connection.messages())).payload) == size


def shown(certificate: Certificate, key: Path | None = None) -> dict[str, str]:
    return {"cert_file": str(certificate.pem), "key_file": str(key or certificate.key)}


@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
def test_tls_and_mutual_tls(broker: Broker, files: Files, protocol: str) -> None:
    asyncio.run(works(broker.table("good", protocol=protocol), 300_000))
    asyncio.run(works(broker.table("mutual", protocol=protocol, **shown(files.client))))


def refusals(broker: Broker, files: Files) -> list[tuple[MqttTable, str]]:
    """Settings that cannot work, and what has to be said of each."""
    absent = str(files.ca.parent / "absent")
    text = str(files.ca.parent / "index.attr")
    accepted = "the broker's certificate is not accepted: "
    ours = "the broker does not accept our certificate .*; "
    return [
        (broker.table("good", ca_file=str(files.other_ca)), accepted + ".*; mqtt.ca_file must hold the auth"),
        (broker.table("good", ca_file=""), accepted + ".*; mqtt.ca_file must hold the authority"),
        (broker.table("good", host="localhost"), accepted + ".*'localhost'; mqtt.url must use a name"),
        (broker.table("elsewhere"), accepted + ".*'127.0.0.1'; mqtt.url must use a name"),
        (broker.table("expired"), accepted + "certificate has expired; renew it .*this host's clock"),
        (broker.table("future"), accepted + "certificate is not yet valid; correct this host's clock"),
        (broker.table("mutual"), "it seems to want a certificate.*; set mqtt.cert_file and mqtt.key_file"),
        (broker.table("mutual", **shown(files.strangers)), ours + "mqtt.cert_file and .* must be signed by"),
        (broker.table("mutual", **shown(files.expired_client)), ours + "renew that of mqtt.cert_file"),
        (broker.table("plain"), r"hung up during the TLS handshake; is this its mqtts port.*\(mqtt\.url\)"),
        # Files that are wrong on their own account.
        (broker.table("mutual", ca_file=absent), f"mqtt.ca_file: cannot read '{absent}': No such file"),
        (broker.table("mutual", ca_file=text), "mqtt.ca_file: .* holds no PEM certificate"),
        (
            broker.table("mutual", **shown(files.client, Path(absent))),
            f"mqtt.key_file: cannot read '{absent}': No such file",
        ),
        (
            broker.table("mutual", **shown(files.client, files.strangers.key)),
            "mqtt.cert_file, mqtt.key_file: .* do not belong together",
        ),
        (broker.table("mutual", **shown(files.client, files.locked)), "its unencrypted key"),
        (
            broker.table("mutual", cert_file=text, key_file=str(files.client.key)),
            "are not a PEM certificate",
        ),
    ]


def test_each_refusal_says_what_is_wrong_and_which_key_to_change(broker: Broker, files: Files) -> None:
    async def main() -> None:
        for mqtt, says in refusals(broker, files):
            with pytest.raises((MqttRefused, MqttUnavailable), match=says):
                await works(mqtt)

    asyncio.run(main())
    with pytest.raises(MqttUnavailable, match="with TLS where it wants TLS"):
        asyncio.run(works(MqttTable(url=f"mqtt://127.0.0.1:{broker.ports['good']}")))


def settings(directory: Path, kind: str, mqtt: MqttTable, more: str = "") -> Path:
    """agent.toml or collector.toml with this broker."""
    directory.mkdir(exist_ok=True)
    text = SETTINGS.format(kind=kind, id="ny4-01", directory=directory)
    if kind == "collector":
        text = text.partition("[[target]]")[0]
    keys = ("url", "ca_file", "cert_file", "key_file")
    text += "[mqtt]\n" + "".join(f'{key} = "{getattr(mqtt, key)}"\n' for key in keys)
    file = directory / f"{kind}.toml"
    file.write_text(text + more, encoding="utf-8")
    return file


def test_check_says_the_same_of_agents_and_collectors(broker: Broker, files: Files, tmp_path: Path) -> None:
    for kind in ("agent", "collector"):
        for mqtt, says in [
            *refusals(broker, files),
            (broker.table("mutual", **shown(files.client)), "takes us"),
        ]:
            out = io.StringIO()
            check(settings(tmp_path / kind, kind, mqtt), True, out, None)
            found = {line["part"]: line for line in map(json.loads, out.getvalue().splitlines())}["broker"]
            assert re.search(says, found["text"]), found
            assert found["state"] == ("ok" if says == "takes us" else "failed")


@pytest.mark.root
def test_check_reads_certificates_as_the_agents_user(broker: Broker, files: Files, tmp_path: Path) -> None:
    file = settings(tmp_path / "agent", "agent", broker.table("mutual", **shown(files.client)))
    file.write_text(file.read_text().replace("[agent]\n", '[agent]\nuser = "nobody"\n'))
    out = io.StringIO()
    check(file, True, out, None)
    found = {line["part"]: line for line in map(json.loads, out.getvalue().splitlines())}["broker"]
    assert found["state"] == "failed"
    assert f"mqtt.ca_file: cannot read '{files.ca}': Permission denied" in found["text"]


def over_https(port: int, ca: Path) -> str:
    return f'[influx]\nurl = "https://127.0.0.1:{port}"\nca_file = "{ca}"\ntimeout = "1s"\n'


def _says(command: Command, words: str) -> bool:
    return words in command.text()


def test_the_log_says_it_once_and_the_connection_works_once_it_is_put_right(
    broker: Broker, files: Files, tmp_path: Path
) -> None:
    """The files are read at each attempt: nobody has to restart anything."""
    ours = tmp_path / "ca.pem"
    ours.write_bytes(files.other_ca.read_bytes())
    said = "mqtt.ca_file must hold the authority that signed it"
    mqtt = broker.table("good", ca_file=str(ours))
    with tls_server(files.servers["expired"]) as port, contextlib.ExitStack() as stack:
        agent = Command(tmp_path, "agent", "agent", "-c", settings(tmp_path / "agent", "agent", mqtt))
        file = settings(tmp_path / "fan-in", "collector", mqtt, over_https(port, files.ca))
        collector = Command(tmp_path, "collect", "collect", "-c", file)
        for command in (agent, collector):
            stack.callback(command.start().kill)
        for command in (agent, collector):
            wait_for(partial(_says, command, said), "it tells of the certificate")
        wait_for(
            partial(_says, collector, "the database's certificate is not accepted: "), "and of the other"
        )
        assert "certificate has expired; renew it (see influx.url)" in collector.text()
        ours.write_bytes(files.ca.read_bytes())
        for command in (agent, collector):
            wait_for(partial(_says, command, ": connected"), "it connects")
            assert command.text().count(said) == 1, command.text()


# -- older than TLS 1.2, and the database --------------------------------------------------------------------


@contextmanager
def tls_server(certificate: Certificate, newest: ssl.TLSVersion | None = None) -> Iterator[int]:
    """The port of a server that shakes hands and hangs up."""
    secure = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if newest is not None:
        secure.set_ciphers("DEFAULT:@SECLEVEL=0")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            secure.minimum_version = ssl.TLSVersion.TLSv1
            secure.maximum_version = newest
    secure.load_cert_chain(certificate.pem, certificate.key)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError):  # it was closed
            while True:
                connection, _ = listener.accept()
                with suppress(OSError), connection:
                    connection.settimeout(10)
                    secure.wrap_socket(connection, server_side=True).close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def written(port: int, api: str, ca_file: Path | str, host: str = "127.0.0.1") -> None:
    """One write. Raises: SinkError."""
    influx = InfluxTable(url=f"https://{host}:{port}", api=api, ca_file=str(ca_file))  # type: ignore[arg-type]

    async def main() -> None:
        sink = open_sink(CollectorSettings(collector=CollectorTable(id="c"), influx=influx), "collector.toml")
        try:
            await sink.write(GOOD)
        finally:
            await sink.close()

    asyncio.run(main())


def test_nothing_older_than_tls_1_2_is_spoken(files: Files) -> None:
    with tls_server(files.servers["good"], ssl.TLSVersion.TLSv1_1) as port:
        mqtt = MqttTable(url=f"mqtts://127.0.0.1:{port}", ca_file=str(files.ca))
        with pytest.raises(MqttRefused, match=r"the broker speaks no TLS 1\.2 or newer"):
            asyncio.run(works(mqtt))
        for api in ("v1", "v2"):
            with pytest.raises(SinkRefused, match=r"the database speaks no TLS 1\.2 or newer"):
                written(port, api, files.ca)


def test_influxdb_over_https(files: Files, tmp_path: Path) -> None:
    good = files.servers["good"]
    https = f'https-enabled = true\nhttps-certificate = "{good.pem}"\nhttps-private-key = "{good.key}"'
    secure = ssl.create_default_context(cafile=str(files.ca))
    refused = "no TLS: the database's certificate is not accepted: "
    with servers.influxdb(tmp_path, extra_http=https, secure=secure) as influx:
        influx.create_database("coloprobe")
        written(influx.port, "v1", files.ca)
        assert [row["sent"] for row in influx.query("select sent from probe")] == [40]
        with pytest.raises(SinkRefused, match=r"influx\.api"):  # 404: past the handshake; 1.6 has no v2
            written(influx.port, "v2", files.ca)
        for api in ("v1", "v2"):
            for ca in (files.other_ca, ""):
                with pytest.raises(
                    SinkRefused, match=rf"{refused}.*; influx\.ca_file must hold the authority"
                ):
                    written(influx.port, api, ca)
            with pytest.raises(SinkRefused, match=rf"{refused}.*'localhost'; influx\.url must use a name"):
                written(influx.port, api, files.ca, host="localhost")
        [row] = influx.query("select count(sent) from probe")
        assert row["count"] == 1

        # The command that an operator would ask.
        for ca, says in (
            (files.ca, "takes us"),
            (files.other_ca, "influx.ca_file must hold the authority that signed it"),
            (files.ca.parent / "absent", "influx.ca_file: cannot read"),
        ):
            file, out = (
                settings(tmp_path, "collector", MqttTable(), over_https(influx.port, ca) + 'api = "v1"\n'),
                io.StringIO(),
            )
            check(file, True, out, open_sink)
            found = {line["part"]: line for line in map(json.loads, out.getvalue().splitlines())}["influx"]
            assert says in found["text"], found
            assert found["state"] == ("ok" if says == "takes us" else "failed")


@pytest.mark.parametrize("api", ["v1", "v2"])
def test_a_database_with_a_bad_certificate(files: Files, api: str) -> None:
    for bad, says in (
        ("expired", r"certificate has expired; renew it \(see influx.url\)"),
        ("future", "certificate is not yet valid; correct this host's clock"),
        ("elsewhere", r"'127.0.0.1'; influx.url must use a name"),
    ):
        with tls_server(files.servers[bad]) as port, pytest.raises(SinkRefused, match=says):
            written(port, api, files.ca)
    for file, says in (("absent", "cannot read .*No such file"), ("index.attr", "holds no PEM certificate")):
        with pytest.raises(SettingsError, match=says) as caught:
            written(1, api, files.ca.parent / file)
        assert (caught.value.file, caught.value.key) == ("collector.toml", "influx.ca_file")
