"""The Maildir store: where mail goes, exactly once, and what is on disk when it says so."""

import errno
import os
import random
import stat
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from zope.interface import implementer
from zope.interface.verify import verifyObject

from mailhub.interfaces import Delivery, IContent, IDisk, IFile, IMailboxStore, MailboxFull
from mailhub.model import Address, Mailbox
from mailhub.store import folder_name, maildir
from mailhub.store.disk import RealDisk
from mailhub.store.maildir import MaildirStore
from mailhub.store.quota import UsageTable
from mailhub.testing.simulated_disk import SimulatedDisk

ALICE = Mailbox(Address("alice", "example.test"))
BOB = Mailbox(Address("bob", "example.test"))
PREFIX = b"Return-Path: <>\r\nDelivered-To: alice@example.test\r\n"
HELLO = b"Subject: hello\r\n\r\n.\r\n..dots\r\ncaf\xc3\xa9\r\n"
NOW = 1_800_000_000.0
TEMPLATE = "mail/{domain}/{local}/Maildir"


@implementer(IFile)
class BytesFile:
    def __init__(self, octets: bytes) -> None:
        self.octets = octets

    def read(self, octets_max: int) -> bytes:
        piece, self.octets = self.octets[:octets_max], self.octets[octets_max:]
        return piece

    def write(self, octets: bytes) -> None:
        raise OSError(errno.EBADF, "for reading")

    def fsync(self) -> None:
        raise OSError(errno.EBADF, "for reading")

    def file_system(self) -> int | None:
        return None

    def sync_file_system(self) -> None:
        raise OSError(errno.EBADF, "for reading")

    def close(self) -> None:
        pass


@implementer(IContent)
class Content:
    def __init__(self, octets: bytes, is_small: bool = True) -> None:
        self.octets = octets
        self.size = len(octets)
        self.is_small = is_small

    def whole(self) -> bytes | None:
        return self.octets if self.is_small else None

    def open(self) -> BytesFile:
        return BytesFile(self.octets)


class Killed(BaseException):
    """The process is no more; nothing it would still have done happens."""


class TracedFile:
    def __init__(self, disk: "TracedDisk", path: str, file: IFile) -> None:
        self.disk = disk
        self.path = path
        self.file = file

    def write(self, octets: bytes) -> None:
        self.disk.call("write", self.path, lambda: self.file.write(octets), lambda: self.file.write(octets[:3]))

    def read(self, octets_max: int) -> bytes:
        return self.file.read(octets_max)

    def fsync(self) -> None:
        self.disk.call("fsync", self.path, self.file.fsync)

    def file_system(self) -> int | None:
        return self.disk.system(self.path)

    def sync_file_system(self) -> None:
        self.disk.call("sync_file_system", self.path, lambda: None)

    def close(self) -> None:
        self.file.close()


@implementer(IDisk)
class TracedDisk:
    """A real disk that keeps a trace of what changes it, and can fail or die at one call.

    `system` names the file system of a path, if it can be synced as a whole.
    """

    def __init__(self, system: Callable[[str], int | None] = lambda path: None) -> None:
        self.real = RealDisk()
        self.system = system
        self.trace: list[tuple[str, ...]] = []
        self.fail_at = -1
        self.fault: BaseException = OSError(errno.EIO, "planted")
        self.is_dead = False

    def call(self, name: str, path: str, action: Callable, half: Callable = lambda: None, other: str = "") -> object:
        if self.is_dead:
            raise Killed
        number = len(self.trace)
        self.trace.append((name, path, other) if other else (name, path))
        if number == self.fail_at:
            half()
            self.is_dead = isinstance(self.fault, Killed)
            raise self.fault
        return action()

    def create(self, path: str, mode: int = 0o600) -> TracedFile:
        return TracedFile(self, path, self.call("create", path, lambda: self.real.create(path, mode)))

    def open(self, path: str) -> IFile:
        return self.real.open(path)

    def rename(self, old: str, new: str) -> None:
        self.call("rename", old, lambda: self.real.rename(old, new), other=new)

    def link(self, old: str, new: str) -> None:
        self.call("link", old, lambda: self.real.link(old, new), other=new)

    def unlink(self, path: str) -> None:
        self.call("unlink", path, lambda: self.real.unlink(path))

    def list(self, path: str) -> Sequence[str]:
        return self.call("list", path, lambda: self.real.list(path))

    def size(self, path: str) -> int | None:
        return self.real.size(path)

    def make_directory(self, path: str, mode: int = 0o700) -> None:
        self.call("make_directory", path, lambda: self.real.make_directory(path, mode))

    def fsync_directory(self, path: str) -> None:
        self.call("fsync_directory", path, lambda: self.real.fsync_directory(path))

    def free_octets(self, path: str) -> int:
        return self.real.free_octets(path)


