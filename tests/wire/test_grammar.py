"""The parser of addresses, paths and parameters gives a value or a fault, and never repairs anything."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mailhub.model import Address, MailParameters
from mailhub.wire.smtp import grammar, replies
from mailhub.wire.smtp.extensions import NO_EXTENSIONS, Extensions
from mailhub.wire.smtp.grammar import parse_address, parse_domain, parse_mail, parse_rcpt
from mailhub.wire.smtp.replies import ProtocolFault

ALL = Extensions("mx.example.test", auth=("PLAIN",), binarymime=True, requiretls=True)


def rcpt(path: str, smtputf8: bool = False) -> Address | str:
    """The recipient, or code and status of the refusal."""
    try:
        return parse_rcpt(b"TO:" + path.encode("utf-8", "surrogateescape"), ALL, smtputf8)[0]
    except ProtocolFault as fault:
        return f"{fault.reply.code} {fault.reply.status}"


@pytest.mark.parametrize(
    ("path", "local", "domain"),
    [
        ("<bob@example.test>", "bob", "example.test"),
        ("<Bob.B@Example.TEST>", "Bob.B", "example.test"),
        ("   <bob@example.test>", "bob", "example.test"),
        ("<!#$%&'*+/=?^_`{|}~-@x>", "!#$%&'*+/=?^_`{|}~-", "x"),
        ("<b@a-b--c.1.x>", "b", "a-b--c.1.x"),
        ('<"bob"@example.test>', "bob", "example.test"),
        ('<"b\\ob"@example.test>', "bob", "example.test"),
        ('<"a b"@example.test>', "a b", "example.test"),
        ('<"a@b"@example.test>', "a@b", "example.test"),
        ('<"a\\"\\\\>b"@example.test>', 'a"\\>b', "example.test"),
        ('<" "@example.test>', " ", "example.test"),
        ("<postmaster>", "postmaster", ""),
        ("<PostMaster>", "postmaster", ""),
        ("<bob@[192.0.2.1]>", "bob", "[192.0.2.1]"),
        ("<bob@[ipv6:2001:DB8:0::1]>", "bob", "[IPv6:2001:db8::1]"),
        # The forms that once relayed end as the real address.
        ("<@ours.example:bob@other.example>", "bob", "other.example"),
        ("<@a.example,@b.example:bob@other.example>", "bob", "other.example"),
        ("<bob%other.example@ours.example>", "bob%other.example", "ours.example"),
        ("<other.example!bob@ours.example>", "other.example!bob", "ours.example"),
        ('<"bob@other.example"@ours.example>', "bob@other.example", "ours.example"),
    ],
)
def test_an_address_means_this(path: str, local: str, domain: str) -> None:
    assert rcpt(path) == Address(local, domain)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "<>",
        "<",
        "bob@example.test",
        "<bob@example.test",
        "<bob>",
        "<bob@>",
        "<@example.test>",
        "<bob@example.test.>",
        "<bob@.example.test>",
        "<bob@example..test>",
        "<bob@-example.test>",
        "<bob@example-.test>",
        "<bob@exa_mple.test>",
        "<bob@exam ple.test>",
        "<bob @example.test>",
        "< bob@example.test>",
        "<bob@example.test@other.example>",
        "<bob@[192.0.2]>",
        "<bob@[192.0.2.256]>",
        "<bob@[192.0.2.01]>",
        "<bob@[IPv6:192.0.2.1]>",
        "<bob@[IPv6:fe80::1%eth0]>",
        "<bob@[2001:db8::1]>",
        "<bob@[tag:general]>",
        "<bob@[]>",
        '<""@example.test>',
        '<"bob@example.test>',
        '<"bo"b"@example.test>',
        '<"bob\\"@example.test>',
        '<"bob"x@example.test>',
        "<b\0ob@example.test>",
        "<b\x7fob@example.test>",
        "<b\tob@example.test>",
        '<"b\rob"@example.test>',
        "<bob@example.test\0>",
        "<other!bob>",
        "<@ours.example:>",
        "<@ours.example,bob@other.example>",
        "<bob@" + "a" * 64 + ".test>",
        "<bob@" + "a." * 130 + "test>",
        "<" + "@ours.example:" * 1 + "bob@" + "a." * 120 + "test>",
    ],
)
def test_what_is_no_path_is_refused(path: str) -> None:
    assert rcpt(path) == "501 5.1.3"
    if path not in ("<>",):
        with pytest.raises(ProtocolFault) as caught:
            parse_mail(b"FROM:" + path.encode(), ALL)
        assert caught.value.reply == replies.BAD_SENDER


@pytest.mark.parametrize("local", [".bob", "bob.", "b..ob", "../../x"])
def test_dots_may_stand_anywhere_since_there_are_such_mailboxes(local: str) -> None:
    assert rcpt(f"<{local}@example.test>") == rcpt(f'<"{local}"@example.test>') == Address(local, "example.test")


def test_the_lengths_of_an_address() -> None:
    assert isinstance(rcpt(f"<{'a' * 64}@x>"), Address)
    assert rcpt(f"<{'a' * 65}@x>") == "550 5.1.1"
    # A sender's address is often made by a program: only the path's own limit holds.
    assert isinstance(parse_mail(b"FROM:<" + b"a" * 200 + b"@x>", ALL)[0], Address)
    with pytest.raises(ProtocolFault) as caught:
        parse_mail(b"FROM:<" + b"a" * 260 + b"@x>", ALL)
    assert caught.value.reply == replies.BAD_SENDER
    assert rcpt(f"<{'a' * 1000}@x>") == "550 5.1.1"
    assert rcpt(f'<"{"a" * 63}"@x>') == "550 5.1.1"
    assert isinstance(rcpt(f"<{'a' * 64}@{'b.' * 94}b>"), Address)
    assert rcpt(f"<{'a' * 64}@{'b.' * 94}bb>") == "501 5.1.3"
    assert rcpt(f"<{'ü' * 33}@x>", smtputf8=True) == "550 5.1.1"


def test_unicode_addresses() -> None:
    assert rcpt("<bücher@x>") == "553 5.6.7"
    assert rcpt("<b@bücher.example>") == "553 5.6.7"
    assert rcpt("<bücher@Bücher.example>", smtputf8=True) == Address("bücher", "xn--bcher-kva.example")
    assert rcpt("<b@XN--Bcher-kva.example>") == Address("b", "xn--bcher-kva.example")
    assert rcpt("<b@faß.example>", smtputf8=True) == Address("b", "xn--fa-hia.example")
    assert rcpt('<"ü ü"@x>', smtputf8=True) == Address("ü ü", "x")
    assert rcpt("<b@☃.example>", smtputf8=True) == "501 5.1.3"
    assert rcpt("<b@x。>", smtputf8=True) == "501 5.1.3"
    assert rcpt("<b\udcff@x>", smtputf8=True) == "501 5.1.3"
    assert rcpt("<b\udced\udca0\udc80@x>", smtputf8=True) == "501 5.1.3"  # a surrogate
    for control in "\x80\x85\x9f\u2028\u2029":
        assert rcpt(f"<b{control}b@x>", smtputf8=True) == "501 5.1.3"


def test_the_null_reverse_path() -> None:
    assert parse_mail(b"FROM:<>", ALL) == (None, MailParameters())
    assert parse_mail(b"from: <> SIZE=5", ALL) == (None, MailParameters(size=5))


def test_every_parameter_of_mail() -> None:
    text = b"FROM:<a@b> SIZE=77 BODY=8bitmime SMTPUTF8 RET=Full ENVID=a+2Bb+20c REQUIRETLS AUTH=e+3Dmc2@x"
    assert parse_mail(text, ALL)[1] == MailParameters(77, "8BITMIME", True, "FULL", "a+b c", True, "e=mc2@x")
    assert parse_mail(b"FROM:<a@b> AUTH=<>", ALL)[1].auth == "<>"
    assert parse_mail(b"FROM:<a@b> BODY=BINARYMIME", ALL)[1].body == "BINARYMIME"


@pytest.mark.parametrize(
    ("text", "reply"),
    [
        (" SIZE", replies.BAD_PARAMETER),
        (" SIZE=", replies.BAD_PARAMETER),
        (" SIZE=-1", replies.BAD_PARAMETER),
        (" SIZE=+1", replies.BAD_PARAMETER),
        (" SIZE=1_0", replies.BAD_PARAMETER),
        (" SIZE=" + "9" * 21, replies.BAD_PARAMETER),
        (" SIZE=١", replies.BAD_PARAMETER),
        (" BODY=9BIT", replies.BAD_PARAMETER),
        (" BODY", replies.BAD_PARAMETER),
        (" SMTPUTF8=1", replies.BAD_PARAMETER),
        (" RET=ALL", replies.BAD_PARAMETER),
        (" ENVID=a+0Ab", replies.BAD_PARAMETER),
        (" ENVID=a+2bb", replies.BAD_PARAMETER),
        (" ENVID=a+", replies.BAD_PARAMETER),
        (" ENVID=a=b", replies.BAD_PARAMETER),
        (" ENVID=" + "a" * 101, replies.BAD_PARAMETER),
        (" AUTH=ü", replies.BAD_PARAMETER),
        ("  SIZE=1", replies.BAD_PARAMETER),
        ("x SIZE=1", replies.BAD_PARAMETER),
        (" =1", replies.BAD_PARAMETER),
        (" -A=1", replies.BAD_PARAMETER),
        (" SIZE=1 size=1", replies.REPEATED_PARAMETER),
        (" NOTIFY=NEVER", replies.UNKNOWN_PARAMETER),
        (" X=1", replies.UNKNOWN_PARAMETER),
    ],
)
def test_parameters_of_mail_that_are_refused(text: str, reply: object) -> None:
    with pytest.raises(ProtocolFault) as caught:
        parse_mail(b"FROM:<a@b>" + text.encode(), ALL)
    assert caught.value.reply == reply


@pytest.mark.parametrize("text", ["SIZE=1", "BODY=7BIT", "SMTPUTF8", "RET=FULL", "ENVID=1", "REQUIRETLS", "AUTH=<>"])
def test_what_is_not_offered_is_not_recognized(text: str) -> None:
    with pytest.raises(ProtocolFault) as caught:
        parse_mail(b"FROM:<a@b> " + text.encode(), NO_EXTENSIONS)
    assert caught.value.reply == replies.UNKNOWN_PARAMETER


def orcpt(value: str, smtputf8: bool = False) -> tuple[str, str] | None:
    return parse_rcpt(b"TO:<a@b> ORCPT=" + value.encode("utf-8", "surrogateescape"), ALL, smtputf8)[1].orcpt


def test_orcpt() -> None:
    assert orcpt("rfc822;bob+2Btag@x") == ("rfc822", "bob+tag@x")
    assert orcpt("RFC822;a;b") == ("rfc822", "a;b")
    assert orcpt(r"utf-8;b\x{FC}b\x{5C}\x{2B}@x") == ("utf-8", "büb\\+@x")
    assert orcpt("utf-8;büb@x", smtputf8=True) == ("utf-8", "büb@x")
    for bad in ("bob@x", "rfc822;", ";bob", "rfc822;a+0D", "rfc822;a+00", "a b;c", "rfc822;" + "a" * 501, "rfc822;ü"):
        with pytest.raises(ProtocolFault):
            orcpt(bad, smtputf8=True)
    for bad in (r"utf-8;\x{0A}", r"utf-8;\x{D800}", r"utf-8;\x{110000}", r"utf-8;\x{fc}", r"utf-8;\x", "utf-8;a+2B"):
        with pytest.raises(ProtocolFault):
            orcpt(bad, smtputf8=True)
    for bad in ("utf-8;büb@x", "utf-8;\udcff"):
        with pytest.raises(ProtocolFault):
            orcpt(bad)


def test_notify() -> None:
    def notify(value: str) -> frozenset[str]:
        return parse_rcpt(f"TO:<a@b> NOTIFY={value}".encode(), ALL)[1].notify

    assert notify("never") == {"NEVER"}
    assert notify("SUCCESS,FAILURE,delay") == {"SUCCESS", "FAILURE", "DELAY"}
    for bad in ("NEVER,SUCCESS", "SUCCESS,", ",", "ALWAYS"):
        with pytest.raises(ProtocolFault):
            notify(bad)


def test_hello_names_are_taken_as_they_are() -> None:
    for name in ("localhost", "[192.0.2.1]", "a name with spaces", "under_score", "münchen", "-"):
        assert grammar.parse_hello(name.encode()) == name
    for bad in (b"", b"a\x00b", b"a\x1bb", b"\xff", "a\u2028".encode(), b"a" * 256):
        with pytest.raises(ProtocolFault):
            grammar.parse_hello(bad)


def test_chunk_sizes() -> None:
    assert grammar.parse_chunk(b"0") == (0, False)
    assert grammar.parse_chunk(b"86 LAST") == (86, True)
    for bad in (b"", b"-1", b"1 ", b"1  LAST", b"1 FIRST", b"0x1", b"1e3", b"9" * 21, b"LAST"):
        with pytest.raises(ProtocolFault) as caught:
            grammar.parse_chunk(bad)
        assert caught.value.closes


def test_initial_responses() -> None:
    assert grammar.parse_auth(b"plain") == ("PLAIN", None)
    assert grammar.parse_auth(b"SCRAM-SHA-256-PLUS =") == ("SCRAM-SHA-256-PLUS", b"")
    assert grammar.parse_auth(b"PLAIN AGEAYg==") == ("PLAIN", b"\0a\0b")
    for bad in (b"PLAIN AGEAYg", b"PLAIN AGEA Yg==", b"PLAIN ==", b"PLAIN A", b"PLAIN AGEAYg==AGEA", b"PLAIN \xff"):
        with pytest.raises(ProtocolFault) as caught:
            grammar.parse_auth(bad)
        assert caught.value.reply == replies.BAD_BASE64
    for padded in (b"PLAIN AGEA=", b"PLAIN AGEA==", b"PLAIN AGEA===="):
        with pytest.raises(ProtocolFault) as caught:
            grammar.parse_auth(padded)
        assert caught.value.reply == replies.BAD_BASE64
    for bad in (b"", b"A" * 21, b"PL\0AIN"):
        with pytest.raises(ProtocolFault):
            grammar.parse_auth(bad)


def test_addresses_of_people() -> None:
    assert parse_address("Jörg@Bücher.Example") == Address("Jörg", "xn--bcher-kva.example")
    assert parse_address('"a b"@x') == Address("a b", "x")
    assert parse_domain("Bücher.Example") == "xn--bcher-kva.example"
    for bad in ("", "bob", "<bob@x>", "bob@x ", " bob@x", "bob@x\n", "a@b@c", "@x", "bob@☃.example", "\ud800@x"):
        with pytest.raises(ValueError, match="not a mail address"):
            parse_address(bad)
    for bad in ("", ".", "x.", "a b", "x\n", "☃.example", "[192.0.2.1]", "a" * 64, "\ud800"):
        with pytest.raises(ValueError, match="not a domain"):
            parse_domain(bad)


@given(st.text(min_size=1, max_size=20), st.from_regex(r"\A[a-z0-9]{1,9}(\.[a-z0-9]{1,9}){0,3}\Z"))
def test_what_an_address_is_spelled_as_it_is_read_as(local: str, domain: str) -> None:
    address = Address(local, domain)
    try:
        read = parse_address(str(address))
    except ValueError:
        controls = any(
            ord(c) < 32 or 127 <= ord(c) < 160 or 0xD800 <= ord(c) < 0xE000 or c in "\u2028\u2029" for c in local
        )
        assert controls or len(str(address).rpartition("@")[0].encode()) > grammar.LOCAL_OCTETS_MAX
    else:
        assert read == address


@given(st.binary(max_size=300), st.booleans())
def test_any_octets_give_a_value_or_a_fault(octets: bytes, smtputf8: bool) -> None:
    for parse in (
        lambda: parse_mail(b"FROM:<" + octets, ALL),
        lambda: parse_mail(b"FROM:<a@b> " + octets, ALL),
        lambda: parse_rcpt(b"TO:<" + octets + b">", ALL, smtputf8),
        lambda: parse_rcpt(b"TO:<a@" + octets + b">", ALL, smtputf8),
        lambda: parse_rcpt(b"TO:<a@b> ORCPT=utf-8;" + octets, ALL, smtputf8),
        lambda: grammar.parse_hello(octets),
        lambda: grammar.parse_chunk(octets),
        lambda: grammar.parse_auth(octets),
        lambda: grammar.decode_base64(octets),
    ):
        with suppress(ProtocolFault):
            parse()


@given(st.text(max_size=60))
def test_any_domain_of_unicode_gives_a_value_or_a_fault(text: str) -> None:
    try:
        domain = parse_domain(text)
    except ValueError:
        return
    assert parse_domain(domain) == domain
    assert domain.isascii()
    assert domain == domain.lower()


@pytest.mark.timeout(5)
def test_no_line_takes_long() -> None:
    for octets in (
        b"a." * 2000,
        b"a-" * 2000,
        b"@a" * 2000,
        b"@a," * 1300,
        b'"' + b"\\a" * 2000,
        b'"' + b"a" * 4000,
        b"a@" + b"a-" * 2000,
        b"a@[" + b"1" * 4000,
        "ü".encode() * 2000 + b"@" + "ü".encode() * 100,
        b"a@" + "ü.".encode() * 1300 + b">",
    ):
        for _ in range(20):
            with pytest.raises(ProtocolFault):
                parse_rcpt(b"TO:<" + octets, ALL, smtputf8=True)
            with pytest.raises(ProtocolFault):
                parse_rcpt(b"TO:<a@b> ORCPT=utf-8;" + octets + b" ", ALL, smtputf8=True)


# --- the short way -------------------------------------------------------------------------------------------------


PIECES = [
    "a",
    "B",
    "7",
    ".",
    "..",
    "-",
    "_",
    "@",
    "<",
    ">",
    '"',
    "\\",
    " ",
    "[",
    "]",
    ":",
    ",",
    "é",
    "x" * 30,
    "[192.0.2.1]",
]
paths = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=12).map("".join),
    st.tuples(st.sampled_from(["bob", "a.b", "é", '"a>b"', "x" * 60, "x" * 70]), st.sampled_from(PIECES)).map(
        lambda parts: f"<{parts[0]}@{parts[1]}example.test>"
    ),
    st.lists(st.sampled_from(PIECES), min_size=1, max_size=6).map(lambda parts: f"<{''.join(parts)}@{parts[0]}>"),
)
tails = st.sampled_from(
    ["", " ", " SIZE=1", " SIZE=1 BODY=8BITMIME", " NOTIFY=NEVER", " SMTPUTF8", ">", "> SIZE=1", "x"]
)


def outcome(parse: Callable[[], object]) -> object:
    try:
        return parse()
    except ProtocolFault as fault:
        return fault.reply


@settings(max_examples=1000)
@given(paths, tails)
@example("<bob@example..test>", "")
@example('<"a>b"@example.test>', "")
@example("<a@[x>y]>", "")
@example("<" + "a" * 54 + "@x.test>", "")
def test_the_short_way_to_an_address_agrees_with_the_strict_one(path: str, tail: str) -> None:
    argument = (path + tail).encode()
    ways = (
        lambda: parse_mail(b"FROM:" + argument, ALL),
        lambda: parse_rcpt(b"TO: " + argument, ALL),
        lambda: parse_rcpt(b"TO:" + argument, ALL, smtputf8=True),
    )
    short = [outcome(way) for way in ways]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grammar, "_usual_sender", lambda path: None)
        patch.setattr(grammar, "_usual_recipient", lambda path: None)
        assert short == [outcome(way) for way in ways]


def test_strangers_cannot_have_much_remembered() -> None:
    remembered = grammar._usual_recipient.cache_info  # type: ignore[attr-defined]
    assert rcpt("<bob@example.test>") is rcpt("<bob@example.test>")
    before = remembered().misses
    assert rcpt(f"<{'x' * 60}@example.test>") == Address("x" * 60, "example.test")
    assert remembered().misses == before
    for number in range(grammar.PATHS_REMEMBERED + 10):
        rcpt(f"<bob{number}@example.test>")
    assert remembered().currsize == grammar.PATHS_REMEMBERED
