"""Lines in, InfluxDB's promise out: the write APIs v2 (through influxdb-client) and v1 (HTTP `/write`).

The one module that knows influxdb-client; `collectors.influxql` reads. One attempt a call: retrying is the
writer's business.

Batches come as gzip and go on as they are, one member after the other, to a server that reads bodies of
several members. Some read the first and are silent about the rest; so every server is asked first, and its
bodies packed anew where the answer leaves any doubt.
"""

from __future__ import annotations

import asyncio
import base64
import importlib
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlencode

from collectors import members
from collectors.sinks import Sink
from collectors.sinks.http import message, problem
from probe.clock import Clock, SystemClock
from probe.errors import MissingPartError, SettingsError, SinkError, SinkRefused, SinkUnavailable
from probe.settings import CollectorSettings, InfluxTable, read_secret
from probe.telemetry import tls

AT_ONCE = 2  # writes under way: while the server works on one, the next is on its way

if TYPE_CHECKING:
    import ssl

T = TypeVar("T")
Answer = tuple[int, Mapping[str, str], bytes]


def open_sink(settings: CollectorSettings, file: str, clock: Clock | None = None) -> Sink:
    """The sink that `[influx]` describes; nothing is sent yet. `file` is how errors call the settings.

    Raises: SettingsError (a secret cannot be read, a key is missing), MissingPartError.
    """
    influx = settings.influx
    clock = clock or SystemClock()
    secure = trusted(influx, file)
    if influx.api == "v1":
        if not influx.database:
            raise SettingsError(file, "influx.database", "is empty", "the name of a database")
        password = read_secret(
            influx.password_file, "COLOPROBE_INFLUX_PASSWORD", file, "influx.password_file"
        )
        if password and not influx.username:
            raise SettingsError(
                file, "influx.username", "is not set", "the user that the password belongs to"
            )
        return InfluxV1(influx, password, file, clock, secure)
    if not influx.bucket:
        raise SettingsError(file, "influx.bucket", "is empty", "the name of a bucket")
    token = read_secret(influx.token_file, "COLOPROBE_INFLUX_TOKEN", file, "influx.token_file")
    return InfluxV2(influx, token, file, clock, secure)


def trusted(influx: InfluxTable, file: str) -> ssl.SSLContext | None:
    """Whom a connection to it trusts; None where it is not https. Raises: SettingsError."""
    if not influx.url.startswith("https:"):
        return None
    try:
        return tls.trust(influx.ca_file, tls.DATABASE.ca_file)
    except ValueError as problem:
        said = str(problem).removeprefix(f"{tls.DATABASE.ca_file}: ")
        raise SettingsError(file, tls.DATABASE.ca_file, said, "a file of PEM certificates") from None