@pytest.fixture
def clock() -> Clock:
    clock = Clock()
    clock.advance(NOW)
    return clock


@pytest.fixture
def disk() -> TracedDisk:
    return TracedDisk()


@pytest.fixture
def store(disk: TracedDisk, clock: Clock, tmp_path: Path) -> MaildirStore:
    return MaildirStore(disk, clock, clock, str(tmp_path), TEMPLATE, "mail.example.test")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "mail/example.test/alice/Maildir"


def another(store: MaildirStore, clock: Clock, tmp_path: Path) -> MaildirStore:
    """The store of the next process."""
    return MaildirStore(RealDisk(), clock, clock, str(tmp_path), TEMPLATE, "mail.example.test")


def put(store: MaildirStore, content: bytes = HELLO, mailbox: Mailbox = ALICE, key: str = "k1", **more: bool) -> str:
    return store.deliver(mailbox, key, NOW + 0.25, PREFIX, Content(content), **more)


def files(home: Path) -> list[str]:
    """All messages in all folders, and what is left in tmp/."""
    return sorted(
        str(path.relative_to(home)) for path in home.rglob("*") if path.is_file() and path.name != "maildirfolder"
    )


def make_folder(home: Path, name: str) -> Path:
    folder = home / ("." + folder_name.encode(name))
    for directory in ("tmp", "new", "cur"):
        (folder / directory).mkdir(parents=True)
    (folder / "maildirfolder").touch()
    return folder


# --- what is written ---------------------------------------------------------------------------------------------


def test_it_is_a_mailbox_store(store: MaildirStore) -> None:
    assert verifyObject(IMailboxStore, store)


def test_a_message_lies_in_new_with_lf_and_true_sizes(store: MaildirStore, tmp_path: Path) -> None:
    path = put(store)
    message = PREFIX + HELLO
    lines = message.count(b"\r\n")
    assert path == (
        "mail/example.test/alice/Maildir/new/"
        f"1800000000.M250000Qk1.mail.example.test,S={len(message) - lines},W={len(message)}"
    )
    assert (tmp_path / path).read_bytes() == message.replace(b"\r\n", b"\n")


def test_nobody_else_may_read_it(store: MaildirStore, tmp_path: Path) -> None:
    mask = os.umask(0)
    try:
        path = tmp_path / put(store)
    finally:
        os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for directory in (path.parent, path.parents[1], path.parents[2], path.parents[3], path.parents[4]):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700, directory


@pytest.mark.parametrize("is_small", [True, False])
@pytest.mark.parametrize("content", [b"a\nb\r\n", b"a\rb\r\n", b"a\r\r\nb", b"\0\n\r\n", b"ends with\r"])
def test_binary_content_is_kept_as_it_came(store: MaildirStore, tmp_path: Path, content: bytes, is_small: bool) -> None:
    path = store.deliver(ALICE, "k1", NOW, PREFIX, Content(content, is_small))
    stored = (tmp_path / path).read_bytes()
    assert stored == PREFIX + content
    bare = content.replace(b"\r\n", b"").count(b"\n")
    assert path.endswith(f",S={len(stored)},W={len(stored) + bare}")
    assert not list((tmp_path / path).parents[1].glob("tmp/*"))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.lists(st.sampled_from([b"\r\n", b"\r\n", b"line", b"\r", b"\n", b"\0"]), max_size=20).map(b"".join),
    piece_octets=st.integers(1, 7),
)
def test_large_and_small_messages_become_the_same_file(
    monkeypatch: pytest.MonkeyPatch, store: MaildirStore, tmp_path: Path, content: bytes, piece_octets: int
) -> None:
    monkeypatch.setattr(maildir, "PIECE_OCTETS", piece_octets)
    small = store.deliver(ALICE, "small", NOW, PREFIX, Content(content))
    large = store.deliver(ALICE, "large", NOW, PREFIX, Content(content, is_small=False))
    assert (tmp_path / small).read_bytes() == (tmp_path / large).read_bytes()
    assert small.replace("Qsmall", "") == large.replace("Qlarge", "")


