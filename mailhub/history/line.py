"""One event as one line of JSON, for the log file and for the pages of the history database.

    {"at":1761212345.123456,"kind":"queued","session":"mta-1-5","queue_id":"3k9f","reverse_path":"a@example.org",...}

The rule: a line is ASCII, has every control character escaped and is of bounded length, whatever strangers wrote.

A busy hub tells thousands of them a second, and they are much alike.  So the names of the facts stand in a template,
one for each way in which a batch has them, and the text of a value is made once for a batch; what is in no way usual is
left to the encoder of the standard library.
"""

from __future__ import annotations

import json
import json.encoder
from collections.abc import Iterable, Mapping
from json.encoder import encode_basestring_ascii as _quoted
from operator import itemgetter
from typing import Any, TypeAlias

from mailhub.history.plain import plain
from mailhub.history.words import ASKED
from mailhub.model import Address, Reply

#: There is room for a thousand recipients.  The values of an event whose line would be longer are cut to
#: VALUE_CHARACTERS_MAX each, and its lists to so many texts as have LISTS_CHARACTERS_MAX in all.
LINE_CHARACTERS_MAX = 131_072
VALUE_CHARACTERS_MAX = 500
LISTS_CHARACTERS_MAX = 65_536
FACTS_MAX = 100

#: Time, kind, session id, queue id, facts.
Event: TypeAlias = tuple[float, str, str, str, dict[str, object]]
#: The JSON of those values of one event that it can be asked by, beside its ids (`mailhub.history.words`).
Asked: TypeAlias = tuple[str, ...]
_Shape: TypeAlias = "tuple[str, itemgetter[Any] | None]"

_OURS = frozenset({"at", "kind", "session", "queue_id"})
#: Two of these that are equal have the same text; 1, 1.0 and True are equal, and have not.
_REMEMBERED = frozenset({str, Address, Reply})
_MICRO = 1_000_000


def lines(batch: Iterable[Event]) -> list[str]:
    """The line of each event, without a line end.  Never raises."""
    return tell(batch)[0]


def line(event: Event) -> str:
    """The line of one event."""
    return lines((event,))[0]


def tell(batch: Iterable[Event], *, is_cut: bool = False) -> tuple[list[str], list[Asked]]:
    """The line of each event, and what stands in it that the event can be asked by.  Never raises.

    `is_cut` says that the facts are short already.
    """
    texts = _Texts()
    text_of = texts.__getitem__
    shapes: dict[tuple[str, ...], _Shape] = {}
    abouts: dict[tuple[str, str], str] = {}
    begins_at, begin = 0, "0"  # of the second that it is: in microseconds, and as it stands there
    told: list[str] = []
    asked: list[Asked] = []
    for event in batch:
        at, kind, session_id, queue_id, facts = event
        now = int(at * _MICRO)
        micro = now - begins_at
        if not 0 <= micro < _MICRO:
            second, micro = divmod(now, _MICRO)
            begins_at, begin = now - micro, str(second)
        about = abouts.get((session_id, queue_id))
        if about is None:
            about = abouts[session_id, queue_id] = _about(session_id, queue_id)
        names = (kind, *facts)
        try:
            shape = shapes.get(names)
            if shape is None:
                shape = shapes[names] = _shape(*names)
            try:
                values = (begin, micro, about, *map(text_of, facts.values()))
            except TypeError:  # one of them is in no way usual
                values = (begin, micro, about, *map(texts.of_any, facts.values()))
            template, places = shape
            text = template % values
            found = () if places is None else places(values)
            is_fit = is_cut or len(text) <= LINE_CHARACTERS_MAX
        except (ValueError, TypeError, RecursionError):  # infinite numbers, keys that are no text, circles
            if is_cut:
                raise
            is_fit = False
        if not is_fit:
            (text,), (found,) = tell(((at, kind, session_id, queue_id, _cut(facts)),), is_cut=True)
        told.append(text)
        asked.append(found)
    return told, asked


def _about(session_id: str, queue_id: str) -> str:
    session = f',"session":{_quoted(session_id)}' if session_id else ""
    return f'{session},"queue_id":{_quoted(queue_id)}' if queue_id else session


def _shape(kind: str, *names: str) -> _Shape:
    """What is the same in all lines of this kind with facts of these names: a template for the second, microseconds,
    ids and values; and what takes out of these what is asked for.  Raises TypeError for a name that is no text."""
    facts = "".join([f",{_quoted(f'{name}_' if name in _OURS else name)}:\0" for name in names])
    told = f'"kind":{_quoted(kind)}\0{facts}}}'.replace("%", "%%").replace("\0", "%s")
    places = [place for place, name in enumerate(names, 3) if name in ASKED]
    # Of one place an itemgetter gives no tuple.
    return f'{{"at":%s.%06d,{told}', itemgetter(*places, places[0]) if places else None


class _Texts(dict[Any, str]):
    """JSON of values: those that are met again and again are remembered, the same addresses and replies."""

    def __missing__(self, value: object) -> str:
        """Raises TypeError for a value that is in no way usual, ValueError for an infinite number."""
        kind = type(value)
        if kind is float:
            text = repr(value)
            if "n" in text:
                raise ValueError(text)
            return text
        if kind is bool:
            return "true" if value else "false"
        if kind is int:
            return repr(value)
        if kind is str:
            text = _quoted(value)  # type: ignore[arg-type]
        elif kind is Address or kind is Reply:
            text = _quoted(str(value))
        elif value is None:
            return "null"
        elif kind is tuple and _REMEMBERED.issuperset(map(type, value)):  # type: ignore[call-overload]
            text = f"[{','.join(map(self.__getitem__, value))}]"  # type: ignore[call-overload]
        else:
            raise TypeError
        self[value] = text
        return text

    def of_any(self, value: object) -> str:
        """Raises ValueError, TypeError, RecursionError."""
        try:
            return self[value]
        except TypeError:
            if type(value) is list:
                return f"[{','.join(map(self.of_any, value))}]"
            return _encode(value)


_encode = json.JSONEncoder(separators=(",", ":"), default=plain, allow_nan=False).encode


def _cut(facts: Mapping[str, object]) -> dict[str, object]:
    """The facts as short texts, lists of these, and numbers, no matter what they are."""
    cut: dict[str, object] = {}
    left = LISTS_CHARACTERS_MAX
    for name, value in list(facts.items())[:FACTS_MAX]:
        if isinstance(value, list | tuple):
            texts: list[str] = []
            for each in value:
                text = _short(each)
                left -= len(text) + 3  # with quotes and a comma
                if left < 0:
                    break
                texts.append(text)
            cut[str(name)] = texts
        elif value is None or (isinstance(value, int | float) and abs(value) < _NUMBER_MAX):
            cut[str(name)] = value
        else:
            cut[str(name)] = _short(value)
    return cut


#: Greater ones, infinite ones and what is no number are told as texts.
_NUMBER_MAX = 1 << 53


def _short(value: object) -> str:
    try:
        text = str(value)
    except Exception:
        text = f"<{type(value).__name__}>"
    return text if len(text) <= VALUE_CHARACTERS_MAX else f"{text[:VALUE_CHARACTERS_MAX]}..."
