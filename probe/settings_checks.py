"""Values of parsed tables in, SettingsError out where they are out of range or cannot be used."""

from __future__ import annotations

import re
from collections.abc import Mapping
from operator import attrgetter
from urllib.parse import urlsplit

from probe.errors import SettingsError
from probe.tables import Table
from probe.units import ByteSize, Duration

CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def check_ranges(
    table: Table,
    ranges: Mapping[str, tuple[Duration, Duration] | tuple[ByteSize, ByteSize]],
    file: str,
    prefix: str,
) -> None:
    for key, (low, high) in ranges.items():
        value = attrgetter(key)(table)
        if not low <= value <= high:
            raise SettingsError(file, prefix + key, f"{value} is out of range", f"{low} to {high}")


def check_state_dir(state_dir: str, file: str, key: str) -> None:
    if not state_dir or CONTROL.search(state_dir):
        raise SettingsError(
            file, key, f"{state_dir!r} is not a folder's path", "a folder, for example /var/lib/coloprobe"
        )


def check_url(file: str, key: str, url: str, schemes: tuple[str, ...]) -> None:
    allowed = " or ".join(f"{scheme}://host:port" for scheme in schemes)
    try:
        parts = urlsplit(url)
        _ = parts.port
        (parts.hostname or "").encode("idna")  # as the resolver's library does, which fails in its own way
    except UnicodeError:
        raise SettingsError(file, key, f"{url!r} names no possible host", allowed) from None
    except ValueError as problem:
        raise SettingsError(file, key, f"{url!r} is not a URL: {problem}", allowed) from None
    if parts.password or parts.username:
        raise SettingsError(file, key, "the URL holds credentials", "username and a password or token file")
    # urlsplit drops line ends and tabs in silence; a query may hold a secret, and nothing here reads one.
    if (
        parts.scheme not in schemes
        or not parts.hostname
        or parts.query
        or parts.fragment
        or re.search(r"[\x00-\x20\x7f]", url)
    ):
        raise SettingsError(file, key, f"{url!r} is not usable", allowed)


def check_mqtt_files(file: str, cert_file: str, key_file: str) -> None:
    """Mutual TLS needs both."""
    if bool(cert_file) != bool(key_file):
        missing = "mqtt.key_file" if cert_file else "mqtt.cert_file"
        raise SettingsError(file, missing, "is not set", "cert_file and key_file together, or neither")
