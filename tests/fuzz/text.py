"""Line protocol, settings and the command line in, targets out: all that is text and not from the broker."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

from tests.fuzz import influx
from tests.fuzz.files import directory
from tests.fuzz.samples import LINES, NEIGHBOUR, SPOOL, WORDS
from tests.fuzz.target import Chooser, Feed, Shape, Target

CONFIG = Path(__file__).parents[2] / "config"


def _line() -> Feed:
    from probe.errors import LineError
    from probe.telemetry import lines

    def feed(data: bytes) -> None:
        text = data.decode(errors="replace")
        try:
            point = lines.parse(text)
        except LineError as problem:
            complaint = str(problem)
            assert len(complaint) < 400
            try:
                lines.check(text)
            except LineError as other:
                assert str(other) == complaint
                return
            raise AssertionError("check takes what parse does not") from None
        lines.check(text)
        assert "\n" not in text
        assert -(1 << 63) <= point.time_ns < 1 << 63
        assert point.fields
        assert (
            list(influx.blocks(data + b"\n" + NEIGHBOUR))[-1] == NEIGHBOUR or text.lstrip(" \t\0")[:1] == "#"
        )
        # Names with backslashes before separators cannot be said again; all else can.
        if "\\" not in text and "\r" not in text:
            series = lines.series_text(point.measurement, point.tags)
            assert lines.parse(lines.encode(series, point.fields, point.time_ns)) == point

    return feed


def _point() -> Feed:
    from probe.errors import LineError
    from probe.telemetry import lines

    def feed(data: bytes) -> None:
        choose = Chooser(data)
        time_ns = choose.number(1 << 63)
        fields: dict[str, lines.Value] = {"f": choose.number(1 << 64) - (1 << 63)}
        pieces = [piece.decode(errors="surrogateescape") for piece in choose.rest.split(b"\xff")]
        tags = dict(zip(pieces[::3], pieces[1::3], strict=False))
        fields |= {f"x{n}": text for n, text in enumerate(pieces[2::3])}
        series = lines.series_text("probe", {"agent": "ny4-01", **tags})
        try:
            line = lines.encode(series, fields, time_ns)
        except LineError:
            assert not -(1 << 63) <= int(fields["f"]) < 1 << 63
            return
        body = lines.join([line])
        written = body[:-1].decode()
        point = lines.parse(written)
        lines.check(written)
        assert list(influx.blocks(body + NEIGHBOUR)) == [body[:-1], NEIGHBOUR]
        assert point.time_ns == time_ns
        assert point.measurement == "probe"
        keys = [lines.tag_text(key).encode(errors="replace") for key in tags]
        if b"agent" not in keys:
            assert line.startswith("probe,agent=ny4-01")
            assert point.tags["agent"] == "ny4-01"
            seen = influx.series(body[:-1])
            # Keys are the schema's: that two become one by what is left out cannot be.
            assert seen is not None or len({*keys}) < len(keys), "the database refuses what the agent writes"
            assert seen is None or len(seen[1]) == len(point.tags)
        for key, value in fields.items():
            if isinstance(value, str):
                value = value.translate({10: " ", 13: None}).encode(errors="replace").decode()
            assert point.fields[key] == value
        for key, value in tags.items() if len({*keys}) == len(keys) else ():
            if key and value and not set(key + value) & set("\\\r\n") and (key + value).isascii():
                assert point.tags[key] == value

    return feed


def _point_seeds() -> list[bytes]:
    head = bytes(8) + (1 << 63).to_bytes(8, "big")
    return [
        head,
        head + b"\xff".join((b"target", b"cme-a", b"a text", b"line", b"A, B", b'say "a\\b"\n')),
        head + b"\xff".join((b"a b", b"c=d", b"\\", b"x\\", b"y\\ ", b"\\\\", b"\\", b"\\,", b"")),
        head + b"\xff".join((b"agent", b"ld4-02", b"x")),
    ]


def _ack() -> Feed:
    from probe.errors import BatchError
    from probe.telemetry import acks

    last = 200

    def feed(data: bytes) -> None:
        try:
            ranges = acks.parse(data, SPOOL, last)
        except BatchError as problem:
            assert problem.reason in {"oversized", "foreign", "malformed", "range"}
            return
        document = json.loads(data)
        assert isinstance(document, dict)
        meant = {n for low, high in document.get(SPOOL, []) for n in range(low, high + 1)}
        assert meant == {n for low, high in ranges for n in range(low, high + 1)}
        assert meant <= set(range(1, last + 1)), "a batch that never was"
        assert all(high + 1 < low for (_, high), (low, _) in pairwise(ranges)), "sorted and apart"
        assert [acks.covers(ranges, n) for n in range(last + 2)] == [n in meant for n in range(last + 2)]

    return feed


def _settings() -> Feed:
    from probe.errors import SettingsError
    from probe.settings import digest, load_agent, load_collector

    path = directory() / "settings.toml"

    def feed(data: bytes) -> None:
        path.write_bytes(data[1:])
        try:
            assert len(digest(load_collector(path) if data[:1] > b"\x7f" else load_agent(path))) == 64
        except SettingsError as problem:
            said = str(problem)
            assert said.startswith(str(path))
            assert said.encode(errors="surrogatepass")
            assert len(said) < 500 + 12 * len(data)

    return feed


def _settings_seeds() -> list[bytes]:
    agent, collector = ((CONFIG / name).read_bytes() for name in ("agent.toml", "collector.toml"))
    small = b'[agent]\nid = "a"\nsite = "b"\n[mqtt]\nurl = "mqtt://h"\n'
    small += b'[[target]]\nname = "x"\naddress = "192.0.2.1"\n'
    fan = b'[collector]\nid = "c"\n[mqtt]\nurl = "mqtt://h"\n[influx]\nurl = "http://h"\ndatabase = "d"\n'
    return [
        b"\0" + agent,
        b"\xff" + collector,
        b"\0" + small,
        b"\xff" + fan,
        b"\0" + small.replace(b"\n", b"\r\n"),
    ]


_KEYS = [
    *(
        b"[agent]\n",
        b"[window]\n",
        b"[engine]\n",
        b"[defaults]\n",
        b"[[target]]\n",
        b"[mqtt]\n",
        b"[uplink]\n",
    ),
    *(b"[spool]\n", b"[host]\n", b"[collector]\n", b"[influx]\n", b"[limits]\n", b"kind = ", b"interval = "),
    *(
        b"length = ",
        b"timeout = ",
        b"flows = ",
        b"dscp = ",
        b"burst = ",
        b"ttl = ",
        b"source = ",
        b"interface = ",
    ),
    *(
        b"port = ",
        b"size = ",
        b"max_bytes = ",
        b"batch_bytes = ",
        b"url = ",
        b'"mqtts://[::1]:x"',
        b'"http://"',
    ),
    *(
        b'"99999999999999d"',
        b'"0ns"',
        b'"1e3s"',
        b"9" * 5000,
        b"1979-05-27T07:32:00Z",
        b"[[[[",
        b"{a={a={a={a=",
    ),
    *(b"= [", b'"""', b"'''", b"inf", b"nan", b"-1", b"true", b'"\\u0000"', b'"\\uD800"', b"clock_error = "),
]


