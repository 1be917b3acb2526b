"""Becoming an ordinary user once the ports are bound, for good.

`twistd --uid/--gid` does the same at the same moment, between binding and starting.  The two live together: who has
become the configured user by twistd's hand already is only checked here; who has become somebody else is told so.
Dropped privileges are proven, not assumed: all three user and group ids, the supplementary groups, and that root cannot
be had back.

What is written before the drop is written as that user already (`acting_as`): root follows nobody's links, and nothing
is left behind that the hub could not write at its next start.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import stat
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from twisted.application.service import Service
from twisted.logger import Logger

if TYPE_CHECKING:
    from mailhub.interfaces import IDisk

Where = str | os.PathLike[str]

#: (gid_t)-1 stands for "as it is" (setresgid(2)); that and more is nobody's number.
_NO_GID = 2**32 - 1


class PrivilegeError(Exception):
    """We cannot become, or be, the configured user.  One problem a line; each says what can be done."""


@dataclass(frozen=True, slots=True)
class Person:
    """A user and a group of this host, by name and number."""

    name: str
    uid: int
    gid: int

    @classmethod
    def find(cls, user: str, group: str | None = None) -> Person:
        """By names, or by numbers; `group` None means the user's own.  Raises PrivilegeError."""
        try:
            entry = pwd.getpwuid(int(user)) if user.isascii() and user.isdigit() else pwd.getpwnam(user)
        except (KeyError, OverflowError, ValueError):
            raise PrivilegeError(f"user: there is no user {user!r} on this host") from None
        if group is None:
            return cls(entry.pw_name, entry.pw_uid, entry.pw_gid)
        try:
            gid = int(group) if group.isascii() and group.isdigit() else grp.getgrnam(group).gr_gid
            if gid >= _NO_GID:
                raise OverflowError
        except (KeyError, OverflowError, ValueError):
            raise PrivilegeError(f"group: there is no group {group!r} on this host") from None
        return cls(entry.pw_name, entry.pw_uid, gid)


def drop(person: Person) -> None:
    """Become this user for good.  Does nothing if we are that user already.  Raises PrivilegeError."""
    if os.geteuid() == 0 and person.uid != 0:
        try:
            os.initgroups(person.name, person.gid)
            os.setresgid(person.gid, person.gid, person.gid)
            os.setresuid(person.uid, person.uid, person.uid)
        except OSError as error:
            raise PrivilegeError(f"user: cannot become {person.name}: {error.strerror or error}") from None
    _prove(person)


def _prove(person: Person) -> None:
    """Raises PrivilegeError unless we are this user, wholly and for good."""
    if set(os.getresuid()) != {person.uid}:
        who = _name(os.geteuid())
        raise PrivilegeError(
            f"user: this process is {who} and not {person.name}; start it as root or as {person.name}, "
            "and give twistd no other --uid"
        )
    if person.uid == 0:
        return
    if set(os.getresgid()) != {person.gid}:
        raise PrivilegeError(
            f"group: this process has the groups {sorted(set(os.getresgid()))} and not {person.gid}; "
            "give twistd no other --gid, or set `group`"
        )
    if 0 in os.getgroups() and person.gid != 0 and not _is_member_of_root_group(person):
        raise PrivilegeError(f"user: {person.name} still has the groups of root")
    for regain, arguments in ((os.setuid, (0,)), (os.seteuid, (0,)), (os.setresuid, (0, 0, 0))):
        with contextlib.suppress(PermissionError):
            regain(*arguments)
            raise PrivilegeError(f"user: {person.name} could become root again; this is not safe to run")


