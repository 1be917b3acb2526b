"""The arguments of commands, each by itself: MAIL, hello, BDAT, AUTH, and the encodings inside of them.

RCPT is among the addresses.  What MAIL came to is said again as our own client would, and read again.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Hashable

from mailhub.model import NO_MAIL_PARAMETERS
from mailhub.wire.smtp import client_commands, grammar
from mailhub.wire.smtp.capabilities import Capabilities
from mailhub.wire.smtp.client_events import Mail
from mailhub.wire.smtp.extensions import Extensions
from mailhub.wire.smtp.replies import ProtocolFault
from tests.fuzz.target import target
from tests.fuzz.targets.address import SEEDS as _ADDRESSES
from tests.fuzz.targets.address import TOKENS, check_address, shape

_OFFERED = Extensions("mx.example.test", auth=("PLAIN",), binarymime=True, requiretls=True)
_EVERYTHING = Capabilities(
    size=True, eightbitmime=True, smtputf8=True, dsn=True, chunking=True, binarymime=True, requiretls=True
)


@target(
    "mail",
    "what follows MAIL: parse_mail of wire/smtp/grammar.py",
    (
        *(b"FROM:<" + seed + b">" for seed in _ADDRESSES),
        b"FROM:<>",
        b"from: <a@b> SIZE=12345 BODY=8BITMIME SMTPUTF8",
        b"FROM:<> BODY=BINARYMIME RET=HDRS ENVID=QQ+3D1",
        b"FROM:<a@b> AUTH=<> REQUIRETLS",
        b"FROM:<a@b> AUTH=e+3Dmc2@example.test RET=FULL",
        b"FROM:<a@b> SIZE=99999999999999999999",
        b"FROM:<a@b> BODY=7BIT BODY=7BIT",
        b"FROM:<a@b> X-UNKNOWN=1",
        b"FROM:<a@b> RET=HDRS ENVID=" + b"x" * 101,
    ),
    (
        *TOKENS, b"FROM:", b"<>", b"<a@b>", b" SIZE=", b"123", b" BODY=", b"7BIT", b"8BITMIME", b"BINARYMIME",
        b" SMTPUTF8",
        b" RET=", b"FULL", b"HDRS", b" ENVID=", b" AUTH=", b" REQUIRETLS", b"+41", b"+0D", b"+7F", b"+C3+BC", b"+",
        b"=",
    ),
)  # fmt: skip
def mail(octets: bytes) -> Hashable:
    """The reverse-path and its parameters."""
    try:
        found, parameters = grammar.parse_mail(octets, _OFFERED)
    except ProtocolFault as fault:
        assert not fault.closes
        assert fault.reply.code >= 500
        return fault.reply.text
    if found is not None:
        check_address(found)
        assert parameters.smtputf8 or found.is_ascii
    for text in (parameters.envid, parameters.auth):
        assert text is None or (text.isascii() and text.isprintable())
    assert parameters.size is None or 0 <= parameters.size < 10**20
    assert parameters.body in (None, "7BIT", "8BITMIME", "BINARYMIME")
    assert parameters.ret in (None, "FULL", "HDRS")
    said = client_commands.mail(
        Mail(found, (), parameters.size or 0, parameters.body or "7BIT", parameters=parameters),  # type: ignore[arg-type]
        _EVERYTHING,
        parameters.smtputf8,
    )
    assert said.endswith("\r\n")
    assert said.count("\r") == said.count("\n") == 1
    if len(said) < 250:
        again, kept = grammar.parse_mail(said[len("MAIL ") : -2].encode(), _OFFERED)
        assert again == found, "said again it is another sender"
        assert (kept.ret, kept.smtputf8, kept.requiretls) == (
            parameters.ret,
            parameters.smtputf8,
            parameters.requiretls,
        )
        # What is longer in its encoded form than a host must take is not passed on.
        assert kept.envid in (None, parameters.envid)
    return (
        found if found is None else shape(found),
        parameters is NO_MAIL_PARAMETERS,
        parameters.body,
        parameters.ret,
        parameters.smtputf8,
        parameters.requiretls,
        parameters.auth is None,
        parameters.envid is None,
    )


@target(
    "argument",
    "what follows EHLO, BDAT and AUTH, and base64: wire/smtp/grammar.py",
    (
        b"client.example.test",
        b"[192.0.2.1]",
        "müller.example".encode(),
        b"x" * 255,
        b"4096 LAST",
        b"0",
        b"99999999999999999999 last",
        b"PLAIN AGFsaWNlAHNlY3JldA==",
        b"SCRAM-SHA-256 =",
        b"LOGIN",
        b"AAAA",
        b"QQ==",
        b"QR==",
        b"QUI=",
    ),
    (b"LAST", b" ", b"=", b"==", b"A", b"Zg", b"+/", b"PLAIN", b"XOAUTH2", b"-", b"_", b"0", b"9", b"\xc2\xa0",
    b"\xe2\x80\x8b"),
    ci_inputs=40_000,
)  # fmt: skip
def argument(octets: bytes) -> Hashable:
    """The same octets as the argument of each."""
    came_to: list[Hashable] = []
    try:
        name = grammar.parse_hello(octets)
        assert name.isprintable()
        assert name.encode() == octets
        came_to.append(name.isascii())
    except ProtocolFault as fault:
        came_to.append(fault.reply.text)
    try:
        size, is_last = grammar.parse_chunk(octets)
        assert 0 <= size < 10**20
        came_to.append(is_last)
    except ProtocolFault as fault:
        assert fault.closes, "nobody knows where such a chunk ends"
        came_to.append(fault.reply.text)
    try:
        mechanism, initial = grammar.parse_auth(octets)
        assert mechanism == mechanism.upper()
        assert mechanism.isascii()
        assert 0 < len(mechanism) <= 20
        came_to.append(initial is None)
    except ProtocolFault as fault:
        came_to.append(fault.reply.text)
    try:
        decoded = grammar.decode_base64(octets)
        # The last character may have bits that mean nothing; all before it has one spelling.
        assert b64encode(decoded)[:-4] == octets[:-4]
        assert len(b64encode(decoded)) == len(octets)
        came_to.append(octets[-2:].count(b"="))
    except ProtocolFault as fault:
        came_to.append(fault.reply.text)
    return tuple(came_to)


@target(
    "xtext",
    "the encodings of RFC 3461 and RFC 6533: wire/smtp/grammar.py and client_commands.py",
    (b"a+40b", b"+2B+3D", b"rfc822", b"+0D+0A", b"\\x{FC}", b"a\\x{1F600}b", b"+", b"+4", b"a=b"),
    (b"+", b"+41", b"+7E", b"+00", b"\\x{", b"}", b"\\x{41}", b"\\x{FFFFFF}", b"\\", b"=", b" ", b"~", "ü".encode()),
    ci_inputs=40_000,
)
def xtext(octets: bytes) -> Hashable:
    """Whatever is decoded is encoded to something that decodes to the same; and any text survives the way out."""
    came_to: Hashable = None
    try:
        text = grammar.decode_xtext(octets)
        assert text.isascii()
        assert text.isprintable()
        assert grammar.decode_xtext(client_commands.xtext(text).encode()) == text
        came_to = len(text) == len(octets)
    except ProtocolFault as fault:
        came_to = fault.reply.text
    written = client_commands.xtext(octets.decode("latin-1"))
    assert written.isascii()
    assert written.isprintable()
    assert " " not in written
    plain = octets.decode("utf-8", "replace")
    for smtputf8 in (False, True):
        one = client_commands.unitext(plain, smtputf8)
        assert smtputf8 or one.isascii()
        assert not set("\r\n ") & set(one)
        assert len(one) <= 10 * len(plain)
    return came_to, written == plain, len(written).bit_length()
