"""Nothing in, real lines, and what may be put in anywhere, out: what text targets begin with."""

from __future__ import annotations

import gzip

NOW = 1_790_000_000_000_000_000
MOST = 4096  # bytes of a batch here
AGENTS = ("ny4-01", "a", "ld4-02", "ny4-012")
SPOOL = "9f2c41d0"
NEIGHBOUR = b"probe,agent=ld4-99,target=y sent=1i 1790000000000000001"
LINES = (
    f"agent,agent=ny4-01,site=NY4 batch=17i,spool_batches=0i,clock_synchronised=true {NOW - 5}",
    f"probe,agent=ny4-01,dscp=0,kind=icmp,line=A,site=NY4,target=cme-a,venue=CME sent=100i,received=99i,"
    f"loss=0.01,rtt_min_ns=81250i,rtt_mean_ns=90312i,jitter_ns=1200i {NOW}",
    f"probe_histogram,agent=ny4-01,kind=icmp,le=000000081920,target=cme-a count=3i {NOW}",
    f'event,agent=ny4-01,kind=path text="seen ,agent=ld4-02 \\"there\\" = 5",detail="{{\\"a\\": 1}}" {NOW}',
    f"interface,agent=ny4-01,interface=eth0 rx_packets=1i,up=t {NOW}",
    f"probe,agent=ny4-01,target=a\\ b\\,c\\=d sent=1i {NOW}",
    f"probe,agent=ny4-01,target=Zürich sent=1i {NOW}",
    f"probe,agent=ld4-02,target=x sent=1i {NOW}",
    f"collector,agent=ny4-01,collector=x batches=1i {NOW}",
    f"probe,agent=ny4-01,agent=ny4-01,target=x sent=1i {NOW}",
    f"probe,agent=ny4-01,target=x,agent=ld4-02 sent=1i {NOW}",
)
WORDS = [
    *(
        b"agent=",
        b",agent=",
        b",agent=ny4-01",
        b",agent=ld4-02",
        b"age\\nt=",
        b"\\agent=",
        b"agent\\=",
        b"age",
    ),
    *(
        b"probe",
        b"probe,",
        b"event,",
        b"collector,",
        b"agent,",
        b"time=",
        b"sent=1i",
        b',text="',
        b"\\,",
        b"\\ ",
    ),
    *(b"sent=1u", b"sent=1,", b",loss=1i", b"new=1i,new=1,", b'text="x"'),
    *(b"\\=", b"\\\\", b'\\"', b'"', b"=", b",", b" ", b"\n", b"#", b"\\\n", b'"\n', b'="', b" =", b"e99"),
    *(b"1790000000000000000", b" 1790000000000000000\n", b"-9223372036854775808", b"1999999999999999999"),
    *(line.encode() + b"\n" for line in LINES),
]
TEXTS = [
    *(f"{line}\n".encode() for line in LINES),
    "".join(f"{line}\n" for line in LINES[:7]).encode(),
    f"{LINES[0]}\n{LINES[1]}".encode(),
]


def packed(way: int, text: bytes) -> bytes:
    """What a batch may look like on its way, honestly or not."""
    if way == 2:
        return gzip.compress(text, 1, mtime=0)
    if way == 3:
        return gzip.compress(text[: len(text) // 2]) + gzip.compress(text[len(text) // 2 :])
    if way == 4:  # with a name in the header
        return b"\x1f\x8b\x08\x08\0\0\0\0\0\3x\0" + gzip.compress(text, mtime=0)[10:]
    if way == 5:
        return b"\x1f\x8b" + text
    if way == 6:
        return gzip.compress(text)[:-1]
    if way == 7:
        return gzip.compress(text) + b"x"
    return text
