"""A collector that meets hostile agents, with real servers: who is honest beside them loses nothing.

One mosquitto (without a packet limit), one InfluxDB and one collector for all of it; every test has an agent
of its own that attacks, and the same honest one beside it. What attackers write has the field `late`, so that
whatever of it got into the database can be told.
"""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.system import servers
from tests.system.collecting import NOW, SPOOL, CollectorProcess, Hands, hands
from tests.system.servers import Influx, Server

HONEST = "ld4-02"
TOGETHER = 3  # attacks and a batch of the honest agent, most of which end in the same write
PATIENCE_S = 30.0  # for an acknowledgement: it takes 0.1 s, on a machine that has nothing else to do
GROWTH_MB = (
    150  # a payload of 10 MB is held by the client library, once or twice, before anybody can look at it
)
Attack = Callable[[Hands], Coroutine[Any, Any, None]]


@dataclass
class Site:
    """One of everything."""

    broker: Server
    influx: Influx
    collector: CollectorProcess
    sent: int = 0  # by the honest agent
    over_limit: int = 0  # lines of series that were too many

    def memory_mb(self) -> float:
        """The most that the collector ever had."""
        assert self.collector._process is not None
        status = Path(f"/proc/{self.collector._process.pid}/status").read_text(encoding="ascii")
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024

    def entries(self, agent: str) -> list[tuple[str, str]]:
        """What was set aside of an agent: reasons and lines."""
        return [
            (one["reason"], one.get("line", ""))
            for one in self.collector.set_aside()
            if one["agent"] == agent
        ]

    def attack(self, agent: str, *attacks: Attack) -> None:
        """Let `agent` do all this, and the honest one send a batch beside some: its lines arrive, soon."""

        async def both() -> None:
            async with hands(self.broker.port, agent) as evil, hands(self.broker.port, HONEST) as honest:
                for at in range(0, len(attacks), TOGETHER):
                    self.sent += 1
                    async with asyncio.timeout(PATIENCE_S):
                        under_way = [asyncio.create_task(one(evil)) for one in attacks[at : at + TOGETHER]]
                        await honest.batch(self.sent, honest.line(self.sent))
                        await honest.until_acknowledged(self.sent)
                        await asyncio.gather(*under_way)

        asyncio.run(both())
        self.unharmed()

    def unharmed(self) -> None:
        """The honest agent's lines are there, each once, and nobody else's in anybody's name."""
        rows = self.influx.query(f"select sent from probe where agent = '{HONEST}' and target = 'x'")
        assert [row["sent"] for row in rows] == list(range(1, self.sent + 1))
        assert self.collector.running()
        assert "Traceback" not in self.collector.text()
        forged = "evil-" + "|evil-".join(("tags", "gzip", "values", "series"))
        assert self.influx.query(f"select late from /.*/ where agent !~ /^({forged})$/") == []
        assert self.entries(HONEST) == []


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    here = tmp_path_factory.mktemp("hostile")
    with (
        servers.mosquitto(here, extra_conf="set_tcp_nodelay true") as broker,
        servers.influxdb(here) as influx,
    ):
        influx.create_database("coloprobe")
        settings = (
            f'[mqtt]\nurl = "mqtt://127.0.0.1:{broker.port}"\n'
            f'[influx]\nurl = "http://127.0.0.1:{influx.port}"\napi = "v1"\n'
            "[limits]\nseries = 1000\n"
        )
        collector = CollectorProcess(here, settings)
        collector.start()
        try:
            site = Site(broker, influx, collector)
            yield site
            assert collector.stop() == 0
            [row] = influx.query("select last(over_limit) as over_limit, dropped from collector")
            assert (row["over_limit"], row["dropped"]) == (site.over_limit, 0)
        finally:
            collector.kill()


def batches(*payloads: bytes, first: int = 1) -> list[Attack]:
    """One attack each, acknowledged: an agent's own rubbish must not come again for ever."""

    def one(number: int, payload: bytes) -> Attack:
        async def send(evil: Hands) -> None:
            await evil.batch(number, raw=payload)
            await evil.until_acknowledged(number)

        return send

    return [one(first + n, payload) for n, payload in enumerate(payloads)]


