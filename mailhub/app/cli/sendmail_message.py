"""A message as a program of the host writes it, made into one that can travel.

Lines get CRLF; the header section gets what it lacks; Bcc goes; addresses without a domain get ours (RFC 6409
section 8.1).  All else stays as it is, to the octet.  One header section and one line are in memory, no more.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from mailhub.model import Address, trace
from mailhub.wire import header as header_section
from mailhub.wire.header import HEADER_OCTETS_MAX
from mailhub.wire.mailboxes import MalformedField, qualify_mailboxes

_ADDRESS_FIELDS = frozenset(
    name.encode()
    for each in ("from", "sender", "reply-to", "to", "cc", "bcc")
    for name in (each, f"resent-{each}")
    if name != "resent-reply-to"
)
_RECIPIENT_FIELDS = (b"to", b"cc", b"bcc")
_HIDDEN = frozenset({b"bcc", b"resent-bcc"})


class BadMessage(Exception):
    """The message cannot be sent; the text says why."""


def lines(stream: BinaryIO, line_octets_max: int, dot_ends: bool) -> Iterator[bytes]:
    """The lines of the input, each with CRLF; the last one too.  With `dot_ends` a lone dot is the end.

    A CR alone, as progress bars have them, ends a line, too.  Raises BadMessage.
    """
    while raw := stream.readline(line_octets_max + 2):
        if b"\0" in raw:
            raise BadMessage("there is a NUL in the message")
        line = raw.removesuffix(b"\n").removesuffix(b"\r")
        if len(line) > line_octets_max:
            raise BadMessage(f"there is a line of more than {line_octets_max} octets")
        if dot_ends and line == b".":
            return
        for part in line.split(b"\r"):
            yield part + b"\r\n"


def take_header(source: Iterator[bytes]) -> tuple[bytes, bytes]:
    """The header section from the beginning of the lines, and what was read behind it: the empty line, or the first
    line of a message that has none.  Raises BadMessage."""
    header = bytearray()
    for number, line in enumerate(source):
        if number == 0 and line.startswith((b"From ", b">From ")):
            continue  # the separator of mbox files
        if line == b"\r\n":
            return bytes(header), line
        is_folded = line.startswith((b" ", b"\t")) and header
        if not is_folded and not header_section.begins_with_field(line):
            return bytes(header), b"\r\n" + line
        header += line
        if len(header) > HEADER_OCTETS_MAX:
            raise BadMessage(f"the header section has more than {HEADER_OCTETS_MAX} octets")
    return bytes(header), b"\r\n"


@dataclass(frozen=True)
class Mended:
    """A header section that can travel, and the recipients that it names."""

    header: bytes
    recipients: tuple[Address, ...]


def mend(
    header: bytes, origin: str, sender: Address, full_name: str, at: float, message_id: str, want_recipients: bool
) -> Mended:
    """`origin` is the domain for addresses without one, `sender` and `full_name` make the From field where there is
    none.  With `want_recipients` those fields must be readable that name them.  Raises BadMessage."""
    fields = header_section.split(header)
    is_resent = any(name.startswith(b"resent-") for name, _ in fields)  # RFC 5322 section 3.6.6
    naming = {b"resent-" + name if is_resent else name for name in _RECIPIENT_FIELDS}
    kept: list[bytes] = []
    recipients: dict[Address, None] = {}
    for name, field in fields:
        if name in _ADDRESS_FIELDS:
            try:
                field, addresses = _qualified(name, field, origin)
            except MalformedField as error:
                if want_recipients and name in naming:
                    raise BadMessage(f"the {name.decode().capitalize()} field cannot be read: {error}") from None
            else:
                if name in naming:
                    recipients.update(dict.fromkeys(addresses))
        if name not in _HIDDEN:
            kept.append(field)
    there = {name for name, _ in fields}
    if b"from" not in there:
        kept.append(_from(sender, full_name))
    if b"date" not in there:
        kept.append(trace.field("Date", trace.date(at)))
    if b"message-id" not in there:
        kept.append(trace.field("Message-ID", f"<{message_id}>"))
    return Mended(b"".join(kept), tuple(recipients))


def _qualified(name: bytes, field: bytes, origin: str) -> tuple[bytes, tuple[Address, ...]]:
    """The field with whole addresses, and these.  One that had whole ones is as it was."""
    start = field.index(b":") + 1
    body = field[start:].removesuffix(b"\r\n")
    text = body.replace(b"\r\n", b"").decode("utf-8", "surrogateescape")
    if not text.strip():
        return field, ()
    mended, addresses = qualify_mailboxes(text, origin)
    if mended == text:
        return field, addresses
    return field[:start] + _folded(mended, start).encode("utf-8", "surrogateescape") + b"\r\n", addresses


def _folded(body: str, width: int) -> str:
    """Folded behind commas, where a line would pass 78 characters (RFC 5322 section 2.1.1)."""
    folded = ""
    for number, piece in enumerate(body.split(",")):
        if number:
            folded += ","
            width += 1
            if width + len(piece) > 76 and piece[:1] in (" ", "\t"):
                folded += "\r\n"
                width = 0
        folded += piece
        width += len(piece)
    return folded


def _from(sender: Address, full_name: str) -> bytes:
    # RFC 5322 section 3.2.4: what is quoted may hold anything but these two, once they have a backslash.
    name = "".join(character if character.isprintable() else "?" for character in full_name[:200])
    quoted = name.replace("\\", "\\\\").replace('"', '\\"')
    text = f'From: "{quoted}" <{sender}>\r\n' if quoted else f"From: <{sender}>\r\n"
    return text.encode("utf-8", "surrogateescape")