def test_content_that_is_cut_short_is_not_delivered(store: MaildirStore, home: Path) -> None:
    content = Content(HELLO, is_small=False)
    content.size += 1
    with pytest.raises(OSError, match="promised"):
        store.deliver(ALICE, "k1", NOW, PREFIX, content)
    assert files(home) == []


# --- where it goes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("detail", "folder"),
    [
        ("lists", ".lists"),
        ("LISTS", ".Lists"),  # the first in the order of names
        ("Lists", ".Lists"),  # the same letters win
        ("entwürfe", ".Entw&APw-rfe"),
        ("entwu\u0308rfe", ".Entw&APw-rfe"),  # the same name in another form of Unicode
        ("tom & jerry", ".Tom &- Jerry"),
        ("gone", ""),
        ("file", ""),
        (None, ""),
        ("", ""),
        (".", ""),
        ("..", ""),
        ("../bob/Maildir", ""),
        ("lists/../../bob", ""),
        ("work.2026", ""),
        ("work/2026", ""),
        ("cur", ""),
        ("\0", ""),
        ("\ud800", ""),
        ("x" * 5000, ""),
        ("&", ""),
        ("&APw-", ""),
    ],
)
def test_the_detail_chooses_a_folder_that_exists(
    store: MaildirStore, tmp_path: Path, home: Path, detail: str | None, folder: str
) -> None:
    for name in ("lists", "Lists", "Entwürfe", "Tom & Jerry", "work.2026"):
        make_folder(home, name)
    (home / ".file").touch()
    (home / ".\udcff").mkdir()
    before = {entry.name for entry in home.iterdir()} | {"tmp", "new", "cur"}
    path = tmp_path / put(store, mailbox=Mailbox(ALICE.address, detail))
    assert path.parent == home / folder / "new"
    assert {entry.name for entry in home.iterdir()} <= before  # never created


def test_a_folder_that_vanishes_gives_way_to_the_inbox(
    store: MaildirStore, disk: TracedDisk, tmp_path: Path, home: Path
) -> None:
    folder = make_folder(home, "lists")
    lists = Mailbox(ALICE.address, "lists")
    assert put(store, mailbox=lists).startswith("mail/example.test/alice/Maildir/.lists/new/")

    def vanish(path: str, mode: int = 0o600) -> TracedFile:
        if folder.exists():
            folder.rename(tmp_path / "gone")
        return TracedDisk.create(disk, path, mode)

    disk.create = vanish  # type: ignore[method-assign]
    path = put(store, mailbox=lists, key="k2")
    assert path.startswith("mail/example.test/alice/Maildir/new/")
    assert not folder.exists()


def test_an_inbox_that_vanishes_is_made_again(store: MaildirStore, tmp_path: Path, home: Path) -> None:
    put(store)
    home.rename(tmp_path / "gone")
    assert (tmp_path / put(store, key="k2")).exists()


hostile = st.text(max_size=20) | st.lists(
    st.sampled_from(["..", ".", "/", "a", "\0", "\n", "~", "{domain}", "&", "%", "-", "ü"]), max_size=6
).map("".join)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(local=hostile, domain=hostile | st.just("example.test"), detail=hostile | st.none())
def test_no_name_leads_out_of_the_tree(tmp_path: Path, local: str, domain: str, detail: str | None) -> None:
    root = tmp_path / "data"
    (tmp_path / "canary").mkdir(exist_ok=True)
    store = MaildirStore(RealDisk(), Clock(), Clock(), str(root), TEMPLATE, "host")
    try:
        path = store.deliver(Mailbox(Address(local, domain), detail), "k1", NOW, b"", Content(b"x"))
    except ValueError:
        assert not local or not domain or not (local + domain).replace("ü", "").isalnum()
    else:
        place = (root / path).resolve()
        assert place.parts[: len(root.parts) + 5] == (*root.parts, "mail", domain, local, "Maildir", "new")
        assert place.is_file()
    assert {entry.name for entry in tmp_path.iterdir()} <= {"canary", "data"}


