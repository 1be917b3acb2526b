"""Address fields: read in one way or refused, in linear time, and never with another error."""

from __future__ import annotations

import contextlib
import time
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as some

from mailhub.wire.mailboxes import (
    FIELD_CHARACTERS_MAX,
    MAILBOXES_MAX,
    MalformedField,
    parse_mailboxes,
    qualify_mailboxes,
)


@pytest.mark.parametrize(
    ("field", "addresses"),
    [
        ("alice@example.org", ["alice@example.org"]),
        ("<alice@EXAMPLE.org>", ["alice@example.org"]),
        ("Alice <alice@example.org>", ["alice@example.org"]),
        ('"Alice, of <wonderland>" <alice@example.org>', ["alice@example.org"]),
        (r'"a \" quote" <alice@example.org>', ["alice@example.org"]),
        ("Alice B. Carroll <alice@example.org>", ["alice@example.org"]),
        ("(a (nested \\) one)) alice@example.org (after)", ["alice@example.org"]),
        ("=?utf-8?Q?bob=40example.org?= <alice@example.org>", ["alice@example.org"]),
        ('"bob@example.org" <alice@example.org>', ["alice@example.org"]),
        ("(bob@example.org) alice@example.org", ["alice@example.org"]),
        ("alice@example.org, Bob <bob@example.org>", ["alice@example.org", "bob@example.org"]),
        ("team: alice@example.org, Bob <bob@example.org>;", ["alice@example.org", "bob@example.org"]),
        ("undisclosed recipients:;", []),
        ('"a b"@example.org', ['"a b"@example.org']),
        ('"alice"@example.org', ["alice@example.org"]),
        ("alice@[192.0.2.1]", ["alice@[192.0.2.1]"]),
        ("Jürgen <jürgen@bücher.example>", ["jürgen@xn--bcher-kva.example"]),
        ("\talice@example.org ", ["alice@example.org"]),
    ],
)
def test_what_is_well_formed_is_read(field: str, addresses: list[str]) -> None:
    assert [str(address) for address in parse_mailboxes(field)] == addresses


