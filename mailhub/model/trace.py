"""Trace fields: what we write on top of each message that we take (RFC 5321 section 4.4)."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache

from mailhub.model.address import Address
from mailhub.model.session import Session

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

# A hello name is a stranger's word.  What cannot stand in a domain or an address literal is shown as "?".
_HELLO_SHOWN_MAX = 255
_PLAIN_HELLO = re.compile(rf"[A-Za-z0-9.:_\[\]-]{{1,{_HELLO_SHOWN_MAX}}}")
_NOT_IN_HELLO = re.compile(r"[^A-Za-z0-9.:_\[\]-]")

# Servers write lines of at most 78 characters where they can (RFC 5322 section 2.1.1); a fold is cheap.
_FOLD = "\r\n\t"
_LINE_WANTED = 78


@lru_cache(maxsize=8)
def _date(whole_seconds: int) -> str:
    at = datetime.fromtimestamp(whole_seconds, UTC)
    return (
        f"{_DAYS[at.weekday()]}, {at.day} {_MONTHS[at.month - 1]} {at.year} "
        f"{at.hour:02}:{at.minute:02}:{at.second:02} +0000"
    )


def date(at: float) -> str:
    """A date-time of RFC 5322 section 3.3, in UTC, from seconds since the epoch."""
    return _date(int(at))


def with_type(session: Session, smtputf8: bool) -> str:
    """The "with" word: RFC 3848, and RFC 6531 section 4.3 for internationalized mail."""
    word = session.with_type
    if smtputf8:
        return "UTF8" + word.removeprefix("E")
    return word


def received(
    session: Session, hostname: str, queue_id: str, at: float, only_recipient: Address | None, smtputf8: bool = False
) -> bytes:
    """The Received field of this hop, with its final CRLF (RFC 5321 section 4.4).

    The recipient is named only when there is a single one, so that nobody learns who else got a copy.
    """
    shown = session.hello.name if session.hello is not None else ""
    if not _PLAIN_HELLO.fullmatch(shown):
        shown = _NOT_IN_HELLO.sub("?", shown[:_HELLO_SHOWN_MAX]) or "unknown"
    ip = session.peer.ip
    peer = f"[IPv6:{ip}]" if ":" in ip else f"[{ip}]"
    layer = f"{_FOLD}({session.tls.version} {session.tls.cipher})" if session.tls is not None else ""
    recipient = f"{_FOLD}for <{only_recipient}>" if only_recipient is not None else ""
    text = (
        f"Received: from {shown} ({peer}){_FOLD}by {hostname} (mailhub) with {with_type(session, smtputf8)}"
        f" id {queue_id}{layer}{recipient};{_FOLD}{date(at)}\r\n"
    )
    return text.encode("utf-8")


def received_from_user(hostname: str, uid: int, queue_id: str, at: float, only_recipient: Address | None) -> bytes:
    """The same for a message that a program of this host has left for us, with the user id that it ran under."""
    recipient = f"{_FOLD}for <{only_recipient}>" if only_recipient is not None else ""
    text = f"Received: by {hostname} (mailhub, from userid {uid}){_FOLD}id {queue_id}{recipient};{_FOLD}{date(at)}\r\n"
    return text.encode("utf-8")


def field(name: str, body: str) -> bytes:
    """One header field with its CRLF, folded at blanks where a line would pass 78 characters (RFC 5322 section 2.1.1).

    Name and body are those of a checked `Prepend`: without line ends.
    """
    lines: list[str] = []
    line = f"{name}:"
    for word in body.split(" "):
        if len(line) + 1 + len(word) > _LINE_WANTED and line.strip() and word:
            lines.append(line)
            line = ""
        line += f" {word}"
    return ("\r\n".join((*lines, line)) + "\r\n").encode("utf-8")