class _Http:
    """What both APIs share: threads, compression, and the translation of answers and failures."""

    def __init__(
        self, influx: InfluxTable, name: str, file: str, clock: Clock, remedies: dict[int, str]
    ) -> None:
        self.name = f"{name} at {influx.url}"
        self._url = influx.url.rstrip("/")
        self._file = file
        self._clock = clock
        self._remedies = {status: f"{file}: {remedy}" for status, remedy in remedies.items()}
        self._reads_members: bool | None = None  # None: not asked, or perhaps another server since

    async def write(self, body: bytes, *, packed: bool = False) -> None:
        try:
            if packed and self._reads_members is None:
                self._reads_members = await _in_thread(self._ask_for_members)
            if not packed:
                body = members.member(body)
            elif not self._reads_members:
                body = await _in_thread(_one_member, body)
            await _in_thread(self._write, body)
        except SinkUnavailable:
            self._reads_members = None  # what comes back may be a newer version, or an older one
            raise

    async def check(self) -> None:
        # No line is a write of nothing: database, bucket and rights are looked at first.
        try:
            await self.write(b"")
        except SinkError as failure:
            if type(failure) in (SinkRefused, SinkUnavailable):
                raise

    async def close(self) -> None:
        await _in_thread(self._close)

    def _write(self, packed: bytes) -> None:
        status, headers, said = self._ask(packed)
        failed = problem(status, headers, said, remedies=self._remedies, now_ns=self._clock.wall())
        if failed is not None:
            raise failed

    def _ask_for_members(self) -> bool:
        """Whether it says something else, and always the same, of a body whose second member is damaged.

        Neither body holds a line, so that nothing is written.
        """
        nothing = members.member(b"\n")
        damaged = bytearray(nothing)
        damaged[-8] ^= 0xFF  # the checksum's first byte
        good, bad, again = (
            (status, message(said))
            for status, _, said in map(self._ask, (nothing * 2, nothing + bytes(damaged), nothing * 2))
        )
        return good == again and good != bad and bad[0] >= 400

    def _ask(self, packed: bytes) -> Answer:
        """One request, whatever the answer is. Raises: SinkUnavailable, SinkRefused (no TLS)."""
        import urllib3

        try:
            return self._post(packed)
        except urllib3.exceptions.SSLError as failure:
            raise self._no_tls(failure) from None
        except urllib3.exceptions.NewConnectionError as failure:  # to urllib3 a kind of timeout
            text = str(failure).rpartition(": ")[2]
            raise SinkUnavailable(
                f"cannot connect: {text}; is it running? {self._file}: see influx.url", away=True
            ) from None
        except urllib3.exceptions.TimeoutError:
            raise SinkUnavailable(
                f"no answer in time; {self._file}: see influx.url, influx.timeout", away=True
            ) from None
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as failure:
            raise SinkUnavailable(
                f"the write failed: {failure}; {self._file}: see influx.url", away=True
            ) from None

    def _no_tls(self, failure: BaseException) -> SinkRefused:
        # urllib3 wraps what the handshake said, influxdb-client wraps that.
        cause = failure.args[0] if failure.args and isinstance(failure.args[0], OSError) else failure
        said = tls.explain(cause, tls.DATABASE) or f"{' '.join(str(failure).split())}; see influx.url"
        return SinkRefused(f"no TLS: {said} ({self._file})")

    def _post(self, packed: bytes) -> Answer:
        """One request. Raises: urllib3's exceptions, OSError, ValueError."""
        raise NotImplementedError

    def _close(self) -> None:
        raise NotImplementedError


class InfluxV1(_Http):
    """InfluxDB 1.x: `/write` with database, retention policy and basic authentication."""

    def __init__(
        self,
        influx: InfluxTable,
        password: str | None,
        file: str,
        clock: Clock,
        secure: ssl.SSLContext | None,
    ) -> None:
        try:
            import urllib3
        except ModuleNotFoundError:
            raise MissingPartError("urllib3", "collector") from None
        super().__init__(
            influx,
            f"InfluxDB (v1 API, database {influx.database!r})",
            file,
            clock,
            {
                401: "check influx.username and influx.password_file",
                403: f"influx.username needs the right to write: GRANT WRITE ON {influx.database} TO it",
                404: f"create it (CREATE DATABASE {influx.database}), or correct influx.database, influx.url "
                "(a server without this API also says 404: see influx.api)",
                500: "correct influx.retention_policy, or create it",
            },
        )
        query = {"db": influx.database, "precision": "ns"}
        if influx.retention_policy:
            query["rp"] = influx.retention_policy
        self._target = f"{self._url}/write?{urlencode(query)}"
        self._headers = {"Content-Encoding": "gzip", "Content-Type": "text/plain; charset=utf-8"}
        if influx.username:
            # urllib3 would encode it as Latin-1; InfluxDB compares UTF-8.
            basic = base64.b64encode(f"{influx.username}:{password or ''}".encode()).decode()
            self._headers["Authorization"] = f"Basic {basic}"
        self._pool = urllib3.PoolManager(
            num_pools=1,
            maxsize=AT_ONCE,
            retries=False,
            timeout=urllib3.Timeout(total=influx.timeout.seconds),
            ssl_context=secure,
        )

    def _post(self, packed: bytes) -> Answer:
        answer = self._pool.request("POST", self._target, body=packed, headers=self._headers)
        return answer.status, answer.headers, answer.data

    def _close(self) -> None:
        self._pool.clear()


