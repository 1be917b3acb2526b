"""What a client writes: MAIL and RCPT with the parameters that the host understands, and no others.

The rule of the file: a command is one line.  What could break it is refused with UnsafeCommand, whoever let it in.
"""

from __future__ import annotations

import re

from mailhub.model import NO_MAIL_PARAMETERS, NO_RCPT_PARAMETERS, ForwardPath, path
from mailhub.wire.smtp.capabilities import Capabilities
from mailhub.wire.smtp.client_events import Mail

#: RFC 3461 sections 4.2 and 4.4, in octets of the encoded value: longer ones are not sent.
ORCPT_OCTETS_MAX = 500
ENVID_OCTETS_MAX = 100

_BREAKS_LINE = re.compile("[\0\r\n]")
# RFC 3461 section 4: xchar = any ASCII CHAR between "!" and "~" inclusive, except "+" and "="
_NO_XCHAR = re.compile(r"[^!-*,-<>-~]")
# RFC 6533 section 3: QCHAR, the same without the backslash
_NO_QCHAR = re.compile(r"[^!-*,-<>-\[\]-~]")


class UnsafeCommand(ValueError):
    """An address or parameter has an octet that ends a line."""


def _one_line(command: str) -> str:
    if _BREAKS_LINE.search(command) is not None:
        raise UnsafeCommand
    return command + "\r\n"


def mail(mail: Mail, offered: Capabilities, smtputf8: bool) -> str:
    """MAIL (RFC 5321 section 4.1.1.2), with its line end.  Raises UnsafeCommand."""
    text = f"MAIL FROM:{path(mail.reverse_path)}"
    if offered.size and mail.size:
        text += f" SIZE={mail.size}"
    if mail.body != "7BIT":
        text += f" BODY={mail.body}"
    if smtputf8:
        text += " SMTPUTF8"
    asked = mail.parameters
    if asked is not NO_MAIL_PARAMETERS:
        if offered.dsn and asked.ret is not None:
            text += f" RET={asked.ret}"
        if offered.dsn and asked.envid and len(envid := xtext(asked.envid)) <= ENVID_OCTETS_MAX:
            text += f" ENVID={envid}"
        if offered.requiretls and asked.requiretls:
            text += " REQUIRETLS"
        if offered.auth and asked.auth is not None:
            text += " AUTH=<>"  # RFC 4954 section 5: we have it from somebody whose word we do not vouch for
    return _one_line(text)


def rcpt(recipient: ForwardPath, offered: Capabilities, smtputf8: bool) -> str:
    """RCPT (RFC 5321 section 4.1.1.3), with its line end.  Raises UnsafeCommand."""
    address = recipient.address
    # RFC 5321 section 4.5.1: postmaster alone needs no domain.
    text = f"RCPT TO:<{address}>" if address.domain else f"RCPT TO:<{address.local}>"
    asked = recipient.parameters
    if asked is not NO_RCPT_PARAMETERS and offered.dsn:
        if asked.notify:
            text += f" NOTIFY={','.join(sorted(asked.notify))}"
        if asked.orcpt is not None:
            kind, original = asked.orcpt
            encoded = unitext(original, smtputf8) if kind == "utf-8" else xtext(original)
            if len(encoded.encode()) <= ORCPT_OCTETS_MAX:
                text += f" ORCPT={kind};{encoded}"
    return _one_line(text)


def xtext(text: str) -> str:
    """RFC 3461 section 4: what is no xchar is written as +HH, octet by octet."""
    return _NO_XCHAR.sub(lambda match: "".join(f"+{octet:02X}" for octet in match[0].encode()), text)


def unitext(text: str, smtputf8: bool) -> str:
    r"""RFC 6533 section 3: utf-8-addr-unitext, or with nothing but ASCII utf-8-addr-xtext; \x{HEX} for the rest."""

    def embedded(match: re.Match[str]) -> str:
        character = match[0]
        return character if smtputf8 and character >= "\xa0" else f"\\x{{{ord(character):02X}}}"

    return _NO_QCHAR.sub(embedded, text)