def _argument() -> Feed:
    import argparse

    from collectors.listen import parse
    from probe.arguments import duration, interval, whole
    from probe.errors import UsageError
    from probe.targets import parse_target

    def feed(data: bytes) -> None:
        choose = Chooser(data)
        which = choose.number(5)
        text = choose.rest.decode(errors="surrogateescape")  # as the kernel's argv comes to Python
        try:
            if which == 0:
                target = parse_target(text)
                assert target.host
                assert 0 <= target.port <= 65535
                assert parse_target(target.name) == target
            elif which == 1:
                host, port = parse(text, "--board")
                assert 0 <= port <= 65535
                assert not set(host) & set("[]")
            elif which == 2:
                assert 0 < duration(text) <= 36_500 * 86_400 * 10**9
            elif which == 3:
                assert 10**6 <= interval(text) <= 3_600 * 10**9
            else:
                assert 24 <= whole(24, 9000)(text) <= 9000
        except (UsageError, argparse.ArgumentTypeError) as problem:
            assert len(str(problem)) < 500 + 12 * len(text)
        except ValueError:
            assert which == 4, "argparse makes a good message of it, in a type of its own only"

    return feed


def _quantity() -> Feed:
    from probe.units import ByteSize, Duration

    def feed(data: bytes) -> None:
        text = data.decode(errors="replace")
        for quantity in (Duration, ByteSize):
            try:
                value = quantity.parse(text)
            except ValueError as problem:
                assert "allowed" in str(problem)
                continue
            assert value >= 0
            if value < 10**15:
                assert quantity.parse(str(value)) == value

    return feed


