"""Addresses: in MAIL and RCPT, as people write them, and in address fields of a header.

One parser gives an address to the whole program, so what comes out of it is written back here and read again: it must
be the same, on one line, with nothing in it that could command anybody.
"""

from __future__ import annotations

import re
from collections.abc import Hashable

from mailhub.model import Address, path
from mailhub.wire.mailboxes import MAILBOXES_MAX, MalformedField, parse_mailboxes, qualify_mailboxes
from mailhub.wire.smtp.extensions import Extensions
from mailhub.wire.smtp.grammar import (
    DOMAIN_OCTETS_MAX,
    LOCAL_OCTETS_MAX,
    PATH_OCTETS_MAX,
    parse_address,
    parse_domain,
    parse_rcpt,
)
from mailhub.wire.smtp.replies import ProtocolFault
from tests.fuzz.target import target

_OFFERED = Extensions("mx.example.test")
_DOMAIN = re.compile(r"[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")

SEEDS = (
    b"alice@example.test",
    b'"alice"@example.test',
    b'"a \\" b\\\\"@example.test',
    b"a.b+c@sub.example.test",
    b"a..b.@x",
    b"../../etc/passwd@x",
    b"a@[192.0.2.1]",
    b"a@[IPv6:2001:db8::1]",
    b"a@[IPv6:fe80::1%eth0]",
    b"a@[tag:x]",
    "jürgen@müller.example".encode(),
    "用户@例え.テスト".encode(),
    b"a@xn--mller-kva.example",
    b"a%b@x!y@z",
    b"SRS0=AAAA=AA=x.test=y@example.test",
    b"a@" + b"a." * 100 + b"x",
    b"x" * 64 + b"@" + b"y" * 63 + b".test",
    b"a@x-.test",
    b"a@\xef\xbc\x8eb",
)
TOKENS = (
    b"alice", b"@", b"example.test", b'"', b"\\", b"\\\"", b".", b"..", b"[", b"]", b"[127.0.0.1]", b"IPv6:", b"::1",
    b"%", b"!",
    b"xn--", b"-", b"a@b", b"<", b">", b" ", "ü".encode(), "ß".encode(), "\u3002".encode(), "\u200d".encode(),
    b"\xc2\x85", "İ".encode(),
    "\u0301".encode(), "\u05d0".encode(), b"_", b"=", b"+", b"/", b"|", b",", b";", b":", b"(", b")",
)  # fmt: skip


def check_address(address: Address) -> None:
    """What must be true of every address that was ever read."""
    assert address.local, "the local part is empty"
    assert not _CONTROL.search(address.local), "a control character"
    address.local.encode()  # no lone surrogates
    domain = address.domain
    assert domain.isascii()
    assert domain == domain.lower() or domain.startswith("[IPv6:")
    assert len(domain) <= DOMAIN_OCTETS_MAX
    assert _DOMAIN.fullmatch(domain) or (domain.startswith("[") and domain.endswith("]")), domain
    assert not {"\r", "\n", "\0"} & set(str(address))
    if len(str(address).rpartition("@")[0].encode()) > LOCAL_OCTETS_MAX:
        return  # a reverse-path may have such a one, and a quoted spelling may be longer than the one that was read
    assert parse_address(str(address)) == address, "written and read again it is another one"
    if len(path(address).encode()) <= PATH_OCTETS_MAX:
        again, _ = parse_rcpt(b"TO:" + path(address).encode(), _OFFERED, smtputf8=True)
        assert again == address, "as a path it is another one"


def shape(address: Address) -> Hashable:
    """What kind of address it is."""
    return (
        address.is_ascii,
        address.is_literal,
        "." in address.domain,
        "xn--" in address.domain,
        str(address)[:1] == '"',
    )


@target(
    "address", "an address as people write it: parse_address and parse_domain of wire/smtp/grammar.py", SEEDS, TOKENS
)
def address(octets: bytes) -> Hashable:
    """An address, or else a domain, or else nothing."""
    text = octets.decode("utf-8", "surrogateescape")
    try:
        found = parse_address(text)
    except ValueError as fault:
        assert len(str(fault)) <= 200 + 10 * len(text)
    else:
        check_address(found)
        return shape(found)
    try:
        domain = parse_domain(text)
    except ValueError:
        return None
    assert parse_domain(domain) == domain
    assert _DOMAIN.fullmatch(domain)
    return "domain", "xn--" in domain