def test_nobody_speaks_in_anothers_name(site: Site) -> None:
    me, them = "evil-tags", HONEST
    good = f"probe,agent={me},target=mine late=1i {NOW}"
    lines = [
        f"probe,agent={them},target=x late=1i {NOW}",
        f"probe,agent={me},agent={them} late=1i {NOW}",
        f"probe,agent={them},agent={me} late=1i {NOW}",
        f"probe,target=x,agent={them} late=1i {NOW}",
        f"probe,agent={me}\\,agent={them} late=1i {NOW}",
        f"probe,agent={me}\\ ,agent={them} late=1i {NOW}",
        f"probe,agent={me},target=x\\,agent={them} late=1i {NOW}",
        f"probe,agent={me},target=x\\\\,agent={them} late=1i {NOW}",
        f"probe,agent={me},target=x\\\\\\,agent={them} late=1i {NOW}",
        f"probe,agent={me},target=x\\ late=1i {NOW}",
        f"probe,agent={me},target=x\\\\ late=1i {NOW}",
        f"probe,agent={me},age\\nt={them} late=1i {NOW}",
        f"probe,agent={me},\\agent={them} late=1i {NOW}",
        f"probe,agent={me},agent\\={them}=x late=1i {NOW}",
        f"probe,agent={me},agent\0={them} late=1i {NOW}",
        f"probe\\,agent={them},agent={me} late=1i {NOW}",
        f"probe,agent={me} late=1i,agent={them} {NOW}",
        f'probe,agent={me} late=1i,text="x\nprobe,agent={them} late=1i {NOW}\n" {NOW}',
        f"probe,agent={me} late=1i {NOW}\rprobe,agent={them} late=1i {NOW}",
        f"probe,agent={me} late=1i {NOW}\vprobe,agent={them} late=1i {NOW}",
        f"probe,agent={me} late=1i {NOW}\x85probe,agent={them} late=1i {NOW}",
        f"probe,agent={me} late=1i {NOW}\u2028probe,agent={them} late=1i {NOW}",
        f"probe,agent={me} late=1i {NOW}\0\nprobe,agent={them} late=1i {NOW}",
        f" probe,agent={them} late=1i {NOW}",
        f"\tprobe,agent={them} late=1i {NOW}",
        f"\0probe,agent={them} late=1i {NOW}",
        f"\ufeffprobe,agent={them} late=1i {NOW}",
        f"#\nprobe,agent={them} late=1i {NOW}",
        f"collector,agent={me},collector=fanin-1 late=1i {NOW}",
        f"collector,agent=collector,collector=fanin-1 late=1i {NOW}",
        f"event,agent={them},kind=agent late=1i {NOW}",
        # Left open on purpose: what follows in the same write must not be swallowed.
        f'probe,agent={me} late=1i,text="open {NOW}',
        f'probe,agent={me} late=1i,text="open\\" {NOW}',
        f'probe,agent={me} late"=1i,x="{NOW}',
        f"probe,agent={me} late=1i {NOW}\\",
        f"probe,agent={me},target=x\\",
        f"probe,agent={me}",
        "probe",
    ]
    forms = [f"{line}\n".encode() for line in lines] + [lines[-3].encode(), lines[-2].encode(), good.encode()]
    packed = gzip.compress(f"{good}\n{lines[0]}\n".encode(), 1)
    site.attack(me, *batches(*forms, packed))
    assert site.influx.query(f"select late from probe where agent = '{me}' and target = 'mine'") != []
    reasons = {reason.partition(":")[0] for reason, _ in site.entries(me)}
    assert "foreign" in reasons
    assert not any("duplicate" in reason for reason, _ in site.entries(me)), "only the database saw it"
    tags = {row["tagKey"] for row in site.influx.query("show tag keys from probe")}
    assert "age\\nt" in tags or tags >= {"agent", "target"}


