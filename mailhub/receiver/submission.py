"""What an MSA mends in a message before it goes on (RFC 6409 section 8).

Fields are added in front, where trace fields stand too.  The one thing taken out is Bcc, which a submitting program
may have left in and no recipient may see (RFC 5322 section 3.6.3).
"""

from __future__ import annotations

from mailhub.model import ReversePath, trace
from mailhub.wire import header as header_section

#: Of a Message-ID, history keeps so much.
MESSAGE_ID_OCTETS_MAX = 998

_HIDDEN = frozenset({b"bcc", b"resent-bcc"})
_WANTED = (b"\nfrom:", b"\ndate:", b"\nmessage-id:")


def without_bcc(header: bytes) -> bytes:
    """The header section without Bcc and Resent-Bcc."""
    lowered = header.lower()
    return header_section.without(header, _HIDDEN) if b"bcc" in lowered else header


def missing_fields(header: bytes, reverse_path: ReversePath, hostname: str, queue_id: str, at: float) -> bytes:
    """The Date, Message-ID and From fields that the header section lacks, each with its CRLF.

    Date and Message-ID after RFC 6409 sections 8.2 and 8.3; From, because without it the message is not one (RFC 5322
    section 3.6), from the reverse-path, which belongs to the login.
    """
    lowered = b"\n" + header.lower()
    if all(mark in lowered for mark in _WANTED):
        return b""  # the common case
    present = {name for name, _ in header_section.split(header)}
    fields = ""
    if b"from" not in present and reverse_path is not None:
        fields += f"From: <{reverse_path}>\r\n"
    if b"date" not in present:
        fields += f"Date: {trace.date(at)}\r\n"
    if b"message-id" not in present:
        fields += f"Message-ID: {made_message_id(queue_id, hostname)}\r\n"
    return fields.encode("utf-8")


def made_message_id(queue_id: str, hostname: str) -> str:
    """That of a message which came without one."""
    return f"<{queue_id}@{hostname}>"


def message_id(header: bytes, otherwise: str = "") -> str:
    """The Message-ID of this header section, for history; `otherwise` if it has none."""
    found = header_section.first(header, b"message-id")
    return otherwise if found is None else found[:MESSAGE_ID_OCTETS_MAX].decode("utf-8", "replace")
