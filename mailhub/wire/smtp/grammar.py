"""The one parser of what a client writes in its commands: octets in; a value, or a ProtocolFault, out.

It is strict: what RFC 5321 section 4.1.2 does not allow is refused and never repaired, so that every part of the
program sees the same address.  The one thing that it forgives is spaces behind `FROM:` and `TO:`.  A source route is
dropped (RFC 5321 appendix C), and a quoted local part is kept as what it means; percent signs and exclamation marks
mean nothing here.  The address that is left is the real one, for policies to judge.
"""

from __future__ import annotations

import re
from binascii import Error as NotBase64
from binascii import a2b_base64
from collections.abc import Callable
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import idna

from mailhub.model import (
    NO_MAIL_PARAMETERS,
    NO_RCPT_PARAMETERS,
    Address,
    MailParameters,
    RcptParameters,
    Reply,
    ReversePath,
)
from mailhub.wire.smtp import replies
from mailhub.wire.smtp.extensions import Extensions
from mailhub.wire.smtp.replies import ProtocolFault

#: RFC 5321 section 4.5.3.1, in octets; a hello name is a domain, or what stands in its place.
LOCAL_OCTETS_MAX = 64
DOMAIN_OCTETS_MAX = 255
LABEL_OCTETS_MAX = 63
PATH_OCTETS_MAX = 256
#: RFC 3461 sections 4.4 and 4.2, in characters before they were encoded.
ENVID_MAX = 100
ORCPT_MAX = 500

#: Of senders and of recipients so many are remembered, if they are no longer than this: most mail goes to and fro
#: between the same few, and a stranger must not have more remembered than that.
PATHS_REMEMBERED = 1024
REMEMBERED_OCTETS_MAX = LABEL_OCTETS_MAX

_DIGITS_MAX = 20  # RFC 1870 section 4: size-value = 1*20DIGIT

# RFC 5321 section 4.1.2, with the UTF8-non-ascii of RFC 6531 section 3.3 as the octets 80 to FF:
#   Dot-string     = Atom *("." Atom)
#   Quoted-string  = DQUOTE *QcontentSMTP DQUOTE
#   QcontentSMTP   = qtextSMTP / quoted-pairSMTP
#   qtextSMTP      = %d32-33 / %d35-91 / %d93-126
#   quoted-pairSMTP = %d92 %d32-126
#   Domain         = sub-domain *("." sub-domain)
#   sub-domain     = Let-dig [Ldh-str]
#   A-d-l          = "@" Domain *( "," "@" Domain )
#   Path           = "<" [ A-d-l ":" ] Mailbox ">"
# An empty quoted string names nobody, and is refused.  Dots may stand anywhere in a local part, also unquoted: there
# are such mailboxes, every large server takes them, and what is nobody here is refused as such.
_ATOM = rb"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\x80-\xff-]+"
_DOT_STRING = rb"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\x80-\xff.-]+"
_QCONTENT = rb"(?:[ !#-\[\]-~\x80-\xff]|\\[ -~])+"
_LABEL = rb"[A-Za-z0-9\x80-\xff]+(?:-+[A-Za-z0-9\x80-\xff]+)*"
_DOMAIN = rb"%b(?:\.%b)*" % (_LABEL, _LABEL)
_ROUTE = rb"@%b(?:,@%b)*:" % (_DOMAIN, _DOMAIN)
_MAILBOX = rb"""(?:(%b)|"(%b)")@(?:(%b)|\[([!-Z^-~]*)\])""" % (_DOT_STRING, _QCONTENT, _DOMAIN)

_FROM = re.compile(rb"(?i:FROM): *")
_TO = re.compile(rb"(?i:TO): *")
_PATH = re.compile(rb"<(?:%b)?%b>" % (_ROUTE, _MAILBOX))
_POSTMASTER = re.compile(rb"(?i:<postmaster>)")
_WHOLE_MAILBOX = re.compile(_MAILBOX)
_WHOLE_DOMAIN = re.compile(_DOMAIN)
_QUOTED_PAIR = re.compile(rb"\\(.)")
#: What a local part never has, however it was encoded: C0 and C1 controls, and the separators of Unicode.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")

