"""Whether a history explains itself: every event tells what it must, and stands behind what caused it.

The rule is a table, FORMS: for each kind of event the facts that it must have, and what it hangs on.  A decision names
who made it: a policy with its configuration key, a rule, or a person.  `unexplained` looks at events after the fact, in
tests and on the shelf; nothing of it is on the way of mail.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field

from mailhub.history.pages import Told
from mailhub.history.words import GAP, word

Addresses = frozenset[str]

#: Of outcomes that are final.
_FINAL = frozenset({"delivered", "failed", "discarded"})
#: What a notification may be about, by its action: the outcomes of the recipients that it names.
_TOLD_OF = {
    "failed": frozenset({"failed", "ordered"}),
    "delayed": frozenset({"deferred"}),
    "delivered": frozenset({"delivered"}),
    "relayed": frozenset({"delivered"}),
}
#: The facts of an opinion, by its stage: what the policy was asked about.
_INPUTS: Mapping[str, Addresses] = {
    "connection": frozenset({"peer"}),
    "hello": frozenset({"peer", "hello"}),
    "sender": frozenset({"peer", "reverse_path"}),
    "recipient": frozenset({"peer", "reverse_path", "recipient"}),
    "content": frozenset({"peer", "reverse_path"}),
    "route": frozenset({"recipient"}),
}


@dataclass
class _Session:
    """What is known of a session so far."""

    is_greeted: bool = False
    opinions: list[Told] = field(default_factory=list)
    accepted: set[str] = field(default_factory=set)
    resolved: list[Told] = field(default_factory=list)


@dataclass
class _Message:
    """What is known of a message so far: its recipients, and for each the last event about it."""

    recipients: set[str]
    last: dict[str, Told] = field(default_factory=dict)
    attempted: set[str] = field(default_factory=set)
    untold: set[str] = field(default_factory=set)
    ordered: set[str] = field(default_factory=set)

    def has_ended(self, address: str) -> bool:
        """Whether nothing more happens for this recipient.  Who failed and could not be told of it is tried again."""
        return address in self.last and self.last[address].kind in _FINAL and address not in self.untold


@dataclass(frozen=True)
class Form:
    """What an event of one kind looks like.

    `facts` must be there and say something (a null reverse-path does); of each group of `one_of` one must be.  `of` is
    what it belongs to: "hub", "session" or "message".  `check` finds what else is wrong.
    """

    of: str
    facts: str = ""
    one_of: tuple[str, ...] = ()
    check: Callable[[_History, Told], Iterable[str]] | None = None


class _History:
    """The events up to now."""

    def __init__(self) -> None:
        self.sessions: dict[str, _Session] = {}
        self.messages: dict[str, _Message] = {}

    def session(self, event: Told) -> _Session:
        return self.sessions.setdefault(event.session_id, _Session())

    def look_at(self, event: Told) -> Iterable[str]:
        form = FORMS.get(event.kind)
        if form is None:
            yield "is of a kind that the table of forms does not know"
            return
        for name in form.facts.split():
            if (name != "reverse_path" and event.facts.get(name) in (None, "", [], ())) or name not in event.facts:
                yield f"does not tell {name}"
        for group in form.one_of:
            if all(event.facts.get(name) in (None, "") for name in group.split()):
                yield f"tells none of {group}"
        if form.of == "session" and not event.session_id:
            yield "belongs to no session"
        if form.of == "message" and event.queue_id not in self.messages:
            yield f"is about {event.queue_id or 'no message'}, which was never queued"
        elif form.check is not None:
            yield from form.check(self, event)

    def at_the_end(self, queued: Container[str]) -> Iterable[str]:
        """What only the end can show."""
        for queue_id, message in self.messages.items():
            unended = {address for address in message.recipients if not message.has_ended(address)}
            if unended and queue_id not in queued:
                yield f"{queue_id}: is gone, and nothing tells the end of it for {_list(unended)}"
            if message.untold:
                yield f"{queue_id}: nobody was told that it failed for {_list(message.untold)}, and nothing says why"


def unexplained(events: Iterable[Told], queued: Container[str] = ()) -> list[str]:
    """What has no cause, or does not tell what it must: a sentence each, none where all is well.

    The events are those of a whole history, in their order, up to a rest of the hub, in whose queue are the messages of
    the ids `queued`, and no others.  Where some events were lost there is nothing to say.
    """
    history = _History()
    found: list[str] = []
    for event in events:
        if event.kind == GAP:
            return []
        about = event.queue_id or event.session_id
        found += [f"{event.kind} {about} {wrong}: {dict(event.facts)}" for wrong in history.look_at(event)]
    return found + list(history.at_the_end(queued))


# --- sessions ----------------------------------------------------------------------------------------------------


def _greeted(history: _History, event: Told) -> Iterable[str]:
    history.session(event).is_greeted = True
    return ()


def _opinion(history: _History, event: Told) -> Iterable[str]:
    stage = event.text("stage")
    if stage not in _INPUTS:
        yield f"stands at {stage}, where nobody is asked"
        return
    for name in sorted(_INPUTS[stage] - event.facts.keys()):
        yield f"does not tell what was asked: {name}"
    if event.facts.get("shadow", True) is not True:
        yield "has a shadow that is none"
    if stage == "route":
        if event.queue_id not in history.messages:
            yield f"is about {event.queue_id}, which was never queued"
        return
    if not event.session_id:
        yield "belongs to no session"
        return
    session = history.session(event)
    if stage in ("sender", "recipient", "content") and not session.is_greeted:
        yield "comes before a hello"
    if not event.facts.get("shadow"):
        session.opinions.append(event)
        if stage == "recipient" and event.text("opinion").startswith("2"):
            session.accepted.add(event.text("recipient"))


def _refused(history: _History, event: Told) -> Iterable[str]:
    session = history.session(event)
    by = event.text("by")
    if by and not any(
        opinion.text("policy") == by and opinion.text("opinion") == event.text("reply") for opinion in session.opinions
    ):
        yield f"says that {by} has decided, and {by} has not said so"
    if event.text("stage") in ("RCPT", "content") and "reverse_path" in event.facts and not session.is_greeted:
        yield "comes before a hello"


def _resolved(history: _History, event: Told) -> Iterable[str]:
    history.session(event).resolved.append(event)
    return ()


def _after_hello(history: _History, event: Told) -> Iterable[str]:
    if not history.session(event).is_greeted:
        yield "comes before a hello"


# --- messages ----------------------------------------------------------------------------------------------------


def _queued(history: _History, event: Told) -> Iterable[str]:
    history.messages[event.queue_id] = _Message(_recipients(event))
    session = history.session(event)
    if event.facts.get("uid") is not None:
        allowed = None  # whoever may run programs here may send
    elif session.is_greeted:
        allowed = session.accepted
    else:
        yield "was handed in by nobody"
        return
    reached = set(allowed or ())
    for resolved in session.resolved:
        if allowed is None or resolved.text("recipient") in allowed:
            reached.update(_targets(resolved))
    known = set(map(word, reached))  # an address may be written in more than one way
    for address in sorted(_recipients(event)) if allowed is not None else ():
        if word(address) not in known:
            yield f"has the recipient {address}, whom no opinion has accepted"


def _targets(resolved: Told) -> Iterable[str]:
    """`team@x -> a@x, b@x` leads to a@x and b@x."""
    for step in resolved.facts.get("steps") or ():
        yield from str(step).partition(" -> ")[2].split(", ")


def _attempted(history: _History, event: Told) -> Iterable[str]:
    message = history.messages[event.queue_id]
    yield from _waiting(message, event)
    message.attempted |= _recipients(event)
    if event.text("route") != "local":
        for name in ("why", "tls", "tls_source"):
            if not event.text(name):
                yield f"does not tell {name} of its route"


def _tried(history: _History, event: Told) -> Iterable[str]:
    if not history.messages[event.queue_id].attempted:
        yield "was not attempted"


def _outcome(history: _History, event: Told) -> Iterable[str]:
    message = history.messages[event.queue_id]
    address = event.text("recipient")
    yield from _waiting(message, event)
    if event.facts.get("by"):
        if event.kind == "failed" and address not in message.ordered:
            yield "was ordered by somebody, and there is no order"
    elif event.text("route") == "nowhere":
        if not event.text("detail"):
            yield "does not tell why there is no route"
    elif address not in message.attempted:
        yield f"has no attempt for {address}"
    if event.kind == "failed":
        if event.text("reply")[:1] == "4" and not event.facts.get("rule"):
            yield "is given up by nobody's rule"
        if address in message.ordered:
            message.ordered.discard(address)
        else:
            message.untold.add(address)
    message.attempted.discard(address)
    message.last[address] = event


def _steered(history: _History, event: Told) -> Iterable[str]:
    message = history.messages[event.queue_id]
    yield from _waiting(message, event)
    for address in _recipients(event):
        message.last[address] = event
    if event.kind == "ordered":
        message.ordered |= _recipients(event)
        message.untold |= _recipients(event)


def _crowded(history: _History, event: Told) -> Iterable[str]:
    yield from _waiting(history.messages[event.queue_id], event)


def _notified(history: _History, event: Told) -> Iterable[str]:
    message = history.messages[event.queue_id]
    yield from _known(message, event)
    for action in event.text("action").split(", "):
        kinds = _TOLD_OF.get(action, frozenset[str]())
        for address in _recipients(event):
            last = message.last.get(address)
            if (last is None or last.kind not in kinds) and event.kind == "notified":
                yield f"tells that it {action} for {address}, which nothing says"
    if "failed" in event.text("action"):
        message.untold -= _recipients(event)
    if event.kind == "notified":
        history.messages[event.text("notification")] = _Message({str(each) for each in event.facts.get("to") or ()})


def _known(message: _Message, event: Told) -> Iterable[str]:
    for address in sorted(_recipients(event) - message.recipients):
        yield f"is about {address}, who is no recipient of this message"


def _waiting(message: _Message, event: Told) -> Iterable[str]:
    yield from _known(message, event)
    for address in sorted(_recipients(event)):
        if message.has_ended(address):
            yield f"comes behind the end of {address}"


def _recipients(event: Told) -> set[str]:
    many = event.facts.get("recipients")
    found = {str(each) for each in many} if isinstance(many, list | tuple) else set()
    return found | {event.text("recipient")} if event.facts.get("recipient") is not None else found


def _list(addresses: Iterable[str]) -> str:
    return ", ".join(sorted(addresses))


_DECIDED = ("by rule",)

FORMS: Mapping[str, Form] = {
    # The hub
    "listening": Form("hub", "role host"),
    "started": Form("hub", "roles pid"),
    "stopping": Form("hub"),
    "stopped": Form("hub"),
    "log": Form("hub", "level text"),
    # Sessions
    "abandoned": Form("session", "reverse_path stage cause peer", check=_after_hello),
    "dismissed": Form("session", "reply rule peer"),
    "greeted": Form("session", "peer verb hello", check=_greeted),
    "logged_in": Form("session", "login mechanism peer", check=_after_hello),
    "login_refused": Form("session", "mechanism peer reply cause", check=_after_hello),
    "named": Form("session", "peer", ("ptr ptr_cause",)),
    "opinion": Form("", "policy key stage", ("opinion prepended",), check=_opinion),
    "policy_failed": Form("", "policy key stage error", check=_opinion),
    "refused": Form("session", "stage reply", _DECIDED, check=_refused),
    "resolved": Form("session", "recipient steps", check=_resolved),
    "tls_failed": Form("session", "peer cause"),
    # Messages
    "queued": Form("session", "reverse_path recipients size", ("peer uid",), check=_queued),
    "attempted": Form("message", "route recipients", check=_attempted),
    "crowded": Form("message", "route recipients next_attempt_at", check=_crowded),
    "tried": Form("message", "address", check=_tried),
    "deferred": Form("message", "recipient reply next_attempt_at", check=_outcome),
    "delivered": Form("message", "recipient reply detail", check=_outcome),
    "discarded": Form("message", "recipient by", check=_outcome),
    "failed": Form("message", "recipient reply", check=_outcome),
    "held": Form("message", "recipients by", check=_steered),
    "ordered": Form("message", "operation recipients by", check=_steered),
    "released": Form("message", "recipients by", check=_steered),
    "retried": Form("message", "recipients by", check=_steered),
    "notified": Form("message", "reverse_path recipients action notification to", check=_notified),
    "not notified": Form("message", "reverse_path recipients action cause", check=_notified),
}
