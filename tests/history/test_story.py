"""Stories: which events belong to a message, and how a person would tell it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mailhub.history.database import HistoryDatabase
from mailhub.history.line import Event, tell
from mailhub.history.pages import Pages, Told
from mailhub.history.question import EVENTS_MAX, Answer, Question, ask
from mailhub.history.story import Story
from mailhub.history.telling import duration, entry, told
from mailhub.history.words import word
from mailhub.model import Reply
from mailhub.net import smtp_client
from mailhub.wire.smtp import client_fit, client_order
from mailhub.wire.smtp.grammar import parse_address

#: Thursday 20 November 2025, 12:00:00 UTC.
NOON = 1_763_640_000.0
ANN, ALICE, BOB = "ann@elsewhere.example", "alice@example.test", "bob@example.test"
FOUND = "250 2.1.5 Recipient OK"
STANDS = "mta.policy (local_domains stands by itself)"


@pytest.fixture(autouse=True)
def _in_utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


class Chronicle:
    """Events at their times; each is one second behind the one before unless something else is said."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = NOON
        self._events: list[Event] = []

    def tell(self, kind: str, session_id: str = "", queue_id: str = "", after: float = 1.0, **facts: Any) -> None:
        self._at += after
        self._events.append((self._at, kind, session_id, queue_id, facts))

    def queued(self, session_id: str, queue_id: str, *recipients: str, sender: str | None = ANN, **facts: Any) -> None:
        self.tell("queued", session_id, queue_id, reverse_path=sender, recipients=list(recipients), size=4211, **facts)

    def delivered(self, session_id: str, queue_id: str, recipient: str) -> None:
        self.tell("attempted", session_id, queue_id, 0.001, route="local", recipients=[recipient])
        reply = "250 2.1.5 Delivered"
        self.tell("delivered", session_id, queue_id, 0.042, recipient=recipient, reply=reply, detail="mail/new/1")
        self.tell("removed", session_id, queue_id, 0.001)

    def refused(
        self, session_id: str, recipient: str, reply: str = "550 5.1.1 No such user here", **facts: Any
    ) -> None:
        self.tell("refused", session_id, stage="RCPT", reply=reply, peer="192.0.2.1", recipient=recipient, **facts)

    def ask(self, *wanted: str, **options: Any) -> Answer:
        database = HistoryDatabase(self._path, 1e9, 1 << 30)
        database.write(self._events, *tell(self._events), self._at)
        database.close(self._at)
        self._events.clear()
        pages = Pages(self._path)
        try:
            return ask(pages, Question(frozenset(wanted), **options))
        finally:
            pages.close()

    def found(self, *wanted: str, **options: Any) -> list[tuple[str, str]]:
        return [(story.id, story.verdict) for story in self.ask(*wanted, **options).stories]

    def text(self, word: str) -> str:
        (story,) = self.ask(word).stories
        return "\n".join(line for line, _ in told(story)) + "\n"


def golden(name: str) -> str:
    """What the story of this name must be, to the letter."""
    return (Path(__file__).parent / "stories" / f"{name}.txt").read_text()


@pytest.fixture
def chronicle(tmp_path: Path) -> Chronicle:
    return Chronicle(tmp_path / "history.db")


# --- what belongs together -----------------------------------------------------------------------------------------


def test_a_message_is_found_by_all_that_it_may_be_asked_by(chronicle: Chronicle) -> None:
    chronicle.tell("connected", "s1", peer="192.0.2.1")
    chronicle.tell("resolved", "s1", recipient="team@example.test", steps=["team@example.test -> alice@example.test"])
    chronicle.queued("s1", "q1", ALICE, message_id="<One@elsewhere.example>")
    chronicle.delivered("s1", "q1", ALICE)
    chronicle.queued("s2", "q2", BOB, sender="other@elsewhere.example")
    for asked in ("q1", "s1", ANN, ALICE, "team@example.test", "one@elsewhere.example", "192.0.2.1"):
        assert chronicle.found(asked) == [("q1", "delivered")], asked
    assert chronicle.found("q2") == [("q2", "waiting")]
    assert chronicle.found("nobody@example.test") == []


