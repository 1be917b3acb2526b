"""The order of a client's commands, as tables: whose replies may be awaited, for how long, and what we say to ourselves
when the host says nothing, or nothing that makes sense.
"""

from __future__ import annotations

from enum import IntEnum

from mailhub.model import Reply, reply

LOST = reply(451, "4.4.2", "The connection to the remote host was lost")
OUT_OF_STEP = reply(451, "4.5.0", "The remote host broke the protocol: a reply without a command")
WRONG_REPLY = reply(451, "4.5.0", "The remote host broke the protocol: a reply that the command cannot have")
INJECTED = reply(451, "4.7.0", "The remote host, or somebody on the way, talked behind STARTTLS in the clear")
TLS_NOT_OFFERED = reply(451, "4.7.4", "TLS is required, but the remote host does not offer it")
LOGIN_NEEDS_TLS = reply(451, "4.7.4", "Logging in needs TLS, but the connection has none")
LOGIN_NOT_OFFERED = reply(451, "4.7.0", "The remote host offers no way to log in that we know")


class Expected(IntEnum):
    """A command whose reply is to come."""

    GREETING = 0
    EHLO = 1
    HELO = 2
    STARTTLS = 3
    AUTH = 4
    RSET = 5
    MAIL = 6
    RCPT = 7
    DATA = 8
    CHUNK = 9  # a BDAT that is not the last
    CONTENT = 10  # the end of the content
    QUIT = 11


#: What it is called when it does not come, and how long it may take (RFC 5321 section 4.5.3.2), by Expected.
DEADLINES: tuple[tuple[str, str], ...] = (
    ("the greeting", "greeting_seconds"),
    ("EHLO", "hello_seconds"),
    ("HELO", "hello_seconds"),
    ("STARTTLS", "hello_seconds"),
    ("AUTH", "login_seconds"),
    ("RSET", "mail_seconds"),
    ("MAIL", "mail_seconds"),
    ("RCPT", "rcpt_seconds"),
    ("DATA", "data_seconds"),
    ("BDAT", "final_seconds"),
    ("the end of the content", "final_seconds"),
    ("QUIT", "quit_seconds"),
)


def is_too_many(said: Reply) -> bool:
    """Whether a host that took some recipients wants the rest later (RFC 5321 section 4.5.3.1.10; 552 is of old)."""
    if said.code not in (452, 552) or said.status is None:
        return False
    return said.status[1:] in ((5, 3), (0, 0))
