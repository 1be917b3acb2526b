"""Nobody relays through us, in whatever form the address comes, and no name ever leads out of the mail directory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

Connect = Callable[..., Any]

#: Somebody else's address in each of the forms in which relays were ever talked into taking it.
FORMS = [
    # as it is
    "user@victim.example",
    "USER@VICTIM.EXAMPLE",
    '"user"@victim.example',
    "user@sub.example.test",
    "user@example.test.victim.example",
    "user@notexample.test",
    # percent
    "user%victim.example@example.test",
    '"user%victim.example"@example.test',
    "user%victim.example%relay.example@example.test",
    "alice%example.test@victim.example",
    "user%victim.example@mx.example.test",
    "alice+user%victim.example@example.test",
    # bang
    "victim.example!user@example.test",
    '"victim.example!user"@example.test',
    "relay.example!victim.example!user@example.test",
    "example.test!user@victim.example",
    "victim.example!user%relay.example@example.test",
    # quoted
    '"user@victim.example"@example.test',
    '"user\\@victim.example"@example.test',
    '"<user@victim.example>"@example.test',
    '"@victim.example:user"@example.test',
    '"user@victim.example>,<"@example.test',
    # source-routed
    "@example.test:user@victim.example",
    "@example.test,@relay.example:user@victim.example",
    '@example.test:"user@victim.example"@example.test',
    "@victim.example:user%victim.example@example.test",
    # literal
    "user@[192.0.2.66]",
    "user@[127.0.0.1]",
    "user@[IPv6:2001:db8::66]",
    "user%victim.example@[127.0.0.1]",
    # the second of our domains has a catch-all, which takes anything that is not somebody else's
    "user%victim.example@second.test",
    "victim.example!user@second.test",
    '"user@victim.example"@second.test',
]
#: Of these no client may be told that they are fine, even if the form itself is what is wrong with them.
BROKEN_FORMS = [
    "user@victim.example@example.test",
    "user@[victim.example]",
    "user@example.test@[192.0.2.66]",
    "victim.example!user",
    "user%victim.example",
    "user%[192.0.2.66]@example.test",
    "user@",
    "@victim.example",
    "user@victim.example ",
    "<user@victim.example>",
    "@example.test:@victim.example:user@victim.example",
]
SENDERS = ["", "alice@example.test", "postmaster@example.test", "alice%example.test@elsewhere.example"]
#: Forms whose domain is not ours: with a login they are addresses like all others.
OUTSIDE = (
    "@victim.example",
    "@VICTIM.EXAMPLE",
    ".victim.example",
    "]",
    "sub.example.test",
    "notexample.test",
    "@mx.example.test",
)

#: Names that have led other programs out of their directories.
TRAVERSALS = [
    '"../../x"@example.test',
    '"../../../../../../tmp/x"@example.test',
    '"/etc/passwd"@example.test',
    '"/"@example.test',
    '"."@example.test',
    '".."@example.test',
    '"./x"@example.test',
    '".alice"@example.test',
    '"...."@example.test',
    '"alice/../../x"@example.test',
    '"alice/new"@example.test',
    '"alice\\\\..\\\\x"@example.test',
    '"C:\\\\x"@example.test',
    '"..%2f..%2fx"@example.test',
    '"%2e%2e/x"@example.test',
    '"alice\\/..\\/x"@example.test',
    "/etc/passwd@example.test",
    "alice/x@example.test",
    '"~root"@example.test',
    '"$HOME"@example.test',
    '"`id`"@example.test',
    '"|id"@example.test',
    '"x y"@example.test',
    '"*"@example.test',
    "{local}@example.test",
    f'"{"../" * 20}x"@example.test',
    f'"{"a" * 62}"@example.test',
    f"{'a' * 64}@example.test",
    '"alice@example.test/../x"@example.test',
    # a detail names a folder
    '"alice+../../x"@example.test',
    '"alice+/etc"@example.test',
    '"alice+.."@example.test',
    '"alice+../new"@example.test',
    '"alice+x/../../y"@example.test',
    '"alice+"@example.test',
    '"alice+....//x"@example.test',
    "alice+//x@example.test",
    "alice+../x@example.test",
    f"alice+{'f' * 58}@example.test",
]
UNICODE_TRAVERSALS = [
    '"\u2025/x"@example.test',  # two dot leader
    '"\uff0e\uff0e\uff0fx"@example.test',  # full-width dots and slash
    '"\u2024\u2024\u2215x"@example.test',  # one dot leaders, division slash
    '"\uff41lice/../x"@example.test',
    '"\u202e../x"@example.test',  # right-to-left override
    '"alic\u0435"@example.test',  # a Cyrillic letter
    '"alice\u200b"@example.test',  # zero-width space
    "alice+\uff0e\uff0e\uff0fx@example.test",
    '"\u00e9\u0301"@example.test',
    "\U0001f4a9@example.test",
]
BROKEN_NAMES = [
    b"<../../x@example.test>",
    b"<alice/../x@example.test>",
    b"<..@example.test>",
    b"<.alice@example.test>",
    b"<alice.@example.test>",
    b'<"..\0x"@example.test>',
    b'<"x\\\0y"@example.test>',
    b"<alice\0@example.test>",
    b"<alice@example.test/../x>",
    b"<alice@../x>",
    b"<alice@.example.test>",
    b"<alice@example..test>",
    b"<" + b"../" * 100 + b"@example.test>",
    b'<"' + b"a" * 300 + b'"@example.test>',
    b"<alice@" + b"a" * 300 + b">",
    b'<"\xff\xfe/"@example.test>',
    b"<\xc0\xae\xc0\xae/x@example.test>",  # dots in overlong UTF-8
]


def rcpt(client: Any, path: str | bytes) -> str:
    said: str = client.ask(b"RCPT TO:" + (f"<{path}>".encode() if isinstance(path, str) else path))
    return said


def transactions(
    ready: Connect, hub: Any, role: str, sender: str, each: list[Any], parameters: str = ""
) -> Iterator[Any]:
    """A transaction for every address, few enough in a session that errors do not end it."""
    client, left = None, 0
    for path in each:
        if not left:
            client, left = ready(hub, role), 9
        left -= 1
        assert client is not None
        assert client.ask("RSET", f"MAIL FROM:<{sender}>{parameters}").startswith("250 ")
        yield client, path


def never(hub: Any) -> None:
    """Nothing was queued since the hub began, and nothing delivered."""
    assert hub.queued() == []
    assert not (hub.directory / "var" / "mail").exists()


@pytest.mark.parametrize("sender", SENDERS)
@pytest.mark.parametrize("role", ["mta", "lmtp"])
def test_no_relaying(hub: Any, ready: Connect, role: str, sender: str) -> None:
    for client, path in transactions(ready, hub, role, sender, FORMS):
        assert rcpt(client, path).startswith("550 5.7.1 "), path
        assert client.ask("DATA").startswith(("554 5.5.1 ", "503 5.5.1 "))
    for client, path in transactions(ready, hub, role, sender, BROKEN_FORMS):
        assert rcpt(client, path).startswith("50"), path
        assert client.ask("DATA").startswith(("554 5.5.1 ", "503 5.5.1 "))
    never(hub)


def test_no_submission_without_a_login(hub: Any, connect: Connect) -> None:
    for role in ("msa", "msa-tls"):
        client = connect(hub, role).hello()
        if role == "msa":
            client.start_tls()
        assert client.ask("MAIL FROM:<alice@example.test>").startswith("530 5.7.0 ")
        assert client.ask("RCPT TO:<user@victim.example>").startswith("503 5.5.1 ")
        assert client.ask("DATA").startswith("503 5.5.1 ")
    never(hub)


def test_a_login_sends_to_real_addresses_outside_and_unwraps_nothing(hub: Any, ready: Connect) -> None:
    for client, path in transactions(ready, hub, "msa", "alice@example.test", FORMS):
        said = rcpt(client, path)
        if path.endswith(OUTSIDE):
            assert said.startswith("250 2.1.5 "), path
        else:
            assert said.startswith("550 5.7.1 "), path
    for client, path in transactions(ready, hub, "msa", "alice@example.test", BROKEN_FORMS):
        assert rcpt(client, path).startswith("501 5.1.3 "), path
    never(hub)


@pytest.mark.parametrize("role", ["mta", "lmtp", "msa"])
def test_no_name_leads_out_of_the_mail_directory(hub: Any, ready: Connect, eventually: Any, role: str) -> None:
    inbox = len(hub.messages("alice@example.test"))
    before = paths_outside(hub)
    sender = "alice@example.test" if role == "msa" else ""
    sent = 0
    for names, parameters in ((TRAVERSALS, ""), (UNICODE_TRAVERSALS, " SMTPUTF8")):
        for client, path in transactions(ready, hub, role, sender, names, parameters):
            said = rcpt(client, path)
            assert said[:9] in ("250 2.1.5", "550 5.1.1", "550 5.7.1"), path
            if said.startswith("250 "):  # a detail, which may be anything
                assert path.startswith(('"alice+', "alice+")), path
                assert client.data(b"From: alice@example.test\r\nSubject: detail\r\n\r\n").startswith("250 2.0.0 ")
                sent += 1
    for client, octets in transactions(ready, hub, role, sender, BROKEN_NAMES, " SMTPUTF8"):
        assert rcpt(client, octets)[:9] in ("501 5.1.3", "550 5.1.1"), octets
    assert sent > 5
    # The folders do not exist, so all of it is in the inbox.
    eventually(lambda: len(hub.messages("alice@example.test")) == inbox + sent)
    eventually(lambda: not hub.queued())
    mail = hub.directory / "var" / "mail"
    assert [path.name for path in mail.iterdir()] == ["example.test"]
    assert [path.name for path in (mail / "example.test").iterdir()] == ["alice"]
    assert [path.name for path in (mail / "example.test" / "alice").iterdir()] == ["Maildir"]
    folders = {path.name for path in hub.maildir("alice@example.test").iterdir() if path.is_dir()}
    assert folders == {"new", "cur", "tmp"}
    assert paths_outside(hub) == before


def paths_outside(hub: Any) -> set[str]:
    """What there is around the mail directory, two levels up too, but for what the hub itself has there."""
    ours = ("var/mail", "var/spool", "var/log", "var/policy-memory", "notify", "output")
    inside = {str(path.relative_to(hub.directory)) for path in hub.directory.rglob("*")}
    around = {str(path) for folder in list(hub.directory.parents)[:2] for path in folder.iterdir()}
    return {path for path in inside if not path.startswith(ours)} | around
