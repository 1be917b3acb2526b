"""Every seam of mailhub: one narrow interface per reason to substitute something.

Whatever stands behind one of these can be replaced by a plugin, by another engine, or by the simulated world of
`mailhub.testing`.  Methods marked "blocking" are called in the executor's threads, never on the reactor's.  What
gives an Awaitable may be a coroutine function, or give a Deferred, which costs less where every message passes; it may
raise at once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from zope.interface import Attribute, Interface

if TYPE_CHECKING:
    from mailhub.model import (
        Account,
        Address,
        Envelope,
        ForwardPath,
        Mailbox,
        Outcome,
        Recipient,
        Route,
        ScramVerifier,
        Session,
        Transaction,
    )
    from mailhub.model.dns import Answer
    from mailhub.model.opinion import Opinion
    from mailhub.model.selection import Selection

Value = TypeVar("Value")


# --- the world ---------------------------------------------------------------------------------------------------


class IExecutor(Interface):
    """Where blocking work is done.  Real: a bounded pool of threads.  Simulated: at once, at a virtual time."""

    def run(function: Callable[..., Value], *arguments: object) -> Awaitable[Value]:
        """Call `function(*arguments)` off the reactor's thread; the awaitable gives its result or raises its error."""


class IWorkers(IExecutor):
    """An IExecutor with a life of its own.  What is asked of it before the start is done after it."""

    def start() -> None:
        """Begin to work."""

    def stop() -> None:
        """Finish what was asked for; ask for nothing more."""


class ISiblings(Interface):
    """The other worker processes of this hub, if it has several.

    What they are told makes them know sooner what matters to all: it may be lost when a worker dies or is slow, and so
    nothing may depend on it that must not be lost.
    """

    def tell(topic: str, news: Sequence[object]) -> None:
        """Have every sibling hear this, in a moment and in the order of telling.  `news` are values of JSON."""

    def hear(topic: str, heard: Callable[[Sequence[object]], None]) -> None:
        """Have `heard` called with what siblings tell of this topic."""


class IFile(Interface):
    """A file opened by IDisk.  Every method is blocking and raises OSError."""

    def write(octets: bytes) -> None:
        """Append all of `octets`."""

    def read(octets_max: int) -> bytes:
        """At most so many octets from where the last read ended; empty at the end."""

    def fsync() -> None:
        """Put data and metadata of this file on disk.  After an error the file's state is unknown: give it up."""

    def file_system() -> int | None:
        """A number for the file system that the file lies on; None where `sync_file_system` cannot be relied on."""

    def sync_file_system() -> None:
        """Put on disk all that was written to the file's file system since the file was opened: the contents and the
        names of this file and of all others there.  After an error the state of all of them is unknown."""

    def close() -> None:
        """Close without fsync.  Closing twice is harmless."""


class IDisk(Interface):
    """The only way to the file system for what must survive a crash.  Every method is blocking and raises OSError.

    A new name is durable only after fsync_directory of its directory: atomic is not durable.
    """

    def create(path: str, mode: int = 0o600) -> IFile:
        """A new file for writing; FileExistsError if the name is taken."""

    def open(path: str) -> IFile:
        """An existing file for reading; FileNotFoundError if there is none."""

    def rename(old: str, new: str) -> None:
        """Atomically, replacing `new` if it exists."""

    def link(old: str, new: str) -> None:
        """A second name for the same file; FileExistsError if the name is taken."""

    def unlink(path: str) -> None:
        """Remove the name; FileNotFoundError if there is none."""

    def list(path: str) -> Sequence[str]:
        """The names in a directory, without order; FileNotFoundError if there is none."""

    def size(path: str) -> int | None:
        """The octets of the file, or None where there is no such name."""

    def make_directory(path: str, mode: int = 0o700) -> None:
        """Create it and its missing parents, each durable in its parent.  An existing one is left as it is."""

    def fsync_directory(path: str) -> None:
        """Make the names in this directory durable."""

    def free_octets(path: str) -> int:
        """What an unprivileged user may still write to the file system of `path`."""


# --- accounts ----------------------------------------------------------------------------------------------------


