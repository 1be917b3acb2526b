"""A delivery status notification: a message like any other, from nobody to the sender.

Its form is that of RFC 3464 in that of RFC 6522, with RFC 6533 for addresses that are not ASCII; its rules are those of
RFC 3461.

Pure: the same arguments give the same octets, and nothing here knows of clocks, queues or files.  The message is put
together by hand, since every part of it has a fixed form, and since strangers' words must go through `text` and through
nothing else.  The rule: three body parts, whatever is quoted in them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mailhub.dsn import explanation, report
from mailhub.dsn.report import Report
from mailhub.dsn.rules import Action
from mailhub.dsn.text import clean, encoded, field, is_plain, quoted_printable
from mailhub.model import Address, Envelope, MailParameters
from mailhub.model.trace import date
from mailhub.wire.header import bodies, header_end, split

#: With RET=FULL, messages up to this size come back whole, of larger ones only the header.
CONTENT_OCTETS_MAX = 50 * 1024
#: Of a header section, whole fields up to this size come back.
HEADER_OCTETS_MAX = 32 * 1024

_SUBJECT_CHARACTERS_MAX = 150
_MESSAGE_ID = re.compile(rb"<[!-;=?-~]{1,200}@[!-;=?-~]{1,200}>")

_WHOLE = "The message is attached."
_HEADER = "The header of the message is attached."


@dataclass(frozen=True, slots=True)
class Notification:
    """A message to be queued with the null reverse-path.  `recipient` is the sender of the message it is about."""

    recipient: Address
    content: bytes
    parameters: MailParameters
    action: Action

    @property
    def reverse_path(self) -> None:
        """RFC 3461 section 6.1: a notification comes from nobody, so that none is ever sent about it."""
        return None


@dataclass(frozen=True, slots=True)
class _Part:
    """A body part.  `encoding` is "7bit", "8bit" or "quoted-printable"."""

    media_type: str
    octets: bytes
    encoding: str
    description: str

    def write(self) -> bytes:
        fields = (
            f"Content-Type: {self.media_type}",
            f"Content-Description: {self.description}",
            f"Content-Transfer-Encoding: {self.encoding}",
        )
        return "\r\n".join((*fields, "", "")).encode("ascii") + self.octets


def wants_whole(envelope: Envelope, action: Action) -> bool:
    """Whether the sender gets his message back whole, if it can be put into a message (RFC 3461 section 4.3)."""
    # RFC 3461 section 4.3: RET is for failures alone; without it we choose, and the header tells enough.
    return action is Action.FAILED and envelope.parameters.ret == "FULL" and 0 <= envelope.size <= CONTENT_OCTETS_MAX


def compose(
    envelope: Envelope, reports: Sequence[Report], content: bytes, *, hostname: str, queue_id: str, at: float
) -> Notification:
    """Tell the sender of `envelope` what became of these recipients, who all have the same action.

    `content` is the message as received, or as much of its beginning as is known: `HEADER_OCTETS_MAX` octets are enough
    unless `wants_whole`.  `queue_id` is the notification's own, `at` its date (seconds since the epoch).  Raises
    ValueError for a message with the null reverse-path, and for no report or mixed ones.
    """
    if envelope.reverse_path is None:
        raise ValueError("nobody is told about a message from nobody (RFC 5321 section 6.1)")
    actions = {one.action for one in reports}
    if len(actions) != 1:
        raise ValueError("one notification tells of one action")
    action = reports[0].action
    utf8 = envelope.parameters.smtputf8
    header = _header(envelope.prefix + content)
    returned = _returned(envelope, action, header, content, utf8)
    text = explanation.write(
        envelope, reports, hostname, utf8, _WHOLE if returned.media_type in _WHOLE_TYPES else _HEADER
    ).encode("utf-8", "replace")
    status = report.write(envelope, reports, hostname, utf8)
    parts = [
        _Part(f"text/plain; charset={_charset(text)}", text, _bits(text), "Notification"),
        _Part(
            "message/global-delivery-status" if utf8 else "message/delivery-status",
            status,
            _bits(status),
            "Delivery report",
        ),
        returned,
    ]
    written = [part.write() for part in parts]
    boundary = _boundary(queue_id, written)
    eight_bit = any(part.encoding == "8bit" for part in parts)
    head = _head(envelope.reverse_path, action, header, hostname, queue_id, at, boundary, eight_bit)
    mark = b"--" + boundary.encode("ascii")
    body = b"".join(mark + b"\r\n" + part + b"\r\n" for part in written) + mark + b"--\r\n"
    parameters = MailParameters(
        body="8BITMIME" if eight_bit else None,
        smtputf8=not envelope.reverse_path.is_ascii,
        requiretls=envelope.parameters.requiretls,  # RFC 8689 section 5: it tells of what was to be protected
    )
    return Notification(envelope.reverse_path, head + body, parameters, action)


def _head(
    sender: Address,
    action: Action,
    header: bytes,
    hostname: str,
    queue_id: str,
    at: float,
    boundary: str,
    eight_bit: bool,
) -> bytes:
    """The header section and the empty line."""
    fields = [
        field("From", f"Mail Delivery System <MAILER-DAEMON@{hostname}>"),
        field("To", f"<{clean(str(sender), 320, only_ascii=sender.is_ascii)}>"),
        field("Subject", _subject(action, header)),
        field("Date", date(at)),
        field("Message-ID", f"<{queue_id}@{hostname}>"),
    ]
    found = _MESSAGE_ID.fullmatch((bodies(header, b"message-id") or [b""])[0])
    if found:
        # RFC 3834 section 3.1.5: what answers a message refers to it.
        original = found.group().decode("ascii")
        fields += [f"In-Reply-To: {original}", f"References: {original}"]
    fields += [
        "Auto-Submitted: auto-replied",  # RFC 3834 section 5
        "MIME-Version: 1.0",
        # RFC 6522 section 3.
        f'Content-Type: multipart/report; report-type=delivery-status;\r\n boundary="{boundary}"',
        f"Content-Transfer-Encoding: {'8bit' if eight_bit else '7bit'}",
    ]
    return "\r\n".join((*fields, "", "")).encode("utf-8", "replace")


def _subject(action: Action, header: bytes) -> str:
    """What happened, and the subject of the message, so that its sender knows which one it was."""
    short, alone = explanation.SUBJECT[action]
    octets = (bodies(header, b"subject") or [b""])[0]
    text = clean(octets.decode("utf-8", "replace"), _SUBJECT_CHARACTERS_MAX + 1, only_ascii=False)
    if len(text) > _SUBJECT_CHARACTERS_MAX:
        # At a blank, so that no encoded word (RFC 2047) is cut in two.
        text = text[:_SUBJECT_CHARACTERS_MAX].rpartition(" ")[0]
    return f"{short}: {encoded(text)}" if text else alone


def _header(octets: bytes) -> bytes:
    """The whole header fields at the beginning of a message, up to HEADER_OCTETS_MAX."""
    beginning = octets[:HEADER_OCTETS_MAX]
    end = header_end(beginning)
    fields = split(beginning if end < 0 else beginning[:end])
    if end < 0 and (len(octets) > HEADER_OCTETS_MAX or not beginning.endswith(b"\r\n")):
        fields = fields[:-1]  # the last one may have been cut
    kept = b""
    for name, one in fields:
        if not name:  # not a field: what follows is no header, whatever it looks like
            break
        kept += one
    return kept


_WHOLE_TYPES = ("message/rfc822", "message/global")


def _returned(envelope: Envelope, action: Action, header: bytes, content: bytes, utf8: bool) -> _Part:
    """The third part: the message, or its header (RFC 6522 section 3, RFC 6533 section 5)."""
    whole = envelope.prefix + content
    if wants_whole(envelope, action) and len(content) == envelope.size and is_plain(whole, eight_bit=True):
        # RFC 2046 section 5.2.1: a message inside a message is never encoded.
        kind = "message/global" if utf8 else "message/rfc822"
        return _Part(kind, whole, _bits(whole), "Undelivered message")
    if utf8 and is_plain(header, eight_bit=True) and _is_utf8(header):
        return _Part("message/global-headers", header, _bits(header), "Header of the message")
    if is_plain(header, eight_bit=False):
        return _Part("text/rfc822-headers", header, "7bit", "Header of the message")
    return _Part("text/rfc822-headers", quoted_printable(header), "quoted-printable", "Header of the message")


def _is_utf8(octets: bytes) -> bool:
    try:
        octets.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _bits(octets: bytes) -> str:
    return "7bit" if octets.isascii() else "8bit"


def _charset(octets: bytes) -> str:
    return "us-ascii" if octets.isascii() else "utf-8"


def _boundary(queue_id: str, parts: Sequence[bytes]) -> str:
    """A line that none of the parts has; always the same for the same parts."""
    number = 0
    while True:
        boundary = f"=_{queue_id}_{number}"
        mark = f"--{boundary}".encode("ascii")
        if not any(mark in part for part in parts):
            return boundary
        number += 1
