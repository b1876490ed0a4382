"""A time span in, points out of InfluxDB: InfluxQL over `/query`, which 1.x has, and 3.x; 2.x with a mapping
of the bucket (`influx v1 dbrp create`).

The answer is read as it comes, one series at a time, so that a day of a fleet needs no memory for all of it.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from collectors.history import Strand
from collectors.sinks.http import message, problem
from collectors.sinks.influx import trusted
from probe.clock import Clock, SystemClock
from probe.errors import MissingPartError, SinkRefused, SinkUnavailable
from probe.settings import CollectorSettings, InfluxTable, read_secret
from probe.telemetry.schema import MEASUREMENTS

CHUNK = 5_000  # rows that the server sends in one piece
_MOST = 64 << 20  # bytes of one piece: whoever sends more is no InfluxDB


class _Series(msgspec.Struct):
    columns: list[str] = []
    tags: dict[str, str] = {}
    values: list[list[int | float | bool | str | None]] = []


class _Result(msgspec.Struct):
    series: list[_Series] = []
    error: str = ""


class _Answer(msgspec.Struct):
    results: list[_Result] = []
    error: str = ""


_decode = msgspec.json.Decoder(_Answer).decode


class InfluxHistory:
    """The database that `[influx]` of collector.toml names; `file` is how errors call the settings.

    Raises (constructor): SettingsError (a secret cannot be read), MissingPartError.
    """

    def __init__(self, settings: CollectorSettings, file: str, clock: Clock | None = None) -> None:
        try:
            import urllib3
        except ModuleNotFoundError:
            raise MissingPartError("urllib3", "collector") from None
        influx = settings.influx
        database = influx.database if influx.api == "v1" else influx.bucket
        self.name = f"InfluxDB (database {database!r}) at {influx.url}"
        self._url, self._file = f"{influx.url.rstrip('/')}/query", file
        self._clock = clock or SystemClock()
        self._form = {"db": database, "epoch": "ns", "chunked": "true", "chunk_size": str(CHUNK)}
        if influx.api == "v1" and influx.retention_policy:
            self._form["rp"] = influx.retention_policy
        self._headers = _authorization(influx, file)
        self._remedies = {status: f"{file}: {text}" for status, text in _remedies(influx, database).items()}
        self._pool = urllib3.PoolManager(
            num_pools=1,
            retries=False,
            timeout=urllib3.Timeout(connect=influx.timeout.seconds, read=max(60.0, influx.timeout.seconds)),
            ssl_context=trusted(influx, file),
        )

    def strands(
        self, measurement: str, fields: tuple[str, ...], since_ns: int, until_ns: int
    ) -> Iterator[Strand]:
        """See `collectors.history.History`."""
        kinds = {field.name: field.kind for field in MEASUREMENTS[measurement].fields}
        ratios = [n for n, name in enumerate(fields, 1) if kinds.get(name) == "float"]
        select = ", ".join(f'"{name}"' for name in fields)
        query = (
            f'SELECT {select} FROM "{measurement}" WHERE time >= {since_ns} AND time <= {until_ns} GROUP BY *'  # noqa: S608 - names of the schema
        )
        tags: dict[str, str] = {}
        rows: list[tuple[Any, ...]] = []
        for series in self._ask(query):
            # Tags that a series does not have come as empty ones.
            theirs = {key: value for key, value in series.tags.items() if value}
            if theirs != tags and rows:
                yield Strand(tags, rows)
                rows = []
            tags = theirs
            for row in series.values:
                for n in ratios:  # 0.0 comes as 0
                    value = row[n]
                    row[n] = float(value) if isinstance(value, int) else value
                rows.append(tuple(row))
        if rows:
            yield Strand(tags, rows)

    def close(self) -> None:
        """See `collectors.history.History`."""
        self._pool.clear()

    def _ask(self, query: str) -> Iterator[_Series]:
        """The series of an answer; a long one comes in several pieces, one after the other."""
        import urllib3

        try:
            answer = self._pool.request(
                "POST",
                self._url,
                fields={**self._form, "q": query},
                encode_multipart=False,
                headers=self._headers,
                preload_content=False,
            )
            try:
                if answer.status != 200:
                    failed = problem(
                        answer.status,
                        answer.headers,
                        answer.read(1 << 16),
                        remedies=self._remedies,
                        now_ns=self._clock.wall(),
                    )
                    raise failed or SinkRefused(f"{self.name} said HTTP {answer.status} to a query")
                for piece in _pieces(answer):
                    yield from self._series(piece)
            finally:
                answer.release_conn()
        except urllib3.exceptions.SSLError as failure:
            raise SinkRefused(
                f"no TLS to {self.name}: {failure} ({self._file}: see influx.ca_file)"
            ) from None
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as failure:
            text = str(failure).rpartition(": ")[2] or str(failure)
            raise SinkUnavailable(
                f"cannot read {self.name}: {text}; is it running? {self._file}: see influx.url", away=True
            ) from None

    def _series(self, piece: bytes) -> Iterator[_Series]:
        try:
            answer = _decode(piece)
        except msgspec.DecodeError as failure:
            raise SinkRefused(
                f"{self.name} does not answer as an InfluxDB ({failure}): {message(piece)}; "
                f"{self._file}: see influx.url"
            ) from None
        for error in (answer.error, *(result.error for result in answer.results)):
            if error:
                remedy = f"; {self._remedies[404]}" if "not found" in error else ""
                raise SinkRefused(f"{self.name} refused a query: {error}{remedy}")
        for result in answer.results:
            yield from result.series


def _pieces(answer: Any) -> Iterator[bytes]:
    """The lines of an answer's body, each a JSON document. Raises: urllib3's exceptions, ValueError."""
    held = bytearray()
    for block in answer.stream(1 << 16):
        held += block
        while (end := held.find(b"\n")) >= 0:
            line = bytes(held[:end])
            del held[: end + 1]
            if line.strip():
                yield line
        if len(held) > _MOST:
            raise ValueError(f"a piece of more than {_MOST >> 20} MiB")
    if held.strip():
        yield bytes(held)


def _authorization(influx: InfluxTable, file: str) -> Mapping[str, str]:
    if influx.api == "v2":
        token = read_secret(influx.token_file, "COLOPROBE_INFLUX_TOKEN", file, "influx.token_file")
        return {"Authorization": f"Token {token}"} if token else {}
    password = read_secret(influx.password_file, "COLOPROBE_INFLUX_PASSWORD", file, "influx.password_file")
    if not influx.username:
        return {}
    basic = base64.b64encode(f"{influx.username}:{password or ''}".encode()).decode()
    return {"Authorization": f"Basic {basic}"}


def _remedies(influx: InfluxTable, database: str) -> dict[int, str]:
    if influx.api == "v1":
        return {
            401: "check influx.username and influx.password_file",
            403: f"influx.username needs the right to read: GRANT READ ON {database} TO it",
            404: f"correct influx.database ({database!r}) or influx.url",
        }
    return {
        401: "check influx.token_file",
        403: f"the token of influx.token_file needs the right to read {database!r}",
        404: f"is {database!r} mapped for InfluxQL? (InfluxDB 2.x: influx v1 dbrp create)",
    }
