"""Where the mailboxes lie: from an address to its Maildir++ tree, and what is done once when a mailbox is first used.

The rule this file keeps: no path leaves the tree that the template names.  Account names are strict long before they
come here; they are checked again because a path is made of them.  The detail of an address ("lists" in
"alice+lists@example.org") never becomes part of a path at all: it is compared with the names of the folders that exist.
"""

from __future__ import annotations

import contextlib
import os.path
import string
import threading
import unicodedata
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mailhub.store import folder_name, maildir_name

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

    from mailhub.interfaces import IDisk
    from mailhub.model import Address

#: A file in tmp/ that is older was left behind by a delivery that died (the age that Maildir gives to such files).
STALE_SECONDS = 36 * 3600
#: Folders and inboxes known to exist, durably; beyond it the oldest is forgotten and looked at again.
READY_MAX = 10_000
SEGMENT_OCTETS_MAX = 255

TMP = "tmp"
SUBDIRECTORIES = (TMP, "new", "cur")


class Layout:
    """The tree of all mailboxes.

    `template` is a path with `{domain}` and `{local}`, relative to `data_directory` or absolute.  Raises ValueError for
    a template that has other fields, no `{local}`, or segments such as "..".
    """

    def __init__(self, disk: IDisk, clock: IReactorTime, data_directory: str, template: str) -> None:
        fields = {
            (name, spec, conversion)
            for _, name, spec, conversion in string.Formatter().parse(template)
            if name is not None
        }
        if ("local", "", None) not in fields or not fields <= {("local", "", None), ("domain", "", None)}:
            raise ValueError(f"a maildir template has the fields {{domain}} and {{local}} and no others: {template!r}")
        segments = template.strip("/").split("/")
        if any(segment in ("", ".", "..") or "\0" in segment for segment in segments):
            raise ValueError(f"a maildir template is a plain path without empty or dotted segments: {template!r}")
        fixed = next(number for number, segment in enumerate(segments) if "{" in segment)
        if template.startswith("/"):
            self._root = ""
            self._top = "/" + "/".join(segments[:fixed])
        else:
            self._root = (data_directory or ".").rstrip("/")
            self._top = self._root
        self._top = self._top.rstrip("/") or "/"
        self._template = "/".join(segments)
        self._disk = disk
        self._clock = clock
        self._ready: dict[str, None] = {}
        self._ready_lock = threading.Lock()  # for changes; a look needs none

    def home(self, address: Address) -> str:
        """The directory of this mailbox.  Raises ValueError for a name that is not safe in a path."""
        relative = self._template.format(local=_segment(address.local), domain=_segment(address.domain))
        return f"{self._root}/{relative}"

    def relative(self, path: str) -> str:
        """A path inside the store as people are shown it."""
        return path.removeprefix(f"{self._root}/") if self._root else path

    def folder(self, home: str, detail: str | None) -> str:
        """The directory of the folder that `detail` names, where it exists; else the inbox, which is `home` itself.

        The same letters win over the same name in another case.  "/" and "." separate folders, so a detail that has
        one names none (RFC 5233 leaves the meaning of a detail to the site).
        """
        if not detail or "." in detail or "/" in detail:
            return home
        try:
            exact = "." + folder_name.encode(detail)
            names = self._disk.list(home)
        except (ValueError, FileNotFoundError):
            return home
        if exact in names:
            candidates = [exact]
        else:
            wanted = _folded(detail)
            candidates = sorted(name for name in names if name[:1] == "." and _folded_name(name[1:]) == wanted)
        for candidate in candidates:
            with contextlib.suppress(NotADirectoryError):
                if self._disk.size(f"{home}/{candidate}/new") is not None:
                    return f"{home}/{candidate}"
        return home

    def directories(self, home: str) -> Iterator[tuple[str, list[str]]]:
        """Every cur/ and new/ of the mailbox, folders included, each with the names in it.  None for no mailbox.

        new/ is listed before cur/: a message on its way from one to the other is seen at least once.
        """
        try:
            names = self._disk.list(home)
        except FileNotFoundError:
            return
        folders = [home, *(f"{home}/{name}" for name in names if name[:1] == "." and name not in (".", ".."))]
        for folder in folders:
            for directory in (f"{folder}/new", f"{folder}/cur"):
                try:
                    yield directory, list(self._disk.list(directory))
                except (FileNotFoundError, NotADirectoryError):
                    break

    def prepare(self, home: str, folder: str) -> None:
        """See to it that the inbox exists and that folder and inbox are durable; sweep out what crashes left in tmp/.

        Done once for each folder in the life of the process, unless `forget` is called.  Folders are never created.
        """
        if folder in self._ready:
            return
        if folder == home:
            for name in SUBDIRECTORIES:
                self._disk.make_directory(f"{folder}/{name}")
        # What exists may still not be durable: another program, or a process of ours that died, may have made it a
        # moment ago.
        directory = folder
        while True:
            self._disk.fsync_directory(directory)
            if directory == self._top or directory == "/":
                break
            directory = os.path.dirname(directory)
        # The top may be as new.  Where we may not read what it lies in, somebody else has made it.
        with contextlib.suppress(PermissionError):
            self._disk.fsync_directory(os.path.dirname(self._top) or ".")
        self._sweep(f"{folder}/{TMP}")
        with self._ready_lock:
            if len(self._ready) >= READY_MAX:
                del self._ready[next(iter(self._ready))]
            self._ready[folder] = None

    def forget(self, folder: str) -> None:
        """A directory of it turned out to be missing: look again next time."""
        with self._ready_lock:
            self._ready.pop(folder, None)

    def _sweep(self, directory: str) -> None:
        """Names in tmp/ begin with the time at which the file was made; those that do not are not ours to judge."""
        stale = self._clock.seconds() - STALE_SECONDS
        with contextlib.suppress(OSError):
            for name in self._disk.list(directory):
                began_at = maildir_name.seconds_of(name)
                if began_at is not None and began_at < stale:
                    with contextlib.suppress(OSError):
                        self._disk.unlink(f"{directory}/{name}")


def _segment(name: str) -> str:
    """A name as one segment of a path; ValueError for what could be more, or less, than that."""
    if not name or name[0] == "." or "/" in name or ".." in name or not name.isprintable():
        raise ValueError(f"not a safe name for a directory: {name!r}")
    if len(name if name.isascii() else name.encode()) > SEGMENT_OCTETS_MAX:
        raise ValueError(f"too long for the name of a directory: {name[:80]!r}...")
    return name


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _folded_name(directory: str) -> str | None:
    try:
        return _folded(folder_name.decode(directory))
    except ValueError:
        return None
