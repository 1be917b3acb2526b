"""Dovecot reads the accounts file as it lies: a private Dovecot without listeners, asked through doveadm."""

import getpass
import grp
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailhub.model import Address
from mailhub.store import passwd_file, passwords
from mailhub.store.disk import RealDisk
from mailhub.store.edited_file import edit

pytestmark = pytest.mark.interop

START_SECONDS_MAX = 10
ALICE = Address("alice", "example.test")
BOB = Address("bob", "example.test")

CONFIGURATION = """
base_dir = {directory}/run
state_dir = {directory}/state
log_path = {directory}/log
protocols =
ssl = no
auth_mechanisms = plain
auth_failure_delay = 0
default_internal_user = {user}
default_internal_group = {group}
default_login_user = {user}
service anvil {{
  chroot =
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
service stats {{
  chroot =
}}
service auth {{
  user = {user}
}}
passdb {{
  driver = passwd-file
  args = {directory}/accounts
}}
userdb {{
  driver = passwd-file
  args = {directory}/accounts
  default_fields = uid=5000 gid=5000 home=/nonexistent
}}
"""


@pytest.fixture
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("dovecot")


def doveadm(directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["doveadm", "-c", str(directory / "dovecot.conf"), *words], capture_output=True, text=True, timeout=30
    )


@pytest.fixture
def dovecot(directory: Path) -> Iterator[Path]:
    program = shutil.which("dovecot", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if program is None or shutil.which("doveadm") is None:
        pytest.skip("NOT TESTED: Dovecot is not installed (Debian: dovecot-core)")
    (directory / "dovecot.conf").write_text(
        CONFIGURATION.format(directory=directory, user=getpass.getuser(), group=grp.getgrgid(os.getgid()).gr_name)
    )
    octets = b""
    for address, password in ((ALICE, "correct horse"), (BOB, "caf\u00e9 : {PLAIN}x")):
        octets = passwd_file.add(
            octets,
            address,
            passwords.hash_password(password, os.urandom(16)),
            passwords.make_verifier(password, os.urandom(16), 4096),
            1024**3,
        )
    (directory / "accounts").write_bytes(b"# staff\n" + octets)
    process = subprocess.Popen(
        [program, "-c", str(directory / "dovecot.conf"), "-F"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        deadline = time.monotonic() + START_SECONDS_MAX
        while not (directory / "run" / "auth-userdb").exists():
            if process.poll() is not None or time.monotonic() > deadline:
                assert process.stderr is not None
                log = directory / "log"
                told = log.read_text() if log.exists() else ""
                process.kill()
                pytest.skip(f"NOT TESTED: Dovecot does not start here: {told}{process.stderr.read().decode()}")
            doveadm(directory, "auth", "test", "nobody", "x")  # fails while there is no socket; takes its time
        yield directory
    finally:
        process.terminate()
        process.wait(20)
        assert process.stderr is not None
        process.stderr.close()


def test_dovecot_lets_in_whom_we_let_in(dovecot: Path) -> None:
    def can_log_in(address: Address, password: str) -> bool:
        done = doveadm(dovecot, "auth", "test", str(address), password)
        assert "scram" not in done.stdout.lower(), "a verifier went to a client of the authentication socket"
        return done.returncode == 0

    assert can_log_in(ALICE, "correct horse")
    assert not can_log_in(ALICE, "wrong")
    assert can_log_in(BOB, "caf\u00e9 : {PLAIN}x")
    told = doveadm(dovecot, "user", str(ALICE))
    assert told.returncode == 0, told.stderr
    assert "*:storage=1G" in told.stdout

    stored = passwords.hash_password("another", os.urandom(16))
    path = dovecot / "accounts"
    edit(path, lambda octets: passwd_file.set_password(octets, ALICE, stored, None), RealDisk())
    deadline = time.monotonic() + START_SECONDS_MAX
    while not can_log_in(ALICE, "another"):  # Dovecot looks at the file once a second
        assert time.monotonic() < deadline
    assert not can_log_in(ALICE, "correct horse")


def test_we_let_in_whom_dovecot_let_in(directory: Path) -> None:
    if shutil.which("doveadm") is None:
        pytest.skip("NOT TESTED: doveadm is not installed (Debian: dovecot-core)")
    done = subprocess.run(
        ["doveadm", "pw", "-s", "ARGON2ID", "-p", "correct horse"], capture_output=True, text=True, timeout=60
    )
    if done.returncode:
        pytest.skip(f"NOT TESTED: this doveadm makes no ARGON2ID: {done.stderr}")
    line = f"{ALICE}:{done.stdout.strip()}:5000:5000::/home/alice::\n".encode()
    found = passwd_file.parse(line, ["example.test"], "accounts")
    assert found.problems == ()
    stored = found.accounts[ALICE].password
    assert stored is not None
    assert passwords.verify(stored, "correct horse")
    assert not passwords.verify(stored, "wrong")
    assert passwd_file.set_password(line, ALICE, stored, None).rstrip() == line.rstrip()