@pytest.mark.parametrize("local", ["", ".", "..", ".x", "a/b", "../bob", "a..b", "a\0b", "a\nb", "\ud800", "x" * 300])
def test_unsafe_account_names_are_refused(store: MaildirStore, tmp_path: Path, local: str) -> None:
    for mailbox in (Mailbox(Address(local, "example.test")), Mailbox(Address("alice", local))):
        with pytest.raises(ValueError, match="name"):
            put(store, mailbox=mailbox)
        with pytest.raises(ValueError, match="name"):
            store.usage(mailbox)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "template",
    [
        "mail/all",
        "{local}/../x",
        "{local}/{user}",
        "{local!r}",
        "{local:>9}",
        "{}/{local}",
        "{local.__class__}",
        "",
        "a//{local}",
    ],
)
def test_a_template_that_is_no_plain_path_is_refused(tmp_path: Path, template: str) -> None:
    with pytest.raises(ValueError, match=r"template|format"):
        MaildirStore(RealDisk(), Clock(), Clock(), str(tmp_path), template, "host")


def test_an_absolute_template_lies_where_it_says(tmp_path: Path) -> None:
    store = MaildirStore(RealDisk(), Clock(), Clock(), "elsewhere", f"{tmp_path}/{{local}}", "host")
    assert put(store).startswith(f"{tmp_path}/alice/new/")


# --- durable -----------------------------------------------------------------------------------------------------


def assert_durable(trace: Sequence[tuple[str, ...]], path: str) -> None:
    """What the trace must show before anybody may be told that this file is delivered."""
    renamed = next(number for number, call in enumerate(trace) if call[0] == "rename" and call[2] == path)
    tmp = trace[renamed][1]
    written = max(number for number, call in enumerate(trace) if call == ("write", tmp))
    synced = [
        number
        for number, call in enumerate(trace)
        if written < number < renamed and (call == ("fsync", tmp) or call[0] == "sync_file_system")
    ]
    named = [
        number
        for number, call in enumerate(trace)
        if number > renamed and (call == ("fsync_directory", os.path.dirname(path)) or call[0] == "sync_file_system")
    ]
    assert synced
    assert named


def test_file_and_name_are_on_disk_before_success(store: MaildirStore, disk: TracedDisk, tmp_path: Path) -> None:
    put(store)
    disk.trace.clear()
    path = put(store, key="k2")
    assert_durable(disk.trace, str(tmp_path / path))
    assert [call[0] for call in disk.trace] == ["create", "write", "fsync", "rename", "fsync_directory"]


def test_a_large_file_is_on_disk_too(store: MaildirStore, disk: TracedDisk, tmp_path: Path) -> None:
    path = store.deliver(ALICE, "k1", NOW, PREFIX, Content(HELLO, is_small=False))
    assert_durable(disk.trace, str(tmp_path / path))


def test_the_way_to_a_mailbox_is_durable_when_it_is_first_used(
    store: MaildirStore, disk: TracedDisk, tmp_path: Path, home: Path
) -> None:
    """Also where somebody else has made it: nobody knows whether he told the disk."""
    make_folder(home, "lists")
    lists = Mailbox(ALICE.address, "lists")
    put(store, mailbox=lists)
    synced = [call[1] for call in disk.trace if call[0] == "fsync_directory"]
    directory = home / ".lists"
    while True:
        assert str(directory) in synced
        if directory == tmp_path:
            break
        directory = directory.parent
    disk.trace.clear()
    put(store, mailbox=lists, key="k2")
    assert len([call for call in disk.trace if call[0] == "fsync_directory"]) == 1


@pytest.mark.parametrize("template", [TEMPLATE, "/srv/mail/{domain}/{local}"])
@pytest.mark.parametrize("after", range(4))
def test_the_way_is_durable_where_the_disk_failed_while_it_was_made(after: int, template: str, clock: Clock) -> None:
    platter = SimulatedDisk(random.Random(1), ordered=False)
    disk = platter.mount()
    disk.make_directory("/srv")
    store = MaildirStore(disk, clock, clock, "/srv/data", template, "mail.example.test")
    platter.fail("fsync_directory", errno.EIO, after)
    with pytest.raises(OSError, match="error"):
        put(store)
    path = put(store)
    platter.power_cut()
    assert platter.read(path if path.startswith("/") else f"/srv/data/{path}")


