"""From what somebody asks to the stories that answer it.

A story is what belongs to one message: the session that brought it, as far as that was about this message, its way
through the queue, and what was told about it.  What led to no message at all is the story of its session.

The newest stories come first, and no more is read than it takes to find as many as were asked for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from mailhub.history.pages import Pages, Told
from mailhub.history.story import Story
from mailhub.history.words import A_REFUSAL, REFUSALS

#: Events of one story; a session with thousands of refusals is told to here.  Of a message the first and the last are
#: told, and for each recipient the one that decided: many recipients and many attempts make many more.
EVENTS_MAX = 2000
#: Pages on which the message is looked for that a word in a session led to.
SESSION_PAGES_MAX = 5

#: What happens before the first mail transaction of a session, and belongs to all of them.
_OPENING = frozenset({"connected", "greeted", "named", "logged_in", "login_refused"})
_OPENING_STAGES = frozenset({"connection", "hello"})


@dataclass(frozen=True)
class Question:
    """What is looked for: events that have one of the `words` (none: any), at a time, perhaps refusals only.

    `since` and `until` are seconds since the epoch; `limit` is the number of stories.
    """

    words: frozenset[str] = frozenset()
    since: float | None = None
    until: float | None = None
    refused: bool = False
    limit: int = 20


@dataclass(frozen=True)
class Answer:
    """The stories, newest first.  `is_cut` says that there are more.

    `found_at` has for each story the time of the newest event that was asked for: by that they are the newest.
    """

    stories: tuple[Story, ...] = ()
    is_cut: bool = False
    found_at: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class _Key:
    """A message, by its queue id, or what led to none, by its session.  `page` is where it was found, by an event that
    happened `at`."""

    queue_id: str
    session_id: str = ""
    page: int = field(default=0, compare=False)
    at: float = field(default=0.0, compare=False)


def ask(pages: Pages, question: Question) -> Answer:
    """Raises HistoryUnreadable.

    A word that is empty, as that between the brackets of `<>`, is none: it would be looked for everywhere.
    """
    words = question.words - {""}
    if question.words and not words:
        return Answer()
    return _Search(pages, replace(question, words=words)).answer()


def newest_first(found: Iterable[tuple[Story, float]], is_cut: bool) -> Answer:
    """An answer of stories, each with the time by which it was found."""
    ordered = sorted(found, key=lambda each: each[0].begins_at, reverse=True)
    return Answer(tuple(story for story, _ in ordered), is_cut, tuple(at for _, at in ordered))


class _Search:
    def __init__(self, pages: Pages, question: Question) -> None:
        self._pages = pages
        self._question = question
        self._sessions: dict[tuple[str, int], list[Told]] = {}

    def answer(self) -> Answer:
        limit = self._question.limit
        keys: dict[_Key, None] = {}
        for key in self._keys():
            keys.setdefault(key)
            if len(keys) > limit:
                break
        is_one = len(keys) == 1
        return newest_first([(self._story(key, is_one), key.at) for key in list(keys)[:limit]], len(keys) > limit)

    def _keys(self) -> Iterator[_Key]:
        """What the events belong to that are asked for, newest first; the same may come more than once."""
        question = self._question
        wanted: Collection[str] = question.words
        if question.refused and not wanted:
            wanted = (A_REFUSAL,)
        for number in reversed(self._pages.find(wanted, question.since, question.until)):
            for event in reversed(self._pages.events(number, wanted)):
                if self._is_meant(event):
                    key = self._key(event, number)
                    if key is not None:
                        yield key

    def _is_meant(self, event: Told) -> bool:
        question = self._question
        if question.refused and event.kind not in REFUSALS:
            return False
        if question.since is not None and event.at < question.since:
            return False
        return question.until is None or event.at <= question.until

    def _key(self, event: Told, page: int) -> _Key | None:
        """What the event belongs to; None if to nobody: ports are opened, the hub stops."""
        if event.queue_id:
            if event.text("notification") in self._question.words:
                return _Key(event.text("notification"), page=page, at=event.at)
            return _Key(event.queue_id, page=page, at=event.at)
        if not event.session_id:
            return None
        message = self._message_of(event, page)
        if message is None:
            return _Key("", event.session_id, page, event.at)
        return _Key(message.queue_id, page=page, at=event.at)

    def _message_of(self, event: Told, page: int) -> Told | None:
        """The message that this step of a session led to."""
        for number in self._from(page, event.session_id, event.at):
            for later in self._session(event.session_id, number):
                if _ends_transaction(later) and later.at >= event.at:
                    return later if later.queue_id and _belongs_to(event, later) else None
        return None

    def _from(self, page: int, word: str, at: float) -> Iterator[int]:
        """This page, on which the word stands, and then those behind it on which it may."""
        yield page
        following = [number for number in self._pages.find((word.lower(),), since=at) if number > page]
        yield from following[:SESSION_PAGES_MAX]

    def _session(self, session_id: str, page: int) -> list[Told]:
        """What happened in this session, on this page."""
        key = (session_id, page)
        if key not in self._sessions:
            events = self._pages.events(page, (session_id.lower(),))
            self._sessions[key] = [event for event in events if event.session_id == session_id]
        return self._sessions[key]

    # --- a story -------------------------------------------------------------------------------------------------

    def _story(self, key: _Key, is_whole: bool) -> Story:
        """Of several, the story is told in one line: then it is enough to know the page on which it stands, if it
        begins and ends there."""
        if not key.queue_id:
            events = self._of_session(key.session_id)
            return Story(key.session_id, tuple(sorted(events, key=_at)[:EVENTS_MAX]))
        left_out = 0
        events = [] if is_whole else self._of_page(key)
        if not events:
            events, left_out = self._of_message(key.queue_id)
        return _within(Story(key.queue_id, tuple(sorted(events, key=_at)), left_out))

    def _of_page(self, key: _Key) -> list[Told]:
        """All of the message that stands on this page, if that is all of it; else nothing."""
        events = self._about(key.queue_id, key.page)
        arrival = next((event for event in events if _ends_transaction(event)), None)
        if arrival is None or (arrival.kind == "queued" and not Story(key.queue_id, tuple(events)).has_ended):
            return []
        return self._steps(arrival, key.page)[0][::-1] + events

    def _of_message(self, queue_id: str) -> tuple[list[Told], int]:
        """And how many of them were left out, so that there is never much more in memory than is told."""
        events: list[Told] = []
        left_out = 0
        arrival: tuple[Told, int] | None = None
        for number in self._pages.find((queue_id.lower(),)):
            found = self._about(queue_id, number)
            events += found
            if arrival is None:
                arrival = next(((event, number) for event in found if _ends_transaction(event)), None)
            if len(events) > 2 * EVENTS_MAX:
                story = _within(Story(queue_id, tuple(events), left_out))
                events, left_out = list(story.events), story.left_out
        return (events if arrival is None else self._how_it_came(*arrival) + events), left_out

    def _about(self, queue_id: str, page: int) -> list[Told]:
        events = self._pages.events(page, (queue_id.lower(),))
        return [event for event in events if queue_id in (event.queue_id, event.text("notification"))]

    def _how_it_came(self, arrival: Told, page: int) -> list[Told]:
        """The steps of its session that led to this message: its own transaction, and the opening of the session."""
        if not arrival.session_id:
            return []
        numbers = self._pages.find((arrival.session_id.lower(),), until=arrival.at)
        steps: list[Told] = []
        for number in reversed([each for each in numbers if each <= page]):
            found, is_all = self._steps(arrival, number)
            steps += found
            if is_all:
                return self._opening(arrival.session_id, numbers[0], steps or [arrival]) + steps[::-1]
            if len(steps) > EVENTS_MAX:
                break
        return steps[::-1]

    def _steps(self, arrival: Told, page: int) -> tuple[list[Told], bool]:
        """Those on this page, last first; and whether that is all, since the message before it stands there too."""
        steps: list[Told] = []
        for event in reversed(self._session(arrival.session_id, page) if arrival.session_id else []):
            if event.at > arrival.at or event.queue_id == arrival.queue_id:
                continue
            if _ends_transaction(event):
                return steps, True
            if not event.queue_id and _belongs_to(event, arrival):
                steps.append(event)
        return steps, False

    def _opening(self, session_id: str, page: int, steps: Sequence[Told]) -> list[Told]:
        """How the session began, on the first of its pages; `steps` are known already."""
        before = min(event.at for event in steps)
        return [event for event in self._session(session_id, page) if event.at < before and _is_opening(event)]

    def _of_session(self, session_id: str) -> list[Told]:
        """What led to no message: all that has a message is told in its story."""
        events: list[Told] = []
        waiting: list[Told] = []  # until it is known whether they led to a message
        for number in self._pages.find((session_id.lower(),)):
            for event in self._session(session_id, number):
                if _ends_transaction(event):
                    led = bool(event.queue_id)
                    events += [each for each in waiting if not (led and _belongs_to(each, event)) or _is_opening(each)]
                    waiting = []
                elif not event.queue_id:
                    waiting.append(event)
            if len(events) > EVENTS_MAX:
                break
        return events + waiting


def _at(event: Told) -> float:
    return event.at


def _within(story: Story) -> Story:
    """The same, within EVENTS_MAX: what brought it, what decided, and both ends are kept."""
    count = len(story.events)
    if count <= EVENTS_MAX:
        return story
    half = EVENTS_MAX // 2
    kept = {*range(half), *range(count - half, count), *story.decisive}
    brought = {id(story.arrival), id(story.notification)}
    events = [each for number, each in enumerate(story.events) if number in kept or id(each) in brought]
    return Story(story.id, tuple(events), story.left_out + count - len(events))


def _ends_transaction(event: Told) -> bool:
    """Whether a message came whole, and was queued or refused for its content; or whether the client gave it up."""
    return event.kind == "abandoned" or (bool(event.queue_id) and event.kind in ("queued", "refused"))


def _is_opening(event: Told) -> bool:
    return event.kind in _OPENING or event.text("stage") in _OPENING_STAGES


def _belongs_to(event: Told, arrival: Told) -> bool:
    """Whether this step may have led to the message: it is not about another sender."""
    name = "reverse_path"
    return name not in event.facts or name not in arrival.facts or event.facts[name] == arrival.facts[name]