@pytest.mark.parametrize("local", ['"al ice"', '"a@b"', r'"a\"b\\"', "Grüße", "a:b", "o'neil", "a/b=c?{d}|e~f^g`h"])
def test_every_form_of_an_address_is_found(chronicle: Chronicle, local: str) -> None:
    address = parse_address(f"{local}@example.test" if ":" not in local else '"a:b"@example.test')
    chronicle.queued("s", "q", str(address))
    chronicle.tell("queued", "t", "r", reverse_path=address, recipients=[], size=1)
    plain = f"{address.local}@{address.domain}".lower()
    assert [found for found, _ in chronicle.found(plain)] == ["r", "q"]
    assert word(str(address)) == plain == word(address)


def test_an_empty_word_stands_nowhere(chronicle: Chronicle) -> None:
    """`mailhub why '<>'`: between the brackets there is nothing to look for, even where a fact is an empty text."""
    chronicle.tell("greeted", "s", peer="192.0.2.1", verb="EHLO", hello="x.example", ptr="")
    chronicle.tell("queued", "s", "q", reverse_path=None, recipients=[ALICE], size=1, message_id="")
    assert word("<>") == ""
    assert chronicle.found("") == []
    assert chronicle.found("", ALICE) == [("q", "waiting")]


def test_messages_of_one_session_are_told_apart(chronicle: Chronicle) -> None:
    chronicle.tell("connected", "s", peer="192.0.2.1")
    for number in (1, 2, 3):
        chronicle.tell("opinion", "s", policy="p", stage="recipient", opinion=FOUND, reverse_path=ANN, recipient=ALICE)
        if number == 2:
            chronicle.refused("s", BOB)
        chronicle.queued("s", f"q{number}", ALICE)
        chronicle.delivered("s", f"q{number}", ALICE)
    assert chronicle.found("s") == [("q3", "delivered"), ("q2", "1 delivered, 1 refused"), ("q1", "delivered")]
    assert chronicle.found(BOB) == [("q2", "1 delivered, 1 refused")]
    (story,) = chronicle.ask("q3").stories
    assert [event.kind for event in story.events] == [
        "connected",
        "opinion",
        "queued",
        "attempted",
        "delivered",
        "removed",
    ]


def test_what_led_to_no_message_is_the_story_of_its_session(chronicle: Chronicle) -> None:
    chronicle.refused("s", BOB)
    chronicle.tell("abandoned", "s")
    chronicle.queued("s", "q1", ALICE)
    chronicle.tell("refused", "s", stage="MAIL", reply="550 5.7.1 No", reverse_path="x@y.example", peer="192.0.2.1")
    chronicle.queued("s", "q2", ALICE)
    assert chronicle.found(BOB) == [("s", "refused")]
    assert chronicle.found("x@y.example") == [("s", "refused")]
    assert chronicle.found("s") == [("q2", "waiting"), ("q1", "waiting"), ("s", "refused")]
    assert chronicle.found(refused=True) == [("s", "refused")]


def test_a_login_that_failed_is_a_refusal(chronicle: Chronicle) -> None:
    chronicle.tell("login_refused", "s", login=ALICE, mechanism="PLAIN", peer="192.0.2.9", reply="535 5.7.8 No")
    assert chronicle.found("192.0.2.9", refused=True) == [("s", "refused")]
    assert "`mailhub user passwd LOGIN`" in chronicle.text(ALICE)


def test_times_and_numbers_are_limits(chronicle: Chronicle) -> None:
    for number in range(5):
        chronicle.tell("queued", f"s{number}", f"q{number}", 100.0, reverse_path=ANN, recipients=[ALICE], size=1)
    assert [found for found, _ in chronicle.found(ALICE, since=NOON + 250, until=NOON + 450)] == ["q3", "q2"]
    answer = chronicle.ask(ALICE, limit=2)
    assert ([story.id for story in answer.stories], answer.is_cut) == (["q4", "q3"], True)
    assert not chronicle.ask(ALICE, limit=5).is_cut