def incomplete(text: bytes) -> bytes:
    """A gzip member whose Huffman code leaves bits unused: ISA-L reads it, zlib and Go do not (RFC 1951)."""
    used = sorted({*text, 256})
    bits, size = 0, 0

    def put(value: int, width: int, *, code: bool = False) -> None:
        nonlocal bits, size
        if code:  # codes have their highest bit first
            value = int(f"{value:0{width}b}"[::-1], 2)
        bits |= value << size
        size += width

    put(1, 1)  # the last block
    put(2, 2)  # ... with codes of its own:
    put(0, 5)  # 257 for literals
    put(0, 5)  # 1 for distances
    put(15, 4)  # 19 for the lengths of these, of which 0 and 9 have one of a single bit each
    for length in (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15):
        put(int(length in (0, 9)), 3)
    for literal in (*range(257), -1):
        put(int(literal in used), 1)
    for literal in (*text, 256):
        put(used.index(literal), 9, code=True)
    body = bits.to_bytes((size + 7) // 8, "little")
    sums = zlib.crc32(text).to_bytes(4, "little") + len(text).to_bytes(4, "little")
    return b"\x1f\x8b\x08\0\0\0\0\0\0\3" + body + sums


def test_payloads_that_are_no_batches_cost_little_and_harm_nobody(site: Site) -> None:
    me = "evil-gzip"
    good = f"probe,agent={me},target=mine late=1i {NOW}\n".encode()
    packed = gzip.compress(good, 1, mtime=0)
    before = site.memory_mb()
    payloads = [
        gzip.compress(bytes(200 << 20)),  # 1,000 : 1
        gzip.compress(bytes(255 << 10)) * 200,
        gzip.compress(gzip.compress(bytes(10 << 20))),
        packed * 2,
        packed[:-1],
        packed[:-8],
        packed[:-4] + b"\0\0\0\0",
        packed + b"x",
        packed + packed[:5],
        b"\x1f\x8b\x08\x08" + packed[4:10] + b"x" * 5000 + b"\0" + packed[10:],
        packed[:3] + b"\xe0" + packed[4:],
        good[:-1] + b"\xff\n",
        b"\xed\xa0\x80",
        b"\xc3",
        good.decode().encode("utf-16"),
        b"\0" * 1000,
        b"\n" * (250 << 10),
        b"a\n" * (120 << 10),
        b"probe,agent=evil-gzip late=" + b"1" * (250 << 10),
        b"probe,agent=evil-gzip," + b"a=b," * (60 << 10),
        *[b"x" * (10 << 20)] * 8,
        *[incomplete(good.replace(b"mine", b"mine%d" % n)) for n in range(4)],
    ]
    site.attack(me, *batches(*payloads))
    assert site.memory_mb() - before < GROWTH_MB
    rows = site.influx.query(f"select late from probe where agent = '{me}' group by target")
    # What InfluxDB could not unpack went on as text.
    assert {row["target"] for row in rows} >= {f"mine{n}" for n in range(4)}
    assert sum(file.stat().st_size for file in site.collector.state.glob("quarantine*")) < 64 << 20


def test_numbers_times_and_types_of_all_kinds(site: Site) -> None:
    me = "evil-values"
    at = f"probe,agent={me},target=mine"
    day = 86_400 * 10**9
    payloads = [
        *(f"{at} late=1i {t}\n".encode() for t in (-(1 << 63), -1, 0, (1 << 63) - 1, 10**19, -(10**18) * 9)),
        *(f"{at} late=1i {NOW + n * day}\n".encode() for n in (-3000, 364, 367, 40_000)),
        # The first value of a field would decide its type, for everybody: now, and in weeks to come.
        *(f'{at} late=1i,sent="x" {NOW + n * day}\n'.encode() for n in (0, 7, 14, 60, 300)),
        *(
            f"{at} late=1i,sent={value} {NOW + 7 * day}\n".encode()
            for value in ("1", "1.5", "t", '"1i"', "1u")
        ),
        *(
            f"{at} late=1i,loss={value} {NOW + 7 * day}\n".encode()
            for value in ("1i", "true", '"0.5"', "nan")
        ),
        *(f'{at} late=1i,sent="x",sent=1i {NOW + n * day}\n'.encode() for n in (7, 21)),
        "".join(f"{at} late=1i,new{n}=1i {NOW}\n" for n in range(3000)).encode(),
        f"{at} late=1i,{','.join(f'newer{n}=1i' for n in range(3000))} {NOW}\n".encode(),
        f"{at} late=1i,own=1i {NOW}\n".encode(),
        f'{at} late=1i,own="now a text" {NOW + 1}\n{at} late=2i {NOW + 2}\n'.encode(),
        f"{at} late={'9' * 400}i {NOW}\n".encode(),
        f"{at} late=1e400 {NOW}\n".encode(),
        f"{at},{'k' * 70_000}=v late=1i {NOW}\n".encode(),
        f"{at},time=5 late=1i {NOW}\n".encode(),
        f"{at} late=1i,time=5i {NOW}\n".encode(),
        f"{at},_field=x,_measurement=y late=1i {NOW}\n".encode(),
    ]

    async def odd_numbers(evil: Hands) -> None:
        for number in ("0", "-1", "01", "1" * 18, "1" * 19, "9" * 400, "1e5", "\u0661", "x"):
            topic = f"coloprobe/v1/{me}/lines/{SPOOL}/{number}"
            await evil._connection.publish(topic, f"{at} late=1i {NOW}\n".encode())
        await evil.until_acknowledged(int("1" * 18))

    async def odd_statuses(evil: Hands) -> None:
        since: list[bytes] = [
            b'"\\ud800"',
            b"1e999",
            b"9" * 4000,
            b"[" * 2000,
            b"null",
            b'"' + b"x" * 3000 + b'"',
        ]
        documents = [b'{"state": "online", "since": ' + one + b"}" for one in since]
        for document in [*documents, b"", b"\xff", b"{}", b"[]", b"x" * (10 << 20)]:
            await evil._connection.publish(f"coloprobe/v1/{me}/status", document, retain=True)
            await evil._connection.publish(f"coloprobe/v1/{me}/status", b'{"state": "offline"}', retain=True)

    site.attack(me, *batches(*payloads), odd_numbers, odd_statuses)

    async def later(honest: Hands) -> None:
        # In the weeks for which the attacker wrote first, the honest agent's lines are let in as ever.
        lines = [
            f"probe,agent={HONEST},target=later sent=1i,loss=0.5 {NOW + n * day}"
            for n in (7, 14, 21, 60, 300)
        ]
        await honest.batch(10**6, *lines)
        async with asyncio.timeout(PATIENCE_S):
            await honest.until_acknowledged(10**6)

    async def one() -> None:
        async with hands(site.broker.port, HONEST) as honest:
            await later(honest)

    asyncio.run(one())
    rows = site.influx.query(f"select loss from probe where agent = '{HONEST}' and target = 'later'")
    assert len(rows) == 5
    assert site.entries(HONEST) == []
    reasons = {reason for reason, _ in site.entries(me)}
    assert any("its field sent is str, not int" in reason for reason in reasons)
    assert any("more than 64 fields" in reason for reason in reasons)
    fields = {row["fieldKey"] for row in site.influx.query("show field keys from probe")}
    assert len({name for name in fields if name.startswith("new")}) <= 64


def test_a_hundred_thousand_targets_of_one_agent_end_at_its_limit(site: Site) -> None:
    me = "evil-series"
    before = site.memory_mb()
    payloads = [
        gzip.compress(
            "".join(f"probe,agent={me},target=t{n} late=1i {NOW}\n" for n in range(at, at + 3_125)).encode(),
            1,
        )
        for at in range(0, 100_000, 3_125)
    ]
    site.attack(me, *batches(*payloads))
    assert site.memory_mb() - before < GROWTH_MB
    [row] = site.influx.query(f"select count(late) from probe where agent = '{me}'")
    assert row["count"] == 1_000
    keys = [row["key"] for row in site.influx.query("show series") if f"agent={me}," in row["key"]]
    assert len(keys) == 1_000
    site.over_limit = 99_000
    assert any("limits.series" in reason for reason, _ in site.entries(me))
    # What it had before it still has.
    site.attack(me, *batches(f"{keys[500]} late=2i {NOW + 1}\n".encode(), first=1_000))
    assert site.influx.query("select late from probe where late = 2") != []