# RFC 5321 section 4.1.2: esmtp-param = esmtp-keyword ["=" esmtp-value]
_PARAMETERS = re.compile(rb"(?: [A-Za-z0-9][A-Za-z0-9-]*(?:=[!-<>-~\x80-\xff]+)?)+")
# RFC 3461 section 4: xtext = *( xchar / hexchar ), of what is printable when decoded
_XTEXT = re.compile(rb"(?:[!-*,-<>-~]|\+[0-9A-F]{2})*")
_HEXCHAR = re.compile(rb"\+([0-9A-F]{2})")
# RFC 6533 section 3: utf-8-addr-xtext and utf-8-addr-unitext
_UNITEXT = re.compile(rb"(?:[!-*,-<>-\[\]-~\x80-\xff]|\\x\{[0-9A-F]{2,6}\})+")
_EMBEDDED = re.compile(r"\\x\{([0-9A-F]+)\}")

_NOTIFY = frozenset({"SUCCESS", "FAILURE", "DELAY"})


# --- addresses -----------------------------------------------------------------------------------------------------


class _LocalPartTooLong(ValueError):
    """More than RFC 5321 section 4.5.3.1.1 allows."""


def _address(
    plain: bytes | None,
    quoted: bytes | None,
    domain: bytes | None,
    literal: bytes | None,
    *,
    local_octets_max: int = LOCAL_OCTETS_MAX,
) -> Address:
    """The address of these parts, as the groups of _MAILBOX match them.  Raises ValueError."""
    part = plain if plain is not None else quoted
    assert part is not None
    if len(part) + 2 * (plain is None) > local_octets_max:
        raise _LocalPartTooLong(f"the local part has more than {local_octets_max} octets")
    if plain is None:
        part = _QUOTED_PAIR.sub(rb"\1", part)
    local = part.decode()  # a ValueError if this is no UTF-8
    if _CONTROL.search(local):
        raise ValueError("the local part has a control character")
    return Address(local, _domain(domain) if domain is not None else _literal(literal or b""))


def _address_of_path(match: re.Match[bytes], local_octets_max: int = LOCAL_OCTETS_MAX) -> Address:
    """The address in what _PATH matched.  Raises ValueError."""
    address = _address(*match.groups(), local_octets_max=local_octets_max)
    if match.end() - match.start() > PATH_OCTETS_MAX:
        raise ValueError(f"the path has more than {PATH_OCTETS_MAX} octets")
    return address


def _domain(octets: bytes) -> str:
    """A domain of the right syntax in lower case as A-labels (RFC 5890).  Raises ValueError."""
    if not octets.isascii():
        # RFC 6531 section 3.2: a U-label is a name for its A-label; ours to compare is the A-label.
        octets = idna.encode(octets.decode(), uts46=True)
        if _WHOLE_DOMAIN.fullmatch(octets) is None:
            raise ValueError("not a domain")
    if len(octets) > DOMAIN_OCTETS_MAX:
        raise ValueError(f"the domain has more than {DOMAIN_OCTETS_MAX} octets")
    if len(octets) > LABEL_OCTETS_MAX and max(map(len, octets.split(b"."))) > LABEL_OCTETS_MAX:
        raise ValueError(f"a label of the domain has more than {LABEL_OCTETS_MAX} octets")
    return octets.decode("ascii").lower()


def _literal(octets: bytes) -> str:
    """An address literal in its canonical spelling (RFC 5321 section 4.1.3).  Raises ValueError.

    A General-address-literal is refused: no tag but IPv6 was ever registered.
    """
    text = octets.decode("ascii")
    if text[:5].upper() == "IPV6:":
        if "%" in text:
            raise ValueError("an address literal has no zone")
        return f"[IPv6:{IPv6Address(text[5:])}]"
    return f"[{IPv4Address(text)}]"


def parse_address(text: str) -> Address:
    """`local@domain` as a person writes it in a file or on a command line; UTF-8 and U-labels are welcome.

    Raises ValueError with a sentence for that person.
    """
    octets = text.encode("utf-8", "surrogatepass")
    match = _WHOLE_MAILBOX.fullmatch(octets)
    if match is None:
        raise ValueError(f"not a mail address such as name@example.org: {text!r}")
    try:
        return _address(*match.groups())
    except ValueError as fault:
        raise ValueError(f"not a mail address: {text!r}: {fault}") from None