def test_a_notification_is_a_story_of_its_own(chronicle: Chronicle) -> None:
    chronicle.queued("s", "q1", "gone@far.example", sender=ALICE)
    chronicle.tell(
        "attempted", "s", "q1", route="far.example", recipients=["gone@far.example"], why="MX of far.example"
    )
    chronicle.tell(
        "failed", "s", "q1", recipient="gone@far.example", reply="550 5.1.1 Who?", detail="RCPT, mx.far.example"
    )
    chronicle.tell(
        "notified", "", "q1", reverse_path=ALICE, action="failed", recipients=["gone@far.example"], notification="d1"
    )
    chronicle.delivered("", "d1", ALICE)
    assert chronicle.found("q1") == [("q1", "failed")]
    (story,) = chronicle.ask("d1").stories
    assert (story.id, story.verdict, story.sender, story.recipients) == ("d1", "delivered", "<>", (ALICE,))
    assert "made" in chronicle.text("d1")


def test_a_notification_goes_to_those_behind_the_alias_of_the_sender(chronicle: Chronicle) -> None:
    notified = {"action": "failed", "recipients": ["gone@far.example"], "notification": "d1", "to": [ALICE, BOB]}
    chronicle.tell("notified", "", "q1", reverse_path="team@example.test", **notified)
    chronicle.delivered("", "d1", ALICE)
    assert chronicle.found("d1") == [("d1", "1 delivered, 1 waiting")]
    chronicle.delivered("", "d1", BOB)
    (story,) = chronicle.ask("d1").stories
    assert (story.verdict, story.recipients) == ("delivered", (ALICE, BOB))


def test_content_that_was_refused_is_found_by_whom_it_was_for(chronicle: Chronicle) -> None:
    chronicle.tell("greeted", "s", peer="192.0.2.1", verb="EHLO", hello="x.example")
    refused = {
        "stage": "content",
        "reply": "550 5.6.0 No",
        "rule": "r",
        "reverse_path": ANN,
        "recipients": [ALICE, BOB],
    }
    chronicle.tell("refused", "s", "q1", **refused)
    for asked in (ALICE, BOB):
        (story,) = chronicle.ask(asked, refused=True).stories
        assert (story.id, story.verdict, story.recipients) == ("q1", "refused", (ALICE, BOB))


def test_a_story_goes_on_over_many_pages(chronicle: Chronicle) -> None:
    chronicle.tell("connected", "s", peer="192.0.2.1")
    chronicle.refused("s", BOB)
    for number in range(1500):
        chronicle.queued(f"t{number}", f"r{number}", "other@example.test", sender="x@y.example")
    chronicle.queued("s", "q", ALICE)
    for number in range(1500):
        chronicle.queued(f"u{number}", f"v{number}", "other@example.test", sender="x@y.example")
    chronicle.delivered("s", "q", ALICE)
    for asked in ("q", BOB, ALICE):
        (story,) = chronicle.ask(asked).stories
        assert [event.kind for event in story.events] == [
            "connected",
            "refused",
            "queued",
            "attempted",
            "delivered",
            "removed",
        ], asked


def test_a_message_whose_beginning_was_dropped_is_told_by_its_end(chronicle: Chronicle) -> None:
    """Its first page has gone when history became too old or too large."""
    chronicle.tell("attempted", "", "q", route="local", recipients=[ALICE, BOB])
    assert chronicle.found("q") == [("q", "waiting")]
    chronicle.tell("delivered", "", "q", recipient=ALICE, reply="250 2.1.5 Delivered")
    assert chronicle.found("q") == [("q", "1 delivered, 1 waiting")]
    chronicle.tell("delivered", "", "q", recipient=BOB, reply="250 2.1.5 Delivered")
    text = chronicle.text("q")
    assert text.startswith(f"q: delivered, to <{ALICE}>, <{BOB}>\n")
    assert "  how it came is missing, " in text