def test_a_batch_shares_the_fsync_of_a_directory(store: MaildirStore, disk: TracedDisk, tmp_path: Path) -> None:
    put(store)
    put(store, mailbox=BOB)
    disk.trace.clear()
    deliveries = [
        Delivery(BOB if number % 4 == 0 else ALICE, f"b{number}", NOW, PREFIX, Content(HELLO)) for number in range(12)
    ]
    paths = store.deliver_all(deliveries)
    assert len(set(paths)) == 12
    for path in paths:
        assert_durable(disk.trace, str(tmp_path / str(path)))
    steps = [call[0] for call in disk.trace]
    assert steps.count("fsync_directory") == 2
    assert steps.index("fsync") > max(number for number, step in enumerate(steps) if step == "write")


def test_a_batch_on_one_file_system_is_synced_as_a_whole_once_for_contents_and_once_for_names(
    clock: Clock, tmp_path: Path
) -> None:
    disk = TracedDisk(lambda path: 7)
    store = MaildirStore(disk, clock, clock, str(tmp_path), TEMPLATE, "host")
    put(store)
    put(store, mailbox=BOB)
    disk.trace.clear()
    deliveries = [Delivery(BOB if n % 4 == 0 else ALICE, f"b{n}", NOW, PREFIX, Content(HELLO)) for n in range(12)]
    paths = store.deliver_all(deliveries)
    for path in paths:
        assert_durable(disk.trace, str(tmp_path / str(path)))
    steps = [call[0] for call in disk.trace]
    assert steps == ["create", "write"] * 12 + ["sync_file_system"] + ["rename"] * 12 + ["sync_file_system"]
    # By a file that was open before any was written: the kernel tells a file of the errors since it was opened.
    assert {call[1] for call in disk.trace if call[0] == "sync_file_system"} == {disk.trace[0][1]}


def test_file_systems_are_synced_each_for_itself_and_what_cannot_be_relied_on_file_by_file(
    clock: Clock, tmp_path: Path
) -> None:
    disk = TracedDisk(lambda path: None if "alice" in path else 7)
    store = MaildirStore(disk, clock, clock, str(tmp_path), TEMPLATE, "host")
    put(store)
    put(store, mailbox=BOB)
    disk.trace.clear()
    deliveries = [Delivery(BOB if n % 2 else ALICE, f"b{n}", NOW, PREFIX, Content(HELLO)) for n in range(12)]
    paths = store.deliver_all(deliveries)
    for path in paths:
        assert_durable(disk.trace, str(tmp_path / str(path)))
    assert sum(call[0] == "fsync" and "alice" in call[1] for call in disk.trace) == 6
    assert not [call for call in disk.trace if call[0] == "fsync" and "bob" in call[1]]
    assert sum(call[0] == "sync_file_system" and "bob" in call[1] for call in disk.trace) == 2


def test_a_few_messages_are_not_worth_a_sync_of_the_file_system(clock: Clock, tmp_path: Path) -> None:
    disk = TracedDisk(lambda path: 7)
    store = MaildirStore(disk, clock, clock, str(tmp_path), TEMPLATE, "host")
    store.deliver_all([Delivery(ALICE, f"b{n}", NOW, PREFIX, Content(HELLO)) for n in range(maildir.COMPANY_MIN - 1)])
    assert not [call for call in disk.trace if call[0] == "sync_file_system"]


def test_threads_deliver_into_one_new_mailbox_at_once(clock: Clock, tmp_path: Path, home: Path) -> None:
    store = MaildirStore(RealDisk(), clock, clock, str(tmp_path), TEMPLATE, "mail.example.test")
    mailbox = Mailbox(ALICE.address, None, 40 * len(PREFIX + HELLO))
    assert store.usage(mailbox) == 0
    gate = threading.Barrier(4)

    def batch(name: str) -> Sequence[str | Exception]:
        gate.wait(10)
        return store.deliver_all([Delivery(mailbox, f"{name}{n}", NOW, PREFIX, Content(HELLO)) for n in range(12)])

    with ThreadPoolExecutor(4) as threads:
        results = [result for batch in threads.map(batch, "abcd") for result in batch]
    delivered = [result for result in results if isinstance(result, str)]
    assert all(isinstance(result, str | MailboxFull) for result in results)
    # Room is kept for the size with CRLF, and used for the size with LF.
    assert 40 <= len(delivered) < 40 * len(PREFIX + HELLO) / len((PREFIX + HELLO).replace(b"\r", b""))
    assert len(set(delivered)) == len(files(home)) == len(delivered)


