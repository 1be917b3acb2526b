"""Dropping privileges, in processes of their own: for good, and proven; what then cannot be read is told."""

from __future__ import annotations

import json
import os
import pwd
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mailhub
from mailhub.app.privileges import Person, PrivilegeError, drop, unusable

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: dropping privileges needs root")

PROGRAM = """
import json, os, sys
os.umask(0o022)
from mailhub.app import privileges
from mailhub.app.privileges import Person, PrivilegeError, Privileges, drop, unusable
def say(**facts):
    print(json.dumps(facts))
"""


def child(text: str, *arguments: str) -> Any:
    """What a child process of ours, begun as root, prints as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM + text, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(mailhub.__file__).parent.parent)},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A directory that everybody may enter; pytest's own are for their owner alone."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        os.chmod(name, 0o755)
        yield Path(name)


def test_people_are_found_by_name_and_by_number() -> None:
    entry = pwd.getpwnam("nobody")
    assert Person.find("nobody") == Person("nobody", entry.pw_uid, entry.pw_gid)
    assert Person.find(str(entry.pw_uid)) == Person("nobody", entry.pw_uid, entry.pw_gid)
    assert Person.find("nobody", "0").gid == Person.find("nobody", "root").gid == 0


@pytest.mark.parametrize("user", ["", "no such user", "99999999999999999999", "-1", "a\0b"])
def test_a_user_that_does_not_exist(user: str) -> None:
    with pytest.raises(PrivilegeError, match="there is no user"):
        Person.find(user)


@pytest.mark.parametrize("group", ["nix", "99999999999", str(2**32 - 1), "a\0b"])
def test_a_group_that_does_not_exist(group: str) -> None:
    with pytest.raises(PrivilegeError, match="there is no group"):
        Person.find("nobody", group)


def test_who_we_are_already_needs_no_privileges() -> None:
    drop(Person("me", os.getuid(), os.getgid()))


@needs_root
def test_privileges_are_dropped_wholly_and_for_good() -> None:
    said = child(
        """
person = Person.find("nobody")
os.setgroups([0, 4])  # root mostly has some
drop(person)
drop(person)  # a second time is nothing
back = []
for call in (os.setuid, os.seteuid, os.setgid):
    try:
        call(0)
        back.append(call.__name__)
    except PermissionError:
        pass
say(uids=os.getresuid(), gids=os.getresgid(), groups=os.getgroups(), back=back)
"""
    )
    nobody = pwd.getpwnam("nobody")
    assert said["uids"] == [nobody.pw_uid] * 3
    assert said["gids"] == [nobody.pw_gid] * 3
    assert 0 not in said["groups"]
    assert said["back"] == []


@needs_root
@pytest.mark.parametrize(
    ("before", "told"),
    [
        ("os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(1, 1, 1)", "this process is "),
        ("os.setgroups([]); os.setresgid(7, 7, 7); os.setresuid(65534, 65534, 65534)", "has the groups [7]"),
        ("os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 0)", "this process is "),
        ("os.setgroups([0]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)", "groups of root"),
    ],
    ids=["another user", "another group", "root is kept aside", "the groups of root"],
)
def test_somebody_elses_half_hearted_drop_is_found(before: str, told: str) -> None:
    said = child(
        f"""
person = Person("nobody", 65534, 65534)
{before}
try:
    drop(person)
    say(told="")
except PrivilegeError as error:
    say(told=str(error))
"""
    )
    assert told in said["told"]


@needs_root
def test_what_twistd_has_dropped_already_is_enough() -> None:
    said = child(
        """
from twisted.python.util import switchUID
person = Person.find("nobody")
switchUID(person.uid, person.gid)
drop(person)
say(uid=os.getuid())
"""
    )
    assert said["uid"] == pwd.getpwnam("nobody").pw_uid


@needs_root
def test_what_the_user_cannot_use_is_told_with_the_reason(open_folder: Path) -> None:
    closed = open_folder / "closed"
    closed.mkdir(mode=0o700)
    (closed / "key.pem").write_text("")
    key = open_folder / "key.pem"
    key.write_text("")
    key.chmod(0o600)
    data = open_folder / "data"
    data.mkdir(mode=0o755)
    fine = open_folder / "fine"
    fine.mkdir()
    os.chown(fine, *pwd.getpwnam("nobody")[2:4])
    said = child(
        """