# --- where addresses are redacted ------------------------------------------------------------------------------------

BOTH = ("***@far.example", "***@far.example")
NAMED = ("~3f2a9c01d47b@far.example", "~3f2a9c01d47b@far.example")  # Joe@ and joe@, which only far.example knows apart


@pytest.mark.parametrize("both", [BOTH, NAMED], ids=["local", "hash"])
@pytest.mark.parametrize(
    ("kinds", "verdict", "deciding"),
    [
        (["failed", "delivered"], "1 delivered, 1 failed", [0, 1]),
        (["deferred", "deferred", "delivered", "failed"], "1 delivered, 1 failed", [2, 3]),
        (["delivered", "deferred", "deferred", "deferred"], "1 delivered, 1 waiting", [0, 3]),
        (["deferred", "deferred", "deferred", "delivered"], "1 delivered, 1 waiting", [2, 3]),
        (["delivered"], "1 delivered, 1 waiting", [0]),
        (["delivered", "delivered"], "delivered", [0, 1]),
        (["failed", "delivered", "failed"], "1 delivered, 1 failed", [1, 2]),  # the first could not be told to anybody
        (["deferred"], "waiting", [0]),
        ([], "waiting", []),
    ],
)
def test_each_of_those_that_bear_one_redacted_address_has_an_outcome(
    chronicle: Chronicle, both: tuple[str, str], kinds: list[str], verdict: str, deciding: list[int]
) -> None:
    chronicle.queued("s", "q", *both)
    for number, kind in enumerate(kinds):
        chronicle.tell(kind, "", "q", recipient=both[0], reply="250 2.0.0 Ok", number=number)
    (story,) = chronicle.ask("q").stories
    assert (story.verdict, story.recipients) == (verdict, both)
    assert [story.events[number].facts["number"] for number in sorted(story.decisive)] == deciding
    assert story.has_ended == ("waiting" not in verdict)
    assert chronicle.found(ANN) == [("q", verdict)], "in a list it is as on its own"


def test_what_is_done_to_all_that_bear_one_redacted_address(chronicle: Chronicle) -> None:
    chronicle.queued("s", "q", *BOTH, "***@near.example")
    chronicle.tell("held", "", "q", recipients=list(BOTH), by="root")
    chronicle.tell("delivered", "", "q", recipient="***@near.example", reply="250 2.0.0 Ok")
    assert chronicle.found("q") == [("q", "1 delivered, 2 held")]


def test_refusals_of_a_redacted_address_are_not_those_of_whom_it_was_for(chronicle: Chronicle) -> None:
    chronicle.refused("s", BOTH[0])
    chronicle.refused("s", BOTH[0])
    chronicle.queued("s", "q", BOTH[0])
    assert chronicle.found("q") == [("q", "1 waiting, 2 refused")]
    chronicle.delivered("s", "q", BOTH[0])
    assert chronicle.found("q") == [("q", "1 delivered, 2 refused")]


def test_who_is_refused_at_first_and_then_accepted_is_no_refusal(chronicle: Chronicle) -> None:
    chronicle.refused("s", ALICE, "450 4.2.0 Not now")
    chronicle.queued("s", "q", ALICE)
    assert chronicle.found("q") == [("q", "waiting")]
    chronicle.delivered("s", "q", ALICE)
    assert chronicle.found("q") == [("q", "delivered")]


# --- how it is told ------------------------------------------------------------------------------------------------


