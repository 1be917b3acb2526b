"""The real disk: complete writes, exclusive names, a failed fsync that stays failed; and nobody else syncs."""

import errno
import os
import re
import stat
from pathlib import Path

import pytest

import mailhub
from mailhub.store import disk as disk_module
from mailhub.store.disk import RealDisk

ROOT = Path(mailhub.__file__).parent


def test_a_file_is_private_and_reads_back(tmp_path: Path) -> None:
    disk = RealDisk()
    path = str(tmp_path / "file")
    file = disk.create(path)
    file.write(b"one ")
    file.write(b"two")
    file.fsync()
    file.close()
    file.close()
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert disk.size(path) == 7
    reader = disk.open(path)
    assert (reader.read(4), reader.read(100), reader.read(100)) == (b"one ", b"two", b"")
    reader.close()


def test_names_are_exclusive_and_links_are_not_followed(tmp_path: Path) -> None:
    disk = RealDisk()
    disk.create(str(tmp_path / "taken")).close()
    with pytest.raises(FileExistsError):
        disk.create(str(tmp_path / "taken"))
    with pytest.raises(FileExistsError):
        disk.link(str(tmp_path / "taken"), str(tmp_path / "taken"))
    os.symlink(tmp_path / "taken", tmp_path / "planted")
    with pytest.raises(OSError, match="symbolic"):
        disk.open(str(tmp_path / "planted"))
    with pytest.raises(FileNotFoundError):
        disk.open(str(tmp_path / "nobody"))
    assert disk.size(str(tmp_path / "nobody")) is None


def test_directories_are_made_with_their_parents(tmp_path: Path) -> None:
    disk = RealDisk()
    deep = str(tmp_path / "a" / "b" / "c")
    disk.make_directory(deep)
    disk.make_directory(deep)
    assert stat.S_IMODE(os.stat(deep).st_mode) == 0o700
    assert disk.list(str(tmp_path / "a")) == ["b"]
    assert disk.free_octets(deep) > 0
    disk.create(str(tmp_path / "file")).close()
    with pytest.raises(FileExistsError):
        disk.make_directory(str(tmp_path / "file"))


def test_a_short_write_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(disk_module.os, "write", lambda descriptor, octets: real(descriptor, octets[:3]))
    file = RealDisk().create(str(tmp_path / "file"))
    file.write(b"0123456789")
    file.close()
    assert (tmp_path / "file").read_bytes() == b"0123456789"


def test_a_failed_fsync_is_never_a_success_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = RealDisk().create(str(tmp_path / "file"))

    def broken(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(disk_module, "_synchronize", broken)
        with pytest.raises(OSError, match="Input"):
            file.fsync()
    with pytest.raises(OSError, match="earlier fsync"):
        file.fsync()
    file.close()


def test_only_the_disk_synchronizes() -> None:
    call = re.compile(r"\bos\.(fsync|fdatasync|sync)\b|F_FULLFSYNC")
    found = {str(path.relative_to(ROOT)) for path in ROOT.rglob("*.py") if call.search(path.read_text())}
    assert found == {"store/disk.py"}


def test_a_file_system_is_synced_as_a_whole_only_where_it_can_be_relied_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = RealDisk().create(str(tmp_path / "file"))
    for kind, number in ((0xEF53, tmp_path.stat().st_dev), (0x58465342, tmp_path.stat().st_dev), (0x65735546, None)):
        monkeypatch.setattr(disk_module, "_type_of_file_system", lambda descriptor, kind=kind: kind)
        assert file.file_system() == number
    file.close()
    monkeypatch.setattr(disk_module, "_type_of_file_system", lambda descriptor: 0xEF53)
    assert file.file_system() is None  # it is closed


def test_the_kernel_is_asked_for_the_type() -> None:
    """The type of /proc is the same everywhere."""
    with open("/proc/self/status") as status:
        assert disk_module._type_of_file_system(status.fileno()) == 0x9FA0
    assert RealDisk().open("/proc/self/status").file_system() is None


def test_a_failed_sync_of_the_file_system_is_never_a_success_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = RealDisk().create(str(tmp_path / "file"))
    file.write(b"lost")
    file.sync_file_system()

    def broken(descriptor: int) -> None:
        raise OSError(errno.EIO, "planted")

    monkeypatch.setattr(disk_module, "_synchronize_file_system", broken)
    with pytest.raises(OSError, match="planted"):
        file.sync_file_system()
    monkeypatch.undo()
    for sync in (file.sync_file_system, file.fsync):
        with pytest.raises(OSError, match="earlier"):
            sync()
    file.close()
    with pytest.raises(OSError, match="earlier"):
        file.sync_file_system()


def test_a_sync_of_what_is_no_file_is_an_error(tmp_path: Path) -> None:
    file = RealDisk().create(str(tmp_path / "file"))
    file.close()
    with pytest.raises(OSError, match="Bad file"):
        file.sync_file_system()
