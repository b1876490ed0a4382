"""A failure in, one class a caller can act on out: every exception that coloprobe raises on purpose.

    ColoprobeError                 exit status 1 unless said otherwise
    |-- UsageError                 the command line is wrong (exit status 2)
    |-- SettingsError              a settings file is wrong (exit status 2): file, key, problem, allowed
    |-- MissingPartError           an optional part is not installed: names the extra that brings it
    |-- SocketError                a probe socket cannot be had or used
    |   `-- PrivilegeError         ... because the process may not: names both ways out
    |-- ResolveError               a target's name has no address (yet)
    |-- ChildError                 a child process did not start, did not end well, or took too long
    |-- SpoolError                 the spool file cannot be used
    |-- MqttError                  the broker cannot be used
    |   |-- MqttUnavailable        ... now: no connection, or it was lost. Try again
    |   `-- MqttRefused            ... with these credentials, certificates or rights. Tell the operator
    |-- AskError                   a question that an agent does not answer, or not to its end
    |-- LineError                  text that is not a line of the Influx line protocol
    |-- BatchError                 an MQTT message that is not a batch; `reason` is a counter's name
    `-- SinkError                  a write that did not happen
        |-- SinkUnavailable        ... now: network, 429 or 5xx. `retry_after_s` where the server named it
        |-- SinkRefused            ... with these credentials or this database (401, 403, 404)
        |-- SinkTooLarge           ... in one piece (413): split it
        `-- SinkRejected           ... because of what some of its lines say (400): find and quarantine them

Third-party exceptions are translated where the third party is called, so nobody else has to know them.
"""

from __future__ import annotations


class ColoprobeError(Exception):
    """The root: `except ColoprobeError` catches what is ours and leaves defects visible."""

    exit_status = 1


class UsageError(ColoprobeError):
    """The command line is wrong; the message says what is allowed."""

    exit_status = 2


class SettingsError(ColoprobeError):
    """A settings file is wrong. `str()` names the file, the key's path, what is wrong and what is allowed."""

    exit_status = 2

    def __init__(self, file: str, key: str, problem: str, allowed: str = "") -> None:
        self.file = file
        self.key = key
        self.problem = problem
        self.allowed = allowed
        where = f"{file}: {key}: " if key else f"{file}: "
        super().__init__(f"{where}{problem}" + (f" (allowed: {allowed})" if allowed else ""))


class MissingPartError(ColoprobeError):
    """An optional part is not installed."""

    exit_status = 2

    def __init__(self, part: str, extra: str) -> None:
        super().__init__(f"{part} is not installed; install it with: pip install 'coloprobe[{extra}]'")


class SocketError(ColoprobeError):
    """A probe socket cannot be opened or used."""


class PrivilegeError(SocketError):
    """The kernel refuses probe sockets to this process; the message names every way out."""


class ResolveError(ColoprobeError):
    """A target's name has no address."""


class ChildError(ColoprobeError):
    """A child process could not be started, failed, said what is not understood, or took too long."""


class SpoolError(ColoprobeError):
    """The spool file cannot be opened or written."""


class MqttError(ColoprobeError):
    """The broker cannot be used."""


class MqttUnavailable(MqttError):
    """No connection to the broker, or it was lost; trying again is right."""


class MqttRefused(MqttError):
    """The broker answered and refused; trying again without a change will not help."""


class AskError(ColoprobeError):
    """A question that an agent does not answer, or not to its end; the message says whose refusal it is and
    why.

    `exit_status`: 2 where the question is wrong, 1 where the answer failed.
    """

    def __init__(self, message: str, exit_status: int = 1) -> None:
        self.exit_status = exit_status
        super().__init__(message)


class LineError(ColoprobeError):
    """Text that is not one line of the Influx line protocol; the message says where it stops being one."""


class BatchError(ColoprobeError):
    """An MQTT message that is not a batch. `reason` is a short stable word, used as a counter's name."""

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        super().__init__(message)


class SinkError(ColoprobeError):
    """A write that the sink did not confirm."""


class SinkUnavailable(SinkError):
    """The sink did not answer, or said 'not now' (429, 5xx). `retry_after_s`: its own wish, seconds.

    away: nobody answered at all, so that the first answer of any kind is news.
    """

    def __init__(self, message: str, retry_after_s: float | None = None, *, away: bool = False) -> None:
        self.retry_after_s = retry_after_s
        self.away = away
        super().__init__(message)


class SinkRefused(SinkError):
    """The sink refuses this client or has no such database (401, 403, 404): an operator has to act."""


class SinkTooLarge(SinkError):
    """The body is over the sink's limit (413): the same lines in two halves may pass."""


class SinkRejected(SinkError):
    """The sink understood the request and rejects some of its lines (400); the message is the server's."""
