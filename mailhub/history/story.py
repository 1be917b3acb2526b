"""The life of one message as its events tell it: who, to whom, what became of each recipient, and what decided it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mailhub.history.pages import Told
from mailhub.history.redaction import is_anybody
from mailhub.history.words import REFUSALS

#: Kinds of events that say what became of a recipient, and how that is told of it.
OUTCOMES = {
    "delivered": "delivered",
    "deferred": "waiting",
    "failed": "failed",
    "discarded": "discarded",
    "held": "held",
    "released": "waiting",
    "retried": "waiting",
    "refused": "refused",
}
#: Of these the message waits no longer.
_ENDS = frozenset({"delivered", "failed", "discarded"})
#: Kinds of events that only a message has that was queued.
_BEHIND_THE_DOOR = frozenset(OUTCOMES.keys() - {"refused"} | {"attempted"})
#: The order in which the numbers of several recipients are told.
_ORDER = ("delivered", "waiting", "held", "failed", "discarded", "refused")


@dataclass(frozen=True)
class Story:
    """`id` is a queue id, or the id of a session that led to no message; `events` are in order.

    Of a very long story some in its midst are missing, which decided nothing: `left_out` says how many.
    """

    id: str
    events: tuple[Told, ...]
    left_out: int = 0

    @property
    def begins_at(self) -> float:
        return self.events[0].at if self.events else 0.0

    @property
    def ends_at(self) -> float:
        return self.events[-1].at if self.events else 0.0

    @cached_property
    def arrival(self) -> Told | None:
        """The event that put it into the queue."""
        return next((event for event in self.events if event.kind == "queued" and event.queue_id == self.id), None)

    @cached_property
    def notification(self) -> Told | None:
        """The event that tells whom this message informs, if it is a notification of ours."""
        events = (event for event in self.events if event.kind == "notified")
        return next((event for event in events if event.text("notification") == self.id), None)

    def first(self, name: str) -> Any:
        """The first value of this fact; None if there is none."""
        return next((event.facts[name] for event in self.events if event.facts.get(name) not in (None, "")), None)

    @property
    def sender(self) -> str | None:
        """The reverse-path with its angle brackets, or None if nobody had named one."""
        if self.arrival is None and self.notification is not None:
            return "<>"
        for event in (*((self.arrival,) if self.arrival else ()), *self.events):
            if "reverse_path" in event.facts:
                address = event.facts["reverse_path"]
                return "<>" if address is None else f"<{address}>"
        return None

    @cached_property
    def recipients(self) -> tuple[str, ...]:
        """The addresses that it was to go to, as far as they are known.

        Behind one that is redacted there may be several people: then it stands there once for each.
        """
        if self.arrival is not None:
            return tuple(_addresses(self.arrival))
        if self.notification is not None:
            # Behind the aliases of whoever is told, as for all other mail.
            told = self.notification.facts.get("to") or [self.notification.text("reverse_path")]
            return tuple(map(str, told))
        found: dict[str, None] = {}
        for event in self.events:
            if event.kind in REFUSALS or event.kind in _BEHIND_THE_DOOR:
                found.update(dict.fromkeys(_addresses(event)))
        return tuple(found)

    @cached_property
    def outcomes(self) -> dict[str, tuple[Told, ...]]:
        """The last events that say what became of each recipient, those included that were refused at the door.

        That is one for each time that the address is among the recipients; where it stands for anybody, also one for
        each refusal.
        """
        counts = Counter(self.recipients)
        found = {address: _last(events, counts[address] or 1) for address, events in self._in_the_queue.items()}
        refused: dict[str, tuple[Told, ...]] = {}
        for event in self.events:
            for address in _addresses(event) if event.kind == "refused" else ():
                if is_anybody(address):
                    refused[address] = (*refused.get(address, ()), event)
                elif not (self.is_ours and address in counts):  # else it was accepted when it was asked for again
                    refused[address] = (event,)
        return {address: (*refused.get(address, ()), *found.get(address, ())) for address in refused | found}

    @cached_property
    def _in_the_queue(self) -> dict[str, list[Told]]:
        """What became of each recipient behind the door, in order."""
        found: dict[str, list[Told]] = {}
        for event in self.events:
            if event.kind in OUTCOMES and event.kind in _BEHIND_THE_DOOR and event.queue_id == self.id:
                for address in _addresses(event):
                    found.setdefault(address, []).append(event)
        return found

    @property
    def _all_outcomes(self) -> Iterator[tuple[str, Told]]:
        return ((address, event) for address, events in self.outcomes.items() for event in events)

    @property
    def refusals(self) -> tuple[Told, ...]:
        return tuple(event for event in self.events if event.kind in REFUSALS)

    @cached_property
    def decisive(self) -> frozenset[int]:
        """The numbers of the events that decided: the last outcome of each recipient, and what refused all of it."""
        deciding = {id(event) for _, event in self._all_outcomes}
        if not self.is_ours:
            refusals = self.refusals
            deciding |= {id(event) for event in refusals if event.kind == "refused"} or {id(each) for each in refusals}
        return frozenset(number for number, event in enumerate(self.events) if id(event) in deciding)

    @property
    def is_ours(self) -> bool:
        """Whether there was a message that we had taken, or made."""
        return self.arrival is not None or self.notification is not None or self.has_lost_its_beginning

    @cached_property
    def has_lost_its_beginning(self) -> bool:
        """Whether it was in the queue and nothing tells how it came there, since that was dropped or never stored."""
        return (
            self.arrival is None
            and self.notification is None
            and any(event.kind in _BEHIND_THE_DOOR and event.queue_id == self.id for event in self.events)
        )

    @property
    def has_ended(self) -> bool:
        """Whether every recipient has had an end, as far as is known."""
        return not self._without(_ENDS)

    @property
    def verdict(self) -> str:
        """What became of it, in a word or two."""
        if not self.is_ours:
            return "refused" if self.refusals else "no mail"
        found = [OUTCOMES[event.kind] for _, event in self._all_outcomes]
        found += ["waiting"] * self._without(_BEHIND_THE_DOOR).total()
        counted = [(word, found.count(word)) for word in _ORDER if word in found]
        if len(counted) == 1:
            return counted[0][0]
        return ", ".join(f"{count} {word}" for word, count in counted) or "waiting"

    def _without(self, kinds: Container[str]) -> Counter[str]:
        """The recipients of which no last event is of one of these kinds."""
        return Counter(self.recipients) - Counter(
            address for address, event in self._all_outcomes if event.kind in kinds
        )

    def as_json(self) -> dict[str, object]:
        """For machines."""
        arrival = self.arrival
        return {
            "id": self.id,
            "verdict": self.verdict,
            "sender": self.sender,
            "recipients": list(self.recipients),
            "message_id": None if arrival is None else arrival.facts.get("message_id"),
            "events": [
                event.as_json() | ({"decisive": True} if number in self.decisive else {})
                for number, event in enumerate(self.events)
            ],
            "left_out": self.left_out,
        }


def _addresses(event: Told) -> list[str]:
    """The recipients that an event is about."""
    one, many = event.facts.get("recipient"), event.facts.get("recipients")
    if one is not None:
        return [str(one)]
    return [str(each) for each in many] if isinstance(many, list) else []


def _last(events: Sequence[Told], count: int) -> tuple[Told, ...]:
    """The last outcomes of so many recipients that bear one address.

    An end is that of one of them, and who has had no end is where the last events without one left them.
    """
    if count == 1:
        return (events[-1],)
    ends = [event for event in events if event.kind in _ENDS][-count:]
    others = [event for event in events if event.kind not in _ENDS]
    return (*others[max(0, len(others) - count + len(ends)) :], *ends)