@target(
    "rcpt",
    "what follows RCPT: parse_rcpt of wire/smtp/grammar.py",
    (
        *(b"TO:<" + seed + b">" for seed in SEEDS),
        b"TO:<postmaster>",
        b"TO:<@a.test,@b.test:c@d.test>",
        b"TO:  <a@b>",
        b"TO:<a@b> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;a+40b",
        b"TO:<a@b> ORCPT=utf-8;\\x{FC}@b notify=never",
        b"TO:<a@b> NOTIFY=NEVER,DELAY X=1",
        b"1TO:<a@b> ORCPT=utf-8;" + "ü".encode() + b"@b",
    ),
    (
        *TOKENS, b"TO:", b"<", b">", b"@a,@b:", b" NOTIFY=", b"NEVER", b"SUCCESS", b",", b" ORCPT=", b"rfc822;",
        b"utf-8;",
        b"+2B", b"+0A", b"\\x{41}", b"\\x{110000}", b"\\x{D800}", b"\\x{0A}",
    ),
)  # fmt: skip
def rcpt(octets: bytes) -> Hashable:
    """A `1` before all else says that MAIL had SMTPUTF8."""
    smtputf8 = octets[:1] == b"1"
    try:
        found, parameters = parse_rcpt(octets[smtputf8:], _OFFERED, smtputf8)
    except ProtocolFault as fault:
        assert not fault.closes
        assert fault.reply.code >= 500
        return fault.reply.text
    if found.domain:
        check_address(found)
    else:
        assert found.local == "postmaster"
    assert smtputf8 or found.is_ascii, "an address that MAIL did not announce"
    assert parameters.notify <= {"NEVER", "SUCCESS", "FAILURE", "DELAY"}
    assert "NEVER" not in parameters.notify or len(parameters.notify) == 1
    if parameters.orcpt is not None:
        kind, original = parameters.orcpt
        assert kind.isascii()
        assert len(original) <= 500
        assert not _CONTROL.search(original)
        original.encode()
    return shape(found), tuple(sorted(parameters.notify)), parameters.orcpt is None or parameters.orcpt[0]


_FIELDS = (
    b"alice@example.test",
    b"Alice A. Doe <alice@example.test>, bob@example.test",
    b'"Doe, J." <j@x>, (a (nested) comment) k@y (after)',
    b"group: a@x, b@y;, empty:;",
    b"=?utf-8?Q?J=C3=BC?= <j@x>",
    b"bob, alice <carol>, dave@x",
    b"<@route:a@x>",
    b'a."b".c@x',
    b"a @ x",
    b"a@x,,b@y",
    b"undisclosed-recipients:;",
    b"<a@[192.0.2.1]>",
    b"(" * 9 + b")" * 9 + b"a@x",
)


@target(
    "mailboxes",
    "an address field of a header: wire/mailboxes.py",
    _FIELDS,
    (*TOKENS, b"Alice", b"<a@b>", b", ", b"group:", b";", b"(", b")", b"(x)", b"\\)", b"\t", b"=?utf-8?B?eA==?="),
    seconds_per_octet=40e-6,
)
def mailboxes(octets: bytes) -> Hashable:
    """The addresses in a field, and the same where some of them lack a domain."""
    text = octets.decode("utf-8", "surrogateescape")
    found: tuple[Address, ...] | None = None
    try:
        found = parse_mailboxes(text)
    except MalformedField as fault:
        strict: Hashable = str(fault)
    else:
        strict = len(found)
        assert len(found) <= MAILBOXES_MAX
        for each in found:
            check_address(each)
    try:
        qualified, addresses = qualify_mailboxes(text, "origin.test")
    except MalformedField as fault:
        assert found is None, "it can be read, but not with a domain at hand"
        return strict, str(fault)
    if found is not None:
        assert (qualified, addresses) == (text, found)
    assert len(qualified) <= len(text) + MAILBOXES_MAX * len("@origin.test")
    if len(qualified) <= 16 * 1024:
        assert parse_mailboxes(qualified) == addresses, "once qualified it means something else"
    return strict, len(addresses)
