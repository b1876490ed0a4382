"""The certificate files of [mqtt] in, a TLS context out; errors name the settings key to change."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from probe.errors import MqttRefused
from probe.settings import MqttTable

if TYPE_CHECKING:
    import ssl


def context(mqtt: MqttTable) -> ssl.SSLContext:
    """Trust `ca_file` (or the system's authorities), show `cert_file`; names are always verified.

    Raises: MqttRefused, naming the settings key of the file that cannot be used.
    """
    import ssl

    class Socket(ssl.SSLSocket):
        def do_handshake(self, block: bool = False) -> None:
            try:
                super().do_handshake(block)
            except BaseException:
                self.close()  # paho leaves it open
                raise

    for key in ("ca_file", "cert_file", "key_file"):
        path = getattr(mqtt, key)
        try:
            if path:
                Path(path).open("rb").close()
        except OSError as problem:
            raise MqttRefused(f"mqtt.{key}: cannot read {path!r}: {problem.strerror}") from None
    try:
        made = ssl.create_default_context(cafile=mqtt.ca_file or None)
    except (ssl.SSLError, OSError) as problem:
        raise MqttRefused(f"mqtt.ca_file: {mqtt.ca_file!r} holds no PEM certificate ({problem})") from None
    made.sslsocket_class = Socket
    if mqtt.cert_file:
        try:
            made.load_cert_chain(
                mqtt.cert_file, mqtt.key_file, password=lambda: ""
            )  # or it asks at the terminal
        except (ssl.SSLError, OSError) as problem:
            raise MqttRefused(
                f"mqtt.cert_file, mqtt.key_file: {mqtt.cert_file!r} and {mqtt.key_file!r} are not a PEM "
                f"certificate and its unencrypted key ({problem})"
            ) from None
    return made


def refusal(url: str, problem: BaseException | None) -> MqttRefused | None:
    """What a failed handshake with `url` means where only an operator can help; None for anything else."""
    import ssl

    if isinstance(problem, ssl.SSLCertVerificationError):
        return MqttRefused(
            f"{url}: the broker's certificate is not accepted: {problem.verify_message}; mqtt.ca_file must "
            "hold the authority that signed it, and mqtt.url a name that it is made out to"
        )
    if isinstance(problem, ssl.SSLError) and not isinstance(
        problem, (ssl.SSLEOFError, ssl.SSLZeroReturnError)
    ):
        reason = (problem.reason or str(problem)).lower().replace("_", " ")
        return MqttRefused(f"{url}: TLS failed: {reason}; is this the broker's mqtts port?")
    return None