# --- exactly once ------------------------------------------------------------------------------------------------


def test_the_same_key_twice_is_one_message(store: MaildirStore, home: Path) -> None:
    assert put(store) == put(store) == put(store, replay=True)
    assert len(files(home)) == 1


def test_a_copy_that_was_seen_is_the_delivery(
    store: MaildirStore, home: Path, tmp_path: Path, disk: TracedDisk
) -> None:
    path = tmp_path / put(store)
    seen = home / "cur" / (path.name + ":2,RSa")
    path.rename(seen)
    disk.trace.clear()
    assert put(store, replay=True) == str(seen.relative_to(tmp_path))
    assert disk.trace[-1] == ("fsync_directory", str(home / "cur"))
    assert len(files(home)) == 1
    assert put(store, key="k2", replay=True).startswith("mail/example.test/alice/Maildir/new/")


def test_a_copy_that_was_moved_to_a_folder_is_found(store: MaildirStore, home: Path, tmp_path: Path) -> None:
    folder = make_folder(home, "Keep")
    path = tmp_path / put(store)
    path.rename(folder / "cur" / (path.name + ":2,S"))
    assert "/.Keep/cur/" in put(store, replay=True)
    assert len(files(home)) == 1


def test_a_copy_with_other_sizes_or_in_another_folder_is_replaced(
    store: MaildirStore, home: Path, tmp_path: Path
) -> None:
    first = tmp_path / put(store)
    make_folder(home, "lists")
    second = tmp_path / put(store, HELLO + b"more\r\n", Mailbox(ALICE.address, "lists"), replay=True)
    assert not first.exists()
    assert files(home) == [str(second.relative_to(home))]


def test_a_copy_that_moves_while_we_look_is_found(
    store: MaildirStore, home: Path, tmp_path: Path, disk: TracedDisk
) -> None:
    path = tmp_path / put(store)

    def unlink(name: str) -> None:
        if path.exists():
            path.rename(home / "cur" / (path.name + ":2,"))
        TracedDisk.unlink(disk, name)

    disk.unlink = unlink  # type: ignore[method-assign]
    assert "/cur/" in put(store, replay=True)
    assert len(files(home)) == 1


def test_only_replays_search_and_a_batch_of_them_once(store: MaildirStore, home: Path, disk: TracedDisk) -> None:
    put(store)
    disk.trace.clear()
    store.deliver_all([Delivery(ALICE, f"a{number}", NOW, PREFIX, Content(HELLO)) for number in range(5)])
    assert not [call for call in disk.trace if call[0] == "list"]
    store.deliver_all([Delivery(ALICE, f"a{number}", NOW, PREFIX, Content(HELLO), True) for number in range(5)])
    assert len([call for call in disk.trace if call[0] == "list"]) == 3  # the mailbox, its new/ and its cur/
    assert len(files(home)) == 6


def test_a_mailbox_that_cannot_be_searched_gets_nothing(store: MaildirStore, home: Path, disk: TracedDisk) -> None:
    put(store)
    disk.trace.clear()
    disk.fail_at = 0
    with pytest.raises(OSError, match="planted"):
        put(store, key="k2", replay=True)
    assert len(files(home)) == 1


# --- every call fails, every call is the last --------------------------------------------------------------------

MESSAGES = (
    Delivery(ALICE, "f1", NOW, PREFIX, Content(HELLO)),
    Delivery(Mailbox(ALICE.address, "lists"), "f2", NOW, PREFIX, Content(HELLO)),
    Delivery(BOB, "f3", NOW, PREFIX, Content(HELLO, is_small=False)),
    Delivery(ALICE, "f4", NOW, PREFIX, Content(b"bin\nary", is_small=False)),
    Delivery(Mailbox(BOB.address, None, 10_000), "f5", NOW, PREFIX, Content(HELLO)),
)


def stored(root: Path) -> dict[str, list[bytes]]:
    """The content in new/ and cur/ by key."""
    found: dict[str, list[bytes]] = {}
    for path in root.rglob("*,S=*"):
        if path.parent.name != "tmp":
            found.setdefault(path.name.split("Q")[1].split(".")[0], []).append(path.read_bytes())
    return found


def as_stored(delivery: Delivery) -> bytes:
    message = delivery.prefix + delivery.content.octets
    return message if b"bin" in message else message.replace(b"\r\n", b"\n")


