"""`python -m bench.floors.wire`: what the server's side of the wire costs for one message, in microseconds.

Octets go in as a client sends them, every question is answered with a reply that was made before, and the output is
taken as the adapter takes it.  So what is measured is the parsing, the order of commands, the content and the replies,
and the thin loop around them, which belongs to whoever runs a session.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from bench.floors.stopwatch import measure, profile
from mailhub.model import Reply, reply
from mailhub.wire.smtp import events
from mailhub.wire.smtp.server import Extensions, ServerSession

HOST = "mx.example.test"
EXTENSIONS = Extensions(HOST, size_max=50_000_000, starttls=True, requiretls=False)
OK = reply(250, "2.1.0", "OK")
ANSWERS: dict[type[events.Event], Reply] = {
    events.Connected: Reply(220, f"{HOST} ESMTP mailhub"),
    events.HelloReceived: Reply(250, "At your service"),
    events.MailReceived: OK,
    events.RcptReceived: reply(250, "2.1.5", "OK"),
    events.ContentRequested: Reply(354, "Send the message, end it with a dot on a line of its own"),
    events.ContentEnded: reply(250, "2.0.0", "Queued as 01jxqk2v8r0abcdef"),
}

HELLO = b"EHLO client.example\r\n"
QUIT = b"QUIT\r\n"
END = b".\r\n"
#: What a Twisted transport hands over at once, at most.
READ_OCTETS_MAX = 65_536
REUSED = 10
RECIPIENTS = 10


def content(octets: int) -> bytes:
    """So many octets, or a line more: a header section, and lines of 69 octets, none with a dot at its beginning."""
    header = b"From: Alice <alice@example.test>\r\nTo: user0@example.test\r\nSubject: how it goes\r\n\r\n"
    line = b"All is well here, thank you, and how are things where you live now?\r\n"
    return header + line * ((octets - len(header)) // len(line) + 1)


def reads(octets: bytes) -> list[bytes]:
    return [octets[at : at + READ_OCTETS_MAX] for at in range(0, len(octets), READ_OCTETS_MAX)]


def envelope(recipients: int = 1) -> list[bytes]:
    to = [b"RCPT TO:<user%d@example.test>\r\n" % number for number in range(recipients)]
    return [b"MAIL FROM:<alice@elsewhere.example>\r\n", *to, b"DATA\r\n"]


@dataclass(frozen=True)
class Form:
    """One session: what the client sends, read by read, how many messages that is, and their content in octets."""

    reads: Sequence[bytes]
    messages: int = 1
    octets: int = 0

    def run(self) -> None:
        session = ServerSession(EXTENSIONS)
        answers = ANSWERS
        taken = 0
        for octets in (b"", *self.reads):
            session.receive(octets)
            while (event := session.next_event()) is not None:
                answer = answers.get(type(event))
                if answer is not None:
                    session.respond(answer)
                    taken += type(event) is events.ContentEnded
            session.take_output()
        assert taken == self.messages, f"{taken} of {self.messages} messages were taken"


def forms() -> dict[str, Form]:
    small, medium, large = content(4096), content(100 * 1024), content(5 * 1024 * 1024)
    dotted = small.replace(b"\r\nAll", b"\r\n..ll")
    declared = b"MAIL FROM:<alice@elsewhere.example> SIZE=4096 BODY=8BITMIME\r\n"
    small_message = [*envelope(), small + END]
    return {
        "one command a read": Form([HELLO, *small_message, QUIT]),
        "with SIZE and BODY": Form([HELLO, declared, *small_message[1:], QUIT]),
        "pipelined": Form([HELLO, b"".join(small_message[:-1]), small + END + QUIT]),
        f"{REUSED} messages a session": Form([HELLO, *small_message * REUSED, QUIT], REUSED),
        f"{REUSED} messages, pipelined": Form(
            [HELLO, *[b"".join(small_message[:-1]), small + END] * REUSED, QUIT], REUSED
        ),
        f"{RECIPIENTS} recipients": Form([HELLO, *envelope(RECIPIENTS), small + END, QUIT]),
        "4 KiB, dots": Form([HELLO, *envelope(), dotted + END, QUIT]),
        "100 KiB": Form([HELLO, *envelope(), *reads(medium + END), QUIT], octets=len(medium)),
        "5 MiB": Form([HELLO, *envelope(), *reads(large + END), QUIT], octets=len(large)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.floors.wire", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--profile", action="store_true", help="show where the time goes instead")
    parser.add_argument("--only", default="", help="only forms with this in their names")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each form (1)")
    arguments = parser.parse_args()
    chosen = {name: form for name, form in forms().items() if arguments.only in name}
    if arguments.profile:
        for name, form in chosen.items():
            print(name)
            profile(form.run, 5 if form.octets > 1_000_000 else 2000)
        return
    figures = measure({name: form.run for name, form in chosen.items()}, arguments.seconds)
    for name, form in chosen.items():
        least, median = (figure / form.messages for figure in figures[name])
        rate = f", {form.octets / least:6.0f} MB/s" if form.octets else ""
        print(f"{name:26} {least:8.1f} {median:8.1f}   us a message (minimum, median){rate}")


if __name__ == "__main__":
    main()
