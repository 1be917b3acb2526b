"""Editing a file that others edit and read at the same moment."""

import multiprocessing
import os
import stat
from functools import partial
from pathlib import Path

import pytest
from zope.interface import implementer

from mailhub.interfaces import IDisk, IFile
from mailhub.model import Address
from mailhub.store import aliases_file, passwd_file, passwords
from mailhub.store.disk import RealDisk
from mailhub.store.edited_file import EditRefused, edit

HASH = passwords.dummy_hash()
EDITORS = 4
EDITS = 10


def appended(line: bytes, octets: bytes) -> bytes:
    return octets + line


def add_many(path: Path, number: int) -> None:
    for count in range(EDITS):
        address = Address(f"u{number}-{count}", "example.test")
        edit(path, partial(passwd_file.add, address=address, password=HASH, verifier=None), RealDisk())


def test_editors_do_not_lose_each_others_changes(tmp_path: Path) -> None:
    path = tmp_path / "accounts"
    path.write_text("# staff\n")
    context = multiprocessing.get_context("fork")
    editors = [context.Process(target=add_many, args=(path, number)) for number in range(EDITORS)]
    for editor in editors:
        editor.start()
    seen = 0
    while any(editor.is_alive() for editor in editors):
        octets = path.read_bytes()  # a reader takes no lock, and never finds half a file
        assert octets.endswith(b"\n")
        found = passwd_file.parse(octets, ["example.test"], "accounts")
        assert found.problems == ()
        assert len(found.accounts) >= seen
        seen = len(found.accounts)
    for editor in editors:
        editor.join()
        assert editor.exitcode == 0
    assert len(passwd_file.parse(path.read_bytes(), ["example.test"], "accounts").accounts) == EDITORS * EDITS
    assert path.read_bytes().startswith(b"# staff\n")
    assert sorted(os.listdir(tmp_path)) == [".accounts.lock", "accounts"]


def test_a_first_file_is_private_and_a_replaced_one_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "etc" / "accounts"
    edit(path, partial(appended, b"one\n"), RealDisk())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o640)
    edit(path, partial(appended, b"two\n"), RealDisk())
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert path.read_bytes() == b"one\ntwo\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_root_edits_for_the_user_that_the_hub_runs_as(tmp_path: Path) -> None:
    path = tmp_path / "accounts"
    path.write_text("")
    os.chown(path, 4321, 1234)
    edit(path, partial(appended, b"one\n"), RealDisk())
    for name in ("accounts", ".accounts.lock"):
        status = (tmp_path / name).stat()
        assert (status.st_uid, status.st_gid) == (4321, 1234)


def test_the_file_behind_a_link_is_edited_and_the_link_stays(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("one\n")
    link = tmp_path / "accounts"
    link.symlink_to("real")
    edit(link, partial(appended, b"two\n"), RealDisk())
    assert link.is_symlink()
    assert (tmp_path / "real").read_bytes() == b"one\ntwo\n"


@implementer(IDisk)
class WatchedDisk(RealDisk):
    """The real disk, with a log of what was asked and one call that fails."""

    def __init__(self, fails_at: str = "") -> None:
        self.calls: list[str] = []
        self.fails_at = fails_at

    def _note(self, call: str) -> None:
        self.calls.append(call)
        if call == self.fails_at:
            raise OSError(28, "No space left on device")

    def create(self, path: str, mode: int = 0o600) -> IFile:
        self._note("create")
        return WatchedFileOnDisk(self, super().create(path, mode))

    def rename(self, old: str, new: str) -> None:
        self._note("rename")
        super().rename(old, new)

    def fsync_directory(self, path: str) -> None:
        self._note("fsync_directory")
        super().fsync_directory(path)


@implementer(IFile)
class WatchedFileOnDisk:
    def __init__(self, disk: WatchedDisk, file: IFile) -> None:
        self._disk = disk
        self._file = file

    def write(self, octets: bytes) -> None:
        self._disk._note("write")
        self._file.write(octets)

    def read(self, octets_max: int) -> bytes:
        return self._file.read(octets_max)

    def fsync(self) -> None:
        self._disk._note("fsync")
        self._file.fsync()

    def close(self) -> None:
        self._file.close()


def test_the_new_file_is_on_disk_before_it_takes_the_name(tmp_path: Path) -> None:
    disk = WatchedDisk()
    edit(tmp_path / "accounts", partial(appended, b"one\n"), disk)
    assert disk.calls == ["create", "write", "fsync", "rename", "fsync_directory"]


@pytest.mark.parametrize("call", ["create", "write", "fsync", "rename"])
def test_an_edit_that_fails_leaves_the_file_as_it_was(tmp_path: Path, call: str) -> None:
    path = tmp_path / "accounts"
    path.write_text("one\n")
    with pytest.raises(OSError, match="No space"):
        edit(path, partial(appended, b"two\n"), WatchedDisk(call))
    assert path.read_text() == "one\n"
    assert sorted(os.listdir(tmp_path)) == [".accounts.lock", "accounts"]
    edit(path, partial(appended, b"two\n"), RealDisk())
    assert path.read_text() == "one\ntwo\n"


def test_what_a_crash_left_is_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / "accounts"
    (tmp_path / ".accounts.new").write_text("half a fi")
    edit(path, partial(appended, b"one\n"), RealDisk())
    assert path.read_text() == "one\n"
    assert not (tmp_path / ".accounts.new").exists()


def test_an_edit_that_is_refused_or_changes_nothing_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "aliases"
    path.write_text("team: alice\n")
    disk = WatchedDisk()
    with pytest.raises(EditRefused):
        edit(path, partial(aliases_file.remove, name="nobody"), disk)
    edit(path, lambda octets: octets, disk)
    assert disk.calls == []


def test_what_is_no_plain_file_is_not_edited(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "accounts")
    with pytest.raises(OSError, match="plain file"):
        edit(tmp_path / "accounts", partial(appended, b"one\n"), RealDisk())