ALL_STORED = {delivery.key: [as_stored(delivery)] for delivery in MESSAGES}


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("is_known", [False, True])
@pytest.mark.parametrize("system", [None, 7])
def test_a_fault_at_any_call_means_delivered_or_nothing(
    clock: Clock, tmp_path: Path, code: int, is_known: bool, system: int | None
) -> None:
    for fail_at in range(200):
        root = tmp_path / str(fail_at)
        make_folder(root / "mail/example.test/alice/Maildir", "lists")
        disk = TracedDisk(lambda path: system)
        store = MaildirStore(disk, clock, clock, str(root), TEMPLATE, "host")
        if is_known:
            for mailbox in {delivery.mailbox for delivery in MESSAGES}:
                store._layout.prepare(*[store._layout.home(mailbox.address)] * 2)
        disk.trace.clear()
        disk.fail_at = fail_at
        disk.fault = OSError(code, "planted")
        results = store.deliver_all(MESSAGES)
        assert len(results) == len(MESSAGES)
        was_hit = fail_at < len(disk.trace)
        kept = stored(root)
        for delivery, result in zip(MESSAGES, results, strict=True):
            if isinstance(result, Exception):
                assert isinstance(result, OSError)
                assert delivery.key not in kept
            else:
                assert kept[delivery.key] == [as_stored(delivery)]
                assert_durable(disk.trace, str(root / result))
        if was_hit:
            failed = sum(isinstance(result, Exception) for result in results)
            if disk.trace[fail_at][0] == "sync_file_system":
                assert failed == len(MESSAGES)
            else:
                assert failed <= 3  # one message, or those that share the directory or the mailbox that was hit
            if disk.trace[fail_at][0] in ("fsync", "fsync_directory"):
                assert failed  # a failed fsync is never made good by another
        if not was_hit or disk.trace[fail_at][0] != "unlink":  # what cannot be removed is swept out later
            assert not [path for path in root.rglob("tmp/*") if path.is_file()]
        assert store._usage.octets(str(root / "mail/example.test/bob/Maildir"), 10_000) == sum(
            len(octets) for key in ("f3", "f5") for octets in kept.get(key, [])
        )
        disk.fail_at = -1
        again = [
            delivery._replace(replay=True)
            for delivery, result in zip(MESSAGES, results, strict=True)
            if isinstance(result, Exception)
        ]
        assert all(isinstance(result, str) for result in store.deliver_all(again))
        assert stored(root) == ALL_STORED
        if not was_hit:
            return
    raise AssertionError("the sweep did not come to its end")


@pytest.mark.parametrize("is_known", [False, True])
@pytest.mark.parametrize("system", [None, 7])
def test_whatever_call_is_the_last_before_a_crash_the_next_process_delivers_each_once(
    clock: Clock, tmp_path: Path, is_known: bool, system: int | None
) -> None:
    for fail_at in range(200):
        root = tmp_path / str(fail_at)
        make_folder(root / "mail/example.test/alice/Maildir", "lists")
        disk = TracedDisk(lambda path: system)
        store = MaildirStore(disk, clock, clock, str(root), TEMPLATE, "host")
        if is_known:
            for mailbox in {delivery.mailbox for delivery in MESSAGES}:
                store._layout.prepare(*[store._layout.home(mailbox.address)] * 2)
        disk.trace.clear()
        disk.fail_at = fail_at
        disk.fault = Killed()
        was_killed = False
        try:
            store.deliver_all(MESSAGES)
        except Killed:
            was_killed = True
        for delivery in stored(root).items():  # what is there at all is there as a whole
            assert delivery[1] == ALL_STORED[delivery[0]]
        if fail_at % 2:  # a reader comes between
            for path in [*root.rglob("new/*,S=*")]:
                path.rename(path.parents[1] / "cur" / (path.name + ":2,S"))
        results = another(store, clock, root).deliver_all([delivery._replace(replay=True) for delivery in MESSAGES])
        assert all(isinstance(result, str) for result in results)
        assert stored(root) == ALL_STORED
        if not was_killed:
            return
    raise AssertionError("the sweep did not come to its end")