def test_a_delivered_message(chronicle: Chronicle) -> None:
    hello = "mx.elsewhere.example"
    chronicle.tell(
        "greeted", "mta-1", peer="192.0.2.1", verb="EHLO", hello=hello, tls="TLSv1.3", cipher="AES", seconds=0.5
    )
    chronicle.tell(
        "opinion",
        "mta-1",
        after=0.5,
        policy="local_domains",
        key=STANDS,
        stage="recipient",
        opinion=FOUND,
        milliseconds=0.03,
        shadow=False,
        peer="192.0.2.1",
        reverse_path=ANN,
        recipient="team@example.test",
    )
    chronicle.tell(
        "resolved", "mta-1", after=0.0, recipient="team@example.test", steps=["team@example.test -> alice@example.test"]
    )
    chronicle.queued("mta-1", "3k9f", ALICE, message_id="<1@elsewhere.example>")
    chronicle.delivered("mta-1", "3k9f", ALICE)
    assert chronicle.text("3k9f") == golden("delivered")


def test_a_refused_recipient(chronicle: Chronicle) -> None:
    chronicle.tell(
        "opinion",
        "mta-2",
        policy="greylist",
        key="mta.policy[0]",
        stage="recipient",
        opinion="450 4.7.1 Greylisted, please try again in a few minutes",
        milliseconds=2.4,
        shadow=False,
        peer="192.0.2.1",
        reverse_path=ANN,
        recipient=ALICE,
    )
    chronicle.refused(
        "mta-2", ALICE, "450 4.7.1 Greylisted, please try again in a few minutes", by="greylist", reverse_path=ANN
    )
    assert chronicle.text(ALICE) == golden("refused")


def test_a_very_long_story_has_its_end(chronicle: Chronicle) -> None:
    """A hundred recipients at a host that is down for days, but for two, which had their end early and in the midst."""
    everybody = [f"customer{number}@far.example" for number in range(100)]
    chronicle.tell("greeted", "s", peer="192.0.2.1", verb="EHLO", hello="x.example")
    chronicle.queued("s", "q", *everybody)
    early, midst, *others = everybody
    for attempt in range(35):
        chronicle.tell("attempted", "", "q", 600, route="smtp:far.example:25", recipients=others)
        for each in others:
            chronicle.tell("deferred", "", "q", 0, recipient=each, reply="451 4.4.1 Down", next_attempt_at=1)
        for number, each in ((3, early), (17, midst)):
            if attempt == number:
                chronicle.tell("delivered", "", "q", 0, recipient=each, reply="250 2.0.0 Ok", detail="somewhere")
    for each in others:
        chronicle.tell("failed", "", "q", 0, recipient=each, reply="451 4.4.1 Down", rule="queue.give_up")
    (story,) = chronicle.ask("q").stories
    assert (story.verdict, len(story.recipients)) == ("2 delivered, 98 failed", 100)
    assert EVENTS_MAX <= len(story.events) <= EVENTS_MAX + len(everybody) + 1
    assert len(story.events) + story.left_out == 1 + 1 + 35 * 99 + 2 + 98
    assert f"  {story.left_out:,} events in its midst are left out here; none of them decided\n" in chronicle.text("q")


def test_a_message_to_very_many_is_told(chronicle: Chronicle) -> None:
    for number, count in enumerate((1000, 4000)):
        everybody = [parse_address(f"customer-with-a-name{each}@customers.example.org") for each in range(count)]
        chronicle.tell("queued", "s", f"q{number}", reverse_path=None, recipients=tuple(everybody), size=4211)
        (story,) = chronicle.ask(f"q{number}").stories
        assert story.recipients[:1000] == tuple(map(str, everybody[:1000]))
        assert "queued  for <customer-with-a-name0@customers.example.org>, " in chronicle.text(f"q{number}")


