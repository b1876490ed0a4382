"""Messages in, a bounded queue out: a flood on the minor topic leaves the room to everything else."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

from probe.telemetry.inbox import Inbox, Minor


def arrive(inbox: Inbox, topic: str, payload: bytes) -> None:
    inbox.arrived(None, None, SimpleNamespace(topic=topic, payload=payload, retain=False))


def test_a_flood_on_the_minor_topic_takes_a_few_places_and_no_more() -> None:
    async def main() -> None:
        inbox = Inbox(100, 1 << 20, Minor("ask", 3, 10))
        for n in range(1000):
            arrive(inbox, "ask", b"%d" % n)
        arrive(inbox, "ack", b"x" * 1000)
        assert [(m.topic, m.payload[:3]) for m in inbox.waiting] == [
            *(("ask", b"%d" % n) for n in range(3)),
            ("ack", b"xxx"),
        ]
        assert inbox.discarded == 997
        inbox.take()
        arrive(inbox, "ask", b"x" * 11)  # too long
        arrive(inbox, "ask", b"again")
        assert inbox.waiting[-1].payload == b"again"
        assert inbox.discarded == 998
        while inbox.waiting:
            inbox.take()
        arrive(inbox, "ack", b"y" * (2 << 20))  # one is always let in
        assert inbox.take().topic == "ack"

    asyncio.run(main())
