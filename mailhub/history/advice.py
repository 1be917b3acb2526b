"""What would have to change for mail that was refused or could not be delivered.

Tables, from what decided (the rule, or the status of the reply) to what whoever asks can do about it.  The first row
that fits speaks.  Nothing is said where nothing is known: a wrong hint is worse than none.

A hint may be a command to be copied into a shell, and an address is a stranger's word: there it is quoted.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mailhub.history.pages import Told
from mailhub.history.plain import printable
from mailhub.history.story import Story

_REPLY = re.compile(r"(\d{3})(?: (\d\.\d{1,3}\.\d{1,3}))?")


@dataclass(frozen=True, slots=True)
class _Row:
    """Fits when all fits that is said: the rule that spoke, the code or the status of the reply, words in its text, and
    whether they are those of another host."""

    text: str
    by: str | None = None
    code: str | None = None
    status: str | None = None
    says: str = ""
    remote: bool | None = None


_NOBODY = (
    "Nobody here has the address {recipient}.  `mailhub user add {argument}` makes a mailbox of that name, "
    "`mailhub alias add {argument} TARGET` lets it lead to somebody."
)
_FULL = (
    "The mailbox is full.  Its owner has to delete something, or the account needs a larger quota: in the "
    "accounts file, or for all in `mda.quota`."
)
_DISK = (
    "The disk is full.  Make room where the data directory lies; how much must stay free is `limits.reserve` "
    "times `limits.message_octets`."
)
_OURS = "The fault is ours, and the log says more at this time.  The other side tries again by itself."
_NOT_OURS = (
    "{recipient} is none of our addresses, and the client had no right to send further.  If the domain is to "
    "be ours, add it to `mda.domains`; a user of ours has to log in, on a port of `msa.listen` or "
    "`msa.listen_tls`."
)
_PROTOCOL = "The client does not keep to the protocol; that is to be mended there."

#: For what is refused to a client.
_AT_THE_DOOR = (
    _Row(_NOT_OURS, by="local_domains", status="5.7.1"),
    _Row(_FULL, by="quota", code="452"),
    _Row(
        "Nothing: this is greylisting.  A real mail server comes back by itself in some minutes, and is let in "
        "then.  How long it must wait, and who need not, are options of the rule.",
        by="greylist",
    ),
    _Row(
        "The program has to log in before it sends: set up user name and password in it, and TLS.",
        by="authenticated",
    ),
    _Row(
        "Whoever logs in sends under addresses of their own.  To allow another one, name it for this login in "
        "`msa.extra_addresses`; an alias that leads to this account alone is allowed as well.",
        by="sender_owned",
        status="5.7.1",
    ),
    _Row(
        "The account has sent as much as it may.  Wait for the end of the hour or day, or raise the caps in "
        "`msa.caps`; if its owner has not sent this, set another password with `mailhub user passwd`.",
        by="submission_caps",
    ),
    _Row(
        "The client sends or connects more often than the rule `rate` allows.  Its limits, and networks that "
        "are exempt from it, are its options.",
        by="rate",
    ),
    _Row(
        "The domain of the sender has said in the DNS that it takes no mail, so nobody could answer.  The "
        "sender has to use another address, or mend the MX record.",
        by="null_mx_sender",
    ),
    _Row(
        "To let this host deliver over LMTP, add its network to `lmtp.trusted`.",
        by="trusted_peers",
    ),
    _Row(_NOBODY, status="5.1.1"),
    _Row(_NOT_OURS, status="5.7.1", says="Relaying"),
    _Row(
        "The aliases of this address lead in a circle, or to too many: mend them with `mailhub alias`.",
        status="4.3.5",
    ),
    _Row(
        "The client has to begin TLS before it logs in.",
        code="538",
    ),
    _Row(
        "The client has to log in first, on a port of `msa.listen` or `msa.listen_tls`.",
        code="530",
    ),
    _Row(
        "The message is larger than `limits.message_octets` allows (or its header section larger than any should be).",
        status="5.3.4",
    ),
    _Row(
        "The message has passed through too many hosts (`limits.hops`): most likely two of them send it to each other.",
        status="5.4.6",
    ),
    _Row(
        "The program that sends has to end its lines with CR LF (RFC 5321 section 2.3.8).  No setting of ours "
        "takes such mail, for it may hide a second message.",
        status="5.5.2",
        says="stands alone",
    ),
    _Row(
        "The content is malformed; the program that made it has to be mended.",
        status="5.6.0",
    ),
    _Row(_DISK, status="4.3.1"),
    _Row(
        "The client sends the other recipients in another transaction by itself; more at once are allowed by "
        "`limits.recipients`.",
        status="4.5.3",
        says="too many recipients",
    ),
    _Row("The client sends the other recipients in another transaction by itself.", status="4.5.3"),
    _Row(
        "Too many sessions were open.  More are allowed by `limits.sessions`, and for one address by "
        "`limits.sessions_per_address`.",
        code="421",
        says="Too many sessions",
    ),
    _Row(
        "The client has to ask for SMTPUTF8 to use such an address.",
        status="5.6.7",
    ),
    _Row(_OURS, status="4.3.0"),
    _Row(_PROTOCOL, status="5.5.0"),
    _Row(_PROTOCOL, status="5.5.1"),
    _Row(_PROTOCOL, status="5.5.2"),
    _Row(_PROTOCOL, status="5.5.4"),
)

#: For logins that are refused.
_LOGINS = (
    _Row(
        "Login or password is wrong.  `mailhub user list` shows the logins, `mailhub user passwd LOGIN` sets "
        "another password.",
        code="535",
    ),
    _Row(
        "Too many logins have failed.  They are looked at again after `msa.throttle.window`; find the program "
        "that tries with an old password.",
        code="421",
    ),
    _Row(
        "The accounts could not be asked; the log says why.",
        code="454",
    ),
)

#: For what is deferred or fails later on.
_ON_THE_WAY = (
    _Row(_FULL, status="4.2.2", remote=False),
    _Row(_DISK, status="4.3.1", remote=False),
    _Row(_NOBODY, status="5.1.1", remote=False),
    _Row(
        "The configuration of this route, mailbox or alias cannot work: `mailhub check` may say more.  The "
        "message waits until it is mended.",
        status="4.3.5",
        remote=False,
    ),
    _Row(
        "Nobody answers there.  If no other mail leaves either, look whether the firewall or the provider lets "
        "connections to port 25 out; else use `outbound.smarthost`.",
        status="4.4.1",
    ),
    _Row(
        "The DNS gave no answer; it is asked again at the next attempt.  If that happens to every domain, look "
        "at `dns.servers`.",
        status="4.4.3",
    ),
    _Row(
        "The address is misspelt, or the domain is gone: the sender has to correct it.",
        status="5.1.2",
        remote=False,
    ),
    _Row(
        "The domain of this address has said that it takes no mail at all.",
        status="5.1.10",
    ),
    _Row(
        "TLS does not come about with this host.  What is asked for is the level `tls` of the route or of "
        '`outbound`; the host has to mend its certificate, or the level has to be lowered to "may".',
        status="4.7.5",
    ),
    _Row(
        "We have a login for this host, and say it under TLS alone, which the host does not offer: ask its postmaster "
        "for TLS, or take `login` out of the route or of `outbound` if the host needs none.",
        status="4.7.4",
        says="Logging in needs TLS",
    ),
    _Row(
        "TLS is asked for and the host does not offer it: lower the level `tls` of the route or of `outbound`, "
        "or ask its postmaster.",
        status="4.7.4",
    ),
    _Row(
        "The message asks for TLS on its whole way (REQUIRETLS), and this way has it not; the sender can send "
        "it without.",
        status="5.7.30",
    ),
    _Row(
        "We have a login for this host, and the host offers none of the ways to log in that we know, or none at all on "
        "this port: look whether host and port are right, or take `login` out of the route or of `outbound` if it "
        "needs none.",
        status="4.7.0",
        says="The remote host offers no way to log in",
    ),
    _Row(
        "What came in the clear behind STARTTLS may be an attack on the way to this host, or its fault: ask its "
        "postmaster.  Nothing of it was used.",
        status="4.7.0",
        says="talked behind STARTTLS",
    ),
    _Row(
        "The login at the next hop failed: look at `login` and `password_file` of the route or of `outbound`.",
        status="4.7.0",
        says="login",
    ),
    _Row(
        "Our MX records lead mail here that we do not take: add the domain to `mda.domains`, or mend them.",
        status="5.4.6",
        remote=False,
    ),
    _Row(
        "The other host was reached, and then ended the connection or was silent for too long.  If it goes so with "
        "every host, a firewall or a provider between may be the cause.",
        status="4.4.2",
        says=" remote host ",
    ),
    _Row(
        "What answers there does not speak SMTP as it should: look whether host and port are right, or ask its "
        "postmaster.",
        status="4.5.0",
        says="The remote host broke the protocol",
    ),
    _Row(
        "The other host says how large a message may be, and this one is larger: the sender has to send less.",
        status="5.3.4",
        says="larger than the remote host takes",
    ),
    _Row(
        "The other host cannot take addresses or header fields beyond ASCII (SMTPUTF8): only its postmaster can "
        "change that, or the sender uses addresses in ASCII.",
        status="5.6.7",
        says="which the remote host does not offer",
    ),
    _Row(_OURS, status="4.3.0", says="The content of the message cannot be read now"),
    _Row(
        "These are the words of the other host: only its postmaster, or the recipient, can change that.",
        remote=True,
    ),
)

_TABLES: Mapping[str, Sequence[_Row]] = {
    "refused": _AT_THE_DOOR,
    "login_refused": _LOGINS,
    "deferred": _ON_THE_WAY,
    "failed": _ON_THE_WAY,
}


def advice(story: Story) -> list[str]:
    """Sentences, each once, in the order of the events that they are about."""
    found: dict[str, None] = {}
    for number in sorted(story.decisive):
        event = story.events[number]
        for text in _for(event, story):
            found[text] = None
    return list(found)


def _for(event: Told, story: Story) -> list[str]:
    if event.kind in ("delivered", "discarded", "released", "retried"):
        return []
    if event.kind == "held":
        return [f"The postmaster holds it.  `mailhub queue release {story.id}` lets it go."]
    if event.kind == "failed" and event.text("by"):
        return []  # the postmaster has ended it, and there is nobody else to ask
    remote = _is_remote(event, story)
    texts = [row.text for row in _TABLES.get(event.kind, ()) if _fits(row, event, remote)][:1]
    rule = event.text("by")
    if event.kind == "refused" and rule:
        place = _place(event, story)
        if any(each.kind == "policy_failed" and each.text("policy") == rule for each in story.events):
            texts = [f"The rule {rule}{place} failed.  The log has the cause; `on_failure` says what that costs."]
        elif not texts:
            texts = [f"The rule {rule}{place} says so.  `mailhub plugins` tells what it does, and its options."]
    if event.kind == "deferred":
        texts.append(f"It is tried again by itself.  `mailhub queue retry {story.id}` tries at once.")
    recipient = printable(event.text("recipient")) or "this"
    return [text.replace("{argument}", shlex.quote(recipient)).replace("{recipient}", recipient) for text in texts]


def _fits(row: _Row, event: Told, remote: bool) -> bool:
    found = _REPLY.match(event.text("reply"))
    code, status = (found[1], found[2]) if found else (None, None)
    return (
        row.by in (None, event.facts.get("by"))
        and row.code in (None, code)
        and row.status in (None, status)
        and row.says.lower() in event.text("reply").lower()
        and row.remote in (None, remote)
    )


def _is_remote(event: Told, story: Story) -> bool:
    """Whether the reply is that of another host: who said it is told, but behind a UNIX socket nobody has a name."""
    if event.facts.get("remote") or event.facts.get("address"):
        return True
    routes = [each.text("route") for each in story.events if each.kind == "attempted" and each.at <= event.at]
    return bool(routes) and routes[-1].startswith("unix:")


def _place(refusal: Told, story: Story) -> str:
    """Where the rule stands."""
    for event in story.events:
        if event.kind in ("opinion", "policy_failed") and event.facts.get("policy") == refusal.facts.get("by"):
            key = event.text("key")
            if key and " stands by itself" not in key:
                return f" ({key})"
    return ""