def test_a_message_that_goes_out_at_the_second_attempt(chronicle: Chronicle) -> None:
    chronicle.tell("logged_in", "msa-3", login=ALICE, mechanism="SCRAM-SHA-256", peer="198.51.100.7")
    chronicle.queued("msa-3", "4mm", "joe@far.example", sender=ALICE)
    way: dict[str, Any] = {"route": "far.example", "recipients": ["joe@far.example"], "why": "MX of far.example (DNS)"}
    there: dict[str, Any] = {"host": "mx.far.example", "address": "203.0.113.5", "port": 25, "recipients": 1}
    chronicle.tell("attempted", "msa-3", "4mm", 0.01, **way, tls="may", tls_source="by default")
    busy = "451 4.7.1 Come back later"
    chronicle.tell("tried", "msa-3", "4mm", 0.7, **there, reply=busy, seconds=0.69, tls="TLSv1.3", cipher="AES")
    chronicle.tell(
        "deferred",
        "msa-3",
        "4mm",
        0.0,
        recipient="joe@far.example",
        reply=busy,
        detail="RCPT",
        next_attempt_at=NOON + 300,
    )
    chronicle.tell("attempted", "msa-3", "4mm", 13 * 3600, **way, tls="may", tls_source="by default")
    done: dict[str, Any] = {"recipient": "joe@far.example", "reply": "250 2.0.0 Ok", "detail": "BDAT"}
    del there["recipients"]
    chronicle.tell("delivered", "msa-3", "4mm", 0.3, **done, **there, seconds=0.29, reused=True)
    assert chronicle.text("4mm") == golden("second-attempt")


def test_a_rule_in_the_shadow_and_one_that_fails(chronicle: Chronicle) -> None:
    facts: dict[str, Any] = {"stage": "sender", "milliseconds": 0.1, "reverse_path": ANN}
    chronicle.tell("opinion", "s", policy="new", key="mta.policy[1]", opinion="550 5.7.1 No", shadow=True, **facts)
    chronicle.tell(
        "policy_failed",
        "s",
        policy="old",
        key="mta.policy[2]",
        opinion="451 4.3.0 Failed",
        shadow=False,
        error="KeyError: 'x'",
        **facts,
    )
    chronicle.tell("refused", "s", stage="MAIL", reply="451 4.3.0 Failed", by="old", reverse_path=ANN, peer="192.0.2.1")
    text = chronicle.text("s")
    assert "in shadow  at MAIL by new (mta.policy[1]), which would say 550 5.7.1 No\n" in text
    assert (
        "sender <ann@elsewhere.example> at MAIL from 192.0.2.1 by old (mta.policy[2], which failed: KeyError: 'x')"
        in text
    )
    assert "The rule old (mta.policy[2]) failed." in text


def test_whatever_strangers_wrote_one_event_is_one_line_and_no_command(chronicle: Chronicle) -> None:
    evil = "x\x1b[2J\r\n> 12:00:00.000 delivered\u202e\u2028y"
    chronicle.tell("connected", "s", peer="192.0.2.1", ptr=evil)
    chronicle.refused("s", f"{evil}`id`@example.test", f"550 5.1.1 {evil}", cause=evil, reverse_path=evil)
    chronicle.queued("s", "q", f"{evil}@example.test", sender=evil, message_id=f"<{evil}>")
    for kind in ("deferred", "failed", "delivered", evil):
        chronicle.tell(kind, "s", "q", recipient=f"{evil}@example.test", reply=f"450 4.2.0 {evil}", detail=evil)
    chronicle.tell("opinion", "s", "q", policy=evil, key=evil, stage=evil, opinion=evil)
    (story,) = chronicle.ask("q").stories
    out = [line for line, _ in told(story)] + ["".join(entry(story))]
    assert all(line.isprintable() for line in out)
    assert len([line for line in out if line.startswith(">")]) == 2


def test_a_hint_that_is_a_command_is_safe_to_copy(chronicle: Chronicle) -> None:
    chronicle.refused("s", "a`id`$(id)@example.test")
    assert "`mailhub user add 'a`id`$(id)@example.test'` makes a mailbox" in " ".join(chronicle.text("s").split())


