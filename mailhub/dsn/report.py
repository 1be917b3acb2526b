"""What a delivery status notification says to programs: message/delivery-status (RFC 3464), or its form in UTF-8.

The rule: one group of fields for the message, one for each recipient, every field present or absent as the RFC wants
it, whatever the strangers wrote whose words are quoted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from mailhub.dsn.rules import Action
from mailhub.dsn.text import clean, exact, field
from mailhub.model import Address, EnhancedStatus, Envelope, Recipient
from mailhub.model.trace import date

#: Of a remote host's reply; it is in the history at full length.
DIAGNOSTIC_CHARACTERS_MAX = 1000
#: RFC 3461 sections 4.2 and 4.4 limit what a client may give us to these.
ADDRESS_CHARACTERS_MAX = 500
ENVID_CHARACTERS_MAX = 100
HOST_CHARACTERS_MAX = 255

_CLASS = {Action.FAILED: 5, Action.DELAYED: 4, Action.DELIVERED: 2, Action.RELAYED: 2}
_ADDRESS_TYPE = re.compile(r"[A-Za-z0-9-]{1,32}")


@dataclass(frozen=True, slots=True)
class Report:
    """What became of one recipient.  `remote` is the name or IP address of the host that said `recipient.last_reply`,
    empty if these are our own words.  Times are seconds since the epoch; `retry_until` is for delays alone."""

    recipient: Recipient
    action: Action
    attempted_at: float
    remote: str = ""
    retry_until: float | None = None

    @property
    def status(self) -> EnhancedStatus:
        """The enhanced status code (RFC 3463); the undefined one of its class where none is known."""
        reply = self.recipient.last_reply
        wanted = _CLASS[self.action]
        if reply is None:
            return EnhancedStatus(wanted, 0, 0)
        # What failed because we gave up keeps the code of the actual problem (RFC 3463 section 3.5, X.4.7).
        given_up = self.action is Action.FAILED and reply.is_transient
        category = 4 if given_up else wanted
        if reply.status is not None and reply.status.category == category:
            return reply.status
        return EnhancedStatus(category, 0, 0)


def write(envelope: Envelope, reports: Sequence[Report], hostname: str, utf8: bool) -> bytes:
    """The body of the part.  With `utf8` it is message/global-delivery-status and may hold UTF-8."""
    groups = [_message(envelope, hostname), *(_recipient(report, utf8) for report in reports)]
    text = "\r\n\r\n".join("\r\n".join(field(name, body) for name, body in group) for group in groups)
    return (text + "\r\n").encode("utf-8", "replace")


def _message(envelope: Envelope, hostname: str) -> list[tuple[str, str]]:
    """RFC 3464 section 2.2."""
    fields = []
    if envelope.parameters.envid:
        fields.append(("Original-Envelope-Id", exact(envelope.parameters.envid, ENVID_CHARACTERS_MAX)))
    fields.append(("Reporting-MTA", _mta(hostname)))
    fields.append(("X-Mailhub-Queue-Id", clean(envelope.queue_id, HOST_CHARACTERS_MAX)))
    fields.append(("Arrival-Date", date(envelope.received_at)))
    return fields


def _recipient(report: Report, utf8: bool) -> list[tuple[str, str]]:
    """RFC 3464 section 2.3."""
    recipient = report.recipient
    fields = []
    if recipient.orcpt is not None:
        fields.append(("Original-Recipient", _typed(*recipient.orcpt, utf8=utf8)))
    elif recipient.original != recipient.address:
        fields.append(("Original-Recipient", _address(recipient.original, utf8)))
    fields.append(("Final-Recipient", _address(recipient.address, utf8)))
    fields.append(("Action", report.action.value))
    fields.append(("Status", str(report.status)))
    if report.remote:
        fields.append(("Remote-MTA", _mta(report.remote)))
    if recipient.last_reply is not None:
        said = clean(str(recipient.last_reply), DIAGNOSTIC_CHARACTERS_MAX, only_ascii=not utf8)
        fields.append(("Diagnostic-Code", f"smtp; {said}"))
    fields.append(("Last-Attempt-Date", date(report.attempted_at)))
    if report.retry_until is not None and report.action is Action.DELAYED:
        fields.append(("Will-Retry-Until", date(report.retry_until)))
    return fields


def _mta(host: str) -> str:
    """A host by its name, or by its address as a literal (RFC 3464 section 2.1.2)."""
    try:
        ip = ip_address(host)
    except ValueError:
        return f"dns; {clean(host, HOST_CHARACTERS_MAX)}"
    return f"dns; [IPv6:{ip}]" if ip.version == 6 else f"dns; [{ip}]"


def _address(address: Address, utf8: bool) -> str:
    text = str(address)
    return _typed("rfc822" if text.isascii() else "utf-8", text, utf8)


def _typed(kind: str, text: str, utf8: bool) -> str:
    """An address with its type.  `text` is decoded."""
    kind = kind if _ADDRESS_TYPE.fullmatch(kind) else "unknown"
    if kind.lower() != "utf-8":
        return f"{kind}; {exact(text, ADDRESS_CHARACTERS_MAX)}"
    if utf8:
        # RFC 6533 section 3: in message/global-delivery-status the address stands as it is.
        return f"{kind}; {exact(text, ADDRESS_CHARACTERS_MAX, only_ascii=False)}"
    return f"{kind}; {_xtext(text)}"


def _xtext(text: str) -> str:
    r"""RFC 6533 section 3, utf-8-addr-xtext: what is not plain ASCII is written as \x{HEX}."""
    written = ""
    for character in text:
        plain = "!" <= character <= "~" and character not in "\\+="
        piece = character if plain else f"\\x{{{ord(character):02X}}}"
        if len(written) + len(piece) > ADDRESS_CHARACTERS_MAX:
            break
        written += piece
    return written
