"""Other people's servers hand mail to our LMTP listener, and Dovecot serves the Maildir that comes of it."""

from __future__ import annotations

import imaplib
import re
import smtplib
from typing import Any

import pytest

ALICE, BOB, NOBODY = "alice@example.test", "bob@example.test", "nobody@example.test"

pytestmark = pytest.mark.interop

CONTENTS = [
    b"Date: Sat, 14 Nov 2026 10:00:00 +0000\r\nFrom: Bob <bob@example.test>\r\nTo: alice@example.test\r\n"
    b"Message-ID: <%d@client.example>\r\nX-Test-Number: %d\r\n\r\n" % (number, number) + body
    for number, body in enumerate(
        [
            b"Hello.\r\n",
            b"",
            b".\r\n..\r\n.hidden\r\n\r\n.\r\n",
            "Grüße 🐝\r\n".encode(),
            b"caf\xe9 \xff\xfe\x80\r\n",
            b"x" * 998 + b"\r\n" + b"." * 998 + b"\r\n",
            b"From me\r\n>From me\r\n\r\n\r\n",
            b"line\r\n" * 20_000,
        ]
    )
]

LMTP_PROXY = """
protocols = lmtp
lmtp_proxy = yes
service lmtp {{
  inet_listener lmtp {{
    port = {port}
  }}
}}
passdb {{
  driver = static
  args = proxy=y protocol=lmtp host=127.0.0.1 port={next_port} nopassword=y
}}
"""

IMAP = """
protocols = imap
mail_location = maildir:/run/mail
passdb {{
  driver = static
  args = password=secret
}}
userdb {{
  driver = static
  args = uid=mail gid=mail home=/run/home
}}
service imap-login {{
  inet_listener imap {{
    port = {port}
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
"""


def content_of(stored: bytes) -> bytes:
    return stored[stored.index(b"Date: Sat, 14 Nov 2026") :]


def is_bounce(stored: bytes) -> bool:
    return stored.startswith(b"Return-Path: <>\r\n")


def is_ours(stored: bytes) -> bool:
    return not is_bounce(stored)


def check_trace(stored: bytes, added: list[str]) -> None:
    """Our own trace fields on top, received with LMTP, and below them those of the server before us."""
    trace = stored[: stored.index(b"Date: Sat, 14 Nov 2026")].decode()
    names = re.findall(r"^([!-9;-~]+):", trace, re.MULTILINE)
    assert names == ["Return-Path", "Delivered-To", "Received", *added], trace
    found = re.search(r"\(mailhub\) with (\S+) id ", trace)
    assert found is not None
    assert found[1] == "LMTP"


def test_postfix_takes_our_reply_for_each_recipient(start: Any, peers: Any, arrived: Any) -> None:
    hub = start()
    peer = peers.postfix(hub.ports["lmtp"], protocol="lmtp")
    with smtplib.SMTP("127.0.0.1", peer.port, local_hostname="client.example", timeout=30) as client:
        for content in CONTENTS:
            client.sendmail(BOB, [ALICE, NOBODY, BOB], content, mail_options=["BODY=8BITMIME"])
    for address in (ALICE, BOB):
        stored = arrived(hub, address, len(CONTENTS), is_ours, peer.told)
        assert sorted(map(content_of, stored)) == sorted(CONTENTS)
        for octets in stored:
            check_trace(octets, ["Received"])
    # The recipient that we refused comes back to bob as a bounce of Postfix's, through the same door.
    bounces = arrived(hub, BOB, len(CONTENTS), is_bounce, peer.told)
    for octets in bounces:
        assert re.search(rb"^Final-Recipient: rfc822; *nobody@example\.test\r\n", octets, re.MULTILINE)
        assert re.search(rb"^Status: 5\.1\.1\r\n", octets, re.MULTILINE)
    told = peer.told()
    for address, status in ((ALICE, "sent"), (BOB, "sent"), (NOBODY, "bounced")):
        assert len(re.findall(rf"postfix/lmtp\[\d+\]: \w+: to=<{address}>, .* status={status} ", told)) >= len(CONTENTS)
    assert "status=deferred" not in told


def test_dovecot_delivers_over_lmtp_into_ours(start: Any, peers: Any, arrived: Any, new_port: Any) -> None:
    hub = start()
    port = new_port()
    peer = peers.dovecot(LMTP_PROXY.format(port=port, next_port=hub.ports["lmtp"]), port)
    with smtplib.LMTP("127.0.0.1", port, local_hostname="client.example", timeout=30) as client:
        for content in CONTENTS:
            client.ehlo_or_helo_if_needed()
            client.mail(BOB)
            answers = [client.rcpt(address) for address in (ALICE, NOBODY, BOB)]
            assert [code for code, _ in answers] == [250, 550, 250], (answers, peer.told())
            assert answers[1][1].startswith(b"5.1.1 ")
            first = client.data(content)
            second = client.getreply()
            assert (first[0], second[0]) == (250, 250), peer.told()
    for address in (ALICE, BOB):
        stored = arrived(hub, address, len(CONTENTS), is_ours, peer.told)
        assert sorted(map(content_of, stored)) == sorted(CONTENTS)
        for octets in stored:
            check_trace(octets, ["Received"])


def test_dovecot_serves_what_it_delivered(start: Any, peers: Any, arrived: Any, new_port: Any) -> None:
    hub = start()
    with smtplib.LMTP("127.0.0.1", hub.ports["lmtp"], local_hostname="client.example", timeout=30) as client:
        for content in CONTENTS:
            client.sendmail(BOB, [ALICE], content, mail_options=["BODY=8BITMIME"])
    stored = arrived(hub, ALICE, len(CONTENTS))
    port = new_port()
    peer = peers.dovecot(IMAP.format(port=port), port, mail=hub.maildir(ALICE))
    with imaplib.IMAP4("127.0.0.1", port, timeout=30) as client:
        client.login("alice", "secret")
        client.select("INBOX")
        _, answers = client.uid("FETCH", "1:*", "(RFC822.SIZE BODY.PEEK[])")
    served = [(answer[0], answer[1]) for answer in answers if isinstance(answer, tuple)]
    assert sorted(octets for _, octets in served) == sorted(stored)
    for about, octets in served:
        assert b"RFC822.SIZE %d " % len(octets) in about
    assert not re.search("Error|Warning", peer.told())