class IAccounts(Interface):
    """Who has a mailbox here, what is an alias, and who can prove to be whom."""

    def hosts(domain: str) -> bool:
        """Whether we are the final destination for this domain (lower case, A-labels)."""

    async def find(address: Address) -> Account | None:
        """The mailbox or alias behind an address of a hosted domain; None if there is nobody.

        Local parts are compared without regard to case; what follows the first "+" is a detail unless the whole local
        part is an account or alias itself (RFC 5233).  A catch-all answers last.  Targets of an alias are not resolved.
        """

    async def authenticate(login: str, password: str) -> str | None:
        """The canonical login if this password proves it, else None.  As slow for an unknown login as for a known one.

        Raises AccountsUnavailable when it cannot be known now.
        """

    async def scram_verifier(login: str) -> tuple[str | None, ScramVerifier]:
        """The canonical login and its verifier for SCRAM-SHA-256 (RFC 7677).

        For a login that is unknown or has none: None, and a fake verifier that is the same at each call, so that
        nobody can tell the difference.  Raises AccountsUnavailable when it cannot be known now.
        """


class AccountsUnavailable(Exception):
    """The accounts cannot be asked now; the client gets 454 4.7.0 or 451 4.3.0."""


# --- the spool ---------------------------------------------------------------------------------------------------


class SpoolError(Exception):
    """The spool could not do it, and nothing is half done.  The client gets 451 4.3.0."""


class SpoolFull(SpoolError):
    """No room (ENOSPC, EDQUOT, or less free than the reserve).  The client gets 452 4.3.1."""


class IContent(Interface):
    """The octets of one message as received, verbatim.  May be read by several readers, one after the other."""

    size: int = Attribute("Octets in all.")

    def whole() -> bytes | None:
        """The octets, if they are small enough to be in memory already; else None, and open() must be used."""

    def open() -> IFile:
        """A reader from the first octet.  Blocking; raises OSError."""


class IDraft(Interface):
    """A message that is arriving.  Until commit has succeeded, nothing of it survives a crash or a discard.

    Call it from the reactor's thread.  Whoever opened it must commit or discard it.
    """

    queue_id: str = Attribute("Unique for ever, safe in file names: lower-case letters and digits.")
    size: int = Attribute("Octets written so far.")

    def write(octets: bytes) -> None:
        """Append to the content.  Raises SpoolFull or SpoolError; the draft must then be discarded."""

    def content() -> IContent:
        """What was written, for content policies; valid until commit or discard."""

    def commit(envelope: Envelope) -> Awaitable[None]:
        """Make it durable; only then return.  `envelope` bears our queue_id; its size is set by the spool.

        Raises SpoolFull or SpoolError, and then nothing is queued.  A failed fsync is never tried again.
        """

    def discard() -> None:
        """Forget it and leave nothing behind.  Harmless after commit and when repeated."""


class IClaim(Interface):
    """Recipients of one message that are due, reserved for the caller until settled or the process ends."""

    envelope: Envelope = Attribute("As queued; its recipients are all of the message's.")
    recipients: Sequence[Recipient] = Attribute("Those that are due.")
    content: IContent = Attribute("The message as received.")


class Quarantined(NamedTuple):
    """A message that could not be read: `since` when (seconds since the epoch), and the cause."""

    queue_id: str
    since: float
    cause: str