@contextlib.contextmanager
def acting_as(person: Person | None) -> Iterator[None]:
    """Inside, files are made and read as this user, with the way back to root open.  None, or not root: as we are.

    The whole process changes, so it is for the time before there are threads.
    """
    if person is None or person.uid == 0 or os.geteuid() != 0:
        yield
        return
    gid, groups = os.getegid(), os.getgroups()
    os.initgroups(person.name, person.gid)
    os.setegid(person.gid)
    os.seteuid(person.uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(gid)
        os.setgroups(groups)


def make_directory_for(person: Person | None, path: Path, disk: IDisk) -> None:
    """Durably make the directory, and what is missing above it, each for this user alone.  Raises OSError.

    Where the user may make it, the user does; root does it only in places that are root's alone.
    """
    if path.is_dir():
        return
    make_directory_for(person, path.parent, disk)
    try:
        with acting_as(person):
            path.mkdir(mode=0o700, exist_ok=True)
    except PermissionError:
        if person is None or not _is_roots(path.parent):
            raise
        path.mkdir(mode=0o700)
        os.chown(path, person.uid, person.gid, follow_symlinks=False)
    disk.fsync_directory(str(path.parent))


def make_file_for(person: Person | None, path: Path) -> None:
    """Make an empty file for this user alone, where there is none; its directory is there.  Raises OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with acting_as(person):
            os.close(os.open(path, flags, 0o600))
    except FileExistsError:
        pass
    except PermissionError:
        if person is None or not _is_roots(path.parent):
            raise
        descriptor = os.open(path, flags, 0o600)
        try:
            os.fchown(descriptor, person.uid, person.gid)
        finally:
            os.close(descriptor)


def _is_roots(directory: Path) -> bool:
    """Whether we are root, and nobody else could have put a link on the way there, or could now."""
    if os.geteuid() != 0:
        return False
    for way in (directory.absolute(), directory.resolve()):
        for place in (way, *way.parents):
            status = place.lstat()
            is_open = status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX
            if status.st_uid != 0 or (is_open and not stat.S_ISLNK(status.st_mode)):
                return False
    return True


def unusable(readable: Iterable[Where] = (), writable: Iterable[Where] = ()) -> list[str]:
    """What this process, as it is now, cannot read or cannot write; one sentence each, with the reason.

    A path that does not exist is judged by the directory that it would be made in.
    """
    problems = []
    for path in readable:
        if (reason := _why_not(Path(path), os.R_OK)) is not None:
            problems.append(reason)
    for path in writable:
        if (reason := _why_not(Path(path), os.R_OK | os.W_OK)) is not None:
            problems.append(reason)
    return problems


def ours() -> tuple[Path, ...]:
    """What a process needs of its own program, also later: the interpreter, its library, Twisted, mailhub."""
    import mailhub
    import twisted

    places = [Path(os.__file__).parent, Path(str(twisted.__file__)).parent, Path(str(mailhub.__file__)).parent]
    return (Path(sys.executable), *places) if sys.executable else tuple(places)


def must_run_here(person: Person | None) -> None:
    """Raises PrivilegeError if this user cannot read the program itself.

    That is asked first of all: once we are that user, Python cannot even load what it needs to say so.
    """
    with acting_as(person):
        problems = unusable(ours())
    if problems:
        raise PrivilegeError("\n".join(problems))


def _why_not(path: Path, access: int) -> str | None:
    path = path.absolute()
    who = _name(os.geteuid())
    for parent in reversed(path.parents):
        if not os.path.lexists(parent):
            break
        if not os.access(parent, os.X_OK, effective_ids=True):
            return f"{path}: user {who} may not enter the directory {parent} (mode {_mode(parent)})"
    if not os.path.exists(path):
        if not access & os.W_OK:
            return f"{path}: does not exist"
        parent = next(parent for parent in path.parents if parent.exists())
        if os.access(parent, os.W_OK | os.X_OK, effective_ids=True):
            return None
        return f"{path}: user {who} may not make it in {parent} (mode {_mode(parent)}): chown {who} {parent}"
    if path.is_dir():
        access |= os.X_OK
    if os.access(path, access, effective_ids=True):
        return None
    what = "write" if os.access(path, os.R_OK, effective_ids=True) else "read"
    return (
        f"{path}: user {who} may not {what} it (mode {_mode(path)}, of {_name(path.stat().st_uid)}): chown {who} {path}"
    )


def _mode(path: Path) -> str:
    try:
        return f"{stat.S_IMODE(path.stat().st_mode):04o}"
    except OSError:
        return "unknown"


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _is_member_of_root_group(person: Person) -> bool:
    try:
        return person.name in grp.getgrgid(0).gr_mem
    except KeyError:
        return False


class Privileges(Service):
    """Drops privileges when the services start, which is after all of them have bound their ports.

    It must be the first child of its parent.  `person` None stays who we are.  `readable` and `writable` are what
    the hub needs to read and write from then on: startService raises PrivilegeError where it cannot.  `reread` is what
    was read as root, and will be again when it changes: there it warns.
    """

    _log = Logger(namespace="mailhub.privileges")

    def __init__(
        self,
        person: Person | None,
        readable: Iterable[Where] = (),
        writable: Iterable[Where] = (),
        reread: Iterable[Where] = (),
    ) -> None:
        self._person = person
        self._readable = tuple(readable)
        self._writable = tuple(writable)
        self._reread = tuple(reread)

    def startService(self) -> None:
        if self._person is not None and os.geteuid() != 0:
            drop(self._person)
        with acting_as(self._person):  # tried first, done then
            problems = unusable((*ours(), *self._readable), self._writable)
            warnings = unusable(self._reread)
        if problems:
            raise PrivilegeError("\n".join(problems))
        if self._person is not None:
            drop(self._person)
            self._log.info("running as user {user}", user=self._person.name)
        elif os.geteuid() == 0:
            self._log.warn("running as root: set `user` in the configuration to somebody who can do less harm")
        for problem in warnings:
            self._log.warn("{problem}; until then its changes are seen at the next start only", problem=problem)
        Service.startService(self)  # type: ignore[no-untyped-call]
