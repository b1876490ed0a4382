"""Certificate files in, a TLS context out; a handshake that failed in, what to do about it out.

For the broker and for the database: whoever calls says which settings keys its errors shall name.
"""

from __future__ import annotations

import select
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from probe.errors import MqttRefused
from probe.settings import MqttTable

if TYPE_CHECKING:
    import ssl

# A server of TLS 1.3 looks at our certificate only after our side of the handshake is done. Most of them say
# something then, session tickets or a refusal; this long is waited for it.
VERDICT_S = 0.25


@dataclass(frozen=True)
class Peer:
    """The other end in an error's words, and the settings keys that have to do with it."""

    name: str
    url: str
    ca_file: str
    cert_files: str  # empty: we have no certificate to show


BROKER = Peer("the broker", "mqtt.url", "mqtt.ca_file", "mqtt.cert_file and mqtt.key_file")
DATABASE = Peer("the database", "influx.url", "influx.ca_file", "")

_HUNG_UP = (
    "it hung up during the TLS handshake; is this its mqtts port, and does it want a certificate "
    "(mqtt.cert_file, mqtt.key_file)?"
)

# OpenSSL's X509_V_ERR_... of a certificate that we verified.
_NOT_YET_VALID, _EXPIRED, _OTHER_NAMES = 9, 10, (62, 63, 64)


def trust(ca_file: str, key: str) -> ssl.SSLContext:
    """TLS 1.2 or newer, names verified; trust `ca_file` alone, or without one the system's authorities.

    Raises: ValueError, whose text begins with `key`, where the file cannot be used.
    """
    import ssl

    _readable(ca_file, key)
    try:
        made = ssl.create_default_context(cafile=ca_file or None)
    except (ssl.SSLError, OSError) as problem:
        raise ValueError(f"{key}: {ca_file!r} holds no PEM certificate ({problem})") from None
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    # An agent's certificate has its id as common name, and must not pass for a host of that name.
    made.hostname_checks_common_name = False
    return made


def context(mqtt: MqttTable) -> ssl.SSLContext:
    """What `mqtts://` needs: trust as above, and our own certificate where there is one.

    Raises: MqttRefused, naming the settings key of the file that cannot be used.
    """
    import ssl

    class Socket(ssl.SSLSocket):
        def do_handshake(self, block: bool = False) -> None:
            try:
                super().do_handshake(block)
                _hear_verdict(self)
            except BaseException as problem:
                self.close()  # paho leaves it open
                if isinstance(problem, (ConnectionError, ssl.SSLEOFError)):
                    raise ConnectionError(_HUNG_UP) from problem
                raise

    try:
        made = trust(mqtt.ca_file, BROKER.ca_file)
        for key in ("cert_file", "key_file"):
            _readable(getattr(mqtt, key), f"mqtt.{key}")
    except ValueError as problem:
        raise MqttRefused(str(problem)) from None
    made.sslsocket_class = Socket
    if mqtt.cert_file:
        try:
            made.load_cert_chain(
                mqtt.cert_file, mqtt.key_file, password=lambda: ""
            )  # or it asks at the terminal
        except (ssl.SSLError, OSError) as problem:
            both = f"mqtt.cert_file, mqtt.key_file: {mqtt.cert_file!r} and {mqtt.key_file!r}"
            if getattr(problem, "reason", "") == "KEY_VALUES_MISMATCH":
                raise MqttRefused(f"{both} do not belong together: it is another certificate's key") from None
            raise MqttRefused(
                f"{both} are not a PEM certificate and its unencrypted key ({problem})"
            ) from None
    return made


def refusal(url: str, problem: BaseException | None) -> MqttRefused | None:
    """What a failed handshake with the broker means where only an operator can help; None: anything else."""
    text = explain(problem, BROKER)
    return MqttRefused(f"{url}: {text}") if text else None


def explain(problem: BaseException | None, peer: Peer) -> str:
    """A failed handshake in words, with the key to change; '' where that is not what the problem is."""
    import ssl

    if isinstance(problem, ssl.SSLCertVerificationError):
        return _not_trusted(problem, peer)
    if not isinstance(problem, ssl.SSLError) or isinstance(
        problem, (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
    ):
        return ""
    reason = problem.reason or str(problem)
    said = reason.lower().replace("_", " ")
    if reason.endswith(("CERTIFICATE_REQUIRED", "HANDSHAKE_FAILURE")):
        remedy = f"set {peer.cert_files}" if peer.cert_files else "coloprobe has none to show it"
        return f"{peer.name} refuses us ({said}): it seems to want a certificate from its clients; {remedy}"
    if "ALERT" in reason and ("CERTIFICATE" in reason or "CA" in reason.split("_")):
        if "EXPIRED" in reason:
            remedy = "renew that of mqtt.cert_file, or correct the clocks"
        else:
            remedy = f"{peer.cert_files or 'it'} must be signed by an authority that {peer.name} trusts"
        return f"{peer.name} does not accept our certificate ({said}); {remedy}"
    if "PROTOCOL" in reason:
        return f"{peer.name} speaks no TLS 1.2 or newer ({said}); have it speak that"
    port = "mqtts port" if peer is BROKER else "https port"
    return f"TLS failed: {said}; is this {peer.name}'s {port}? (see {peer.url})"


def _not_trusted(problem: ssl.SSLCertVerificationError, peer: Peer) -> str:
    said = f"{peer.name}'s certificate is not accepted: {problem.verify_message.rstrip('.')}"
    if problem.verify_code in _OTHER_NAMES:
        return f"{said}; {peer.url} must use a name that it is made out to"
    if problem.verify_code == _EXPIRED:
        return f"{said}; renew it (see {peer.url}), or correct this host's clock if that is ahead"
    if problem.verify_code == _NOT_YET_VALID:
        return f"{said}; correct this host's clock if that is behind, or wait (see {peer.url})"
    return f"{said}; {peer.ca_file} must hold the authority that signed it"


def _readable(path: str, key: str) -> None:
    try:
        if path:
            Path(path).open("rb").close()
    except OSError as problem:
        raise ValueError(f"{key}: cannot read {path!r}: {problem.strerror}") from None


def _hear_verdict(connection: ssl.SSLSocket) -> None:
    """Raise at once what the server says of our certificate: when it hangs up that may get lost."""
    import ssl

    if connection.version() != "TLSv1.3":
        return  # it has said it already
    waiting = select.poll()  # select(2) ends at descriptor 1,023
    waiting.register(connection, select.POLLIN)
    if not waiting.poll(VERDICT_S * 1000):
        return
    timeout = connection.gettimeout()
    connection.setblocking(False)
    try:
        with suppress(ssl.SSLWantReadError):
            raise ConnectionError("closed" if not connection.recv(1) else "it speaks before it is spoken to")
    finally:
        connection.settimeout(timeout)