class InfluxV2(_Http):
    """InfluxDB 1.8, 2.x, 3.x and VictoriaMetrics: `/api/v2/write` with organization, bucket and token."""

    def __init__(
        self, influx: InfluxTable, token: str | None, file: str, clock: Clock, secure: ssl.SSLContext | None
    ) -> None:
        try:
            with _without_numpy():
                client: Any = importlib.import_module("influxdb_client")
                failure: Any = importlib.import_module("influxdb_client.rest")
        except ModuleNotFoundError:
            raise MissingPartError("influxdb-client", "collector") from None
        super().__init__(
            influx,
            f"InfluxDB (v2 API, bucket {influx.bucket!r})",
            file,
            clock,
            {
                401: "check influx.token_file and influx.org",
                403: f"the token of influx.token_file needs the right to write to {influx.bucket!r}",
                404: f"create the bucket {influx.bucket!r} in the organization {influx.org!r}, or correct "
                "influx.bucket, influx.org or influx.url (InfluxDB before 1.8 has no such API: "
                'influx.api = "v1")',
            },
        )
        self._org = influx.org
        self._bucket = influx.bucket
        self._failure: type[Any] = failure.ApiException
        self._client = client.InfluxDBClient(
            self._url,
            token,
            org=influx.org,
            timeout=max(1, int(influx.timeout.seconds * 1000)),
            connection_pool_maxsize=AT_ONCE,
            retries=False,
            ssl_context=secure,
        )
        self._service = client.WriteService(self._client.api_client)

    def _post(self, packed: bytes) -> Answer:
        try:
            # What `write_api(SYNCHRONOUS).write` calls in the end; that one compresses with level 9.
            self._service.post_write(
                self._org,
                self._bucket,
                packed,
                precision="ns",
                content_encoding="gzip",
                content_type="text/plain; charset=utf-8",
            )
        except self._failure as failure:
            if not failure.status:  # its own word for a failed handshake
                raise self._no_tls(failure.__context__ or failure) from None
            return failure.status, failure.headers or {}, (failure.body or "").encode()
        return 204, {}, b""

    def _close(self) -> None:
        self._client.close()


def _one_member(body: bytes) -> bytes:
    return members.member(members.unpacked(body))


@contextmanager
def _without_numpy() -> Iterator[None]:
    """Let an import find no numpy: influxdb-client loads it if it can, for columns that we never write.

    It costs a collector 20 MB. Where numpy is in the process already (an agent's), nothing is changed.
    """
    if "numpy" in sys.modules:
        yield
        return
    modules: dict[str, Any] = sys.modules
    modules["numpy"] = None
    try:
        yield
    finally:
        del modules["numpy"]


async def _in_thread(function: Callable[..., T], *arguments: Any) -> T:
    """Run a blocking call in a daemon thread, so that a server that does not answer cannot delay the exit."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, failure: BaseException | None) -> None:
        if future.done():
            return
        if failure is not None:
            future.set_exception(failure)
        else:
            future.set_result(result)  # type: ignore[arg-type] # either it failed or there is a result

    def work() -> None:
        result, failure = None, None
        try:
            result = function(*arguments)
        except BaseException as caught:  # noqa: BLE001 - it is raised where it is awaited
            failure = caught
        with suppress(RuntimeError):  # nobody waits any more: the loop is closed
            loop.call_soon_threadsafe(settle, result, failure)

    threading.Thread(target=work, name="sink", daemon=True).start()
    return await future