def parse_domain(text: str) -> str:
    """A domain in lower case as A-labels.  Raises ValueError with a sentence for whoever wrote it."""
    octets = text.encode("utf-8", "surrogatepass")
    if _WHOLE_DOMAIN.fullmatch(octets) is None:
        raise ValueError(f"not a domain such as example.org: {text!r}")
    try:
        return _domain(octets)
    except ValueError as fault:
        raise ValueError(f"not a domain: {text!r}: {fault}") from None


# --- MAIL and RCPT -------------------------------------------------------------------------------------------------


def _short_way(word: bytes) -> Callable[[bytes], Address | None]:
    """From `word:<local@domain>` to its address, and to None from anything else.

    What nearly all mail has: nothing in it is quoted, routed or literal, so that its first ">" is its end; and all of
    it is ASCII and no longer than a label may be, so that there is nothing to check or to decode.  That makes the
    answer the one of the strict way, which is for all the others.
    """
    usual = re.compile(rb"(?i:%b): *<(%b)@(%b)>" % (word, _DOT_STRING, _DOMAIN))

    @lru_cache(maxsize=PATHS_REMEMBERED)
    def address(octets: bytes) -> Address | None:
        match = usual.fullmatch(octets)
        if match is None or not octets.isascii():
            return None
        return Address(match[1].decode("ascii"), match[2].decode("ascii").lower())

    return address


_usual_sender = _short_way(b"FROM")
_usual_recipient = _short_way(b"TO")


def parse_mail(argument: bytes, offered: Extensions) -> tuple[ReversePath, MailParameters]:
    """What follows MAIL: the reverse-path and the parameters (RFC 5321 section 4.1.1.2).  Raises ProtocolFault."""
    end = argument.find(b">") + 1
    if end <= REMEMBERED_OCTETS_MAX and (address := _usual_sender(argument[:end])) is not None:
        return address, _mail_parameters(argument[end:], offered)
    begin = _FROM.match(argument)
    if begin is None:
        raise ProtocolFault(replies.MAIL_SYNTAX)
    if argument.startswith(b"<>", begin.end()):
        return None, _mail_parameters(argument[begin.end() + 2 :], offered)
    match = _PATH.match(argument, begin.end())
    if match is None:
        raise ProtocolFault(replies.BAD_SENDER)
    parameters = _mail_parameters(argument[match.end() :], offered)
    if not (parameters.smtputf8 or match.group().isascii()):
        raise ProtocolFault(replies.NEEDS_SMTPUTF8)
    try:
        # Reverse-paths made by programs (VERP, SRS) are often longer than a person's address, and RFC 5321 section
        # 4.5.3.1 says what must be accepted, not what must be refused: the path's own limit is enough.
        return _address_of_path(match, PATH_OCTETS_MAX), parameters
    except ValueError:
        raise ProtocolFault(replies.BAD_SENDER) from None


def parse_rcpt(argument: bytes, offered: Extensions, smtputf8: bool = False) -> tuple[Address, RcptParameters]:
    """What follows RCPT: the recipient and the parameters (RFC 5321 section 4.1.1.3).  Raises ProtocolFault.

    `smtputf8` says whether MAIL had that parameter.  `<postmaster>` has an empty domain.
    """
    end = argument.find(b">") + 1
    if end <= REMEMBERED_OCTETS_MAX and (address := _usual_recipient(argument[:end])) is not None:
        return address, _rcpt_parameters(argument[end:], offered, smtputf8)
    begin = _TO.match(argument)
    if begin is None:
        raise ProtocolFault(replies.RCPT_SYNTAX)
    match = _PATH.match(argument, begin.end())
    if match is None:
        postmaster = _POSTMASTER.match(argument, begin.end())
        if postmaster is None:
            raise ProtocolFault(replies.BAD_RECIPIENT)
        # RFC 5321 section 4.5.1: postmaster is not case-sensitive, and needs no domain.
        return Address("postmaster", ""), _rcpt_parameters(argument[postmaster.end() :], offered, smtputf8)
    parameters = _rcpt_parameters(argument[match.end() :], offered, smtputf8)
    if not (smtputf8 or match.group().isascii()):
        raise ProtocolFault(replies.NEEDS_SMTPUTF8)
    try:
        return _address_of_path(match), parameters
    except _LocalPartTooLong:
        raise ProtocolFault(replies.RECIPIENT_TOO_LONG) from None
    except ValueError:
        raise ProtocolFault(replies.BAD_RECIPIENT) from None


