"""Batches in, the same batches out until they are forgotten: a durable, bounded queue in one SQLite file.

Numbers are consecutive from 1 within the file's random id and are never used twice. An append is on the disk
when it returns. Forgetting is not synced: a batch that comes back after a power cut is sent once more, which
is harmless. When the file reaches its limit, or the disk is full, the oldest batches go and are counted.

    spool(id, last, dropped)       one row; `last`: the highest number ever given
    batch(number, payload)
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from threading import Lock
from typing import TypeVar

from probe.errors import SpoolError

_APPLICATION_ID = 0x636F6C70  # "colp", in the file's header
_VERSION = 1
_PAGE = 4096  # bytes
_VACUUM_PAGES = 1024  # at a time, so that nobody waits for long
_SLACK_PAGES = 256  # free pages that are kept for the next batches
_LOG_PAGES = 256  # SQLite's write-ahead log is written back after this many pages
_LOG_BYTES = 4 << 20  # and cut back to this
_RESERVE_BYTES = 4 << 20  # a file that is removed when the disk is full: deleting needs room, too
_ID = re.compile(r"[0-9a-f]{8,32}")  # as in `topics`
_LAST = 10**17  # a topic has room for ten times as much
_LEAST_BYTES = 256 << 10  # for batches, however full the disk is
_KEPT_ASIDE = 3  # damaged files that are kept for inspection

_T = TypeVar("_T")


class Spool:
    """One spool file, used by one process; its methods block, are thread-safe and take turns.

    `id` changes when the file turns out to be damaged and a new one is begun: numbers belong to an id.
    """

    def __init__(self, path: Path, max_bytes: int) -> None:
        """Open the file or make it; `max_bytes`: of it, without its log and its reserve of 4 MiB each.

        Raises: SpoolError (in use by another process, no access, no space, made by a newer version).
        """
        self.path = path
        self.id = ""
        self.last = 0  # the highest number ever given
        self.depth = 0  # batches waiting
        self.bytes = 0  # their bytes on disk
        self.dropped = 0  # batches that the limit or a full disk dropped, since the file was made
        self.set_aside: list[Path] = []  # damaged files that this process replaced, the last of them
        self.replaced = 0  # how many there were
        self.abandoned = 0  # batches that waited in them, as far as is known
        self.max_bytes = max_bytes
        self._limit = max_bytes  # lower while the disk is full
        self._lock = Lock()
        self._reserve = path.with_name(f"{path.name}.reserve")
        self._reserved = 0  # bytes of it
        self._synced: bool | None = None
        try:
            path.parent.mkdir(0o700, parents=True, exist_ok=True)
        except OSError as problem:
            raise SpoolError(f"{path.parent}: {problem.strerror}; check agent.state_dir") from None
        self._db = sqlite3.connect(":memory:")
        try:
            try:
                self._open()
            except sqlite3.DatabaseError as problem:
                if not _is_damage(problem):
                    raise self._error(problem) from None
                self._replace()
        except BaseException:
            self._db.close()
            raise

    @property
    def disk_full(self) -> bool:
        """Whether the disk was full, and has not had room since for all that the file may take."""
        return self._limit < self.max_bytes

    def append(self, make: Callable[[int], bytes]) -> int:
        """Store `make(number)` under the next number, which is returned; it is safe on disk by then.

        `make` is called again, maybe with another number and `id`, where an attempt failed.
        Raises: SpoolError where the disk is full even without the oldest batches, or fails.
        """

        def work() -> int:
            for _ in range(4):
                try:
                    return self._append(make)
                except sqlite3.IntegrityError:
                    # A commit that failed had happened all the same; nobody was told of that number.
                    self._roll_back()
                    held = "select last, dropped, (select count(*) from batch) from spool"
                    self.last, self.dropped, self.depth = self._db.execute(held).fetchone()
                except sqlite3.OperationalError as problem:
                    self._make_room(problem)
            return self._append(make)

        with self._lock:
            number = self._run(work) or self._run(work)
        if number is None:
            raise SpoolError(f"{self.path}: the file is damaged, and so is its replacement; check the disk")
        return number

    def get(self, number: int) -> bytes | None:
        """The payload of a batch; None where it was forgotten or dropped. Raises: SpoolError."""

        def work() -> bytes | None:
            # A damaged row may hold text or a number instead.
            query = "select cast(payload as blob) from batch where number = ?"
            row = self._db.execute(query, (number,)).fetchone()
            return row[0] if row else None

        with self._lock:
            return self._run(work)

    def numbers(self, after: int, limit: int) -> list[int]:
        """At most `limit` numbers of waiting batches above `after`, ascending. Raises: SpoolError."""

        def work() -> list[int]:
            query = "select number from batch where number > ? order by number limit ?"
            return [number for (number,) in self._db.execute(query, (after, limit))]

        with self._lock:
            return self._run(work) or []

    def forget(self, ranges: Iterable[tuple[int, int]], of: str = "") -> int:
        """Delete the batches of inclusive ranges; return how many there were. Raises: SpoolError.

        `of`: the id that the ranges were meant for; where this file has another by now, nothing is deleted.
        """

        def work() -> int:
            self._begin(synced=False)
            gone = 0
            for first, last in ranges:
                bounds = (max(first, 1), min(last, self.last))
                gone += self._db.execute("delete from batch where number between ? and ?", bounds).rowcount
            self._db.execute("commit")
            self._left(self.depth - gone)
            self._shrink()
            return gone

        def twice() -> int:
            try:
                return work()
            except sqlite3.OperationalError as problem:
                self._make_room(problem)
                return work()

        ranges = list(ranges)
        with self._lock:
            return self._run(twice) or 0 if of in ("", self.id) else 0

    def close(self) -> None:
        """Let go of the file. Harmless twice."""
        with self._lock:
            self._db.close()

    def _append(self, make: Callable[[int], bytes]) -> int:
        number = self.last + 1
        self._begin(synced=True)
        payload = make(number)
        # Room first, then the batch: so the file does not grow past its limit, not even for a moment.
        room = self._limit - (len(payload) // _PAGE + 4) * _PAGE
        gone = 0
        while gone < self.depth and self._used() > room:
            oldest = "delete from batch where number = (select min(number) from batch)"
            gone += self._db.execute(oldest).rowcount
        self._db.execute("insert into batch values (?, ?)", (number, payload))
        self._db.execute("update spool set last = ?, dropped = dropped + ?", (number, gone))
        self._db.execute("commit")
        self.last = number
        self.dropped += gone
        self._left(self.depth + 1 - gone)
        if self._reserved < _RESERVE_BYTES:
            self._restore_reserve()
        return number

    def _make_room(self, problem: sqlite3.OperationalError) -> None:
        """After an error: on a full disk use the reserve, or lower the limit; raise any other error again."""
        if _code(problem) != sqlite3.SQLITE_FULL:
            raise problem
        self._roll_back()
        # A part of the reserve is for batches: a spool that was empty had nothing to drop.
        least = self._reserved // 4
        self._reserve.unlink(missing_ok=True)
        self._reserved = 0
        with suppress(sqlite3.OperationalError):
            self._db.execute("pragma wal_checkpoint(restart)").fetchall()
        # Where the file has room inside, it was its log that found none, and that begins anew now.
        used, inside = self._used(), self._pragma("freelist_count") * _PAGE
        wanted = max(0, _RESERVE_BYTES - inside)
        self._limit = min(self.max_bytes, max(used - wanted, used // 2, least))

    def _restore_reserve(self) -> None:
        """Where the disk has room again, the limit is the old one. Where it has a little, the reserve takes
        a part of that, before another program does, and what is beyond is used; the log needs some, too."""
        try:
            disk = os.statvfs(self.path.parent)
        except OSError:
            self._limit = self.max_bytes
            return
        room = disk.f_bavail * disk.f_frsize + self._reserved - _LOG_PAGES * _PAGE
        for size in (_RESERVE_BYTES >> halved for halved in range(4)):
            if size <= self._reserved or (size <= room and self._allocate(size)):
                break
        if self._reserved == _RESERVE_BYTES:
            self._limit = self.max_bytes
        else:
            spare = room - max(self._reserved, _RESERVE_BYTES >> 3)
            self._limit = max(self._limit, min(self.max_bytes, self._used() + spare))

    def _allocate(self, size: int) -> bool:
        """Have so many bytes in reserve; whether the disk has them."""
        try:
            with self._reserve.open("ab") as file:
                try:
                    os.posix_fallocate(file.fileno(), 0, size)
                except OSError:
                    os.ftruncate(file.fileno(), self._reserved)  # what it got before it failed
                    return False
        except OSError:
            return False
        self._reserved = size
        return True

    def _left(self, depth: int) -> None:
        """`depth` batches are waiting now."""
        self.depth = depth
        self.bytes = self._used() if depth else 0

    def _used(self) -> int:
        """Bytes of the file that hold something; as the running transaction would leave them."""
        return (self._pragma("page_count") - self._pragma("freelist_count")) * _PAGE

    def _shrink(self) -> None:
        """Give free pages back once they are most of the file: moving pages about has its price."""
        free = self._pragma("freelist_count")
        if free > max(_SLACK_PAGES, self._pragma("page_count") // 2):
            # Not execute(), which stops after the first page.
            with suppress(sqlite3.OperationalError):  # no room to do it in: another time
                self._db.executescript(
                    f"pragma incremental_vacuum({min(free - _SLACK_PAGES, _VACUUM_PAGES)})"
                )

    def _pragma(self, name: str) -> int:
        return int(self._db.execute(f"pragma {name}").fetchone()[0])

    def _begin(self, *, synced: bool) -> None:
        if self._synced is not synced:
            self._db.execute(f"pragma synchronous = {'full' if synced else 'normal'}")
            self._synced = synced
        self._db.execute("begin immediate")

    def _roll_back(self) -> None:
        with suppress(sqlite3.Error):  # the error that brought us here is the one to tell
            if self._db.in_transaction:
                self._db.execute("rollback")

    def _run(self, work: Callable[[], _T]) -> _T | None:
        """Do it; None where the file turned out to be damaged and was replaced."""
        try:
            return work()
        except sqlite3.ProgrammingError as problem:
            raise SpoolError(f"{self.path}: {problem}") from None  # it is closed
        except sqlite3.DatabaseError as problem:
            if not _is_damage(problem):
                raise self._error(problem) from None
            self._replace()
            return None
        finally:
            self._roll_back()

    def _open(self) -> None:
        self._db = sqlite3.connect(self.path, timeout=1.0, isolation_level=None, check_same_thread=False)
        self._synced = None
        # Exclusive: a second process is refused, and there is no shared-memory file to go wrong.
        self._db.execute("pragma locking_mode = exclusive")
        # Debian's SQLite overwrites what is deleted, which on a full disk there is no room for.
        self._db.execute("pragma secure_delete = off")
        if self._pragma("application_id") != _APPLICATION_ID:
            self._create()
        if (version := self._pragma("user_version")) > _VERSION:
            raise SpoolError(f"{self.path}: made by a newer coloprobe ({version}); upgrade, or move it")
        self._db.execute("pragma journal_mode = wal")
        self._db.execute(f"pragma journal_size_limit = {_LOG_BYTES}")
        self._db.execute(f"pragma wal_autocheckpoint = {_LOG_PAGES}")
        self._begin(synced=True)  # takes the lock
        rows = self._db.execute("select id, last, dropped from spool").fetchall()
        ends = "select count(*), min(number), max(number) from batch"
        depth, lowest, highest = self._db.execute(ends).fetchone()
        self._db.execute("commit")
        if [[type(value) for value in row] for row in rows] != [[str, int, int]]:
            raise sqlite3.DatabaseError(_NOT_OURS)
        self.id, last, self.dropped = rows[0]
        self.last = max(last, highest or 0)
        # What the disk made of a row may be no name of a batch, and then no collector would ever answer.
        lowest = min(last, 0 if lowest is None else lowest - 1, self.dropped)
        if not _ID.fullmatch(self.id) or lowest < 0 or self.last > _LAST:
            raise sqlite3.DatabaseError(_NOT_OURS)
        self._left(depth)
        self._reserved = 0
        with suppress(OSError):
            self._reserved = min(self._reserve.stat().st_size, _RESERVE_BYTES)
        if self._reserved < _RESERVE_BYTES:
            # Nothing is known of the disk yet: where it has no room, what is there has to do.
            self._limit = min(self.max_bytes, max(self._used(), _LEAST_BYTES))
            self._restore_reserve()

    def _create(self) -> None:
        if self._db.execute("select count(*) from sqlite_schema").fetchone()[0]:
            raise sqlite3.DatabaseError(_NOT_OURS)
        self._db.execute(f"pragma page_size = {_PAGE}")
        self._db.execute("pragma auto_vacuum = 2")  # incremental; has no effect once there is a page
        self._db.execute("begin")
        self._db.execute("create table spool (id text, last integer, dropped integer)")
        self._db.execute("create table batch (number integer primary key, payload blob not null)")
        self._db.execute("insert into spool values (?, 0, 0)", (token_hex(8),))
        self._db.execute(f"pragma user_version = {_VERSION}")
        self._db.execute(f"pragma application_id = {_APPLICATION_ID}")
        self._db.execute("commit")

    def _replace(self) -> None:
        """Set the damaged file aside and begin a new one, under a new id. Raises: SpoolError."""
        self._db.close()
        lost = self.depth
        found = {number: path for path in self.path.parent.iterdir() if (number := self._aside(path))}
        to = self.path.with_name(f"{self.path.name}.corrupt-{max(found, default=0) + 1}")
        try:
            for number in sorted(found)[: max(0, len(found) + 1 - _KEPT_ASIDE)]:
                found[number].unlink()  # or a failing disk would fill up with them
            self.path.rename(to)
            for log in ("-wal", "-journal"):  # a new file must not meet the old one's log
                self.path.with_name(self.path.name + log).unlink(missing_ok=True)
            self._open()
        except (OSError, sqlite3.DatabaseError) as problem:
            raise SpoolError(
                f"{self.path}: cannot replace the damaged file ({problem}); check the disk"
            ) from None
        self.replaced += 1
        self.abandoned += lost
        self.set_aside.append(to)
        del self.set_aside[:-_KEPT_ASIDE]

    def _aside(self, path: Path) -> int:
        """The number of a damaged file; 0 for any other file."""
        match = re.fullmatch(re.escape(self.path.name) + r"\.corrupt-(\d{1,9})", path.name)
        return int(match[1]) if match else 0

    def _error(self, problem: sqlite3.Error) -> SpoolError:
        return SpoolError(f"{self.path}: {_REMEDY.get(_code(problem), f'{problem}; check the disk')}")


_IN_USE = "another process uses this spool; every agent needs its own agent.state_dir"
_NOT_OURS = "the file is a database of something else"
_REMEDY = {
    sqlite3.SQLITE_BUSY: _IN_USE,
    sqlite3.SQLITE_LOCKED: _IN_USE,
    sqlite3.SQLITE_FULL: "the disk is full; make room there, or lower spool.max_bytes",
    sqlite3.SQLITE_READONLY: "may not be written; check its owner and the file system",
    sqlite3.SQLITE_PERM: "may not be written; check its owner and the file system",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened; this user must be able to write to agent.state_dir",
}


def _code(problem: sqlite3.Error) -> int:
    """SQLite's primary result code."""
    return getattr(problem, "sqlite_errorcode", 0) & 0xFF


def _is_damage(problem: sqlite3.Error) -> bool:
    text = str(problem)
    damage = _code(problem) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
    return damage or text == _NOT_OURS or text.startswith(("no such table", "no such column"))