class ISpool(Interface):
    """The durable queue.  What it has said yes to survives a power cut.

    Claims live in memory only: after a restart every recipient that is not final is due again by its schedule.
    """

    async def open() -> None:
        """Open or create the store, repair what a crash left, sweep out files that no message names.

        Raises SpoolError.  What cannot be read is set aside and reported, never deleted.
        """

    async def close() -> None:
        """Finish the commits under way and close."""

    def draft() -> IDraft:
        """Begin a message.  Raises SpoolFull when less is free than the reserve, SpoolError otherwise."""

    def room(octets: int) -> bool:
        """Whether a message of so many octets may be begun: free space above the reserve.  Cached for a second."""

    def on_ready(callback: Callable[[], None]) -> None:
        """Have `callback()` called on the reactor's thread whenever a commit or release makes recipients due."""

    async def claim(now: float, limit: int) -> Sequence[IClaim]:
        """At most `limit` messages with recipients that are due at `now`, oldest due first, none that is claimed."""

    def record(queue_id: str, recipients: Sequence[Recipient]) -> Awaitable[None]:
        """Durably replace these recipients' rows (matched by address) and end their claim.

        When all recipients of the message are final, the message and its content are removed.
        """

    async def next_due_at() -> float | None:
        """When the next unclaimed recipient is due (seconds since the epoch), or None."""

    async def find(queue_id: str) -> Envelope | None:
        """The message as it stands now, or None if it is not in the queue."""

    async def list(limit: int, after: str = "") -> Sequence[Envelope]:
        """At most `limit` messages in the order of their queue ids, beginning behind `after`."""

    # For whoever sees and steers the queue.

    async def select(selection: Selection, limit: int, after: str = "") -> Sequence[Envelope]:
        """As `list`, of those messages that are meant."""

    async def content_of(queue_id: str) -> IContent | None:
        """The content of a message, claimed or not; None if it is not in the queue.  Raises SpoolError."""

    async def reserve(queue_ids: Sequence[str]) -> Sequence[Envelope]:
        """Claim these messages, due or not and held or not, for the caller: nobody else gets them meanwhile.

        Those that are claimed already and those that are not in the queue are left out.  A reservation ends when all
        recipients that are not final were recorded, or with `relinquish`.
        """

    def relinquish(queue_id: str) -> None:
        """End one's own reservation; what was not recorded is as it was."""

    def is_claimed(queue_id: str) -> bool:
        """Whether somebody has claimed this message now: it is being delivered, or steered."""

    async def quarantined(limit: int, queue_ids: Sequence[str] = ()) -> Sequence[Quarantined]:
        """At most `limit` messages that are set aside since they could not be read, in the order of their queue ids: of
        these, or of all.  No other method knows of them."""

    async def readmit(queue_id: str) -> Envelope:
        """Read a message in quarantine again, and if that succeeds now, put it back into the queue, durably.  Raises
        SpoolError with the cause if it does not."""


# --- delivery ----------------------------------------------------------------------------------------------------


class IRouter(Interface):
    def route(envelope: Envelope, recipient: Recipient) -> Awaitable[Route]:
        """Where this recipient's copy goes next (RFC 5321 section 5)."""


class IDeliverer(Interface):
    """Carries one message one hop further."""

    def deliver(
        envelope: Envelope, recipients: Sequence[tuple[Recipient, Route]], content: IContent
    ) -> Awaitable[Mapping[Address, Outcome]]:
        """Try once.  One outcome per recipient address; Delivered only when the next hop, or the disk, has it durably.

        Never raises for what the other side does; an exception is a bug, and defers all.
        """


class Delivery(NamedTuple):
    """One message for one mailbox.  `key` is letters and digits; `prefix` and content have CRLF line ends.

    `replay` says that a message with this key may lie in the mailbox already: an earlier attempt was made, or may
    have been made before a restart.  Only then is the mailbox searched for it.
    """

    mailbox: Mailbox
    key: str
    received_at: float
    prefix: bytes
    content: IContent
    replay: bool = False


class IMailboxStore(Interface):
    """The mailboxes, for MDA, POP3 and IMAP.  Every method is blocking."""

    def deliver(
        mailbox: Mailbox, key: str, received_at: float, prefix: bytes, content: IContent, replay: bool = False
    ) -> str:
        """Store one message durably (file and directory on disk) and give back its path, relative to the store.

        Exactly once for each `key`: if a message with this key was delivered before, its path is given back.
        Goes to the folder named by the mailbox's detail where that folder exists, else to the inbox.
        Raises MailboxFull or OSError; ValueError for a mailbox or key whose name is not safe in a path.
        """

    def deliver_all(deliveries: Sequence[Delivery]) -> Sequence[str | Exception]:
        """`deliver` for many at the cost of few: the path or the error of each, in order.  An error is of one alone."""

    def usage(mailbox: Mailbox) -> int:
        """The octets that count against the quota."""


