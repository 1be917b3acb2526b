"""Two sides of one seam: the simulated disk does what the real one does, and forgets what the real one may forget."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from zope.interface.verify import verifyObject

from mailhub.interfaces import IDisk, IFile
from mailhub.store.disk import RealDisk
from mailhub.testing.simulated_disk import Mount, PowerCut, SimulatedDisk


@dataclass
class Side:
    disk: IDisk
    top: str


@pytest.fixture(params=["real", "ordered", "strict"])
def side(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Side]:
    if request.param == "real":
        yield Side(RealDisk(), str(tmp_path))
        return
    platter = SimulatedDisk(random.Random(1), ordered=request.param == "ordered")
    disk = platter.mount()
    disk.make_directory("/top")
    yield Side(disk, "/top")


def write(disk: IDisk, path: str, octets: bytes, fsync: bool = True) -> None:
    file = disk.create(path)
    file.write(octets)
    if fsync:
        file.fsync()
    file.close()


def read(disk: IDisk, path: str) -> bytes:
    file = disk.open(path)
    octets = b"".join(iter(lambda: file.read(3), b""))
    file.close()
    return octets


# --- the contract ------------------------------------------------------------------------------------------------


def test_the_interfaces_are_provided(side: Side) -> None:
    verifyObject(IDisk, side.disk)
    verifyObject(IFile, side.disk.create(f"{side.top}/file"))


def test_a_file_reads_back(side: Side) -> None:
    file = side.disk.create(f"{side.top}/file")
    file.write(b"one ")
    file.write(b"two")
    file.fsync()
    file.close()
    file.close()
    assert read(side.disk, f"{side.top}/file") == b"one two"
    assert side.disk.size(f"{side.top}/file") == 7
    assert side.disk.size(f"{side.top}/nobody") is None
    assert side.disk.free_octets(side.top) > 0


def test_names_are_exclusive_but_renaming_replaces(side: Side) -> None:
    one, two = f"{side.top}/one", f"{side.top}/two"
    write(side.disk, one, b"1")
    write(side.disk, two, b"2")
    with pytest.raises(FileExistsError):
        side.disk.create(one)
    with pytest.raises(FileExistsError):
        side.disk.link(one, two)
    side.disk.rename(one, two)
    assert read(side.disk, two) == b"1"
    assert sorted(side.disk.list(side.top)) == ["two"]
    side.disk.link(two, one)
    side.disk.unlink(two)
    assert read(side.disk, one) == b"1"


@pytest.mark.parametrize(
    "act",
    [
        lambda disk, path: disk.open(path),
        lambda disk, path: disk.unlink(path),
        lambda disk, path: disk.rename(path, path + "2"),
        lambda disk, path: disk.link(path, path + "2"),
        lambda disk, path: disk.list(path),
        lambda disk, path: disk.fsync_directory(path),
        lambda disk, path: disk.create(path + "/below"),
    ],
)
def test_what_is_not_there_is_not_found(side: Side, act: Callable[[IDisk, str], object]) -> None:
    with pytest.raises(FileNotFoundError):
        act(side.disk, f"{side.top}/nobody")


def test_directories_are_made_with_their_parents_and_are_no_files(side: Side) -> None:
    deep = f"{side.top}/a/b/c"
    side.disk.make_directory(deep)
    side.disk.make_directory(deep)
    assert side.disk.list(f"{side.top}/a") == ["b"]
    write(side.disk, f"{side.top}/file", b"")
    with pytest.raises(FileExistsError):
        side.disk.make_directory(f"{side.top}/file")
    with pytest.raises(NotADirectoryError):
        side.disk.list(f"{side.top}/file")


def test_a_closed_file_takes_no_more(side: Side) -> None:
    file = side.disk.create(f"{side.top}/file")
    file.close()
    with pytest.raises(OSError, match="descriptor"):
        file.write(b"x")


# --- crashes -----------------------------------------------------------------------------------------------------


def after_cut(seed: int, ordered: bool, act: Callable[[Mount], None]) -> Mount:
    platter = SimulatedDisk(random.Random(seed), ordered)
    disk = platter.mount()
    disk.make_directory("/d")
    act(disk)
    platter.power_cut()
    return platter.mount()


@pytest.mark.parametrize("ordered", [False, True])
def test_what_was_fsynced_with_its_directory_survives_every_cut(ordered: bool) -> None:
    def act(disk: Mount) -> None:
        write(disk, "/d/tmp", b"whole")
        disk.rename("/d/tmp", "/d/kept")
        disk.fsync_directory("/d")

    for seed in range(50):
        disk = after_cut(seed, ordered, act)
        assert list(disk.list("/d")) == ["kept"]
        assert read(disk, "/d/kept") == b"whole"


@pytest.mark.parametrize("ordered", [False, True])
def test_a_name_without_its_directory_may_be_lost(ordered: bool) -> None:
    def act(disk: Mount) -> None:
        write(disk, "/d/tmp", b"whole")
        disk.rename("/d/tmp", "/d/new")

    found = {tuple(sorted(after_cut(seed, ordered, act).list("/d"))) for seed in range(50)}
    assert ("new",) not in found if not ordered else {("tmp",), ("new",)} == found


def test_octets_that_were_not_fsynced_are_torn() -> None:
    def act(disk: Mount) -> None:
        write(disk, "/d/file", b"0123456789", fsync=False)
        disk.fsync_directory("/d")

    left = {read(after_cut(seed, False, act), "/d/file") for seed in range(100)}
    assert {b"", b"0123456789"} < left
    assert all(b"0123456789".startswith(octets) for octets in left)


def test_a_new_directory_may_be_there_and_not_be_durable() -> None:
    platter = SimulatedDisk(random.Random(1), ordered=False)
    disk = platter.mount()
    platter.fail("fsync_directory", errno.EIO)
    with pytest.raises(OSError, match="error"):
        disk.make_directory("/d")
    disk.make_directory("/d")  # it exists, and is left as it is
    write(disk, "/d/file", b"octets")
    disk.fsync_directory("/d")
    platter.power_cut()
    assert platter.mount().list("/") == []


def test_what_is_in_a_directory_may_be_durable_before_its_name() -> None:
    platter = SimulatedDisk(random.Random(1), ordered=False)
    disk = platter.mount()
    platter.fail("fsync_directory", errno.EIO)
    with pytest.raises(OSError, match="error"):
        disk.make_directory("/d")
    write(disk, "/d/file", b"octets")
    disk.fsync_directory("/d")
    disk.fsync_directory("/")
    platter.power_cut()
    assert read(platter.mount(), "/d/file") == b"octets"


def test_in_order_a_cut_keeps_a_beginning_of_what_was_done() -> None:
    def act(disk: Mount) -> None:
        for name in "abcde":
            disk.create(f"/d/{name}").close()

    found = {"".join(sorted(after_cut(seed, True, act).list("/d"))) for seed in range(100)}
    assert found == {"", "a", "ab", "abc", "abcd", "abcde"}


def test_a_failed_fsync_stays_failed_and_its_octets_are_not_durable() -> None:
    platter = SimulatedDisk(random.Random(1), ordered=False)
    disk = platter.mount()
    disk.make_directory("/d")
    file = disk.create("/d/file")
    disk.fsync_directory("/d")
    file.write(b"x" * 100)
    platter.fail("fsync", errno.EIO)
    for _ in range(2):
        with pytest.raises(OSError, match=r"error|failed"):
            file.fsync()
    other = disk.open("/d/file")
    other.fsync()  # the kernel tells the error once, and believes the pages to be clean
    platter.power_cut()
    assert read(platter.mount(), "/d/file") == b""


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EMFILE])
@pytest.mark.parametrize("operation", ["create", "write", "rename", "unlink", "fsync", "fsync_directory", "list"])
def test_each_operation_can_fail_once(operation: str, code: int) -> None:
    platter = SimulatedDisk(random.Random(1))
    disk = platter.mount()
    disk.make_directory("/d")

    def act() -> None:
        write(disk, "/d/one", b"1")
        disk.rename("/d/one", "/d/two")
        disk.fsync_directory("/d")
        disk.list("/d")
        disk.unlink("/d/two")

    platter.fail(operation, code)
    with pytest.raises(OSError) as raised:  # noqa: PT011 -- the number is what is looked at
        act()
    assert raised.value.errno == code
    for name in list(disk.list("/d")):
        disk.unlink(f"/d/{name}")
    act()


def test_the_plug_is_pulled_in_the_middle_and_the_dead_do_nothing() -> None:
    platter = SimulatedDisk(random.Random(1))
    disk = platter.mount()
    platter.cut_after = 1
    with pytest.raises(PowerCut):
        disk.create("/file")
    platter.power_cut()
    with pytest.raises(PowerCut):
        disk.create("/file")
    assert list(platter.mount().list("/")) == []


def test_a_process_that_dies_takes_nothing_from_the_others() -> None:
    platter = SimulatedDisk(random.Random(1))
    one, other = platter.mount(), platter.mount()
    mine, its = one.create("/mine"), other.create("/its")
    mine.write(b"not ")
    its.write(b"written ")
    platter.process_died(other)
    with pytest.raises(PowerCut):
        its.write(b"by the dead")
    assert platter.open_files == 1
    mine.write(b"lost")
    assert (read(one, "/mine"), read(one, "/its")) == (b"not lost", b"written ")
    mine.fsync()
    one.fsync_directory("/")
    platter.power_cut()  # which takes all of them
    with pytest.raises(PowerCut):
        mine.write(b"at all")
    assert read(platter.mount(), "/mine") == b"not lost"


def test_the_plug_that_is_to_be_pulled_is_pulled_whoever_dies_before() -> None:
    platter = SimulatedDisk(random.Random(1))
    one, other = platter.mount(), platter.mount()
    platter.cut_after = 1
    platter.process_died(other)
    with pytest.raises(PowerCut):
        one.create("/file")