TARGETS = (
    Target(
        "line",
        "probe.telemetry.lines.parse, check",
        "check raises exactly what parse does; what is understood is written the same again",
        _line,
        lambda: [line.encode() for line in LINES],
        words=WORDS,
        inputs=2000,
        shapes=[
            Shape(head, part, tail)
            for head in (b"", b"m,a=", b"m a=", b'm a="')
            for part in (b"\\", b"a=", b'"', b",a=b", b"a\\ ", b"1", b"a=1,", b"\\\\", b"e1", b".", b" ")
            for tail in (b"", b" 1")
        ],
    ),
    Target(
        "point",
        "probe.telemetry.lines.series_text, encode",
        "whatever the text, one line that says what the point says, to us and to InfluxDB",
        _point,
        _point_seeds,
        words=[
            b"\xff",
            b"\\",
            b"\\\\",
            b",",
            b"=",
            b" ",
            b"\n",
            b"\r",
            b'"',
            b"agent",
            b"\xed\xa0\x80",
            b"\xc3",
        ],
        longest=512,
        inputs=1500,
    ),
    Target(
        "ack",
        "probe.telemetry.acks.parse, covers",
        "exactly the batches that the document names, all of them once sent; sorted and apart",
        _ack,
        lambda: [
            *(b'{"9f2c41d0":[[17,23],[25,25]]}', b"{}", b'{"00":[[1,2]],"9f2c41d0":[[3,9],[1,4]]}'),
            *(
                b'{"9f2c41d0":[[0,5]]}',
                b'{"9f2c41d0":[[5,4]]}',
                b'{"9f2c41d0":[[1,201]]}',
                b'{"9f2c41d0":[[-1,1]]}',
            ),
            *(b'{"9f2c41d0":[]}', b'{"9f2c41d0":[[1,200]]}'),
        ],
        words=[b'"9f2c41d0"', b"[[", b"]]", b"[1,1]", b",", b":", b"null", b"1.0", b"201", b"\\u0039"],
        longest=512,
        inputs=2000,
        shapes=[
            Shape(b'{"9f2c41d0":[', part, b"[1,1]]}") for part in (b"[1,1],", b"[", b"[1,9000000000],", b"1")
        ],
    ),
    Target(
        "settings",
        "probe.settings.load_agent, load_collector",
        "settings, or one SettingsError that names the file",
        _settings,
        _settings_seeds,
        words=_KEYS,
        longest=8192,
        inputs=200,
    ),
    Target(
        "argument",
        "probe.targets.parse_target, probe.arguments, collectors.listen.parse",
        "a target's name leads to the same target; ports and quantities are in their range",
        _argument,
        lambda: [
            *(b"\0192.0.2.1", b"\0tcp://h:9000", b"\0stamp://[2001:db8::1]:862", b"\0connect://a-b.c:1"),
            *(
                b"\0fe80::1%eth0",
                b"\0icmp://h",
                b"\1127.0.0.1:80",
                b"\1[::1]:0",
                b"\2100ms",
                b"\0031.5",
                b"\00464",
            ),
        ],
        words=[b"://", b"tcp", b"stamp", b"icmp", b"[", b"]", b":", b"%", b"::", b"\xd9\xa1", b"65536"],
        longest=300,
        inputs=1000,
        shapes=[
            Shape(head, part)
            for head in (b"\0", b"\0tcp://", b"\0[", b"\1", b"\1[", b"\2", b"\4")
            for part in (b":", b"1", b"a", b"[", b".", b" ")
        ],
    ),
    Target(
        "quantity",
        "probe.units.Duration.parse, ByteSize.parse",
        "never negative; what it is written as means the same",
        _quantity,
        lambda: [b"100ms", b"1.5s", b"512MiB", b" 7 d ", b"999999999999999.999999999d", "3µs".encode()],
        words=[b"ns", b"us", b"ms", b"s", b"m", b"h", b"d", b"B", b"kB", b"MiB", b"GiB", b"."],
        longest=64,
        inputs=1000,
        shapes=[Shape(b"", part, b"s") for part in (b" ", b"1", b".", b"1 ")],
    ),
)
