"""One event as one line of JSON, for the log file and for the pages of the history database.

    {"at":1761212345.123456,"kind":"queued","session":"mta-1-5","queue_id":"3k9f","reverse_path":"a@example.org",...}

The rule: a line is ASCII, has every control character escaped and is of bounded length, whatever strangers wrote.
"""

from __future__ import annotations

import json
import json.encoder
from collections.abc import Callable, Iterable, Mapping
from json.encoder import encode_basestring_ascii as _quoted
from typing import Any, TypeAlias

from mailhub.history.plain import plain
from mailhub.model import Address, Reply

#: The values of an event whose line would be longer are cut to VALUE_CHARACTERS_MAX each.
LINE_CHARACTERS_MAX = 32_768
VALUE_CHARACTERS_MAX = 500
FACTS_MAX = 100

#: Time, kind, session id, queue id, facts.
Event: TypeAlias = tuple[float, str, str, str, dict[str, object]]

_OURS = frozenset({"at", "kind", "session", "queue_id"})


def lines(batch: Iterable[Event]) -> list[str]:
    """The line of each event, without a line end.  Never raises.

    The same addresses and replies are met again and again in the events of one message, and are the same objects.
    """
    facts_of = _encoder()
    return [_bounded(event, facts_of) for event in batch]


def line(event: Event) -> str:
    """The line of one event."""
    return lines((event,))[0]


def _bounded(event: Event, facts_of: Callable[[dict[str, object]], str]) -> str:
    try:
        text = _line(event, event[4], facts_of)
        if len(text) <= LINE_CHARACTERS_MAX:
            return text
    except (ValueError, TypeError, RecursionError):  # infinite numbers, keys that are no text, circles
        pass
    return _line(event, _cut(event[4]), facts_of)


def _line(event: Event, facts: dict[str, object], facts_of: Callable[[dict[str, object]], str]) -> str:
    at, kind, session_id, queue_id, _ = event
    now = str(int(at * 1_000_000))  # digits of an integer come at a third of the price of a float's
    text = f'{{"at":{now[:-6] or 0}.{now[-6:]:0>6},"kind":{_quoted(kind)}'
    if session_id:
        text += f',"session":{_quoted(session_id)}'
    if queue_id:
        text += f',"queue_id":{_quoted(queue_id)}'
    if not facts:
        return text + "}"
    if not _OURS.isdisjoint(facts):
        facts = {f"{name}_" if name in _OURS else name: value for name, value in facts.items()}
    return f"{text},{facts_of(facts)[1:]}"


def _encoder() -> Callable[[dict[str, object]], str]:
    """Makes JSON of facts; it remembers the texts of values, and so is good for one batch only."""
    texts: dict[int, tuple[object, str]] = {}  # by the identity of the value, which the batch keeps alive

    def known(value: object) -> object:
        if type(value) is not Address and type(value) is not Reply:
            return plain(value)
        found = texts.get(id(value))
        if found is None:
            found = texts[id(value)] = value, str(value)
        return found[1]

    make: Any = getattr(json.encoder, "c_make_encoder", None)
    if make is None:  # an interpreter without it is slower, and right as well
        return json.JSONEncoder(separators=(",", ":"), default=known, allow_nan=False).encode
    # JSONEncoder makes one of these for each call, which costs more than most facts do.
    encode = make(None, known, _quoted, None, ":", ",", False, False, False)
    return lambda facts: "".join(encode(facts, 0))


def _cut(facts: Mapping[str, object]) -> dict[str, object]:
    """The facts as short texts, no matter what they are."""
    cut: dict[str, object] = {}
    for name, value in list(facts.items())[:FACTS_MAX]:
        try:
            text = str(value)
        except Exception:
            text = f"<{type(value).__name__}>"
        cut[name] = text if len(text) <= VALUE_CHARACTERS_MAX else f"{text[:VALUE_CHARACTERS_MAX]}..."
    return cut
