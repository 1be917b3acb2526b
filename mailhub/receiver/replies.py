"""What the receiver itself says.  The exact words are part of the interface: tests and postmasters read them."""

from __future__ import annotations

from mailhub.model import EnhancedStatus, Reply, reply

SENDER_OK = reply(250, "2.1.0", "Sender OK")
RECIPIENT_OK = reply(250, "2.1.5", "Recipient OK")
SEND_CONTENT = Reply(354, "Send the message, end it with <CRLF>.<CRLF>")
START_TLS = reply(220, "2.0.0", "Ready to start TLS")
TLS_BROKEN = reply(454, "4.7.0", "TLS is not available now")

LOCAL_TROUBLE = reply(451, "4.3.0", "Local trouble, please try again later")
NO_ROOM = reply(452, "4.3.1", "Not enough storage now, please try again later")
TOO_MANY_HOPS = reply(554, "5.4.6", "Too many Received fields: this message goes in a circle")
HEADER_TOO_LARGE = reply(552, "5.3.4", "The header section is too large")
TOO_MANY_DESTINATIONS = reply(
    452, "4.5.3", "These recipients stand for too many addresses, send the rest in another transaction"
)
TOO_MANY_FIELDS = reply(
    452, "4.5.3", "Too many header fields for these recipients, send the rest in another transaction"
)

LOGGED_IN = reply(235, "2.7.0", "Welcome")
LOGIN_REFUSED = reply(535, "5.7.8", "Login or password is wrong")
LOGIN_MALFORMED = reply(501, "5.5.2", "That is no answer this mechanism understands")
LOGIN_UNAVAILABLE = reply(454, "4.7.0", "Logins cannot be checked now, please try again later")
TOO_MANY_LOGINS = reply(421, "4.7.0", "Too many failed logins, come back later")
UNKNOWN_MECHANISM = reply(504, "5.5.4", "That mechanism is not offered")

SHUTTING_DOWN = reply(421, "4.3.2", "Going down for a moment, please come back")
IDLE_TOO_LONG = reply(421, "4.4.2", "Idle too long, closing")

_QUEUED = EnhancedStatus(2, 0, 0)


def queued(queue_id: str) -> Reply:
    """The only positive answer to content: from here on the message is ours (RFC 5321 section 4.2.5)."""
    return Reply(250, f"Queued as {queue_id}", _QUEUED)
