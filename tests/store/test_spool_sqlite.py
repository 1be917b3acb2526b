"""The spool on a real disk: durable before it says so, whole or not at all, and loud when something is wrong."""

import errno
import os
import random
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.logger import Logger

from mailhub.interfaces import ISpool, SpoolError, SpoolFull
from mailhub.model import Address, Envelope, Recipient, State, reply
from mailhub.store import spool as spool_module
from mailhub.store import spool_database
from mailhub.store.disk import RealDisk
from mailhub.store.spool import SqliteSpool
from mailhub.store.spool_content import BLOCK_OCTETS, SMALL_OCTETS
from mailhub.testing.disk import WatchedDisk
from mailhub.testing.threads import AtOnce, ThreadedClock

BOB = Address("bob", "example.test")
LARGE = SMALL_OCTETS + 1


class WatchedVfsFile(apsw.VFSFile):
    def __init__(self, vfs: "WatchedVfs", name: apsw.URIFilename | str | None, flags: list[int]) -> None:
        self.vfs = vfs
        self.name = os.path.basename(name.filename() if isinstance(name, apsw.URIFilename) else name or "")
        super().__init__("", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:
        self.vfs.note("write", self.name)
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:
        self.vfs.note("fsync", self.name)
        super().xSync(flags)


class WatchedVfs(apsw.VFS):
    """SQLite's own file system, watched in the same way as WatchedDisk, and into the same trace."""

    def __init__(self, name: str, disk: WatchedDisk) -> None:
        self.name = name
        self.disk = disk
        self.broken: type[apsw.Error] | None = None  # every fsync of the log fails so
        self.gate: threading.Event | None = None
        super().__init__(name, "")

    def xOpen(self, name: apsw.URIFilename | str | None, flags: list[int]) -> WatchedVfsFile:
        return WatchedVfsFile(self, name, flags)

    def note(self, operation: str, name: str) -> None:
        if operation == "fsync" and name.endswith("-wal"):
            if self.gate is not None:
                self.gate.wait(10)
            if self.broken is not None:
                raise self.broken("planted")
        self.disk.trace.append((operation, name))


class Bench:
    def __init__(self, directory: Path) -> None:
        self.directory = directory / "spool"
        self.clock = ThreadedClock()
        self.disk = WatchedDisk(RealDisk())
        self.vfs = WatchedVfs(f"watched-{id(self)}", self.disk)
        self.chance = random.Random(1)
        self.said: list[str] = []
        self.spool = self.make()
        self.open()

    def make(self, **more: object) -> SqliteSpool:
        log = Logger(observer=lambda event: self.said.append(str(event.get("text", event["log_format"]))))
        options = {"reserve_octets": 0, "log": log, "vfs": self.vfs.name} | more
        return SqliteSpool(str(self.directory), self.clock, self.clock, self.disk, AtOnce(), self.chance, **options)  # type: ignore[arg-type]

    def open(self) -> None:
        self.clock.run_until(self.spool.open())

    def close(self) -> None:
        self.clock.run_until(self.spool.close())

    def restart(self, between: Callable[[], None] = lambda: None) -> None:
        self.close()
        between()
        self.spool = self.make()
        self.open()

    def begin(self, content: bytes = b"x\r\n", recipient: Recipient | None = None) -> tuple[str, Deferred[None]]:
        draft = self.spool.draft()
        draft.write(content)
        recipients = (recipient or Recipient(BOB, BOB),)
        envelope = Envelope(draft.queue_id, None, recipients, self.clock.seconds())
        return draft.queue_id, maybeDeferred(draft.commit, envelope)

    def commit(self, content: bytes = b"x\r\n", recipient: Recipient | None = None) -> str:
        queue_id, done = self.begin(content, recipient)
        self.clock.run_until(done)
        return queue_id

    def ids(self) -> list[str]:
        return [envelope.queue_id for envelope in self.clock.run_until(self.spool.list(1000))]

    def claim(self, spool: ISpool | None = None) -> list[str]:
        claims = self.clock.run_until((spool or self.spool).claim(self.clock.seconds(), 100))
        return [claim.envelope.queue_id for claim in claims]

    def files(self) -> list[str]:
        return sorted(path.name for path in (self.directory / "content").rglob("*") if path.is_file())

    def sql(self, statement: str, *values: object) -> list[tuple[object, ...]]:
        """As a postmaster would."""
        connection = apsw.Connection(str(self.directory / "queue.db"))
        try:
            return list(connection.execute(statement, values))  # type: ignore[arg-type]
        finally:
            connection.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    one = Bench(tmp_path)
    yield one
    one.vfs.broken = None
    one.close()
    one.vfs.unregister()


# --- durable, and only then said -----------------------------------------------------------------------------------


def test_a_commit_is_told_only_after_the_log_is_synchronized(bench: Bench) -> None:
    bench.vfs.gate = threading.Event()
    bench.disk.trace.clear()
    _, done = bench.begin()
    bench.clock.turn()  # the thread has it, and stands at the gate
    bench.clock.turn()
    assert not done.called
    bench.vfs.gate.set()
    bench.clock.run_until(done)
    log = [operation for operation, name in bench.disk.trace if name == "queue.db-wal"]
    assert log[-1] == "fsync"
    assert "write" in log


def test_large_content_is_durable_before_the_row_that_names_it(bench: Bench) -> None:
    bench.disk.trace.clear()
    queue_id = bench.commit(b"x" * LARGE)
    trace = [(operation, os.path.basename(name)) for operation, name in bench.disk.trace]
    content = trace.index(("fsync", queue_id))
    folder = trace.index(("fsync_directory", queue_id[-1]))
    row = trace.index(("write", "queue.db-wal"))
    written = max(index for index, entry in enumerate(trace) if entry == ("write", queue_id))
    assert written < content < folder < row < len(trace) - 1 - trace[::-1].index(("fsync", "queue.db-wal"))


def test_messages_of_one_turn_share_one_fsync_and_one_wake(bench: Bench) -> None:
    bench.commit()
    wakes = bench.clock.wakes
    bench.disk.trace.clear()
    done = [bench.begin()[1] for _ in range(50)]
    for one in done:
        bench.clock.run_until(one)
    assert bench.disk.trace.count(("fsync", "queue.db-wal")) == 1
    assert bench.clock.wakes == wakes + 1


def test_outcomes_travel_with_the_next_commit(bench: Bench) -> None:
    queue_id = bench.commit()
    bench.claim()
    bench.disk.trace.clear()
    recorded = maybeDeferred(bench.spool.record, queue_id, [Recipient(BOB, BOB, state=State.DELIVERED)])
    bench.clock.turn()
    assert bench.disk.trace == []
    bench.commit()
    assert recorded.called
    assert bench.disk.trace.count(("fsync", "queue.db-wal")) == 1


def test_an_outcome_alone_waits_no_longer_than_it_should(bench: Bench) -> None:
    queue_id = bench.commit()
    bench.claim()
    before = bench.clock.seconds()
    bench.clock.run_until(bench.spool.record(queue_id, [Recipient(BOB, BOB, state=State.DELIVERED)]))
    assert bench.clock.seconds() - before == pytest.approx(0.02)


# --- faults ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("fault", "told"), [(apsw.IOError, SpoolError), (apsw.FullError, SpoolFull)])
def test_a_failed_fsync_of_the_log_fails_the_whole_batch_for_ever(
    bench: Bench, fault: type[apsw.Error], told: type[SpoolError]
) -> None:
    before = bench.commit()
    failing = [bench.begin() for _ in range(3)]
    bench.vfs.broken = fault
    for _, done in failing:
        with pytest.raises(told) as raised:
            bench.clock.run_until(done)
        assert type(raised.value) is told
    bench.vfs.broken = None
    assert bench.ids() == [before]
    after = bench.commit()
    assert bench.ids() == [before, after]
    bench.restart()
    assert bench.ids() == [before, after]


def test_what_failed_once_does_not_come_back_from_the_log(bench: Bench, tmp_path: Path) -> None:
    """A crash right after a failed commit: its frames lie in the log, complete but for the fsync that failed."""
    before = bench.commit()
    _, done = bench.begin()
    real = bench.vfs.note
    failures = iter([True])

    def once(operation: str, name: str) -> None:
        if operation == "fsync" and name.endswith("-wal") and next(failures, False):
            raise apsw.IOError("planted")
        real(operation, name)

    bench.vfs.note = once  # type: ignore[method-assign]
    with pytest.raises(SpoolError):
        bench.clock.run_until(done)
    crashed = tmp_path / "crashed"
    crashed.mkdir()
    for name in ("queue.db", "queue.db-wal"):
        (crashed / name).write_bytes((bench.directory / name).read_bytes())
    connection = apsw.Connection(str(crashed / "queue.db"))
    assert connection.execute("SELECT queue_id FROM message").fetchall() == [(before,)]
    connection.close()


@pytest.mark.parametrize(("code", "told"), [(errno.EIO, SpoolError), (errno.ENOSPC, SpoolFull)])
@pytest.mark.parametrize("operation", ["fsync", "fsync_directory", "write", "create"])
def test_a_fault_of_large_content_refuses_that_message_alone(
    bench: Bench, operation: str, code: int, told: type[SpoolError]
) -> None:
    kept = bench.commit(b"y" * LARGE)
    bench.disk.fail(operation, code)
    with pytest.raises(told) as raised:
        bench.commit(b"x" * LARGE)
    assert type(raised.value) is told
    assert bench.ids() == [kept]
    if operation.startswith("fsync"):  # before that, the draft is still its owner's to discard
        assert bench.files() == [kept]
    after = bench.commit(b"x" * LARGE)
    bench.restart()
    assert bench.ids() == [kept, after]
    assert bench.files() == [kept, after]


def test_a_draft_that_failed_stays_failed(bench: Bench) -> None:
    draft = bench.spool.draft()
    bench.disk.fail("write", errno.ENOSPC)
    with pytest.raises(SpoolFull):
        draft.write(b"x" * LARGE)
    with pytest.raises(SpoolFull):
        draft.write(b"x")
    with pytest.raises(SpoolFull):
        bench.clock.run_until(draft.commit(Envelope(draft.queue_id, None, (Recipient(BOB, BOB),), 0.0)))
    draft.discard()
    assert bench.files() == []


def test_one_bad_message_does_not_spoil_its_batch(bench: Bench) -> None:
    good, first = bench.begin()
    _, bad = bench.begin(recipient=Recipient(Address("lone \ud800 surrogate", "example.test"), BOB))
    other, second = bench.begin()
    bench.clock.run_until(first)
    bench.clock.run_until(second)
    with pytest.raises(SpoolError, match="cannot be queued"):
        bench.clock.run_until(bad)
    assert bench.ids() == [good, other]


def test_a_failed_record_keeps_the_claim(bench: Bench) -> None:
    queue_id = bench.commit()
    bench.claim()
    bench.vfs.broken = apsw.IOError
    done = [Recipient(BOB, BOB, state=State.DELIVERED)]
    with pytest.raises(SpoolError):
        bench.clock.run_until(bench.spool.record(queue_id, done))
    bench.vfs.broken = None
    assert bench.claim() == []
    bench.clock.run_until(bench.spool.record(queue_id, done))
    assert bench.ids() == []


def test_less_than_the_reserve_is_full(bench: Bench) -> None:
    bench.close()
    bench.spool = bench.make(reserve_octets=1000)
    bench.open()
    bench.disk.free = 1500
    assert bench.spool.room(500)
    assert not bench.spool.room(501)
    bench.disk.free = 999
    assert bench.spool.room(0)  # for a second, the last answer holds
    bench.clock.advance(1)
    assert not bench.spool.room(0)
    with pytest.raises(SpoolFull):
        bench.spool.draft()


def test_a_bug_in_the_thread_leaves_nobody_waiting(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(spool_database.SpoolDatabase, "_write", lambda self, writes: 1 / 0)
        with pytest.raises(SpoolError, match="ZeroDivision"):
            bench.commit()
    assert bench.ids() == []
    bench.clock.turn()
    assert any("ZeroDivision" in said for said in bench.said)


# --- who waits and who has ceased to ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [3, LARGE])
def test_a_commit_that_nobody_waits_for_ends_in_one_way_or_the_other(bench: Bench, size: int) -> None:
    queue_id, done = bench.begin(b"x" * size)
    done.addErrback(lambda failure: failure.trap(CancelledError))
    done.cancel()
    assert bench.ids() == [queue_id]
    assert bench.claim() == [queue_id]


def test_close_finishes_what_is_under_way(bench: Bench) -> None:
    made = [bench.begin(b"x" * size) for size in (3, LARGE, 4)]
    bench.restart()
    assert all(done.called for _, done in made)
    assert sorted(bench.ids()) == sorted(queue_id for queue_id, _ in made)


# --- memory ----------------------------------------------------------------------------------------------------------


def test_a_message_that_is_delivered_at_once_is_never_read_back(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("the database was asked")

    for name in ("_search", "_look"):
        monkeypatch.setattr(spool_database.SpoolDatabase, name, never)
    queue_id = bench.commit()
    assert bench.claim() == [queue_id]
    bench.clock.run_until(bench.spool.record(queue_id, [Recipient(BOB, BOB, state=State.DELIVERED)]))
    assert bench.clock.run_until(bench.spool.next_due_at()) is None
    assert bench.claim() == []


def test_what_does_not_fit_into_memory_is_read_back(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "FRESH_MAX", 2)
    monkeypatch.setattr(spool_database, "CLAIM_OCTETS", 10)
    made = [bench.commit(b"0123456789") for _ in range(6)]
    claimed: list[str] = []
    for _ in range(6):
        claimed += bench.claim()
    assert sorted(claimed) == made
    assert bench.clock.run_until(bench.spool.next_due_at()) is None


def test_a_backlog_and_new_messages_share_the_places(bench: Bench) -> None:
    old = [bench.commit() for _ in range(10)]
    bench.restart()
    new = [bench.commit() for _ in range(10)]
    claims = bench.clock.run_until(bench.spool.claim(bench.clock.seconds(), 6))
    ids = {claim.envelope.queue_id for claim in claims}
    assert len(ids & set(old)) == 3
    assert len(ids & set(new)) == 3


def test_large_content_streams_through_a_bounded_block(bench: Bench) -> None:
    drafts = [bench.spool.draft() for _ in range(3)]
    for _ in range(40):
        for draft in drafts:
            draft.write(b"x" * 50_000)
            assert bench.spool.arriving_octets < 3 * (BLOCK_OCTETS + 50_000)
    for draft in drafts:
        draft.discard()
    assert bench.spool.arriving_octets == 0
    assert bench.files() == []


def test_many_small_drafts_go_to_files_when_memory_is_crowded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "ARRIVING_OCTETS_MAX", 1000)
    drafts = [bench.spool.draft() for _ in range(5)]
    for draft in drafts:
        draft.write(b"x" * 400)
    assert bench.spool.arriving_octets < 2000
    for draft in drafts:
        envelope = Envelope(draft.queue_id, None, (Recipient(BOB, BOB),), bench.clock.seconds())
        bench.clock.run_until(draft.commit(envelope))
    assert bench.spool.arriving_octets == 0
    assert len(bench.claim()) == 5


def test_the_log_is_moved_into_the_database_now_and_then(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_database, "CHECKPOINT_FRAMES", 20)
    for _ in range(30):
        bench.commit(b"x" * 8000)
    assert bench.disk.trace.count(("fsync", "queue.db")) >= 3
    assert (bench.directory / "queue.db-wal").stat().st_size < 60 * 4200


# --- what a crash or a stranger leaves -------------------------------------------------------------------------------


def test_files_are_private(bench: Bench) -> None:
    bench.commit(b"x" * LARGE)
    for path in [bench.directory, *bench.directory.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_the_way_to_the_queue_is_durable_when_it_is_opened(bench: Bench) -> None:
    bench.restart(bench.disk.trace.clear)
    synced = {name for operation, name in bench.disk.trace if operation == "fsync_directory"}
    assert synced == {str(bench.directory.parent), str(bench.directory), str(bench.directory / "content")}


def test_a_folder_is_durable_where_the_disk_failed_while_it_was_made(bench: Bench) -> None:
    bench.disk.fail("fsync_directory", errno.EIO)
    draft = bench.spool.draft()
    with pytest.raises(SpoolError):
        draft.write(b"x" * LARGE)
    draft.discard()
    bench.disk.trace.clear()
    letters = set()
    while draft.queue_id[-1] not in letters:
        letters.add(bench.commit(b"x" * LARGE)[-1])
    assert bench.disk.trace.count(("fsync_directory", str(bench.directory / "content"))) == len(letters)


def test_a_second_process_is_kept_out(bench: Bench) -> None:
    other = bench.make()
    with pytest.raises(SpoolError, match="another process"):
        bench.clock.run_until(other.open())
    bench.commit()


def test_a_spool_of_a_later_version_is_left_alone(bench: Bench) -> None:
    bench.close()
    bench.sql("PRAGMA user_version = 99")
    with pytest.raises(SpoolError, match="version 99"):
        bench.open()
    bench.sql("PRAGMA user_version = 1")
    bench.open()


def test_files_that_no_message_names_are_swept_out(bench: Bench) -> None:
    kept = bench.commit(b"x" * LARGE)
    draft = bench.spool.draft()
    draft.write(b"x" * LARGE)
    assert len(bench.files()) == 2
    (bench.directory / "content" / "README").write_text("a postmaster's own")
    bench.restart()
    assert bench.files() == [kept, "README"]


def test_what_is_no_content_file_is_told_and_left_alone(bench: Bench) -> None:
    kept = bench.commit(b"x" * LARGE)
    content = bench.directory / "content"
    letter = next(letter for letter in "abc" if letter != kept[-1])
    (content / letter).write_text("a stray file")
    (content / kept[-1] / "notes").write_text("a postmaster's own")
    (content / kept[-1] / (16 * "0" + kept[-1])).mkdir()
    bench.restart()
    bench.clock.turn()
    (said,) = bench.said
    assert all(name in said for name in (f"content/{letter},", "/notes", 16 * "0"))
    assert kept not in said
    assert bench.files() == sorted([kept, letter, "notes"])
    assert bench.claim() == [kept]


def test_the_content_file_goes_with_its_message(bench: Bench) -> None:
    first, second = bench.commit(b"x" * LARGE), bench.commit(b"x" * LARGE)
    bench.claim()
    done = [Recipient(BOB, BOB, state=State.DELIVERED)]
    bench.clock.run_until(bench.spool.record(first, done))
    assert bench.files() == [second]
    bench.restart()
    bench.clock.run_until(bench.spool.record(second, done))  # not claimed: a postmaster's drop
    assert bench.files() == []


@pytest.mark.parametrize("damage", ["garbage", "pages"])
def test_a_corrupt_database_is_set_aside_with_all_that_belongs_to_it(bench: Bench, damage: str) -> None:
    for _ in range(50):
        bench.commit()
    large = bench.commit(b"x" * LARGE)
    path = bench.directory / "queue.db"

    def spoil() -> None:
        octets = bytearray(path.read_bytes())
        start = 0 if damage == "garbage" else 4096
        octets[start : start + 20_000] = random.Random(1).randbytes(20_000)
        path.write_bytes(octets)

    bench.restart(spoil)
    assert bench.ids() == []
    kept = {entry.name.split(".corrupt-")[0] for entry in bench.directory.iterdir() if ".corrupt-" in entry.name}
    assert {"queue.db", "content"} <= kept
    assert [entry.name for entry in bench.directory.glob("content.corrupt-*/*/*")] == [large]
    bench.clock.turn()
    assert any("was corrupt" in said for said in bench.said)
    queue_id = bench.commit()
    assert bench.claim() == [queue_id]


def test_a_log_without_its_database_is_set_aside(bench: Bench) -> None:
    def lose() -> None:
        (bench.directory / "queue.db").unlink()
        (bench.directory / "queue.db-wal").write_bytes(b"x" * 5000)

    bench.restart(lose)
    assert [entry.stat().st_size for entry in bench.directory.glob("queue.db-wal.corrupt-*")] == [5000]


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE recipient SET address = 'nonsense' WHERE queue_id = ?",
        "UPDATE recipient SET last_reply = 'nonsense' WHERE queue_id = ?",
        "UPDATE recipient SET state = 'nonsense' WHERE queue_id = ?",
        "UPDATE recipient SET attempts = 'many' WHERE queue_id = ?",
        "UPDATE message SET parameters = '[' WHERE queue_id = ?",
        "UPDATE message SET parameters = '{\"x\": 1}' WHERE queue_id = ?",
        "DELETE FROM recipient WHERE queue_id = ?",
        "DELETE FROM content WHERE queue_id = ?",
    ],
)
def test_a_message_that_cannot_be_read_is_quarantined_and_the_rest_goes_on(bench: Bench, damage: str) -> None:
    bad, good = bench.commit(), bench.commit()
    bench.restart(lambda: bench.sql(damage, bad) and None)
    assert bench.claim() == [good]
    assert bench.claim() == []
    assert bench.sql("SELECT queue_id FROM quarantine") == [(bad,)]
    assert bench.sql("SELECT count(*) FROM message WHERE queue_id = ?", bad) == [(1,)]
    bench.clock.turn()
    assert any(bad in said and "quarantine" in said for said in bench.said)
    assert bench.ids() == [good]
    bench.restart()
    assert bench.claim() == [good]


def test_what_can_be_read_again_leaves_the_quarantine(bench: Bench) -> None:
    bad, held = bench.commit(b"x" * LARGE), bench.commit(recipient=Recipient(BOB, BOB, state=State.HELD))
    (path,) = (bench.directory / "content").glob("*/*")
    bench.restart(lambda: path.rename(bench.directory / "lost") and None)
    assert bench.claim() == []
    (one,) = bench.clock.run_until(bench.spool.quarantined(10))
    assert (one.queue_id, one.since) == (bad, pytest.approx(bench.clock.seconds(), abs=1))
    assert "missing" in one.cause
    assert bench.clock.run_until(bench.spool.quarantined(10, [held])) == []
    for queue_id, why in ((bad, "still cannot be read: the content file"), (held, "not in quarantine")):
        with pytest.raises(SpoolError, match=why):
            bench.clock.run_until(bench.spool.readmit(queue_id))
    (bench.directory / "lost").rename(path)
    assert bench.clock.run_until(bench.spool.readmit(bad)).queue_id == bad
    assert bench.clock.run_until(bench.spool.quarantined(10)) == []
    assert bench.claim() == [bad]


def test_a_lost_content_file_is_quarantined(bench: Bench) -> None:
    bad = bench.commit(b"x" * LARGE)
    bench.restart(lambda: os.unlink(next((bench.directory / "content").glob("*/*"))))
    assert bench.claim() == []
    assert bench.sql("SELECT queue_id FROM quarantine") == [(bad,)]


def spoil_contents(bench: Bench, order: str) -> None:
    """Overwrite the first leaf of the table of contents, or the last one, to which new rows go."""
    bench.sql("PRAGMA wal_checkpoint(TRUNCATE)")
    [(page,)] = bench.sql(
        f"SELECT pageno FROM dbstat WHERE name = 'content' AND pagetype = 'leaf' ORDER BY path {order} LIMIT 1"
    )
    assert isinstance(page, int)
    path = bench.directory / "queue.db"
    octets = bytearray(path.read_bytes())
    octets[(page - 1) * 4096 : page * 4096] = b"\xff" * 4096
    path.write_bytes(octets)


def claim_all(bench: Bench) -> list[str]:
    claimed = bench.claim()
    while more := bench.claim():
        claimed += more
    return claimed


def quarantined(bench: Bench) -> list[str]:
    return [str(queue_id) for (queue_id,) in bench.sql("SELECT queue_id FROM quarantine")]


def test_a_content_on_a_corrupt_page_is_quarantined_and_the_rest_goes_on(bench: Bench) -> None:
    ids = [bench.commit(b"x" * 400 + b"\r\n") for _ in range(40)]
    bench.restart(lambda: spoil_contents(bench, "ASC"))
    claimed = claim_all(bench)
    bad = quarantined(bench)
    assert bad
    assert sorted([*claimed, *bad]) == ids
    bench.clock.turn()
    assert all(any(queue_id in said for said in bench.said) for queue_id in bad)


def test_a_corrupt_page_to_which_new_contents_go_does_not_stop_them(bench: Bench) -> None:
    ids = [bench.commit(b"x" * 400 + b"\r\n") for _ in range(40)]
    bench.restart(lambda: spoil_contents(bench, "DESC"))
    new = [bench.commit(b"y" * 400 + b"\r\n") for _ in range(40)]
    bench.clock.turn()
    assert len([said for said in bench.said if "were corrupt" in said and "content_corrupt_" in said]) == 1
    bench.restart()
    claimed, bad = claim_all(bench), quarantined(bench)
    assert 0 < len(bad) < 20
    assert sorted(claimed + bad) == sorted(ids + new)
    claims = {queue_id: bench.clock.run_until(bench.spool.content_of(queue_id)) for queue_id in claimed}
    assert all(content is not None and content.size == 402 for content in claims.values())


def test_a_message_with_its_content_on_a_corrupt_page_can_be_removed(bench: Bench) -> None:
    ids = [bench.commit(b"x" * 400 + b"\r\n") for _ in range(40)]
    bench.restart(lambda: spoil_contents(bench, "ASC"))
    gone = [
        maybeDeferred(bench.spool.record, queue_id, [Recipient(BOB, BOB, state=State.DISCARDED)])
        for queue_id in ids[:20]
    ]
    other = bench.commit()
    for one in gone:
        bench.clock.run_until(one)
    assert bench.ids() == sorted([*ids[20:], other])
    assert sorted(claim_all(bench)) == bench.ids()


def test_what_a_postmaster_edits_by_hand_is_followed(bench: Bench) -> None:
    queue_id = bench.commit()
    bench.restart(lambda: bench.sql("UPDATE recipient SET next_attempt_at = ?", bench.clock.seconds() + 60) and None)
    assert bench.claim() == []
    bench.clock.advance(61)
    assert bench.claim() == [queue_id]


def test_a_postmaster_can_read_it(bench: Bench) -> None:
    at = bench.clock.seconds() + 300
    said = reply(451, "4.7.1", "Greylisted")
    bench.commit(recipient=Recipient(BOB, Address("info", "example.test"), next_attempt_at=at, last_reply=said))
    rows = bench.sql(
        "SELECT reverse_path, address, original, state, next_attempt_at, last_reply FROM message NATURAL JOIN recipient"
    )
    assert rows == [("<>", "bob@example.test", "info@example.test", "queued", at, "451 4.7.1 Greylisted")]