@pytest.mark.parametrize(
    "field",
    [
        "",
        " ",
        "alice",
        "Alice",
        "alice@",
        "@example.org",
        "<>",
        "alice@example.org bob@example.org",
        "alice@example.org <bob@example.org>",
        "bob@example.org alice <alice@example.org>",
        "<alice@example.org> <bob@example.org>",
        "<alice@example.org>bob@example.org",
        "<alice@example.org",
        "alice@example.org>",
        "alice@example.org,",
        ",alice@example.org",
        "alice@example.org,,bob@example.org",
        "alice@example.org;bob@example.org",
        "<@relay.example:alice@example.org>",
        "alice @example.org",
        "alice@ example.org",
        "alice@(bob@example.org)example.org",
        "alice@example.org@example.net",
        '"alice"bob@example.org',
        '""@example.org',
        "a..b@example.org",
        ".a@example.org",
        "alice@example..org",
        "alice@-example.org",
        'Alice "unended <alice@example.org>',
        "Alice (unended <alice@example.org>",
        "Alice) <alice@example.org>",
        "Alice [team] <alice@example.org>",
        "a: b: alice@example.org;;",
        "a: alice@example.org",
        "a: , ;",
        "alice\0@example.org",
        "Al\rice <alice@example.org>",
        "Al\nice <alice@example.org>",
        '"a\rb" <alice@example.org>',
        "(" * 50 + ")" * 50 + " alice@example.org",
        "alice@[not an address]",
        "x" * 65 + "@example.org",
        "alice@" + "x" * 64 + ".org",
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(field: str) -> None:
    with pytest.raises(MalformedField):
        parse_mailboxes(field)


def test_it_is_bounded() -> None:
    many = ", ".join(["a@b.example"] * MAILBOXES_MAX)
    assert len(parse_mailboxes(many)) == MAILBOXES_MAX
    with pytest.raises(MalformedField, match="too many"):
        parse_mailboxes(many + ", a@b.example")
    with pytest.raises(MalformedField, match="too long"):
        parse_mailboxes("a@b.example (" + "x" * FIELD_CHARACTERS_MAX + ")")


@pytest.mark.parametrize(
    "piece", ["(", ")", "()", '"', '"\\', "\\", ";", "a.", "<", "a:", "a@b,", "[", " ", "a(", "=?"]
)
def test_no_field_costs_more_than_it_is_long(piece: str) -> None:
    field = (piece * FIELD_CHARACTERS_MAX)[:FIELD_CHARACTERS_MAX]
    begun = time.process_time()
    with pytest.raises(MalformedField):
        parse_mailboxes(field)
    assert time.process_time() - begun < 0.5


@given(some.text(alphabet='ab.@<>,;:()[]" \\\t\r\n\0é\ufffd%!', max_size=60))
def test_nothing_else_is_ever_raised(field: str) -> None:
    try:
        found = parse_mailboxes(field)
    except MalformedField:
        return
    assert all(address.local and address.domain for address in found)


NAMES = ("", "A", " A\tB ", "A.", '"N, o"', '"N" ', '"N\\"" ', '"', "A @ ", "ö", "(c) ", "A, ", "g: ")
ADDRESSES = (
    "",
    "a@b.example",
    "a.b@B.example",
    "a..b@b.example",
    "a @b.example",
    "ä@b.example",
    "a@[192.0.2.1]",
    '"a"@b.example',
)
WHOLE = tuple(map("".join, product(NAMES, ("", "<", "< "), ADDRESSES, ("", ">", " >"), ("", " ", "x", " (c)", ";"))))


def test_what_is_read_at_one_look_is_what_the_tokens_say() -> None:
    read = 0
    for field in WHOLE:
        read += _reads_alike(field)
    assert 50 < read < len(WHOLE)


def _reads_alike(field: str) -> bool:
    """Whether it can be read at all."""
    by_tokens = None
    with contextlib.suppress(MalformedField):
        qualified, addresses = qualify_mailboxes(field, "h.test")
        by_tokens = addresses if qualified == field else None
    at_one_look = None
    with contextlib.suppress(MalformedField):
        at_one_look = parse_mailboxes(field)
    assert at_one_look == by_tokens, field
    return by_tokens is not None


@given(some.lists(some.sampled_from(["alice@example.org", '"a, b"@example.org', "ö@example.net"]), min_size=1))
def test_what_we_write_is_what_we_read(addresses: list[str]) -> None:
    field = ", ".join(f'"N, {number}" (c) <{address}>' for number, address in enumerate(addresses[:MAILBOXES_MAX]))
    assert [str(address) for address in parse_mailboxes(field)] == addresses[:MAILBOXES_MAX]


@pytest.mark.parametrize(
    ("field", "qualified", "addresses"),
    [
        ("root", "root@h.test", "root@h.test"),
        ("root (Cron Daemon)", "root@h.test (Cron Daemon)", "root@h.test"),
        ("Root <root>, bob@x.test", "Root <root@h.test>, bob@x.test", "root@h.test bob@x.test"),
        ("a, b.c ,\td", "a@h.test, b.c@h.test ,\td@h.test", "a@h.test b.c@h.test d@h.test"),
        ("all: a, b@x.test;", "all: a@h.test, b@x.test;", "a@h.test b@x.test"),
        ('"o k"', '"o k"@h.test', '"o k"@h.test'),
        ("Bob <bob@x.test>", "Bob <bob@x.test>", "bob@x.test"),
    ],
)
def test_a_local_part_alone_gets_the_origin(field: str, qualified: str, addresses: str) -> None:
    found, parsed = qualify_mailboxes(field, "h.test")
    assert (found, " ".join(map(str, parsed))) == (qualified, addresses)
    assert parse_mailboxes(found) == parsed


@pytest.mark.parametrize("field", ["", "a b", "a@", "@x.test", "<a", "a,,b", "a@x.test b", "a..b"])
def test_what_is_no_address_list_gets_none(field: str) -> None:
    with pytest.raises(MalformedField):
        qualify_mailboxes(field, "h.test")
