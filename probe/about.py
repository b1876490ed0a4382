"""A running agent's parts in, what it says of itself to whoever asks out."""

from __future__ import annotations

from probe import __version__
from probe.clock import Clock
from probe.measurement import Measurement
from probe.outgoing import Outgoing
from probe.settings import AgentSettings, digest
from probe.telemetry.uplink import Uplink


def about(
    settings: AgentSettings, measurement: Measurement, outgoing: Outgoing, uplink: Uplink, clock: Clock
) -> dict[str, object]:
    """One object of JSON; times are ns since the epoch.

    batch, batch_ns: the newest one and when it was made; 0: none yet. spool_batches: those that no collector
    has acknowledged. uplink: as `Uplink.state`. allow: what may be asked.
    """
    spool = outgoing.spool
    return {
        "agent": settings.agent.id,
        "site": settings.agent.site,
        "version": __version__,
        "settings_sha256": digest(settings),
        "targets": len(settings.target),
        "unmeasured": len(measurement.unmeasured),
        "spool": spool.id,
        "batch": spool.last,
        "batch_ns": outgoing.newest_ns,
        "spool_batches": spool.depth,
        "uplink": uplink.state,
        "allow": settings.ask.allow,
        "wall_ns": clock.wall(),
    }
