"""Mailboxes as Maildir++, as Dovecot reads and writes it.

Two rules that this file keeps.

A delivery is reported only when nothing can take it back: the file is written in tmp/ and on disk there, renamed into
new/, and new/ itself is put on disk, since a name is not durable before its directory is.  Any failure before that
leaves nothing in new/, and a failed sync is never tried again: its files are given up.  Many messages are delivered
together, so that two syncs of the file system (or an fsync of each directory) are for all of them.

A message is delivered exactly once for its key, which stands in the file name.  Only a delivery that says it may be a
replay looks for an earlier copy, in every folder: one in cur/, which a reader has seen, is the delivery; one that still
lies in new/ is taken away and delivered afresh, because nobody knows whether its name ever became durable.  What cannot
be found is a copy that its owner deleted, or that an IMAP server gave a new name when it was moved to another folder:
after a crash in just that moment the owner gets a second one.

Line ends in the file are LF, as is the custom in a Maildir; content that cannot be turned back exactly (line_ends)
keeps its CRLF.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from zope.interface import implementer

from mailhub.interfaces import Delivery, IMailboxStore
from mailhub.store import maildir_name
from mailhub.store.line_ends import BareLfCount, ToLf, to_lf
from mailhub.store.maildir_layout import TMP, Layout
from mailhub.store.quota import UsageTable

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

    from mailhub.interfaces import IContent, IDisk, IFile
    from mailhub.model import Mailbox
    from mailhub.store.quota import Usage

#: How much of a large message is in memory at once.
PIECE_OCTETS = 256 * 1024
#: So many files on one file system are put on disk by a sync of all of it; fewer by an fsync each, which costs less
#: then, and does not wait for what others write there.
COMPANY_MIN = 4
#: Names tried in tmp/ for one message: what stands in the way is what a crash left there.
TMP_NAMES_MAX = 100
#: How often a replay searches again because a reader moved the message under our hands.
SEARCHES_MAX = 3

_Found: TypeAlias = tuple[str, str]  # directory, name
_Searches: TypeAlias = dict[str, dict[str, list[_Found]]]  # by mailbox, then by key


class _Attempt:
    """One delivery on its way through the steps.  `file` is open from the first to the last."""

    __slots__ = ("delivery", "file", "final", "folder", "home", "is_named", "octets", "reserved", "tmp", "usage")

    def __init__(self, delivery: Delivery, home: str, folder: str) -> None:
        self.delivery = delivery
        self.home = home
        self.folder = folder
        self.file: IFile | None = None
        self.tmp = ""
        self.final = ""
        self.is_named = False  # whether `final` may exist
        self.octets = 0
        self.reserved = 0
        self.usage: Usage | None = None

    @property
    def opened(self) -> IFile:
        assert self.file is not None
        return self.file


class _Company(NamedTuple):
    """Deliveries by their numbers; with `shares` they lie on one file system, and one sync of it is for all."""

    numbers: tuple[int, ...]
    shares: bool

    def left(self, attempts: _Attempts) -> list[int]:
        """Those that did not fail yet."""
        return [number for number in self.numbers if number in attempts]


_Attempts: TypeAlias = dict[int, _Attempt]
#: A piece of a step, and the deliveries that it is done for, and that fail with it.
_Work: TypeAlias = tuple[list[int], Callable[[], None]]


def _companies(attempts: _Attempts) -> list[_Company]:
    """Who is put on disk with whom."""
    if len(attempts) < COMPANY_MIN:
        return [_Company(tuple(attempts), False)]
    by_system: dict[int | None, list[int]] = {}
    for number, attempt in attempts.items():
        by_system.setdefault(attempt.opened.file_system(), []).append(number)
    return [
        _Company(tuple(numbers), system is not None and len(numbers) >= COMPANY_MIN)
        for system, numbers in by_system.items()
    ]


@implementer(IMailboxStore)
class MaildirStore:
    """Maildirs below `data_directory`, named by `template` (see Layout).  Safe for use by many threads.

    `hostname` becomes part of file names.  Raises ValueError for a template that could leave its tree.
    """

    def __init__(
        self,
        disk: IDisk,
        clock: IReactorTime,
        steady: IReactorTime,
        data_directory: str,
        template: str,
        hostname: str,
    ) -> None:
        self._disk = disk
        self._clock = clock
        self._layout = Layout(disk, clock, data_directory, template)
        self._host = maildir_name.host_part(hostname)
        self._usage = UsageTable(self._count, steady.seconds)

    # --- IMailboxStore -----------------------------------------------------------------------------------------

    def deliver(
        self,
        mailbox: Mailbox,
        key: str,
        received_at: float,
        prefix: bytes,
        content: IContent,
        replay: bool = False,
    ) -> str:
        """One message; see IMailboxStore."""
        result = self.deliver_all([Delivery(mailbox, key, received_at, prefix, content, replay)])[0]
        if isinstance(result, Exception):
            raise result
        return result

    def deliver_all(self, deliveries: Sequence[Delivery]) -> Sequence[str | Exception]:
        """Each step is made for all before the next one begins.  As many files are open as there are deliveries."""
        results: list[str | Exception] = [""] * len(deliveries)
        attempts: dict[int, _Attempt] = {}
        searches: _Searches = {}
        wanted = frozenset(delivery.key for delivery in deliveries if delivery.replay)
        for number, delivery in enumerate(deliveries):
            try:
                outcome = self._write(delivery, searches, wanted)
            except Exception as error:
                results[number] = error
            else:
                if isinstance(outcome, _Attempt):
                    attempts[number] = outcome
                else:
                    results[number] = outcome
        companies = _companies(attempts)
        for step in (self._sync_contents, self._rename_all, self._sync_names):
            for company in companies:
                for numbers, work in step(attempts, company):
                    try:
                        work()
                    except Exception as error:
                        for number in numbers:
                            results[number] = error
                            self._give_up(attempts.pop(number))
        for number, attempt in attempts.items():
            attempt.opened.close()
            if attempt.usage is not None:
                self._usage.settle(attempt.usage, attempt.reserved, attempt.octets)
            else:
                self._usage.note(attempt.home, attempt.octets)
            results[number] = self._layout.relative(attempt.final)
        return results

    def usage(self, mailbox: Mailbox) -> int:
        """All messages in all folders, Trash too; at most half a minute old (quota).  Raises OSError, ValueError."""
        return self._usage.octets(self._layout.home(mailbox.address), mailbox.quota_octets)

    # --- the steps ---------------------------------------------------------------------------------------------

    def _write(self, delivery: Delivery, searches: _Searches, wanted: frozenset[str]) -> _Attempt | str:
        """A complete file in tmp/, still open; or the path of the copy that an earlier attempt has left."""
        maildir_name.checked_key(delivery.key)
        home = self._layout.home(delivery.mailbox.address)
        if delivery.replay:
            earlier = self._earlier(home, delivery.key, searches, wanted)
            if earlier is not None:
                return self._layout.relative(earlier)
        attempt = _Attempt(delivery, home, self._layout.folder(home, delivery.mailbox.detail))
        quota_octets = delivery.mailbox.quota_octets
        if quota_octets is not None:
            reserved = len(delivery.prefix) + delivery.content.size
            attempt.usage = self._usage.reserve(home, reserved, quota_octets)
            attempt.reserved = reserved
        try:
            whole = delivery.content.whole()
            if whole is not None:
                self._write_whole(attempt, delivery.prefix + whole)
            else:
                self._write_pieces(attempt)
        except BaseException:
            self._give_up(attempt)
            raise
        return attempt

    def _write_whole(self, attempt: _Attempt, message: bytes) -> None:
        octets = to_lf(message)
        if octets is None:
            octets = message
            bare = BareLfCount()
            bare.count(message)
            octets_with_crlf = len(message) + bare.octets
        else:
            octets_with_crlf = len(message)
        self._create(attempt).write(octets)
        self._name(attempt, len(octets), octets_with_crlf)

    def _write_pieces(self, attempt: _Attempt) -> None:
        """Convert while reading; if that turns out to be impossible, begin again with the octets as they are."""
        if not self._write_converted(attempt):
            self._drop_file(attempt)
            self._write_verbatim(attempt)

    def _write_converted(self, attempt: _Attempt) -> bool:
        lines = ToLf()
        read = written = 0
        file = self._create(attempt)

        def write(piece: bytes) -> bool:
            nonlocal read, written
            read += len(piece)
            converted = lines.convert(piece)
            if converted is None:
                return False
            written += len(converted)
            file.write(converted)
            return True

        if not (write(attempt.delivery.prefix) and _each_piece(attempt.delivery.content, write) and lines.is_clean):
            return False
        self._name(attempt, written, read)
        return True

    def _write_verbatim(self, attempt: _Attempt) -> None:
        bare = BareLfCount()
        octets = 0
        file = self._create(attempt)

        def write(piece: bytes) -> bool:
            nonlocal octets
            octets += len(piece)
            bare.count(piece)
            file.write(piece)
            return True

        write(attempt.delivery.prefix)
        _each_piece(attempt.delivery.content, write)
        self._name(attempt, octets, octets + bare.octets)

    def _name(self, attempt: _Attempt, octets: int, octets_with_crlf: int) -> None:
        delivery = attempt.delivery
        attempt.octets = octets
        name = maildir_name.compose(delivery.received_at, delivery.key, self._host, octets, octets_with_crlf)
        attempt.final = f"{attempt.folder}/new/{name}"

    def _create(self, attempt: _Attempt) -> IFile:
        """A new file in tmp/.  A folder that has just vanished gives way to the inbox; an inbox is made again."""
        try:
            attempt.file = self._create_in(attempt)
        except (FileNotFoundError, NotADirectoryError):
            self._layout.forget(attempt.folder)
            attempt.folder = attempt.home
            self._layout.forget(attempt.home)
            attempt.file = self._create_in(attempt)
        return attempt.file

    def _create_in(self, attempt: _Attempt) -> IFile:
        self._layout.prepare(attempt.home, attempt.folder)
        stem = f"{attempt.folder}/{TMP}/{int(self._clock.seconds())}.Q{attempt.delivery.key}"
        for number in range(TMP_NAMES_MAX):
            path = f"{stem}.{number}" if number else stem
            try:
                file = self._disk.create(path, 0o600)
            except FileExistsError:
                continue
            attempt.tmp = path
            return file
        raise FileExistsError(f"{TMP_NAMES_MAX} files like {stem} lie in the way")

    def _sync_contents(self, attempts: _Attempts, company: _Company) -> Iterator[_Work]:
        numbers = company.left(attempts)
        if company.shares and numbers:
            # The file of the first: it was open before any of the others was written.
            yield numbers, attempts[numbers[0]].opened.sync_file_system
        else:
            for number in numbers:
                yield [number], attempts[number].opened.fsync

    def _rename_all(self, attempts: _Attempts, company: _Company) -> Iterator[_Work]:
        for number in company.left(attempts):
            yield [number], partial(self._rename, attempts[number])

    def _rename(self, attempt: _Attempt) -> None:
        attempt.is_named = True
        try:
            self._disk.rename(attempt.tmp, attempt.final)
        except FileNotFoundError:
            self._layout.forget(attempt.folder)
            raise
        attempt.tmp = ""

    def _sync_names(self, attempts: _Attempts, company: _Company) -> Iterator[_Work]:
        numbers = company.left(attempts)
        if company.shares and numbers:
            yield numbers, attempts[numbers[0]].opened.sync_file_system
            return
        directories: dict[str, list[int]] = {}
        for number in numbers:
            directories.setdefault(f"{attempts[number].folder}/new", []).append(number)
        for directory, inside in directories.items():
            yield inside, partial(self._disk.fsync_directory, directory)

    def _give_up(self, attempt: _Attempt) -> None:
        """Leave nothing behind, in tmp/ or new/, whatever state the attempt is in."""
        self._drop_file(attempt)
        if attempt.is_named:
            with contextlib.suppress(OSError):
                self._disk.unlink(attempt.final)
        if attempt.usage is not None:
            self._usage.settle(attempt.usage, attempt.reserved, 0)
            attempt.usage = None

    def _drop_file(self, attempt: _Attempt) -> None:
        if attempt.file is not None:
            with contextlib.suppress(OSError):
                attempt.file.close()
            attempt.file = None
        if attempt.tmp:
            with contextlib.suppress(OSError):
                self._disk.unlink(attempt.tmp)
            attempt.tmp = ""

    # --- replays -----------------------------------------------------------------------------------------------

    def _earlier(self, home: str, key: str, searches: _Searches, wanted: frozenset[str]) -> str | None:
        """The path of the copy that an earlier attempt has left and its owner has seen, durable; else None.

        Each mailbox is listed once for all replays of a batch, and again only if a copy moved in between.
        """
        found = searches.get(home)
        if found is None:
            found = searches[home] = self._search(home, wanted)
        for _ in range(SEARCHES_MAX):
            has_moved = False
            for directory, name in found.get(key, ()):
                if directory.endswith("/cur"):
                    self._disk.fsync_directory(directory)
                    return f"{directory}/{name}"
                try:
                    self._disk.unlink(f"{directory}/{name}")
                except FileNotFoundError:
                    has_moved = True
                else:
                    self._usage.note(home, -(maildir_name.octets_of(name) or 0))
            if not has_moved:
                return None
            found = self._search(home, frozenset((key,)))
        raise OSError(errno.EAGAIN, "an earlier copy is being moved about", home)

    def _search(self, home: str, wanted: frozenset[str]) -> dict[str, list[_Found]]:
        """Where the copies with these keys lie, those in cur/ first."""
        found: dict[str, list[_Found]] = {}
        for directory, names in self._layout.directories(home):
            for name in names:
                key = maildir_name.key_of(name)
                if key in wanted:
                    found.setdefault(key, []).append((directory, name))
        for places in found.values():
            places.sort(key=lambda place: not place[0].endswith("/cur"))
        return found

    # --- counting ----------------------------------------------------------------------------------------------

    def _count(self, home: str) -> int:
        octets = 0
        for directory, names in self._layout.directories(home):
            for name in names:
                size = maildir_name.octets_of(name)
                if size is None and name[:1] != ".":
                    size = self._disk.size(f"{directory}/{name}")
                octets += size or 0
        return octets


def _each_piece(content: IContent, write: Callable[[bytes], bool]) -> bool:
    """Give the whole content to `write`, in pieces, until it says False.  OSError when the content is cut short."""
    file = content.open()
    try:
        octets = 0
        while piece := file.read(PIECE_OCTETS):
            octets += len(piece)
            if not write(piece):
                return False
    finally:
        file.close()
    if octets != content.size:
        raise OSError(errno.EIO, f"{octets} octets of content where {content.size} were promised")
    return True
