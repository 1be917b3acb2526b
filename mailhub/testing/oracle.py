"""What must hold in every World, judged from outside: from what clients were told, what lies on disks and with other
hosts, and what the hubs say in their histories.

The oracle knows nothing of how the simulators do it, and the simulators know nothing of it.  `watch` sees every event
while it happens; `at_rest` looks when all is over, after a last power cut, so that only what is durable counts.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mailhub.history.causes import unexplained
from mailhub.history.line import Event
from mailhub.model import Address, ReversePath
from mailhub.testing.client import Attempt

if TYPE_CHECKING:
    from mailhub.queue.schedule import Schedule
    from mailhub.testing.simulated_hub import SimulatedHub
    from mailhub.testing.simulated_process import SimulatedProcess
    from mailhub.testing.world import World

VIOLATIONS_MAX = 50
#: Times are floats of seconds since the epoch; history rounds to milliseconds.
SLACK_SECONDS = 0.002
#: A message is older than its commit.
GIVE_UP_SLACK_SECONDS = 60.0

_MESSAGE_ID = re.compile(rb"^Message-ID: *(<[^>\r\n]+>)", re.IGNORECASE | re.MULTILINE)
_ABOUT = re.compile(rb"^X-Mailhub-Queue-Id: *([0-9a-z]+)", re.MULTILINE)
_RECEIVED = re.compile(rb"\bid ([0-9a-z]+)\b")
#: What may stand before the octets that were accepted.
_OURS = re.compile(rb"(?:(?:Return-Path|Delivered-To|X-Original-To|Received):[^\r\n]*\r\n(?:[ \t][^\r\n]*\r\n)*)*")


@dataclass
class Taken:
    """One message that a hub has answered for: by a 250, or by a notification of its own."""

    process: SimulatedProcess
    queue_id: str
    message_id: str
    reverse_path: ReversePath
    recipients: tuple[Address, ...]
    at: float = 0.0
    session_id: str = ""
    is_notification: bool = False

    @property
    def hub(self) -> SimulatedHub:
        """Whose process it is."""
        return self.process.machine


@dataclass
class _Course:
    """The recipients of one message in the queue of one process, as far as its history tells."""

    last: dict[Address, str] = field(default_factory=dict)  # the last outcome
    #: Not before; and the upheavals until it was said.
    due: dict[Address, tuple[float, tuple[int, float, int]]] = field(default_factory=dict)
    attempted: dict[Address, int] = field(default_factory=dict)  # the kills until the last attempt
    #: A process has died in an attempt, or right behind it: the next one may make a second copy.
    may_be_repeated: bool = False


class Oracle:
    """Watches a World from now on.  `violations` are one sentence each."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.violations: list[str] = []
        self.taken: dict[tuple[str, str], Taken] = {}
        #: By hub and queue id: what was told about, and in which messages.
        self.told: dict[tuple[str, str], dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
        self.untold: set[tuple[str, str]] = set()
        #: By the process in whose queue it is, and its id.
        self._courses: dict[tuple[str, str], _Course] = defaultdict(_Course)
        #: The life in which a session was, by the hub and its id.
        self._sessions: dict[tuple[str, str], tuple[str, int]] = {}
        self._resolved: dict[tuple[str, str], set[Address]] = defaultdict(set)  # aliases that sessions asked for
        self._lives: Counter[str] = Counter()
        world.observers.append(self.watch)

    def violation(self, text: str) -> None:
        """Something that must never be."""
        if len(self.violations) < VIOLATIONS_MAX and text not in self.violations:
            self.world.note(f"VIOLATION {text}")
            self.violations.append(text)

    # --- all along ---------------------------------------------------------------------------------------------

    def watch(self, process: SimulatedProcess, event: Event) -> None:
        """One event of a process of a hub."""
        at, kind, session_id, queue_id, facts = event
        hub = process.machine
        if self._lives[process.name] != process.lives:
            self._lives[process.name] = process.lives
            for (name, _), course in self._courses.items():
                if name == process.name:
                    course.last.clear()
        taken = self.taken.get((hub.hostname, queue_id)) if queue_id else None
        if taken is not None and taken.process is not process:
            self.violation(f"{queue_id} is in the queue of {taken.process.name}, and {process.name} says: {kind}")
        if kind == "greeted":
            self._greeted(process, session_id)
        match kind:
            case "queued":
                self._queued(process, at, session_id, queue_id, facts)
            case "resolved":
                self._note_alias(hub, session_id, facts)
            case "notified":
                self._notified(process, at, queue_id, facts)
            case "not notified":
                self.untold.add((hub.hostname, queue_id))
            case "attempted":
                self._attempted(process, at, queue_id, facts)
            case "delivered" | "failed" | "deferred":
                self._outcome(process, at, kind, queue_id, facts)

    def _greeted(self, process: SimulatedProcess, session_id: str) -> None:
        life = (process.name, process.lives)
        other = self._sessions.setdefault((process.machine.hostname, session_id), life)
        if other != life:
            self.violation(f"the session id {session_id} was given twice: in {_life(other)} and in {_life(life)}")

    def _note_alias(self, hub: SimulatedHub, session_id: str, facts: Mapping[str, Any]) -> None:
        self._resolved[hub.hostname, session_id].add(facts["recipient"])

    def _queued(
        self, process: SimulatedProcess, at: float, session_id: str, queue_id: str, facts: Mapping[str, Any]
    ) -> None:
        key = (process.machine.hostname, queue_id)
        if key in self.taken:
            self.violation(f"the queue id {queue_id} was given twice")
        self.taken[key] = Taken(
            process,
            queue_id,
            str(facts.get("message_id", "")),
            facts["reverse_path"],
            tuple(facts["recipients"]),
            at,
            session_id,
        )

    def _notified(self, process: SimulatedProcess, at: float, queue_id: str, facts: Mapping[str, Any]) -> None:
        hub = process.machine
        about = self.taken.get((hub.hostname, queue_id))
        if facts["reverse_path"] is None or (about is not None and about.reverse_path is None):
            self.violation(f"a notification about {queue_id}, which came from the null sender")
        if about is not None and about.is_notification:
            self.violation(f"a notification about the notification {queue_id}")
        key = (hub.hostname, str(facts["notification"]))
        if key in self.taken:
            self.violation(f"the queue id {key[1]} was given twice")
        sender = facts["reverse_path"]
        to = () if sender is None else (sender,)
        self.taken[key] = Taken(process, key[1], "", None, to, at, is_notification=True)
        told = self.told[hub.hostname, queue_id][str(facts["action"])]
        for recipient in facts["recipients"]:
            is_new = not any(entry.split()[0] == str(recipient) for entry in told)
            if not is_new and not process.kills and not self.world.had_disk_faults:
                self.violation(f"{queue_id} to {recipient} was told to be {facts['action']} more than once")
            told.add(f"{recipient} {key[1]}")

    def _upheavals(self, process: SimulatedProcess) -> tuple[int, float, int]:
        """What has happened to this process that may make it forget when something is due: it was killed, the clock was
        set back after something was found due, or it was stopped while its disk could not take what it had to
        remember."""
        return process.kills, self.world.set_back_seconds, process.lives if self.world.had_disk_faults else 0

    def _attempted(self, process: SimulatedProcess, at: float, queue_id: str, facts: Mapping[str, Any]) -> None:
        course = self._courses[process.name, queue_id]
        route = str(facts["route"])
        for recipient in facts["recipients"]:
            due = course.due.get(recipient)
            if due is not None and due[1] == self._upheavals(process) and at < due[0] - SLACK_SECONDS:
                self.violation(f"{queue_id} to {recipient} was tried {due[0] - at:.1f} s early")
            course.last.pop(recipient, None)
            course.may_be_repeated |= course.attempted.get(recipient, process.kills) != process.kills
            course.attempted[recipient] = process.kills
            if route != "local":
                self._check_limit(recipient.domain)

    def _check_limit(self, domain: str) -> None:
        """As the other side sees it; behind a broken network it also sees what has long ended here."""
        if self.world.had_faults:
            return
        limit = sum(
            process.worker.share(hub.config.outbound.limits.per_destination)
            for hub in self.world.hubs.values()
            for process in hub.processes.values()
        )
        remotes = [remote for name, remote in self.world.remotes.items() if name.endswith(f".{domain}")]
        transactions = sum(remote.transactions for remote in remotes)
        if transactions > limit:
            self.violation(f"{transactions} deliveries to {domain} at once, and {limit} are allowed")

    def _outcome(
        self, process: SimulatedProcess, at: float, kind: str, queue_id: str, facts: Mapping[str, Any]
    ) -> None:
        course = self._courses[process.name, queue_id]
        recipient = facts["recipient"]
        before = course.last.get(recipient)
        if {before, kind} == {"delivered", "failed"}:
            self.violation(f"{queue_id} to {recipient} is {before} and {kind} by the same attempt")
        course.last[recipient] = kind
        taken = self.taken.get((process.machine.hostname, queue_id))
        if kind == "failed" and facts.get("rule") and taken is not None and not self.world.jumps:
            age = at - taken.at
            if age < process.machine.config.queue.give_up - GIVE_UP_SLACK_SECONDS:
                self.violation(f"{queue_id} to {recipient} was given up after {age:.0f} s")
        if kind == "deferred":
            schedule = _schedule(process.machine)
            wait = float(facts["next_attempt_at"]) - at
            if not schedule.shortest_seconds - SLACK_SECONDS <= wait <= schedule.longest_seconds + SLACK_SECONDS:
                self.violation(f"{queue_id} to {recipient} is to wait {wait:.1f} s")
            course.due[recipient] = (float(facts["next_attempt_at"]), self._upheavals(process))

    # --- at rest -----------------------------------------------------------------------------------------------

    def at_rest(self) -> None:
        """Everything is over, and every hub serves: what is left?  Ends all lives."""
        for hub in self.world.hubs.values():
            self._check_leaks(hub)
            for process in hub.processes.values():
                self._check_history(process)
        for hub in self.world.hubs.values():
            hub.kill(power=True)
        self.violations += [f"the program failed: {problem}" for problem in self.world.problems]
        copies = self._copies()
        sent = {message_id: attempt for attempt in self.world.attempts if (message_id := _message_id(attempt))}
        for taken in tuple(self.taken.values()):
            self._check_fate(taken, copies)
        for attempt in self.world.attempts:
            self._check_attempt(attempt, copies)
        for remote in self.world.remotes.values():
            for message in remote.messages:
                origin = sent.get(_named(message.content) or "")
                if origin is not None and (message.reverse_path is None) != (not origin.mail.sender):
                    self.violation(f"{_message_id(origin)} went on from {message.reverse_path or '<>'}")
        for (message_id, recipient), contents in sorted(copies.items()):
            origin = sent.get(message_id)
            if origin is None:
                continue
            # An alias of another hub is another way to the same person, and another message there.
            ways = Counter(found[1].decode() if (found := _RECEIVED.search(content)) else "" for content in contents)
            if any(times > 1 and not self._may_be_repeated(queue_id) for queue_id, times in ways.items()):
                self.violation(f"{message_id} reached {recipient} {len(contents)} times, and nothing had gone wrong")
            for content in contents:
                if not _is_intact(content, origin.mail.content):
                    self.violation(f"{message_id} reached {recipient} with other octets than were accepted")

    def _may_be_repeated(self, queue_id: str) -> bool:
        """Whether something has happened that may lead to a second copy of this message."""
        world = self.world
        if world.is_scripted or world.internet.faults or world.had_disk_faults:
            return True
        return any(course.may_be_repeated for (_, name), course in self._courses.items() if name == queue_id)

    def _check_history(self, process: SimulatedProcess) -> None:
        """Of a process that nobody has killed: every event of its history has its cause there."""
        if process.kills or self.world.had_disk_faults:
            return
        for sentence in unexplained(event for event in process.told() if event.kind != "started"):
            self.violation(f"{process.name} does not explain itself: {sentence}")

    def _check_leaks(self, hub: SimulatedHub) -> None:
        name = hub.hostname
        if queued := hub.queued():
            self.violation(f"{name} is not at rest: {len(queued)} messages are queued, such as {queued[0]}")
        for what, count in hub.in_use().items():
            if count:
                self.violation(f"{name} is at rest and has {count} {what}")

    def _copies(self) -> dict[tuple[str, str], list[bytes]]:
        """By message id and recipient: the contents that lie there."""
        found: dict[tuple[str, str], list[bytes]] = defaultdict(list)
        for hub in self.world.hubs.values():
            for person, content in hub.everything():
                if (message_id := _named(content)) is not None:
                    found[message_id, person].append(content)
                for about in _ABOUT.findall(content):
                    found[f"about {about.decode()}", person].append(content)
        for remote in self.world.remotes.values():
            for message in remote.messages:
                for recipient, _ in message.recipients:
                    if (message_id := _named(message.content)) is not None:
                        found[message_id, str(recipient)].append(message.content)
                    for about in _ABOUT.findall(message.content):
                        found[f"about {about.decode()}", str(recipient)].append(message.content)
        return found

    def _check_fate(self, taken: Taken, copies: Mapping[tuple[str, str], list[bytes]]) -> None:
        """Every recipient of what a hub has answered for is served, or its sender knows."""
        hub, key = taken.hub.hostname, (taken.hub.hostname, taken.queue_id)
        if taken.is_notification:
            return  # looked for where it was needed
        for recipient in taken.recipients:
            if copies.get((taken.message_id, str(recipient))) or self._is_passed_on(taken, recipient):
                continue
            notifications = {
                entry.split()[1] for entry in self.told[key]["failed"] if entry.split()[0] == str(recipient)
            }
            if notifications:
                if not any(self._notification_is_safe(taken, each, copies) for each in sorted(notifications)):
                    self.violation(f"{hub}: the notification about {taken.queue_id} to {recipient} was lost")
            elif self._courses[taken.process.name, taken.queue_id].last.get(recipient) == "failed" or self._has_failed(
                taken, recipient
            ):
                if taken.reverse_path is not None and key not in self.untold:
                    self.violation(f"{hub}: {taken.queue_id} to {recipient} failed, and its sender was not told")
            else:
                self.violation(f"{hub}: {taken.queue_id} to {recipient} was acknowledged and is lost")

    def _is_passed_on(self, taken: Taken, recipient: Address) -> bool:
        """Whether another hub has answered for it, by this name or by what an alias of its made of it."""
        return any(
            other.hub is not taken.hub
            and other.message_id == taken.message_id
            and (recipient in other.recipients or recipient in self._resolved[other.hub.hostname, other.session_id])
            for other in self.taken.values()
            if other.message_id
        )

    def _has_failed(self, taken: Taken, recipient: Address) -> bool:
        return any(
            event[1] == "failed" and event[3] == taken.queue_id and event[4].get("recipient") == recipient
            for event in taken.hub.events
        )

    def _notification_is_safe(
        self, taken: Taken, notification: str, copies: Mapping[tuple[str, str], list[bytes]]
    ) -> bool:
        """Whether it lies with somebody, or is known not to have found anybody."""
        if any(name == f"about {taken.queue_id}" for name, _ in copies):
            return True
        return any(event[1] == "failed" and event[3] == notification for event in taken.hub.events) or any(
            event[1] == "delivered" and event[3] == notification and ("address" in event[4] or "remote" in event[4])
            for event in taken.hub.events
        )

    def _check_attempt(self, attempt: Attempt, copies: Mapping[tuple[str, str], list[bytes]]) -> None:
        message_id = _message_id(attempt)
        if attempt.is_acknowledged:
            hub = next((hub for hub in self.world.hubs.values() if hub.address == attempt.to), None)
            if hub is None:
                return
            taken = self.taken.get((hub.hostname, attempt.queue_id))
            if taken is None:
                self.violation(f"{message_id} was acknowledged as {attempt.queue_id!r}, which {hub.hostname} knows not")
                return
            # What the client was told, not what the hub says that it was asked for.
            reached = {*taken.recipients, *self._resolved[hub.hostname, taken.session_id]}
            for recipient in sorted(set(attempt.accepted) - set(map(str, reached))):
                self.violation(f"{taken.queue_id} was acknowledged without {recipient}, who had been accepted")
        elif attempt.is_over and not attempt.is_in_doubt:
            left = [name for name in copies if name[0] == message_id]
            known = any(taken.message_id == message_id for taken in self.taken.values())
            if left or known:
                self.violation(f"{message_id} was refused ({attempt.reply or 'never sent'}) and yet is there")


def check_relay(oracle: Oracle, attempts: Iterable[Attempt], ours: Iterable[str]) -> None:
    """These attempts came from strangers: no recipient outside of our domains may have been accepted."""
    domains = tuple(f"@{domain}" for domain in ours)
    for attempt in attempts:
        for recipient in attempt.accepted:
            if not recipient.lower().endswith(domains):
                oracle.violation(f"{attempt.ip} may not relay, and did so to {recipient}")


def _life(life: tuple[str, int]) -> str:
    return f"life {life[1]} of {life[0]}"


def _schedule(hub: SimulatedHub) -> Schedule:
    from mailhub.queue.schedule import Schedule

    return Schedule(hub.config.queue.retry, hub.config.queue.give_up)


def _named(content: bytes) -> str | None:
    """The Message-ID in the header section."""
    found = _MESSAGE_ID.search(content.partition(b"\r\n\r\n")[0] + b"\r\n")
    return None if found is None else found[1].decode("ascii", "replace")


def _message_id(attempt: Attempt) -> str:
    return _named(attempt.mail.content) or ""


def _is_intact(content: bytes, accepted: bytes) -> bool:
    if not content.endswith(accepted):
        return False
    return _OURS.fullmatch(content[: len(content) - len(accepted)]) is not None
