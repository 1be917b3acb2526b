"""What the client was told, against what lies in the mailboxes.

The rule: the ledger is kept by the sender alone.  It knows each message by a number in its first header field and by
the SHA-256 of its octets, and takes nothing from the hub but the replies.  A message is lost when a 250 was said for it
and a mailbox of it has no copy; damaged when a copy has other octets; duplicated when there is more than one copy.
"""

from __future__ import annotations

import hashlib
import random
import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, fields

FIELD = b"X-Ledger: "
#: Octets of a message, with how often each size is chosen: what lives in a row of the queue, and what lives in a file.
SIZES = {300: 10, 4_000: 50, 40_000: 10, 300_000: 4}
LINE_OCTETS = 76


@dataclass(frozen=True)
class Message:
    """One message to send, its content as it goes over the wire before dot-stuffing."""

    number: int
    recipients: tuple[str, ...]
    octets: bytes

    @classmethod
    def make(cls, number: int, mailboxes: tuple[str, ...], seed: int, size: int = 0) -> Message:
        """The same one for the same number and seed.  For all of `mailboxes` if it has a size, else also for one."""
        chance = random.Random(f"{seed}/{number}")
        recipients = (chance.choice(mailboxes),) if not size and chance.random() < 0.8 else mailboxes
        size = size or chance.choices(tuple(SIZES), tuple(SIZES.values()))[0]
        letters = chance.randbytes(size // 2).hex()
        lines = [letters[start : start + LINE_OCTETS] for start in range(0, len(letters), LINE_OCTETS)]
        body = "\r\n".join(lines).encode()
        header = FIELD + b"%d\r\nMessage-ID: <%d@client.example>\r\n\r\n" % (number, number)
        return cls(number, recipients, header + body + b"\r\n")


@dataclass
class Findings:
    """Counts of (message, mailbox) pairs, but for `sent`; `refused` were answered 4yz, `rejected` 5yz."""

    sent: int = 0
    acknowledged: int = 0
    refused: int = 0
    rejected: int = 0
    unanswered: int = 0
    lost: int = 0
    damaged: int = 0
    duplicates: int = 0
    #: Refused and kept all the same: the client sends it again, and so makes a duplicate.
    refused_and_kept: int = 0
    #: A queue that was found corrupt, or a message that could not be read.
    corrupt: int = 0
    details: list[str] = field(default_factory=list)

    def add(self, other: Findings) -> None:
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))

    @property
    def are_clean(self) -> bool:
        return not (self.lost or self.damaged or self.corrupt or self.rejected)


def digest(octets: bytes) -> bytes:
    return hashlib.sha256(octets).digest()


def read_copy(octets: bytes) -> tuple[int, bytes] | None:
    """From a file in a mailbox: the number, and the digest of what was sent.  None for what has no number."""
    start = 0 if octets.startswith(FIELD) else octets.find(b"\n" + FIELD) + 1
    if not octets.startswith(FIELD, start):
        return None
    content = octets[start:]
    number = content[len(FIELD) :].partition(b"\n")[0].strip()
    if not number.isdigit():
        return None
    return int(number), digest(content if b"\r\n" in content else content.replace(b"\n", b"\r\n"))


class Ledger:
    """Safe for use by the threads of many sessions."""

    def __init__(self, mailboxes: tuple[str, ...], seed: int) -> None:
        self._mailboxes = mailboxes
        self._seed = seed
        self._lock = threading.Lock()
        self._number = 0
        self._open: dict[int, tuple[tuple[str, ...], bytes]] = {}  # not settled: its mailboxes, its digest
        self._codes: dict[int, int] = {}  # the replies to the end of content, 0 for none
        self._settled: set[tuple[str, int]] = set()  # seen in a mailbox whose queue was empty
        self.replies = 0
        #: While it is, whatever is answered counts as no answer.
        self.is_deaf = False

    def next(self, mailboxes: tuple[str, ...] = (), size: int = 0) -> Message:
        """Something to send: to some of the ledger's mailboxes, or to all of these."""
        with self._lock:
            self._number += 1
            number = self._number
        message = Message.make(number, mailboxes or self._mailboxes, self._seed, size)
        with self._lock:
            self._open[number] = (message.recipients, digest(message.octets))
            self._codes[number] = 0
        return message

    def answered(self, message: Message, code: int) -> None:
        """The reply to the end of its content, or to a command before it."""
        with self._lock:
            self._codes[message.number] = 0 if self.is_deaf else code
            self.replies += 1

    def settle(self, copies: Iterable[tuple[str, bytes]]) -> Findings:
        """Compare all that is not settled with all copies, as (mailbox, octets of the file), and begin a new page.

        The queue must be empty, no session under way, and the copies must not be shown again.
        """
        findings = Findings()
        seen: Counter[tuple[str, int]] = Counter()
        for mailbox, octets in copies:
            copy = read_copy(octets)
            if copy is None:
                findings.damaged += 1
                findings.details.append(f"a file of {len(octets)} octets in {mailbox} has no number")
                continue
            number, found = copy
            recipients, sent = self._open.get(number, ((), b""))
            if (mailbox, number) in self._settled:
                findings.duplicates += 1  # it had left the queue before
            elif mailbox not in recipients:
                findings.damaged += 1
                findings.details.append(f"message {number} was never sent to {mailbox}")
            else:
                seen[mailbox, number] += 1
                if sent != found:
                    findings.damaged += 1
                    findings.details.append(f"message {number} in {mailbox}: {len(octets)} octets, other than sent")
        for number, (recipients, _) in self._open.items():
            code = self._codes[number]
            findings.sent += 1
            for mailbox in recipients:
                copies_found = seen[mailbox, number]
                self._judge(findings, number, mailbox, code, copies_found)
                if copies_found:
                    self._settled.add((mailbox, number))
        self._open.clear()
        self._codes.clear()
        return findings

    @staticmethod
    def _judge(findings: Findings, number: int, mailbox: str, code: int, copies: int) -> None:
        findings.duplicates += max(0, copies - 1)
        match code // 100:
            case 2:
                findings.acknowledged += 1
                if not copies:
                    findings.lost += 1
                    findings.details.append(f"message {number} to {mailbox} was acknowledged and is lost")
            case 0:
                findings.unanswered += 1
            case 4:
                findings.refused += 1
                findings.refused_and_kept += bool(copies)
            case _:
                findings.rejected += 1
                findings.details.append(f"message {number} to {mailbox} was answered {code}")
