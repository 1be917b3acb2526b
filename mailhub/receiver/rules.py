"""Which rule of ours makes each refusal that no policy makes: a configuration key, or the section of an RFC.

A postmaster who asks why must get an answer, so every refusal names either the policy that decided (`by`) or the rule
(`rule`).  What is not in the table keeps the client to the protocol, and that is RFC 5321.
"""

from __future__ import annotations

from collections.abc import Mapping

from mailhub.model import Reply
from mailhub.policy.panel import NOT_PERMITTED
from mailhub.queue import resolution
from mailhub.receiver import replies
from mailhub.wire.smtp import replies as said

#: What else is not told apart.
PROTOCOL = "RFC 5321"
#: A fault of this host; the event has its cause, or the log has.
OURS = "a fault of this host"

_ORDER = "RFC 5321 section 4.1.4"
_SYNTAX = "RFC 5321 section 4.1.2"
_LINES = "RFC 5321 section 2.3.8"
_PARAMETERS = "RFC 5321 section 4.1.1.11"
_NOT_OFFERED = "RFC 5321 section 4.2.4"
_STARTTLS = "RFC 3207 section 4"
_AUTH = "RFC 4954 section 4"

RULES: Mapping[Reply, str] = {
    NOT_PERMITTED.reply or replies.LOCAL_TROUBLE: "no rule permits it",
    resolution.NOBODY: "accounts and aliases",
    resolution.LOOP: "accounts.aliases",
    resolution.TOO_LARGE: "accounts.aliases",
    replies.LOCAL_TROUBLE: OURS,
    replies.NO_ROOM: "limits.reserve",
    replies.TOO_MANY_HOPS: "limits.hops",
    replies.HEADER_TOO_LARGE: "header sections have a limit",
    replies.TOO_MANY_DESTINATIONS: "the addresses of one message have a limit",
    replies.TOO_MANY_FIELDS: "the header fields of policies have a limit",
    replies.UNKNOWN_MECHANISM: _AUTH,
    replies.TOO_MANY_LOGINS: "msa.throttle",
    replies.SHUTTING_DOWN: "the hub stops",
    replies.IDLE_TOO_LONG: "limits.command_seconds",
    said.HELLO_FIRST: _ORDER,
    said.BAD_SEQUENCE: _ORDER,
    said.NESTED_MAIL: _ORDER,
    said.NO_RECIPIENTS: _ORDER,
    said.NO_VALID_RECIPIENTS: _ORDER,
    said.TOO_MANY_RECIPIENTS: "limits.recipients",
    said.NOT_BINARY: "RFC 3030 section 3",
    said.ALREADY_LOGGED_IN: _AUTH,
    said.UNKNOWN_COMMAND: _NOT_OFFERED,
    said.NOT_OFFERED: _NOT_OFFERED,
    said.BARE_LINE_END_IN_COMMAND: _LINES,
    said.LINE_TOO_LONG: "limits.command_octets",
    said.LOGIN_LINE_TOO_LONG: "limits.auth_octets",
    said.NO_ARGUMENT: _SYNTAX,
    said.HELLO_NAME: _SYNTAX,
    said.MAIL_SYNTAX: _SYNTAX,
    said.RCPT_SYNTAX: _SYNTAX,
    said.BAD_SENDER: _SYNTAX,
    said.BAD_RECIPIENT: _SYNTAX,
    said.RECIPIENT_TOO_LONG: _SYNTAX,
    said.NEEDS_SMTPUTF8: "RFC 6531 section 3.5",
    said.BAD_PARAMETER: _PARAMETERS,
    said.REPEATED_PARAMETER: _PARAMETERS,
    said.UNKNOWN_PARAMETER: _PARAMETERS,
    said.DECLARED_TOO_BIG: "limits.message_octets",
    said.TOO_BIG: "limits.message_octets",
    said.BARE_LINE_END: _LINES,
    said.NUL_IN_CONTENT: "RFC 5321 section 2.3.1",
    said.CONTENT_LINE_TOO_LONG: "limits.line_octets",
    said.BAD_CHUNK: "RFC 3030 section 2",
    said.OCTETS_AFTER_STARTTLS: _STARTTLS,
    said.TLS_ALREADY: _STARTTLS,
    said.AUTH_NEEDS_TLS: "passwords never cross the network in the clear",
    said.AUTH_SYNTAX: _AUTH,
    said.BAD_BASE64: _AUTH,
    said.LOGIN_GIVEN_UP: "the client gave it up",
    said.TALKED_EARLY: "mta.greet_delay",
    said.NOT_HTTP: "a browser is no mail client",
}

#: The last word of a session that has done something too often.
DISMISSALS: Mapping[Reply, str] = {
    said.TOO_MANY_ERRORS: "limits.errors",
    said.TOO_MANY_REFUSED: "limits.refused_recipients",
    said.TOO_IDLE: "limits.idle_commands",
}


def rule_of(reply: Reply) -> str:
    """The rule behind a reply of ours."""
    return RULES.get(reply) or DISMISSALS.get(reply, PROTOCOL)