def test_a_name_in_tmp_that_is_taken_is_left_alone(store: MaildirStore, home: Path) -> None:
    put(store)
    (home / "tmp" / f"{int(NOW)}.Qk2").write_bytes(b"half")
    put(store, key="k2")
    assert (home / "tmp" / f"{int(NOW)}.Qk2").read_bytes() == b"half"
    assert len(list((home / "new").iterdir())) == 2


def test_what_crashes_left_is_swept_out_after_36_hours(store: MaildirStore, home: Path) -> None:
    (home / "tmp").mkdir(parents=True)
    old, young = int(NOW) - 36 * 3600 - 1, int(NOW) - 36 * 3600 + 1
    for name in (f"{old}.Qk9", f"{old}.M1P2.host", f"{young}.Qk9", "mutt-host-1", "notes"):
        (home / "tmp" / name).touch()
    put(store)
    assert {path.name for path in (home / "tmp").iterdir()} == {f"{young}.Qk9", "mutt-host-1", "notes"}


# --- quota -------------------------------------------------------------------------------------------------------


def test_usage_counts_all_folders_by_name_or_by_file(store: MaildirStore, home: Path) -> None:
    assert store.usage(ALICE) == 0
    folder = make_folder(home, "Trash")
    (home / "new").mkdir()
    (home / "cur").mkdir()
    (folder / "cur" / "1.M1P1.host,S=1000,W=1100:2,ST").touch()
    (home / "cur" / "2.M1P1.host:2,S").write_bytes(b"x" * 50)
    (home / "new" / "3.M1P1.host,S=7").touch()
    (home / "new" / ".nfs0001").write_bytes(b"x" * 999)
    (home / "dovecot.index.cache").write_bytes(b"x" * 999)
    assert MaildirStore(RealDisk(), Clock(), Clock(), str(home.parents[3]), TEMPLATE, "h").usage(ALICE) == 1057


def test_a_full_mailbox_takes_no_more_and_leaves_nothing(store: MaildirStore, home: Path, clock: Clock) -> None:
    small = Mailbox(ALICE.address, None, 2 * len(PREFIX + HELLO))
    put(store, mailbox=small, key="k1")
    assert store.usage(small) == (home / "new").joinpath(os.listdir(home / "new")[0]).stat().st_size
    put(store, mailbox=small, key="k2")
    with pytest.raises(MailboxFull):
        put(store, mailbox=small, key="k3")
    assert len(files(home)) == 2
    # Its owner makes room with another program; we look again no later than after five seconds.
    next((home / "new").iterdir()).unlink()
    clock.advance(6)
    put(store, mailbox=small, key="k3")
    with pytest.raises(MailboxFull):
        put(store, mailbox=small, key="k4")


def test_a_batch_does_not_overflow_a_mailbox(store: MaildirStore, home: Path) -> None:
    size = len(PREFIX + HELLO)
    small = Mailbox(ALICE.address, None, 3 * size)
    results = store.deliver_all([Delivery(small, f"b{n}", NOW, PREFIX, Content(HELLO)) for n in range(5)])
    assert [isinstance(result, MailboxFull) for result in results] == [False, False, False, True, True]
    assert len(files(home)) == 3


def test_usage_is_remembered_and_follows_our_own_deliveries(
    store: MaildirStore, home: Path, clock: Clock, disk: TracedDisk
) -> None:
    put(store)
    size = store.usage(ALICE)
    put(store, key="k2")
    disk.trace.clear()
    assert store.usage(ALICE) == 2 * size
    assert disk.trace == []
    (home / "cur" / "2.M1P1.host,S=500:2,").touch()
    clock.advance(31)
    assert store.usage(ALICE) == 2 * size + 500
    put(store, replay=True)
    assert store.usage(ALICE) == 2 * size + 500


def test_what_is_delivered_while_a_mailbox_is_counted_is_not_forgotten() -> None:
    table: UsageTable

    def scan(home: str) -> int:
        if not nested:
            nested.append(True)
            table.settle(table.reserve(home, 10, 100), 10, 10)
        return 50

    nested: list[bool] = []
    table = UsageTable(scan, lambda: NOW)
    assert table.octets("alice", None) == 60


def test_the_memory_of_counts_is_bounded() -> None:
    scans: list[str] = []
    table = UsageTable(lambda home: scans.append(home) or 1, lambda: NOW, mailboxes_max=2)
    for home in ("a", "b", "c", "c", "a"):
        assert table.octets(home, None) == 1
    assert scans == ["a", "b", "c", "a"]
