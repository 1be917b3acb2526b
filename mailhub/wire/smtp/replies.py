"""What the session itself says.  How a reply is put on the wire stands with `Reply`."""

from __future__ import annotations

from functools import lru_cache

from mailhub.model import Reply, reply

# --- positive ------------------------------------------------------------------------------------------------------

OK = reply(250, "2.0.0", "OK")
BYE = reply(221, "2.0.0", "Goodbye")
HELP = reply(214, "2.0.0", "This is a mail server, its commands are those of RFC 5321")
CANNOT_VERIFY = reply(252, "2.5.0", "Cannot verify the user, but will take a message and try")

# --- the order of commands -----------------------------------------------------------------------------------------

HELLO_FIRST = reply(503, "5.5.1", "Say hello first")
BAD_SEQUENCE = reply(503, "5.5.1", "Bad sequence of commands")
NESTED_MAIL = reply(503, "5.5.1", "A mail transaction is already open")
NO_RECIPIENTS = reply(503, "5.5.1", "No recipient was given")
NO_VALID_RECIPIENTS = reply(554, "5.5.1", "No valid recipients")
NOT_BINARY = reply(503, "5.5.1", "BODY=BINARYMIME needs BDAT")
ALREADY_LOGGED_IN = reply(503, "5.5.1", "Already logged in")

# --- commands ------------------------------------------------------------------------------------------------------

UNKNOWN_COMMAND = reply(500, "5.5.2", "Command not recognized")
BARE_LINE_END_IN_COMMAND = reply(500, "5.5.2", "A command line ends with CR LF, and has neither alone")
LINE_TOO_LONG = reply(500, "5.5.2", "Line too long")
LOGIN_LINE_TOO_LONG = reply(500, "5.5.6", "Authentication exchange line too long")
NOT_OFFERED = reply(502, "5.5.1", "Command not implemented")
NO_ARGUMENT = reply(501, "5.5.4", "This command has no argument")
HELLO_NAME = reply(501, "5.5.4", "A hello needs a host name of at most 255 octets")

# --- addresses and parameters --------------------------------------------------------------------------------------

MAIL_SYNTAX = reply(501, "5.5.4", "Syntax: MAIL FROM:<address>")
RCPT_SYNTAX = reply(501, "5.5.4", "Syntax: RCPT TO:<address>")
BAD_SENDER = reply(501, "5.1.7", "Bad sender address syntax")
BAD_RECIPIENT = reply(501, "5.1.3", "Bad recipient address syntax")
RECIPIENT_TOO_LONG = reply(550, "5.1.1", "No such user here, no user name is that long")
NEEDS_SMTPUTF8 = reply(553, "5.6.7", "A non-ASCII address needs SMTPUTF8")
BAD_PARAMETER = reply(501, "5.5.4", "Bad parameter syntax")
REPEATED_PARAMETER = reply(501, "5.5.4", "A parameter was given twice")
UNKNOWN_PARAMETER = reply(555, "5.5.4", "Parameter not recognized or not offered")
DECLARED_TOO_BIG = reply(552, "5.3.4", "Message size exceeds the limit")
TOO_MANY_RECIPIENTS = reply(452, "4.5.3", "Too many recipients, send the rest in another transaction")

# --- content -------------------------------------------------------------------------------------------------------

BARE_LINE_END = reply(550, "5.5.2", "A CR or LF stands alone in the message, lines end with CR LF")
NUL_IN_CONTENT = reply(550, "5.6.0", "The message has a NUL character")
CONTENT_LINE_TOO_LONG = reply(550, "5.6.0", "The message has a line that is too long")
TOO_BIG = reply(552, "5.3.4", "Message size exceeds the limit")
BAD_CHUNK = reply(501, "5.5.4", "Syntax: BDAT octets [LAST]")

# --- TLS and logins ------------------------------------------------------------------------------------------------

OCTETS_AFTER_STARTTLS = reply(554, "5.5.1", "Nothing may follow STARTTLS before TLS has begun")
TLS_ALREADY = reply(503, "5.5.1", "TLS is already in use")
AUTH_NEEDS_TLS = reply(538, "5.7.11", "Encryption is required to log in")
AUTH_SYNTAX = reply(501, "5.5.4", "Syntax: AUTH mechanism [initial-response]")
UNKNOWN_MECHANISM = reply(504, "5.5.4", "That mechanism is not offered")
BAD_BASE64 = reply(501, "5.5.2", "Not base64")
LOGIN_GIVEN_UP = reply(501, "5.7.0", "Login given up")

# --- the end -------------------------------------------------------------------------------------------------------

TALKED_EARLY = reply(554, "5.5.0", "You talked before you were greeted")
NOT_HTTP = reply(221, "2.7.0", "This is no web server, goodbye")
TOO_MANY_ERRORS = reply(421, "4.7.0", "Too many errors")
TOO_MANY_REFUSED = reply(421, "4.7.0", "Too many refused recipients")
TOO_IDLE = reply(421, "4.7.0", "Too many commands without mail")


class ProtocolFault(Exception):
    """The client did what it must not; `reply` says what, and if `closes` is set the session ends with it."""

    def __init__(self, reply: Reply, *, closes: bool = False) -> None:
        super().__init__(str(reply))
        self.reply = reply
        self.closes = closes


def chunk_taken(octets: int) -> Reply:
    """The positive answer to a BDAT that is not the last (RFC 3030 section 2)."""
    return reply(250, "2.0.0", f"{octets} octets received")


def encode(reply: Reply) -> bytes:
    """The octets of a reply, status and line ends included."""
    return reply.octets


@lru_cache(maxsize=64)
def hello_reply(hostname: str, text: str, keywords: tuple[str, ...]) -> Reply:
    """RFC 5321 section 4.1.1.1: the first line begins with our name; no enhanced status (RFC 2034 section 4)."""
    if text.partition(" ")[0] != hostname:
        text = f"{hostname} {text}".rstrip()
    return Reply(250, text, None, keywords)