class MailboxFull(Exception):
    """The message would exceed the mailbox's quota: 452 4.2.2."""


# --- names -------------------------------------------------------------------------------------------------------


class IResolver(Interface):
    """DNS.  Each answer says whether DNSSEC authenticated it (the AD bit of a trusted resolver).

    NXDOMAIN and "no data" are answers with no records.  SERVFAIL, time-out and garbage raise ResolutionDeferred:
    they are never a negative answer.
    """

    async def mx(domain: str) -> Answer:
        """Records are (preference, host)."""

    async def addresses(host: str) -> Answer:
        """Records are IP addresses as text, IPv6 first."""

    async def txt(name: str) -> Answer:
        """Records are whole strings, as bytes."""

    async def ptr(ip: str) -> Answer:
        """Records are host names; not yet confirmed by a forward look-up."""

    async def tlsa(name: str) -> Answer:
        """Records are (usage, selector, matching type, association data)."""


class ResolutionDeferred(Exception):
    """DNS could not say now; whoever asked must come back later."""


class IPeerNames(Interface):
    """What the DNS calls our clients, for history."""

    def look_up(ip: str, told: Callable[[Mapping[str, object]], None]) -> None:
        """Have `told` called with facts (`ptr`, `ptr_confirmed`, or `ptr_cause` if there is no name): at once if they
        are known, else later; never for addresses that have no name.  Raises nothing."""


# --- opinions ----------------------------------------------------------------------------------------------------


class IConnectionPolicy(Interface):
    async def judge_connection(session: Session) -> Opinion:
        """Before the banner."""


class IHelloPolicy(Interface):
    async def judge_hello(session: Session) -> Opinion:
        """At EHLO, HELO or LHLO; `session.hello` is what the client now says."""


class ISenderPolicy(Interface):
    async def judge_sender(transaction: Transaction) -> Opinion:
        """At MAIL.  Silence lets the sender pass."""


class IRecipientPolicy(Interface):
    async def judge_recipient(transaction: Transaction, recipient: ForwardPath) -> Opinion:
        """At RCPT.  Silence of all policies refuses the recipient."""


class IContentPolicy(Interface):
    async def judge_content(transaction: Transaction, message: IMessage) -> Opinion:
        """After the end of the content, before it is made durable.  Silence lets it pass."""


class IMessage(Interface):
    """What a content policy sees."""

    queue_id: str = Attribute("The id that it will have in the queue.")
    header: bytes = Attribute("The header section as received, or its first 100 KiB; CRLF line ends.")
    content: IContent = Attribute("All of it.")

    def fields(name: str) -> Sequence[str]:
        """The unfolded bodies of all header fields of that name, in order; undecodable octets replaced."""


class IRoutePolicy(Interface):
    async def choose_route(envelope: Envelope, recipient: Recipient) -> Route | None:
        """Another route than the router's, or None."""


class IOutcomeObserver(Interface):
    def observe_outcome(envelope: Envelope, recipient: Recipient, outcome: Outcome) -> None:
        """Told after the outcome is recorded.  Errors are logged and change nothing."""


# --- telling and remembering -------------------------------------------------------------------------------------


class IHistory(Interface):
    def record(kind: str, session_id: str = "", queue_id: str = "", **facts: object) -> None:
        """Remember one step in a message's life.  Never blocks, never raises, never gets credentials or content."""


class IKeyValueStore(Interface):
    """A small durable memory for policies: bounded, and durable within seconds, not at once."""

    def get(key: str) -> bytes | None:
        """What was put, unless it has expired."""

    def put(key: str, value: bytes, seconds: float) -> None:
        """Keep `value` under `key` for so many seconds."""

    def delete(key: str) -> None:
        """Forget it; harmless if there is nothing."""

    def increment(key: str, by: int, seconds: float) -> int:
        """Add to a counter and give back its new value.  It expires so many seconds after its first increment."""

    def keys(prefix: str = "") -> Iterable[str]:
        """The keys that begin so and have not expired."""
