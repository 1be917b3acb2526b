"""How full the mailboxes are, remembered for a short while.

Other programs (Dovecot above all) add and remove messages without telling us, so only the directories know the truth;
but counting a large mailbox for each message would cost more than the message.  Counts are therefore kept in memory,
our own deliveries are added as they happen, and the rule is: no count older than `fresh_seconds` is believed, and
none older than `doubt_seconds` when it would turn mail away.  One mailbox is thus counted at most once in
`doubt_seconds`, and whoever makes room gets mail again within that time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from mailhub.interfaces import MailboxFull

FRESH_SECONDS = 30.0
DOUBT_SECONDS = 5.0
#: Mailboxes whose count is remembered; beyond it the oldest entry is forgotten and counted again when asked.
MAILBOXES_MAX = 10_000


class Usage:
    """One mailbox's count.  Changed by UsageTable alone, under its lock."""

    __slots__ = ("counted", "counted_at", "pending", "settled")

    def __init__(self) -> None:
        self.counted = 0  # octets in the directories when they were last listed, and what came since
        self.counted_at = float("-inf")
        self.pending = 0  # octets of deliveries under way
        self.settled = 0  # octets of all deliveries that ended well, for ever


class UsageTable:
    """Counts by mailbox, safe for threads.  `scan(home)` gives the octets in a mailbox by listing it."""

    def __init__(
        self,
        scan: Callable[[str], int],
        seconds: Callable[[], float],
        fresh_seconds: float = FRESH_SECONDS,
        doubt_seconds: float = DOUBT_SECONDS,
        mailboxes_max: int = MAILBOXES_MAX,
    ) -> None:
        self._scan = scan
        self._seconds = seconds
        self._fresh_seconds = fresh_seconds
        self._doubt_seconds = doubt_seconds
        self._mailboxes_max = mailboxes_max
        self._table: dict[str, Usage] = {}
        self._lock = threading.Lock()

    def octets(self, home: str, quota_octets: int | None) -> int:
        """What counts against the quota now, deliveries under way included.  Raises OSError."""
        usage = self._current(home, quota_octets, 1)
        return usage.counted + usage.pending

    def reserve(self, home: str, octets: int, quota_octets: int) -> Usage:
        """Keep room for one message until `settle`.  Raises MailboxFull or OSError, and then nothing is kept."""
        usage = self._current(home, quota_octets, octets)
        with self._lock:
            if usage.counted + usage.pending + octets > quota_octets:
                raise MailboxFull(f"{usage.counted + usage.pending} of {quota_octets} octets used, {octets} wanted")
            usage.pending += octets
        return usage

    def settle(self, usage: Usage, reserved: int, stored: int) -> None:
        """The delivery has ended: `stored` octets lie in the mailbox, 0 if it failed."""
        with self._lock:
            usage.pending -= reserved
            usage.counted += stored
            usage.settled += stored

    def note(self, home: str, octets: int) -> None:
        """So many octets came without a reservation, or went if negative."""
        usage = self._table.get(home)
        if usage is not None:
            self.settle(usage, 0, octets)

    def _current(self, home: str, quota_octets: int | None, wanted: int) -> Usage:
        with self._lock:
            usage = self._table.get(home)
            if usage is None:
                if len(self._table) >= self._mailboxes_max:
                    del self._table[next(iter(self._table))]
                usage = self._table[home] = Usage()
            now = self._seconds()
            age = now - usage.counted_at
            is_tight = quota_octets is not None and usage.counted + usage.pending + wanted > quota_octets
            if age <= self._fresh_seconds and not (is_tight and age > self._doubt_seconds):
                return usage
            settled_before = usage.settled
        counted = self._scan(home)
        with self._lock:
            # What was settled during the scan may or may not have been seen by it: rather count it twice, until the
            # next scan, than let the mailbox overflow.
            usage.counted = counted + usage.settled - settled_before
            usage.counted_at = now
        return usage
