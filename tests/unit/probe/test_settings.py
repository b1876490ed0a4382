"""TOML text in, typed settings out; every way to be wrong is named: file, key, problem, what is allowed."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from probe.errors import SettingsError
from probe.settings import (
    AgentSettings,
    CollectorSettings,
    Target,
    agent_from,
    digest,
    load_agent,
    load_collector,
    read_secret,
)
from probe.units import ByteSize, Duration

AGENT = '[agent]\nid = "ny4-01"\n'
TARGET = '[[target]]\nname = "cme-a"\naddress = "192.0.2.20"\n'
GOOD = AGENT + TARGET
COLLECTOR = '[collector]\nid = "fanin-1"\n'
IDS = "a-z, 0-9 and '-', starting with a letter or digit, at most 63 characters"
DURATIONS = "for example '250us', '100ms' or '10s'"
DURATION_UNITS = "for example '100ms' or '10s'; units ns, us, µs, ms, s, m, h, d"
MQTT_URLS = "mqtt://host:port or mqtts://host:port"


def agent(tmp_path: Path, text: str) -> AgentSettings:
    path = tmp_path / "agent.toml"
    path.write_text(text, encoding="utf-8")
    return load_agent(path)


def collector(tmp_path: Path, text: str) -> CollectorSettings:
    path = tmp_path / "collector.toml"
    path.write_text(text, encoding="utf-8")
    return load_collector(path)


def test_the_smallest_agent_has_the_defaults_that_the_comments_promise(tmp_path: Path) -> None:
    got = agent(tmp_path, GOOD)
    assert got.target == (Target(name="cme-a", address="192.0.2.20"),)
    assert (got.window.length, got.window.timeout) == (10 * 10**9, 10**9)
    assert (got.target[0].interval, got.target[0].size, got.target[0].dscp) == (100_000_000, 64, 0)
    assert (got.target[0].kind, got.target[0].schedule, got.target[0].flows) == ("icmp", "periodic", 1)
    assert (got.mqtt.url, got.uplink.acknowledge, got.uplink.window) == (
        "mqtt://127.0.0.1:1883",
        "end-to-end",
        64,
    )
    assert got.spool.max_bytes == 512 << 20
    assert isinstance(got.window.length, Duration)
    assert isinstance(got.spool.max_bytes, ByteSize)


def test_a_target_overrides_the_defaults_and_they_the_built_in_ones(tmp_path: Path) -> None:
    text = AGENT + '[defaults]\ninterval = "50ms"\nsize = 100\n' + TARGET + "size = 200\n"
    target = agent(tmp_path, text).target[0]
    assert (target.interval, target.size, target.dscp) == (50_000_000, 200, 0)


def test_a_clock_may_be_trusted_by_hand(tmp_path: Path) -> None:
    assert agent(tmp_path, GOOD).host.clock_error is None
    assert agent(tmp_path, GOOD + '[host]\nclock_error = ""\n').host.clock_error is None
    assert agent(tmp_path, GOOD + '[host]\nclock_error = "20us"\n').host.clock_error == 20_000


def test_settings_are_frozen(tmp_path: Path) -> None:
    with pytest.raises(AttributeError):
        agent(tmp_path, GOOD).agent.id = "other"  # type: ignore[misc]


def test_the_smallest_collector(tmp_path: Path) -> None:
    got = collector(tmp_path, COLLECTOR)
    assert (got.collector.id, got.influx.api, got.mqtt.share_group) == ("fanin-1", "v2", "collectors")
    assert got.limits.batch_bytes == 256 << 10


def test_a_collector_that_names_a_broker_still_shares_and_one_that_says_no_does_not(tmp_path: Path) -> None:
    assert collector(tmp_path, COLLECTOR + '[mqtt]\nurl = "mqtt://b:1"\n').mqtt.share_group == "collectors"
    assert collector(tmp_path, COLLECTOR + '[mqtt]\nshare_group = ""\n').mqtt.share_group == ""


# Text, then what stands behind "agent.toml: ".
AGENT_ERRORS = [
    ("", "target: no target is given (allowed: at least one [[target]] with name and address)"),
    (AGENT, "target: no target is given (allowed: at least one [[target]] with name and address)"),
    (
        "target = 3\n" + AGENT,
        "target: no target is given (allowed: at least one [[target]] with name and address)",
    ),
    (
        "target = []\n" + AGENT,
        "target: no target is given (allowed: at least one [[target]] with name and address)",
    ),
    ("target = [3]\n" + AGENT, "target[0]: 3 is not allowed (allowed: a table)"),
    ("defaults = 3\n" + GOOD, "defaults: 3 is not allowed (allowed: a table)"),
    (TARGET, "agent: is missing (allowed: a table)"),
    ("agent = 3\n" + TARGET, "agent: 3 is not allowed (allowed: a table)"),
    ("[agent]\n" + TARGET, f"agent.id: is missing (allowed: {IDS})"),
    ('[agent]\nid = "NY4"\n' + TARGET, f"agent.id: 'NY4' is not allowed (allowed: {IDS})"),
    ('[agent]\nid = "a\\n"\n' + TARGET, f"agent.id: 'a\\n' is not allowed (allowed: {IDS})"),
    ("[agent]\nid = 3\n" + TARGET, f"agent.id: 3 is not allowed (allowed: {IDS})"),
    (AGENT + "name = 1\n" + TARGET, "agent.name: unknown key (allowed: id, site, state_dir, user)"),
    (AGENT + 'site = "a\\nb"\n' + TARGET, "agent.site: has a control character (allowed: printable text)"),
    (
        AGENT + 'state_dir = ""\n' + TARGET,
        "agent.state_dir: '' is not a folder's path (allowed: a folder, for example /var/lib/coloprobe)",
    ),
    (
        GOOD + "[windows]\n",
        "windows: unknown key (allowed: agent, target, window, engine, defaults, host, detect, trace, ask, "
        "mqtt, uplink, spool)",
    ),
    (GOOD + '[host]\ncounters = "1ms"\n', "host.counters: 1ms is out of range (allowed: 1s to 7d)"),
    (GOOD + '[trace]\nevery = "1ms"\n', "trace.every: 1ms is out of range (allowed: 1s to 7d)"),
    (GOOD + "[trace]\nflows = 65\n", "trace.flows: 65 is not allowed (allowed: 1 to 64)"),
    (GOOD + "[detect]\nshift = 0.01\n", "detect.shift: 0.01 is not allowed (allowed: 0.02 to 10)"),
    (
        GOOD + '[ask]\nallow = ["ping", "reboot"]\n',
        "ask.allow[1]: 'reboot' is not allowed "
        '(allowed: "check" or "links" or "ping" or "sessions" or "trace")',
    ),
    (
        GOOD + '[ask]\nallow = "ping"\n',
        "ask.allow: 'ping' is not allowed "
        '(allowed: a list of "check" or "links" or "ping" or "sessions" or "trace")',
    ),
    (GOOD + "[window]\nlength = 10\n", f"window.length: 10 is not text with a unit (allowed: {DURATIONS})"),
    (
        GOOD + '[window]\nlength = "10"\n',
        f"window.length: '10' is not a number with a unit (allowed: {DURATION_UNITS})",
    ),
    (GOOD + '[window]\nlength = "1ms"\n', "window.length: 1ms is out of range (allowed: 10ms to 1h)"),
    (
        GOOD + '[window]\nlength = "9999999d"\n',
        "window.length: 9999999d is out of range (allowed: 10ms to 1h)",
    ),
    (
        GOOD + '[window]\nlength = "500ms"\n',
        "window.length: 500ms is shorter than window.timeout (allowed: 1s or longer)",
    ),
    (GOOD + '[window]\ntimeout = "0s"\n', "window.timeout: 0ns is out of range (allowed: 10ms to 1h)"),
    (
        GOOD + '[window]\nhistogram = "15s"\n',
        "window.histogram: 15s is not a whole number of windows (allowed: a multiple of window.length = 10s)",
    ),
    (GOOD + '[engine]\ntick = "1s"\n', "engine.tick: 1s is out of range (allowed: 100us to 100ms)"),
    (
        GOOD + '[engine]\nbackend = "rings"\n',
        'engine.backend: \'rings\' is not allowed (allowed: "raw" or "ring")',
    ),
    (
        GOOD + '[engine]\nreceive_buffer = "0B"\n',
        "engine.receive_buffer: 0B is out of range (allowed: 64KiB to 1GiB)",
    ),
    (
        GOOD + '[defaults]\nname = "x"\n',
        "defaults.name: unknown key (allowed: kind, port, interval, size, dscp, flows, schedule, burst, ttl, "
        "source, interface, dont_fragment, key_file)",
    ),
    (GOOD + "[defaults]\nsize = 1\n", "defaults.size: 1 is not allowed (allowed: 24 to 9000)"),
    (
        GOOD + TARGET,
        "target[1].name: 'cme-a' is taken by target[0] (allowed: a name that no other target has)",
    ),
    (
        AGENT + '[[target]]\nname = "x"\n',
        "target[0].address: is missing (allowed: text of 1 to 253 characters)",
    ),
    (
        GOOD + '[[target]]\nname = ""\naddress = "x"\n',
        "target[1].name: '' is not allowed (allowed: text of 1 to 128 characters)",
    ),
    (
        AGENT + '[[target]]\nname = "x"\naddress = "a\\u0000"\n',
        "target[0].address: has a control character (allowed: printable text)",
    ),
    (GOOD + 'interval = "999us"\n', "target[0].interval: 999us is out of range (allowed: 1ms to 1h)"),
    (
        GOOD + '[defaults]\ninterval = "2h"\n',
        "defaults.interval: 2h is out of range (allowed: 1ms to 1h)",
    ),
    (GOOD + "interval = 100\n", f"target[0].interval: 100 is not text with a unit (allowed: {DURATIONS})"),
    (GOOD + "size = 23\n", "target[0].size: 23 is not allowed (allowed: 24 to 9000)"),
    (GOOD + 'size = "64"\n', "target[0].size: '64' is not allowed (allowed: 24 to 9000)"),
    (GOOD + "dscp = 64\n", "target[0].dscp: 64 is not allowed (allowed: 0 to 63)"),
    (GOOD + "dscp = true\n", "target[0].dscp: True is not allowed (allowed: 0 to 63)"),
    (GOOD + "flows = 65\n", "target[0].flows: 65 is not allowed (allowed: 1 to 64)"),
    (
        GOOD + 'kind = "udp"\n',
        'target[0].kind: \'udp\' is not allowed (allowed: "connect" or "icmp" or "stamp" or "tcp")',
    ),
    (
        GOOD + 'schedule = "random"\n',
        'target[0].schedule: \'random\' is not allowed (allowed: "periodic" or "poisson")',
    ),
    (
        GOOD + "protocol = 6\n",
        "target[0].protocol: unknown key (allowed: name, address, kind, port, interval, size, dscp, "
        "flows, schedule, burst, ttl, source, interface, dont_fragment, key_file, venue, line)",
    ),
    (
        AGENT + "".join(f'[[target]]\nname = "t{n}"\naddress = "x"\ninterval = "1ms"\n' for n in range(201)),
        "target: all targets together ask for 201,000 probes/s "
        "(allowed: at most 200,000: longer intervals, fewer flows or smaller bursts)",
    ),
    (
        AGENT
        + "".join(f'[[target]]\nname = "t{n}"\naddress = "x"\ninterval = "1ms"\n' for n in range(5))
        + '[window]\nlength = "1h"\nhistogram = "1h"\n',
        "window.length: 1h at 5,000 probes/s means remembering 18,010,000 probes in 774 MB (allowed: at most "
        "430 MB: shorter windows and timeouts, longer intervals, fewer flows or smaller bursts)",
    ),
    (
        GOOD + '[engine]\nhardware_stamps = "yes"\n',
        'engine.hardware_stamps: \'yes\' is not allowed (allowed: "auto" or "off" or "on")',
    ),
    (
        GOOD + '[host]\nclock_error = "1m"\n',
        "host.clock_error: 1m is out of range (allowed: 1ns to 10s)",
    ),
    (
        GOOD + "[host]\nclock_error = 20\n",
        f"host.clock_error: 20 is not text with a unit (allowed: {DURATIONS})",
    ),
    (GOOD + '[mqtt]\nurl = "http://b"\n', f"mqtt.url: 'http://b' is not usable (allowed: {MQTT_URLS})"),
    (
        GOOD + '[mqtt]\nurl = "mqtt://a..b:1"\n',
        f"mqtt.url: 'mqtt://a..b:1' names no possible host (allowed: {MQTT_URLS})",
    ),
    (GOOD + '[mqtt]\nurl = "mqtt://b\\n"\n', f"mqtt.url: 'mqtt://b\\n' is not usable (allowed: {MQTT_URLS})"),
    (
        GOOD + '[mqtt]\nurl = "mqtt://b:99999"\n',
        f"mqtt.url: 'mqtt://b:99999' is not a URL: Port out of range 0-65535 (allowed: {MQTT_URLS})",
    ),
    (
        GOOD + '[mqtt]\nurl = "mqtt://user:secret@b"\n',
        "mqtt.url: the URL holds credentials (allowed: username and a password or token file)",
    ),
    (
        GOOD + '[mqtt]\ncert_file = "c.pem"\n',
        "mqtt.key_file: is not set (allowed: cert_file and key_file together, or neither)",
    ),
    (
        GOOD + '[mqtt]\nkey_file = "k.pem"\n',
        "mqtt.cert_file: is not set (allowed: cert_file and key_file together, or neither)",
    ),
    (GOOD + '[mqtt]\nprotocol = "4"\n', 'mqtt.protocol: \'4\' is not allowed (allowed: "3.1.1" or "5")'),
    (GOOD + "[uplink]\nwindow = 0\n", "uplink.window: 0 is not allowed (allowed: 1 to 1024)"),
    (
        GOOD + '[uplink]\nack_timeout = "1ms"\n',
        "uplink.ack_timeout: 1ms is out of range (allowed: 100ms to 1h)",
    ),
    (
        GOOD + '[spool]\nmax_bytes = "1KiB"\n',
        "spool.max_bytes: 1KiB is out of range (allowed: 1MiB to 1024GiB)",
    ),
    (
        GOOD + "[spool]\nmax_bytes = 5\n",
        "spool.max_bytes: 5 is not text with a unit (allowed: for example '256KiB' or '512MiB')",
    ),
    (
        GOOD + "size = [" + "1, " * 100 + "]\n",
        "target[0].size: [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,... is not allowed "
        "(allowed: 24 to 9000)",
    ),
]


@pytest.mark.parametrize(
    ("text", "says"), AGENT_ERRORS, ids=[says.partition(" (")[0] for _, says in AGENT_ERRORS]
)
def test_an_agents_error_names_file_key_problem_and_what_is_allowed(
    text: str, says: str, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError) as caught:
        agent(tmp_path, text)
    assert str(caught.value) == f"{tmp_path / 'agent.toml'}: {says}"
    error = caught.value
    assert str(error) == f"{error.file}: {error.key}: {error.problem} (allowed: {error.allowed})"
    assert error.exit_status == 2


COLLECTOR_ERRORS = [
    ("", "collector: is missing (allowed: a table)"),
    (COLLECTOR + "x = 1\n", "collector.x: unknown key (allowed: id, state_dir)"),
    ("mqtt = 3\n" + COLLECTOR, "mqtt: 3 is not allowed (allowed: a table)"),
    (
        COLLECTOR + '[influx]\nurl = "ftp://x"\n',
        "influx.url: 'ftp://x' is not usable (allowed: http://host:port or https://host:port)",
    ),
    (
        COLLECTOR + '[influx]\nurl = "http://x/?token=t"\n',
        "influx.url: 'http://x/?token=t' is not usable (allowed: http://host:port or https://host:port)",
    ),
    (COLLECTOR + '[influx]\napi = "v3"\n', 'influx.api: \'v3\' is not allowed (allowed: "v1" or "v2")'),
    (COLLECTOR + '[influx]\ntimeout = "0s"\n', "influx.timeout: 0ns is out of range (allowed: 10ms to 10m)"),
    (
        COLLECTOR + '[influx]\ntoken = "secret"\n',
        "influx.token: unknown key (allowed: url, api, org, bucket, token_file, database, retention_policy, "
        "username, password_file, ca_file, timeout)",
    ),
    (
        COLLECTOR + '[limits]\nbatch_bytes = "0B"\n',
        "limits.batch_bytes: 0B is out of range (allowed: 1KiB to 64MiB)",
    ),
    (
        COLLECTOR + '[limits]\nheld_bytes = "1KiB"\n',
        "limits.held_bytes: 1KiB cannot hold one batch (allowed: limits.batch_bytes = 256KiB or more)",
    ),
    (
        COLLECTOR + '[mqtt]\nshare_group = "a/b"\n',
        "mqtt.share_group: 'a/b' is not usable (allowed: text without /, + and #)",
    ),
]


@pytest.mark.parametrize(
    ("text", "says"), COLLECTOR_ERRORS, ids=[says.partition(" (")[0] for _, says in COLLECTOR_ERRORS]
)
def test_a_collectors_error_does_too(text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        collector(tmp_path, text)
    assert str(caught.value) == f"{tmp_path / 'collector.toml'}: {says}"


def test_a_file_that_is_not_toml(tmp_path: Path) -> None:
    for content in (b"x", b"\xff", b"[agent]\n[agent]\n"):
        path = tmp_path / "agent.toml"
        path.write_bytes(content)
        with pytest.raises(
            SettingsError, match=r"agent\.toml: is not TOML: .* \(allowed: see https://toml\.io\)$"
        ):
            load_agent(path)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    for path, why in ((tmp_path / "none.toml", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(SettingsError) as caught:
            load_agent(path)
        assert str(caught.value) == f"{path}: cannot read it: {why} (allowed: a readable TOML file)"


KEYS = st.text(max_size=4) | st.sampled_from(
    [
        *("agent", "target", "window", "defaults", "id", "name", "address", "length", "size", "interval"),
        *("kind", "port", "flows", "burst", "source", "interface", "key_file", "host", "clock_error"),
    ]
)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=6),
    st.sampled_from(["10s", "a", "tcp", "stamp", "::1"]),
    st.integers(1, 100),
)
DOCUMENTS = st.dictionaries(
    KEYS,
    st.recursive(
        LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4)
    ),
    max_size=5,
)


@given(DOCUMENTS)
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_any_document_is_settings_or_a_settings_error(document: dict[str, object]) -> None:
    with contextlib.suppress(SettingsError):
        agent_from(document, "agent.toml")
    whole = {"agent": {"id": "a"}, "target": [{"name": "t", "address": "x"}], **document}
    with contextlib.suppress(SettingsError):
        agent_from(whole, "agent.toml")


def test_the_callers_document_stays_as_it_was() -> None:
    document = {"agent": {"id": "a"}, "defaults": {"size": 100}, "target": [{"name": "t", "address": "x"}]}
    before = msgspec.json.encode(document)
    agent_from(document, "agent.toml")
    assert msgspec.json.encode(document) == before


def test_a_digest_is_of_the_meaning_not_of_the_text(tmp_path: Path) -> None:
    one = agent(tmp_path, GOOD + '[window]\nlength = "10s"\n')
    same = agent(tmp_path, "# a comment\n" + GOOD + '[window]\nlength = "10000ms"\n')
    other = agent(tmp_path, GOOD + '[window]\nlength = "20s"\nhistogram = "60s"\n')
    assert digest(one) == digest(same) != digest(other)
    assert len(digest(one)) == 64


def secret(path: str) -> str | None:
    return read_secret(path, "COLOPROBE_TEST_SECRET", "agent.toml", "mqtt.password_file")


def test_a_secret_comes_from_its_file_without_the_line_end(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    for content, want in (("s3 cret\n", "s3 cret"), ("s\r\n", "s"), (" s \n\n", " s \n"), ("s", "s")):
        path.write_text(content, encoding="utf-8", newline="")
        assert secret(str(path)) == want


def test_a_secret_comes_from_the_environment_where_no_file_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLOPROBE_TEST_SECRET", raising=False)
    assert secret("") is None
    monkeypatch.setenv("COLOPROBE_TEST_SECRET", "s3cret")
    assert secret("") == "s3cret"


def test_a_secret_that_cannot_be_read_names_both_ways_and_never_the_secret(tmp_path: Path) -> None:
    remedy = "(allowed: a file that this user can read, or the variable COLOPROBE_TEST_SECRET)"
    path = tmp_path / "secret"
    with pytest.raises(SettingsError) as caught:
        secret(str(path))
    assert str(caught.value) == (
        f"agent.toml: mqtt.password_file: cannot read {str(path)!r}: No such file or directory {remedy}"
    )
    path.write_bytes(b"\xffsecret")
    with pytest.raises(SettingsError) as caught:
        secret(str(path))
    assert (
        str(caught.value)
        == f"agent.toml: mqtt.password_file: cannot read {str(path)!r}: it is not UTF-8 text {remedy}"
    )
    path.write_text("\n", encoding="utf-8")
    with pytest.raises(SettingsError) as caught:
        secret(str(path))
    assert (
        str(caught.value)
        == f"agent.toml: mqtt.password_file: {str(path)!r} is empty (allowed: a file that holds the secret)"
    )
    assert os.fspath(path) in str(caught.value)


def test_a_number_of_thousands_of_digits_is_told_with_the_files_name(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(f"x = {'9' * 5000}\n", encoding="ascii")
    with pytest.raises(SettingsError) as caught:
        load_agent(file)
    assert str(caught.value).startswith(f"{file}: is not TOML: ")