@pytest.mark.parametrize(
    "reply",
    [
        client_order.LOST,
        client_order.OUT_OF_STEP,
        client_order.WRONG_REPLY,
        client_fit.TOO_BIG,
        client_fit.NO_SMTPUTF8,
        smtp_client.UNREADABLE,
    ],
)
def test_our_words_about_another_host_are_not_taken_for_its_own(chronicle: Chronicle, reply: Reply) -> None:
    kind = "deferred" if reply.code < 500 else "failed"
    theirs = {"recipient": "joe@far.example", "remote": "mx.far.example"}
    chronicle.queued("s", "q", "joe@far.example", "jim@far.example")
    chronicle.tell("attempted", "s", "q", route="smtp:mx.far.example:25", recipients=["joe@far.example"])
    chronicle.tell(kind, "s", "q", reply=reply, **theirs)
    text = chronicle.text("q")
    assert "What would have to change:" in text
    assert "the words of the other host" not in text
    chronicle.tell(kind, "s", "q", reply=f"{reply.code} {reply.status} Go away", **theirs)
    assert "the words of the other host" in chronicle.text("q")


@pytest.mark.parametrize(
    ("reply", "hint", "wrong"),
    [
        (client_order.LOGIN_NOT_OFFERED, "offers none of the ways to log in", "the words of the other host"),
        (client_order.LOGIN_NEEDS_TLS, "say it under TLS alone", "lower the level"),
        (client_order.INJECTED, "may be an attack", "the words of the other host"),
        (client_order.TLS_NOT_OFFERED, "lower the level `tls`", "login"),
    ],
)
def test_what_keeps_us_from_sending_at_the_next_hop_has_its_own_hint(
    chronicle: Chronicle, reply: Reply, hint: str, wrong: str
) -> None:
    chronicle.queued("s", "q", "joe@far.example")
    chronicle.tell("attempted", "s", "q", route="smtp:mx.far.example:25", recipients=["joe@far.example"])
    chronicle.tell("deferred", "s", "q", recipient="joe@far.example", reply=reply)
    hints = " ".join(chronicle.text("q").partition("What would have to change:")[2].split())
    assert hint in hints
    assert wrong not in hints


@pytest.mark.parametrize(
    ("route", "remote", "is_theirs"),
    [
        ("smtp:mx.far.example:25", "mx.far.example", True),
        ("smtp:mx.far.example:25", None, False),  # the connection was lost, for example
        ("unix:/run/lmtp", None, True),  # where nobody has a name
    ],
)
def test_whose_words_they_are_is_told_by_who_is_named(
    chronicle: Chronicle, route: str, remote: str | None, is_theirs: bool
) -> None:
    chronicle.queued("s", "q", "joe@far.example")
    chronicle.tell("attempted", "s", "q", route=route, recipients=["joe@far.example"])
    named = {} if remote is None else {"remote": remote}
    chronicle.tell("failed", "s", "q", recipient="joe@far.example", reply="554 5.6.3 It cannot be converted", **named)
    assert ("the words of the other host" in chronicle.text("q")) is is_theirs


def test_there_is_no_hint_for_what_the_postmaster_has_ended(chronicle: Chronicle) -> None:
    chronicle.queued("s", "q", "joe@far.example")
    chronicle.tell("attempted", "s", "q", route="smtp:mx.far.example:25", recipients=["joe@far.example"])
    chronicle.tell("failed", "", "q", recipient="joe@far.example", reply="554 5.0.0 The postmaster has", by="root")
    assert "What would have to change:" not in chronicle.text("q")


def test_events_of_another_version_are_told_as_they_are() -> None:
    event = Told(NOON, "queued", "s", "q", {"recipients": 7, "colour": "blue"})
    lines_told = [line for line, _ in told(Story("q", (event,)))]
    assert any("colour blue" in line for line in lines_told)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0004, "0 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1.0 s"),
        (59.9, "59.9 s"),
        (59.96, "1 m"),
        (250, "4 m 10 s"),
        (7500, "2 h 5 m"),
        (86400 * 3 + 4 * 3600, "3 d 4 h"),
        (-2, "-2.0 s"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
