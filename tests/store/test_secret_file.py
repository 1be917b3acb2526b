"""Secrets in files: read if nobody else can, refused with one clear message if not."""

import os
import stat
from pathlib import Path

import pytest

from mailhub.store.disk import RealDisk
from mailhub.store.secret_file import FRESH_KEY_OCTETS, SecretError, read_keys, read_password

FRESH = bytes(range(FRESH_KEY_OCTETS))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "secret"


def put(file: Path, octets: bytes, mode: int = 0o600) -> Path:
    file.write_bytes(octets)
    file.chmod(mode)
    return file


def refused(file: Path, **options: int) -> str:
    with pytest.raises(SecretError) as caught:
        read_password(file)
    assert str(file) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("octets", [b"correct horse\n", b"correct horse", b"correct horse\r\n"])
@pytest.mark.parametrize("mode", [0o600, 0o400, 0o640, 0o440])
def test_a_password(file: Path, octets: bytes, mode: int) -> None:
    assert read_password(put(file, octets, mode)) == "correct horse"


def test_blanks_belong_to_the_password_and_so_do_other_scripts(file: Path) -> None:
    assert read_password(put(file, " größer \n".encode())) == " größer "


@pytest.mark.parametrize(
    ("mode", "whom"),
    [(0o644, "every user of this machine, who may read it (mode 0644)"), (0o602, "change it (mode 0602)"),
     (0o660, "its whole group, who may change it (mode 0660)"), (0o604, "every user")],
)  # fmt: skip
def test_a_password_that_others_can_get_at_is_none(file: Path, mode: int, whom: str) -> None:
    told = refused(put(file, b"correct horse\n", mode))
    assert whom in told
    assert f"chmod 600 {file}" in told


@pytest.mark.parametrize(
    "octets", [b"", b"\n", b"one\ntwo\n", b"\none\n", b"a\tb\n", b"a\x00b\n", b"\xff\n", b"x" * 2000]
)
def test_what_is_no_password(file: Path, octets: bytes) -> None:
    told = refused(put(file, octets))
    assert "\n" not in told
    assert "two" not in told


def test_a_file_that_is_not_there_or_is_none(file: Path) -> None:
    assert "cannot be read: No such file" in refused(file)
    file.mkdir()
    assert "cannot be read" in refused(file)
    file.rmdir()
    os.mkfifo(file)
    assert "not a plain file" in refused(file)


# --- keys ----------------------------------------------------------------------------------------------------------


def test_the_first_key_is_made_and_stays(file: Path) -> None:
    made = read_keys(file, FRESH, RealDisk())
    assert made == (FRESH.hex().encode(),)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert read_keys(file, b"\xff" * FRESH_KEY_OCTETS, RealDisk()) == made
    assert [each.name for each in file.parent.iterdir()] == ["secret"]


def test_it_belongs_to_whom_it_is_for(file: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    read_keys(file, FRESH, RealDisk(), (12345, 12346))
    assert (file.stat().st_uid, file.stat().st_gid) == (12345, 12346)


def test_several_keys_the_newest_first_as_postsrsd_has_them(file: Path) -> None:
    put(file, b"# told\nthe newest of all keys\n\n  the older of all keys  \n")
    assert read_keys(file, FRESH, RealDisk()) == (b"the newest of all keys", b"the older of all keys")


@pytest.mark.parametrize(
    ("octets", "mode", "told"),
    [
        (b"", 0o600, "must hold 1 to 16 keys"),
        (b"# nothing\n", 0o600, "must hold 1 to 16 keys"),
        (b"the same key again\n" * 17, 0o600, "it has 17"),
        (b"short\n", 0o600, "can be guessed"),
        (b"a key that all can read\n", 0o644, "chmod 600"),
    ],
)
def test_keys_that_are_of_no_use(file: Path, octets: bytes, mode: int, told: str) -> None:
    put(file, octets, mode)
    with pytest.raises(SecretError, match="secret") as caught:
        read_keys(file, FRESH, RealDisk())
    assert told in str(caught.value)
    assert file.read_bytes() == octets


def test_keys_that_cannot_be_made(tmp_path: Path) -> None:
    with pytest.raises(SecretError, match="cannot be made: No such file or directory"):
        read_keys(tmp_path / "missing" / "secret", FRESH, RealDisk())
