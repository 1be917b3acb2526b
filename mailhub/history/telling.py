"""A story as a person would tell it: one line an event, with the time and how long it took, and what decided it.

The rule: whatever strangers wrote, one event is one line, and no octet of theirs commands a terminal.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

from mailhub.history.advice import advice
from mailhub.history.pages import Told
from mailhub.history.plain import printable
from mailhub.history.story import Story
from mailhub.history.words import REFUSALS

#: A line for people is cut to this.
LINE_CHARACTERS_MAX = 2000
#: Addresses that are named in one line; the rest is counted.
ADDRESSES_MAX = 5
MARK = ">"

#: What is said by the events beside it.
_SILENT = frozenset({"removed"})  # told by earlier versions


def told(story: Story) -> Iterator[tuple[str, bool]]:
    """The lines of the whole story, and whether each is one that decided."""
    yield heading(story), False
    for line in _particulars(story):
        yield f"  {line}", False
    yield "", False
    yield from _lines(story)
    hints = advice(story)
    if hints:
        yield "", False
        yield "What would have to change:", False
        for hint in hints:
            yield from ((line, False) for line in _wrapped(hint))


def heading(story: Story) -> str:
    """`3k9f: delivered, from <a@example.org> to <b@example.test>, in 0.42 s`."""
    words = [f"{story.id}: {story.verdict}"]
    way = _way(story)
    if way:
        words.append(way)
    if story.arrival is not None and story.outcomes and "waiting" not in story.verdict:
        last = max(event.at for events in story.outcomes.values() for event in events)
        words.append(f"in {duration(last - story.begins_at)}")
    return _line(", ".join(words))


def entry(story: Story) -> tuple[str, str, str, str]:
    """The story in a list: when, its id, the verdict, and from whom to whom and why."""
    why = ""
    deciding = [event for number in sorted(story.decisive) if (event := story.events[number]).kind != "delivered"]
    if deciding:
        why = deciding[-1].text("reply")
    way = _way(story) or (f"from {story.first('peer')}" if story.first("peer") else "")
    return (when(story.begins_at), story.id, _line(story.verdict), _line(f"{way}: {why}" if why else way))


def _way(story: Story) -> str:
    sender = story.sender
    words = [f"from {sender}"] if sender is not None else []
    if story.recipients:
        words.append(f"to {_some(story.recipients)}")
    return " ".join(words)


def _particulars(story: Story) -> Iterator[str]:
    """What does not belong to one moment."""
    day = time.strftime("%A %d %B %Y, %Z", time.localtime(story.begins_at))
    yield day
    message_id = story.first("message_id")
    if message_id:
        yield _line(f"Message-ID {message_id}")
    arrival = story.arrival
    if arrival is not None and arrival.session_id:
        yield _line(f"session {arrival.session_id}")
    if story.has_lost_its_beginning:
        yield "how it came is missing, for history does not go back so far, or could not be written then"
    if story.left_out:
        yield f"{story.left_out:,} events in its midst are left out here; none of them decided"


# --- the lines -----------------------------------------------------------------------------------------------------


def _lines(story: Story) -> Iterator[tuple[str, bool]]:
    rows: list[tuple[int, Told, str, str]] = []
    for number, event in enumerate(story.events):
        if event.kind in _SILENT or _is_said_next(story.events, number):
            continue
        label, text = sentence(event, story)
        rows.append((number, event, label, text))
    width = max((len(label) for _, _, label, _ in rows), default=0)
    before: float | None = None
    day = time.localtime(story.begins_at)[:3]
    for number, event, label, text in rows:
        if time.localtime(event.at)[:3] != day:
            day = time.localtime(event.at)[:3]
            yield f"  {time.strftime('%A %d %B %Y', time.localtime(event.at))}", False
        took = "" if before is None else f"+{duration(event.at - before)}"
        before = event.at
        decided = number in story.decisive
        stamp = f"{time.strftime('%H:%M:%S', time.localtime(event.at))}.{int(event.at * 1000) % 1000:03}"
        yield _line(f"{MARK if decided else ' '} {stamp} {took:>9}  {label:{width}}  {text}").rstrip(), decided


def _is_said_next(events: Sequence[Told], number: int) -> bool:
    """Whether an opinion is told by the refusal that it led to."""
    event = events[number]
    if event.kind not in ("opinion", "policy_failed") or event.facts.get("shadow") or number + 1 >= len(events):
        return False
    after = events[number + 1]
    return after.kind == "refused" and after.facts.get("by") == event.facts.get("policy") is not None


def sentence(event: Told, story: Story) -> tuple[str, str]:
    """What happened, in one word and then in the rest of a line.  Never raises for what the facts are."""
    try:
        return _SENTENCES.get(event.kind, _other)(event, story)
    except Exception:  # facts of another version of ours
        return _other(event, story)


def _other(event: Told, story: Story) -> tuple[str, str]:
    facts = ", ".join(
        f"{name} {_value(value)}" for name, value in event.facts.items() if value not in (None, "", [], {})
    )
    return event.kind.replace("_", " "), facts


def _connected(event: Told, story: Story) -> tuple[str, str]:
    text = f"from {event.text('peer')}"
    if event.facts.get("ptr"):
        text += f" ({event.text('ptr')})"
    if event.facts.get("role"):
        text += f" to the {event.text('role')}"
    return "connected", text


def _greeted(event: Told, story: Story) -> tuple[str, str]:
    confirmed = f" ({event.text('ptr')})" if event.facts.get("ptr_confirmed") else ""
    text = f"{event.text('peer')}{confirmed} said {event.text('verb')} {event.text('hello')}"
    if not confirmed and (event.facts.get("ptr") or event.facts.get("ptr_cause")):
        text += f", {_name(event)}"
    if event.facts.get("tls"):
        text += f", under {event.text('tls')} {event.text('cipher')}".rstrip()
    if event.facts.get("seconds"):
        text += f", {duration(float(event.facts['seconds']))} after it had connected"
    return "hello", text


def _logged_in(event: Told, story: Story) -> tuple[str, str]:
    return "logged in", f"as {event.text('login')} with {event.text('mechanism')}{_from(event, story)}"


def _login_refused(event: Told, story: Story) -> tuple[str, str]:
    text = f"as {event.text('login')} " if event.facts.get("login") else ""
    text += f"with {event.text('mechanism')}{_from(event, story)}: {event.text('reply')}"
    if event.facts.get("cause"):
        text += f" ({event.text('cause')})"
    return "no login", text


def _refused(event: Told, story: Story) -> tuple[str, str]:
    stage = _stage(event)
    if event.facts.get("recipient"):
        text = f"<{event.text('recipient')}> at {stage}"
    elif "reverse_path" in event.facts:
        text = f"sender {_path(event.facts['reverse_path'])} at {stage}"
    else:
        text = f"at {stage}"
    text += _from(event, story)
    by = event.facts.get("by")
    if by is not None:
        text += f" by {_policy(_opinion_of(event, story), str(by))}"
    elif event.facts.get("rule"):
        text += f" ({event.text('rule')})"
    text += f": {event.text('reply')}"
    if event.facts.get("cause"):
        text += f" ({event.text('cause')})"
    return "refused", text


def _opinion(event: Told, story: Story) -> tuple[str, str]:
    policy = _policy(event, event.text("policy"), with_error=False)
    said = event.facts.get("opinion")
    about = f"<{event.text('recipient')}> " if event.facts.get("recipient") else ""
    stage = f"{about}at {_stage(event)}"
    if event.kind == "policy_failed":
        cost = f", which says {said}" if said else ", which costs nothing"
        shadow = ", in the shadow" if event.facts.get("shadow") else ""
        return "rule failed", f"{stage} by {policy}: {event.text('error')}{cost}{shadow}"
    prepended = event.facts.get("prepended")
    if prepended:
        fields = ", ".join(f"{name}: {body}" for name, body in prepended)
        said = f"puts {fields} before the message"
    if event.facts.get("shadow"):
        return "in shadow", f"{stage} by {policy}, which would say {said}"
    word = "accepted" if str(said)[:1] == "2" else "opinion"
    return word, f"{stage} by {policy}: {said}"


def _resolved(event: Told, story: Story) -> tuple[str, str]:
    return "alias", "; ".join(str(step) for step in event.facts["steps"])


def _queued(event: Told, story: Story) -> tuple[str, str]:
    text = f"for {_some([str(each) for each in event.facts['recipients']])}, {event.facts['size']:,} octets"
    if event.facts.get("uid") is not None:
        text += f", from a program of user {event.text('uid')}"
    elif story.first("peer") and not _was_told(event, story, "peer"):
        text += f", from {story.first('peer')}"
    return "queued", text


def _attempted(event: Told, story: Story) -> tuple[str, str]:
    route = event.text("route")
    where = "into the mailbox" if route == "local" else f"to {route}"
    text = f"{where} for {_some([str(each) for each in event.facts['recipients']])}"
    if event.facts.get("why"):
        text += f", by {event.text('why')}"
    hosts = event.facts.get("hosts")
    if isinstance(hosts, list):
        named = [str(host) for host in dict.fromkeys(hosts) if str(host) not in route]
        text += f", at {', else '.join(named)}" if named else ""
    if event.facts.get("tls"):
        source = f" ({event.text('tls_source')})" if event.facts.get("tls_source") else ""
        text += f"; TLS: {event.text('tls')}{source}"
    return "attempt", text


def _tried(event: Told, story: Story) -> tuple[str, str]:
    said = f": {event.text('reply')}" if event.facts.get("reply") else ""
    return "talked to", f"{_transaction(event)}{said}"


def _transaction(event: Told) -> str:
    """Where it was, how, and how long it took."""
    host, address = event.text("host"), event.text("address")
    where = f"{host} [{address}]" if host and host != address else f"[{address}]"
    if event.facts.get("port"):
        where += f":{event.text('port')}"
    how = [f"{event.text('tls')} {event.text('cipher')}".strip()] if event.facts.get("tls") else ["without TLS"]
    if event.facts.get("verified"):
        how.append("certificate verified")
    if event.facts.get("tls_failed"):
        how = ["TLS failed"]
    if event.facts.get("reused"):
        how.append("on a connection that was open")
    return f"{where}, {', '.join(how)}, {duration(float(event.facts.get('seconds', 0)))}"


def _outcome(event: Told, story: Story) -> tuple[str, str]:
    """Delivered, deferred, failed, discarded."""
    text = f"<{event.text('recipient')}>"
    if event.facts.get("reply"):
        text += f": {event.text('reply')}"
    how = [event.text("detail")] if event.facts.get("detail") else []
    if event.facts.get("address"):
        how.append(_transaction(event))
    if how:
        text += f" ({', '.join(how)})"
    if event.facts.get("reason"):
        text += f", since {event.text('reason')}"
    if event.facts.get("by"):
        text += f", by {event.text('by')}"
    if event.facts.get("rule"):
        text += f" ({event.text('rule')})"
    at = event.facts.get("next_attempt_at")
    if at:
        text += f"; next attempt at {when(float(at))}"
    if event.kind == "failed" and event.text("reply")[:1] == "4":
        return "given up", text
    return event.kind, text


def _steered(event: Told, story: Story) -> tuple[str, str]:
    """Held, released, retried."""
    text = f"for {_some([str(each) for each in event.facts['recipients']])}"
    if event.facts.get("by"):
        text += f" by {event.text('by')}"
    if event.facts.get("reason"):
        text += f", since {event.text('reason')}"
    return event.kind, text


def _crowded(event: Told, story: Story) -> tuple[str, str]:
    who = _some([str(each) for each in event.facts["recipients"]])
    back = when(float(event.facts["next_attempt_at"]))
    return "waits", f"for {who}, since too many go to {event.text('route')} at once; its turn comes at {back}"


def _ordered(event: Told, story: Story) -> tuple[str, str]:
    label, text = _steered(event, story)
    return label, f"{event.text('operation')} {text}"


def _named(event: Told, story: Story) -> tuple[str, str]:
    return "name", f"{event.text('peer')} {_name(event)}"


def _name(event: Told) -> str:
    """What the DNS calls the client."""
    name = event.text("ptr")
    if not name:
        return f"has no name ({event.text('ptr_cause')})"
    if event.facts.get("ptr_confirmed"):
        return f"is {name}"
    doubt = "which does not lead back to it" if "ptr_confirmed" in event.facts else "which nobody could confirm"
    return f"is called {name}, {doubt}"


def _tls_failed(event: Told, story: Story) -> tuple[str, str]:
    return "no TLS", f"with {event.text('peer')}: {event.text('cause')}"


def _dismissed(event: Told, story: Story) -> tuple[str, str]:
    return "sent away", f"{event.text('peer')} ({event.text('rule')}): {event.text('reply')}"


def _notified(event: Told, story: Story) -> tuple[str, str]:
    sender = _path(event.facts["reverse_path"])
    what = f"{event.text('action')} for {_some([str(each) for each in event.facts['recipients']])}"
    if event.text("notification") == story.id:
        return "made", f"to tell {sender} that {event.queue_id} was {what}"
    return "told", f"{sender} that it was {what}, in message {event.text('notification')}"


def _not_notified(event: Told, story: Story) -> tuple[str, str]:
    if event.facts.get("rule"):
        return "told nobody", f"since {event.text('cause')} ({event.text('rule')})"
    return "told nobody", f"since {_path(event.facts['reverse_path'])} leads nowhere: {event.text('cause')}"


def _abandoned(event: Told, story: Story) -> tuple[str, str]:
    if event.facts.get("cause"):
        return "abandoned", f"in the {event.text('stage')}, without a message: {event.text('cause')}"
    return "abandoned", "the client ended this transaction without a message"


def _logged(event: Told, story: Story) -> tuple[str, str]:
    return event.text("level") or "log", event.text("text")


_SENTENCES: dict[str, Callable[[Told, Story], tuple[str, str]]] = {
    "abandoned": _abandoned,
    "attempted": _attempted,
    "connected": _connected,
    "crowded": _crowded,
    "deferred": _outcome,
    "delivered": _outcome,
    "discarded": _outcome,
    "dismissed": _dismissed,
    "failed": _outcome,
    "greeted": _greeted,
    "held": _steered,
    "log": _logged,
    "logged_in": _logged_in,
    "login_refused": _login_refused,
    "named": _named,
    "not notified": _not_notified,
    "notified": _notified,
    "opinion": _opinion,
    "ordered": _ordered,
    "policy_failed": _opinion,
    "queued": _queued,
    "refused": _refused,
    "released": _steered,
    "resolved": _resolved,
    "retried": _steered,
    "tls_failed": _tls_failed,
    "tried": _tried,
}


# --- words -----------------------------------------------------------------------------------------------------------


def _from(event: Told, story: Story) -> str:
    """Where the client is, the first time that this is known."""
    peer = event.facts.get("peer")
    return "" if not peer or _was_told(event, story, "peer") else f" from {peer}"


def _was_told(event: Told, story: Story, name: str) -> bool:
    """Whether an earlier line has told this fact."""
    for earlier in story.events:
        if earlier is event:
            return False
        if earlier.kind in _TELLS.get(name, ()) and earlier.facts.get(name):
            return True
    return False


#: Which lines tell a fact.
_TELLS = {"peer": REFUSALS | {"connected", "greeted", "logged_in"}, "login": frozenset({"logged_in"})}


def _stage(event: Told) -> str:
    """Where in the dialogue, in one word for whoever speaks of it."""
    stage = event.text("stage")
    return _STAGES.get(stage, stage)


#: The panel asks about a recipient; people speak of RCPT.
_STAGES = {"connection": "connection", "sender": "MAIL", "recipient": "RCPT", "route": "routing"}


def _opinion_of(refusal: Told, story: Story) -> Told | None:
    """The opinion behind a refusal."""
    found = None
    for event in story.events:
        if event is refusal:
            break
        if event.kind in ("opinion", "policy_failed") and event.facts.get("policy") == refusal.facts.get("by"):
            found = event
    return found


def _policy(opinion: Told | None, name: str, with_error: bool = True) -> str:
    """`greylist (mta.policy[0], 0.2 ms)`."""
    if opinion is None:
        return name
    key = opinion.text("key")
    told = ["stands by itself" if key.endswith(" stands by itself)") else key]
    if float(opinion.facts.get("milliseconds") or 0) >= 1:
        told.append(duration(float(opinion.facts["milliseconds"]) / 1000))
    if with_error and opinion.kind == "policy_failed":
        told.append(f"which failed: {opinion.text('error')}")
    rest = ", ".join(each for each in told if each)
    return f"{name} ({rest})" if rest else name


def _path(address: object) -> str:
    return "<>" if address is None else f"<{address}>"


def _some(addresses: Sequence[str]) -> str:
    shown = ", ".join(f"<{address}>" for address in addresses[:ADDRESSES_MAX])
    more = len(addresses) - ADDRESSES_MAX
    return f"{shown} and {more} more" if more > 0 else shown


def _value(value: object) -> str:
    return ", ".join(map(_value, value)) if isinstance(value, list) else str(value)


def duration(seconds: float) -> str:
    """`3 ms`, `1.2 s`, `4 m 10 s`, `2 h 5 m`, `3 d 4 h`."""
    if seconds < 0:
        return f"-{duration(-seconds)}"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for unit, size, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if whole >= size:
            rest = whole % size // part
            return f"{whole // size} {unit} {rest} {smaller}" if rest else f"{whole // size} {unit}"
    return f"{whole} s"


def when(at: float) -> str:
    """Date and time, in the time zone of whoever reads it."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def _line(text: str) -> str:
    return printable(text[:LINE_CHARACTERS_MAX])


def _wrapped(text: str, width: int = 100) -> Iterator[str]:
    line = " "
    for word in printable(text).split():
        if len(line) + 1 + len(word) > width:
            yield line
            line = " "
        line += f" {word}"
    yield line
