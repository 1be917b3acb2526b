"""What an event can be asked by: its words, and the numbers that stand for them in an index.

A word is a queue id, a session id, an address, a Message-ID, a login, or the name or IP address of a host, in lower
case and without angle brackets.  Events that are recorded and events that are read back have the same words: whoever
asks finds what whoever wrote has noted.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from sys import byteorder
from typing import TYPE_CHECKING
from zlib import crc32

from mailhub.model import Address

if TYPE_CHECKING:
    from mailhub.history.line import Asked, Event

#: The facts whose values are words; a value may also be a list of them.
ASKED = frozenset(
    {
        "address",
        "host",
        "login",
        "message_id",
        "notification",
        "original",
        "peer",
        "ptr",
        "recipient",
        "recipients",
        "reverse_path",
    }
)
#: Kinds of events that say no to a client.
REFUSALS = frozenset({"refused", "login_refused"})
#: The word of all of them; nothing that comes from outside is like it, for a word has no blank.
A_REFUSAL = "a refusal"
#: The kind of an event that says how many were lost, and its word.
GAP = "history_gap"
A_GAP = "a gap"
_BY_KIND = {**dict.fromkeys(REFUSALS, A_REFUSAL), GAP: A_GAP}
#: Octets of one number in an index.
NUMBER_OCTETS = 4
_NUMBER = next(code for code in "IL" if array(code).itemsize == NUMBER_OCTETS)


def values(kind: str, session_id: str, queue_id: str, facts: Mapping[str, object]) -> Iterator[str | Address]:
    """What makes the words of this event, as it stands there."""
    if queue_id:
        yield queue_id
    if session_id:
        yield session_id
    if kind in _BY_KIND:
        yield _BY_KIND[kind]
    for name, value in facts.items():
        if name in ASKED:
            if isinstance(value, str | Address):
                yield value
            elif isinstance(value, list | tuple):
                for each in value:
                    if isinstance(each, str | Address):
                        yield each


def word(value: str | Address) -> str:
    """The word that this value stands for.  An address has the same with and without quotes in it."""
    if isinstance(value, Address):
        return f"{value.local}@{value.domain}".lower()
    if value[:1] == "<" and value[-1:] == ">":
        value = value[1:-1]
    if value[:1] == '"' and '"@' in value:
        local, _, domain = value[1:].rpartition('"@')
        value = f"{_BACKSLASH.sub(_SECOND, local)}@{domain}"
    return value.lower()


_BACKSLASH = re.compile(r"\\(.)")
_SECOND = r"\1"


def number(word: str) -> int:
    """What stands for the word in an index.  Different words may have the same: an index says where to look."""
    return crc32(word.encode("utf-8", "surrogatepass"))


def mark(word: str) -> bytes:
    """The number as an index has it."""
    return number(word).to_bytes(NUMBER_OCTETS, "little")


def words(kind: str, session_id: str, queue_id: str, facts: Mapping[str, object]) -> frozenset[str]:
    """All of them."""
    return frozenset(map(word, values(kind, session_id, queue_id, facts)))


class Index:
    """The numbers of the words of many events, each once."""

    __slots__ = ("_ids", "_noted", "_texts", "numbers")

    def __init__(self) -> None:
        self.numbers = array(_NUMBER)
        self._ids: set[str] = {""}
        self._texts: set[str] = set()
        self._noted: set[str] = set()

    def add(self, events: Sequence[Event], asked: Iterable[Asked]) -> None:
        """Note the words of these events: of what stands in their lines, which is what will be read back.

        Most of it has been met before, and then nothing is made of it.
        """
        ids = {event[2] for event in events}
        ids.update([event[3] for event in events])
        ids -= self._ids
        self._ids |= ids
        for each in ids:
            self._note(each)
        texts = set[str]().union(*asked)
        texts -= self._texts
        self._texts |= texts
        kinds = {event[1] for event in events}
        for kind in _BY_KIND.keys() & kinds:
            self._note(_BY_KIND[kind])
        for text in texts:
            if text[0] == '"':
                self._note(json.loads(text) if "\\" in text else text[1:-1])
            elif text[0] == "[":
                for value in json.loads(text):
                    if isinstance(value, str):
                        self._note(value)

    def _note(self, value: str) -> None:
        found = word(value)
        if found not in self._noted:
            self._noted.add(found)
            self.numbers.append(number(found))

    def octets(self) -> bytes:
        """As the database has them."""
        if byteorder == "little":
            return self.numbers.tobytes()
        swapped = self.numbers[:]
        swapped.byteswap()
        return swapped.tobytes()