def _parameters(text: bytes) -> dict[bytes, bytes]:
    """Keywords in upper case and their values (empty: none), from what follows a path.  Raises ProtocolFault."""
    if _PARAMETERS.fullmatch(text) is None:
        raise ProtocolFault(replies.BAD_PARAMETER)
    found: dict[bytes, bytes] = {}
    for parameter in text[1:].split(b" "):
        keyword, _, value = parameter.partition(b"=")
        keyword = keyword.upper()
        if keyword in found:
            raise ProtocolFault(replies.REPEATED_PARAMETER)
        found[keyword] = value
    return found


def _mail_parameters(text: bytes, offered: Extensions) -> MailParameters:
    if not text:
        return NO_MAIL_PARAMETERS
    values: dict[str, Any] = {}
    for keyword, value in _parameters(text).items():
        match keyword:
            case b"SIZE" if offered.size:
                values["size"] = parse_number(value, replies.BAD_PARAMETER)
            case b"BODY" if offered.eightbitmime:
                values["body"] = _body(value, offered)
            case b"SMTPUTF8" if offered.smtputf8:
                values["smtputf8"] = _flag(value)
            case b"RET" if offered.dsn:
                values["ret"] = _one_of(value, "FULL", "HDRS")  # RFC 3461 section 4.3
            case b"ENVID" if offered.dsn:
                values["envid"] = _bounded(decode_xtext(value), ENVID_MAX)  # RFC 3461 section 4.4
            case b"REQUIRETLS" if offered.requiretls:
                values["requiretls"] = _flag(value)  # RFC 8689 section 3
            case b"AUTH" if offered.auth and not offered.auth_needs_tls:
                values["auth"] = decode_xtext(value)  # RFC 4954 section 5
            case _:
                raise ProtocolFault(replies.UNKNOWN_PARAMETER)
    return MailParameters(**values)


def _rcpt_parameters(text: bytes, offered: Extensions, smtputf8: bool) -> RcptParameters:
    if not text:
        return NO_RCPT_PARAMETERS
    values: dict[str, Any] = {}
    for keyword, value in _parameters(text).items():
        match keyword:
            case b"NOTIFY" if offered.dsn:
                values["notify"] = _notify(value)
            case b"ORCPT" if offered.dsn:
                values["orcpt"] = _orcpt(value, smtputf8)
            case _:
                raise ProtocolFault(replies.UNKNOWN_PARAMETER)
    return RcptParameters(**values)


def parse_number(value: bytes, otherwise: Reply) -> int:
    """A decimal number of at most 20 digits.  Raises ProtocolFault with the reply `otherwise`."""
    if not value.isdigit() or len(value) > _DIGITS_MAX:
        raise ProtocolFault(otherwise)
    return int(value)


def _flag(value: bytes) -> bool:
    if value:
        raise ProtocolFault(replies.BAD_PARAMETER)
    return True


def _one_of(value: bytes, *words: str) -> str:
    word = value.decode("latin-1").upper()
    if word not in words:
        raise ProtocolFault(replies.BAD_PARAMETER)
    return word


def _body(value: bytes, offered: Extensions) -> str:
    """RFC 6152 section 2 and RFC 3030 section 3."""
    body = _one_of(value, "7BIT", "8BITMIME", "BINARYMIME")
    if body == "BINARYMIME" and not offered.binarymime:
        raise ProtocolFault(replies.UNKNOWN_PARAMETER)
    return body


def _notify(value: bytes) -> frozenset[str]:
    """RFC 3461 section 4.1: NEVER alone, or any of the others."""
    words = frozenset(value.decode("latin-1").upper().split(","))
    if words != {"NEVER"} and not words <= _NOTIFY:
        raise ProtocolFault(replies.BAD_PARAMETER)
    return words


