"""Names and dates in, certificates of a small authority out, made by openssl: good ones and bad ones."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

_CONFIG = """
[ca]
default_ca = own
[own]
database = {home}/index
new_certs_dir = {home}
certificate = {home}/{name}.pem
private_key = {home}/{name}.key
default_md = sha256
policy = any
rand_serial = yes
unique_subject = no
copy_extensions = copy
[any]
commonName = supplied
"""


@dataclass(frozen=True)
class Certificate:
    """The PEM files of a certificate and its key."""

    pem: Path
    key: Path


class Authority:
    """An authority of its own in a folder of its own."""

    def __init__(self, home: Path, name: str = "ca") -> None:
        home.mkdir()
        self._home = home
        self.pem = home / f"{name}.pem"
        openssl(
            *("req", "-x509", *_NEW_KEY, "-days", 2, "-subj", f"/CN={name}"),
            *("-keyout", home / f"{name}.key", "-out", self.pem),
        )
        self._config = home / "ca.conf"
        self._config.write_text(_CONFIG.format(home=home, name=name))
        (home / "index").touch()

    def certificate(
        self, name: str, *, names: str = "IP:127.0.0.1", days: tuple[int, int] = (-1, 1)
    ) -> Certificate:
        """For the common name `name` and the alternative `names`; valid from and to so many days from now."""
        made = Certificate(self._home / f"{name}.crt", self._home / f"{name}.private")
        request = self._home / f"{name}.csr"
        openssl(
            *(
                "req",
                *_NEW_KEY,
                "-subj",
                "/CN=" + name.replace("+", r"\+"),
                "-addext",
                f"subjectAltName={names}",
            ),
            *("-keyout", made.key, "-out", request),
        )
        start, end = ((datetime.now(UTC) + timedelta(days=days_)).strftime("%Y%m%d%H%M%SZ") for days_ in days)
        openssl(
            *("ca", "-config", self._config, "-batch", "-notext"),
            *("-startdate", start, "-enddate", end, "-in", request, "-out", made.pem),
        )
        return made


_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


def openssl(*arguments: object) -> None:
    """Run it; fails with what it said."""
    done = subprocess.run(
        ["openssl", *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, (arguments, done.stderr)