folder = sys.argv[1]
drop(Person.find("nobody"))
say(problems=unusable(
    [f"{folder}/closed/key.pem", f"{folder}/key.pem", f"{folder}/missing", "/etc/passwd"],
    [f"{folder}/data", f"{folder}/fine", f"{folder}/fine/new/er", f"{folder}/new", "/etc/passwd"],
))
""",
        str(open_folder),
    )
    assert said["problems"] == [
        f"{closed}/key.pem: user nobody may not enter the directory {closed} (mode 0700)",
        f"{key}: user nobody may not read it (mode 0600, of root): chown nobody {key}",
        f"{open_folder}/missing: does not exist",
        f"{data}: user nobody may not write it (mode 0755, of root): chown nobody {data}",
        f"{open_folder}/new: user nobody may not make it in {open_folder} (mode 0755): chown nobody {open_folder}",
        "/etc/passwd: user nobody may not write it (mode 0644, of root): chown nobody /etc/passwd",
    ]


@needs_root
def test_the_service_tells_all_that_would_be_wrong_at_once_while_it_still_can(open_folder: Path) -> None:
    said = child(
        """
privileges.ours = lambda: ()
service = Privileges(Person.find("nobody"), readable=["/etc/shadow"], writable=[sys.argv[1]])
try:
    service.startService()
    say(told="", uid=os.getuid())
except PrivilegeError as error:
    say(told=str(error), uid=os.getuid())
""",
        str(open_folder),
    )
    assert said["uid"] == 0
    assert len(said["told"].splitlines()) == 2


@needs_root
def test_what_is_made_before_the_drop_belongs_to_the_user_and_root_follows_no_link(open_folder: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    treasure = open_folder / "treasure"
    treasure.mkdir(mode=0o755)
    theirs = open_folder / "theirs"
    theirs.mkdir()
    (theirs / "link").symlink_to(treasure)
    os.chown(theirs, nobody.pw_uid, nobody.pw_gid)
    said = child(
        """
from mailhub.app.privileges import acting_as, make_directory_for, make_file_for
from mailhub.store.disk import RealDisk
from pathlib import Path
folder, person = Path(sys.argv[1]), Person.find("nobody")
make_directory_for(person, folder / "new" / "er", RealDisk())
make_file_for(person, folder / "new" / "er" / "log")
make_file_for(person, folder / "log")
told = []
for attempt in (
    lambda: make_directory_for(person, folder / "theirs" / "link" / "new", RealDisk()),
    lambda: make_file_for(person, folder / "theirs" / "link" / "log"),
):
    try:
        attempt()
    except OSError as error:
        told.append(type(error).__name__)
with acting_as(person):
    inside = os.geteuid(), os.getegid(), os.getgroups()
say(told=told, inside=inside, after=[os.geteuid(), os.getegid(), os.getgroups()], before=[0, os.getgid()])
""",
        str(open_folder),
    )
    for path in ("new", "new/er", "new/er/log", "log"):
        assert (open_folder / path).stat().st_uid == nobody.pw_uid, path
        assert stat.S_IMODE((open_folder / path).stat().st_mode) in (0o700, 0o600), path
    assert said["inside"] == [nobody.pw_uid, nobody.pw_gid, [nobody.pw_gid]]
    assert said["after"][:2] == said["before"]
    assert list(treasure.iterdir()) == []
    assert said["told"] == ["PermissionError", "PermissionError"]


def test_what_we_can_use_is_no_problem(tmp_path: Path) -> None:
    assert unusable([sys.executable, tmp_path], [tmp_path, tmp_path / "new"]) == []