def _orcpt(value: bytes, smtputf8: bool) -> tuple[str, str]:
    """RFC 3461 section 4.2, and the type utf-8 of RFC 6533 section 3."""
    kind, semicolon, encoded = value.partition(b";")
    if not semicolon or not encoded or re.fullmatch(_ATOM, kind) is None or not kind.isascii():
        raise ProtocolFault(replies.BAD_PARAMETER)
    address_type = kind.decode("ascii").lower()
    address = _decode_unitext(encoded, smtputf8) if address_type == "utf-8" else decode_xtext(encoded)
    return address_type, _bounded(address, ORCPT_MAX)


def decode_xtext(value: bytes) -> str:
    """RFC 3461 section 4: what was encoded must be printable ASCII, so that nothing in it can break a line later.

    Raises ProtocolFault.
    """
    if not value or _XTEXT.fullmatch(value) is None:
        raise ProtocolFault(replies.BAD_PARAMETER)
    text = _HEXCHAR.sub(lambda match: bytes((int(match[1], 16),)), value).decode("latin-1")
    if not (text.isascii() and text.isprintable()):
        raise ProtocolFault(replies.BAD_PARAMETER)
    return text


def _decode_unitext(value: bytes, smtputf8: bool) -> str:
    """RFC 6533 section 3; raw UTF-8 only inside a transaction with SMTPUTF8."""
    if _UNITEXT.fullmatch(value) is None or not (smtputf8 or value.isascii()):
        raise ProtocolFault(replies.BAD_PARAMETER)
    try:
        text = _EMBEDDED.sub(lambda match: chr(int(match[1], 16)), value.decode())
        text.encode()  # surrogates are no characters
    except (ValueError, OverflowError):
        raise ProtocolFault(replies.BAD_PARAMETER) from None
    if _CONTROL.search(text):
        raise ProtocolFault(replies.BAD_PARAMETER)
    return text


def _bounded(text: str, characters_max: int) -> str:
    if len(text) > characters_max:
        raise ProtocolFault(replies.BAD_PARAMETER)
    return text


# --- the other commands --------------------------------------------------------------------------------------------


def parse_hello(argument: bytes) -> str:
    """The name behind EHLO, HELO or LHLO.  Raises ProtocolFault.

    RFC 5321 section 4.1.4: a name that is no domain, or not the client's, is no reason to refuse.  So anything goes
    that is printable, UTF-8 and not too long.
    """
    if not 0 < len(argument) <= DOMAIN_OCTETS_MAX:
        raise ProtocolFault(replies.HELLO_NAME)
    try:
        name = argument.decode()
    except UnicodeDecodeError:
        raise ProtocolFault(replies.HELLO_NAME) from None
    if not name.isprintable():
        raise ProtocolFault(replies.HELLO_NAME)
    return name


def parse_chunk(argument: bytes) -> tuple[int, bool]:
    """What follows BDAT: the octets of the chunk, and whether it is the last (RFC 3030 section 2).

    Raises a ProtocolFault that closes: where the chunk ends cannot be known.
    """
    number, space, last = argument.partition(b" ")
    if (space and last.upper() != b"LAST") or not number.isdigit() or len(number) > _DIGITS_MAX:
        raise ProtocolFault(replies.BAD_CHUNK, closes=True)
    return int(number), bool(space)


def parse_auth(argument: bytes) -> tuple[str, bytes | None]:
    """What follows AUTH: the mechanism in upper case, and the initial response: decoded, None if there is none.

    Raises ProtocolFault.  RFC 4954 section 4: a single "=" is an empty response.
    """
    name, space, initial = argument.partition(b" ")
    # RFC 4422 section 3.1: sasl-mech = 1*20mech-char
    if re.fullmatch(rb"[A-Za-z0-9_-]{1,20}", name) is None or (space and not initial):
        raise ProtocolFault(replies.AUTH_SYNTAX)
    mechanism = name.decode("ascii").upper()
    if not space:
        return mechanism, None
    return mechanism, b"" if initial == b"=" else decode_base64(initial)


def decode_base64(octets: bytes) -> bytes:
    """RFC 4648 section 4, padding required and nothing skipped.  Raises ProtocolFault."""
    try:
        decoded = a2b_base64(octets, strict_mode=True)
    except NotBase64:
        raise ProtocolFault(replies.BAD_BASE64) from None
    # Strict as it is, it lets padding stand behind octets that need none.
    if octets.endswith(b"=") and len(decoded) % 3 == 0:
        raise ProtocolFault(replies.BAD_BASE64)
    return decoded
