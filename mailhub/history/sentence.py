"""One event as one line for people: `12:01:02 queued 3k9f from <a@example.org> to 1 recipient (4,211 octets)`.

A kind with no formatter of its own is told by its facts.  Whatever strangers wrote, one event is one line.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mailhub.history.pages import AT_MAX
from mailhub.history.plain import plain, printable
from mailhub.model import Address

#: A longer line is cut.
CHARACTERS_MAX = 1000
#: Told to machines only, unless everything is asked for: there are several of them in each message.
QUIET_KINDS = frozenset({"opinion", "log"})


def sentence(at: float, kind: str, session_id: str, queue_id: str, facts: Mapping[str, object]) -> str:
    """The line without a line end.  `at` is seconds since the epoch, told in local time.  Never raises."""
    try:
        told = _FORMATS.get(kind, _generic)(kind, queue_id or session_id, dict(facts))
    except Exception:  # a formatter that met facts it did not expect
        told = _generic(kind, queue_id or session_id, dict(facts))
    line = f"{time.strftime('%H:%M:%S', time.localtime(at))} {told}"
    return printable(line[:CHARACTERS_MAX])[:CHARACTERS_MAX]  # what is escaped is longer


def _generic(kind: str, about: str, facts: dict[str, Any]) -> str:
    words = [kind.replace("_", " ")]
    if about:
        words.append(about)
    return " ".join([*words, *_named(facts)])


def _queued(kind: str, about: str, facts: dict[str, Any]) -> str:
    recipients = facts.pop("recipients", ())
    count = recipients if isinstance(recipients, int) else len(recipients)
    noun = "recipient" if count == 1 else "recipients"
    size = facts.pop("size")
    return f"queued {about} from {_path(facts.pop('reverse_path', None))} to {count} {noun} ({size:,} octets)"


def _refused(kind: str, about: str, facts: dict[str, Any]) -> str:
    line = f"refused {about} at {facts.pop('stage')}: {facts.pop('reply')}"
    return line + _rest(facts)


def _attempt(kind: str, about: str, facts: dict[str, Any]) -> str:
    """Delivered, deferred, failed."""
    line = f"{kind} {about} to {_path(facts.pop('recipient'))}"
    reply = facts.pop("reply", None)
    return line + (f": {reply}" if reply else "") + _rest(facts)


def _connected(kind: str, about: str, facts: dict[str, Any]) -> str:
    return f"connected {about} from {facts.pop('peer')}" + _rest(facts)


def _listening(kind: str, about: str, facts: dict[str, Any]) -> str:
    host, port = str(facts.pop("host")), facts.pop("port")
    place = host if not port else f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return f"listening {facts.pop('role')} on {place}" + _rest(facts)


def _opinion(kind: str, about: str, facts: dict[str, Any]) -> str:
    opinion = facts.pop("opinion", None)
    shadow = " (shadow)" if facts.pop("shadow", False) else ""
    return f"opinion {about} of {facts.pop('policy')} at {facts.pop('stage')}{shadow}: {opinion or 'none'}" + _rest(
        facts
    )


def _rest(facts: dict[str, Any]) -> str:
    told = " ".join(_named(facts))
    return f" ({told})" if told else ""


def _named(facts: dict[str, Any]) -> Iterator[str]:
    for name, value in facts.items():
        if value not in (None, "", (), []):
            yield f"{name}={_value(_moment(value) if name.endswith('_at') else value)}"


def _moment(value: object) -> object:
    """A time as people write it, as far as it is one."""
    if not isinstance(value, float) or not 0 <= value <= AT_MAX:
        return value
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(value))


def _path(address: object) -> str:
    return "<>" if address is None else f"<{address}>"


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple | set | frozenset):
        return ",".join(_value(inner) for inner in value)
    text = value if isinstance(value, str) else str(value) if isinstance(value, Address | int) else str(plain(value))
    return f'"{text}"' if " " in text else text


_FORMATS: dict[str, Callable[[str, str, dict[str, Any]], str]] = {
    "connected": _connected,
    "deferred": _attempt,
    "delivered": _attempt,
    "failed": _attempt,
    "listening": _listening,
    "opinion": _opinion,
    "queued": _queued,
    "refused": _refused,
}
