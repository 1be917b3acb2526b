"""The panel: order, silence, failures, deadlines, shadows, and what history hears of it."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.logger import LogLevel, globalLogPublisher
from zope.interface import directlyProvides, implementer

from mailhub.interfaces import (
    IConnectionPolicy,
    IContentPolicy,
    IHelloPolicy,
    IRecipientPolicy,
    ISenderPolicy,
)
from mailhub.model import Reply, reply
from mailhub.model.opinion import Prepend
from mailhub.policy.panel import (
    NOT_PERMITTED,
    PASSED,
    PREPENDED_FIELDS_MAX,
    PREPENDED_OCTETS_MAX,
    OnFailure,
    Panel,
    Seat,
    Verdict,
)
from mailhub.testing.hub import History
from mailhub.testing.policy import Message, recipient, session, transaction

YES = reply(250, "2.1.5", "Yes")
LATER = reply(450, "4.7.1", "Later")
NO = reply(550, "5.7.1", "No")
T = transaction()
R = recipient("alice@example.test")


@implementer(IConnectionPolicy, IHelloPolicy, ISenderPolicy, IRecipientPolicy, IContentPolicy)
class Says:
    """A policy that says the same at every stage: a value, an exception to raise, or a Deferred to wait for."""

    def __init__(self, opinion: object) -> None:
        self.opinion = opinion
        self.asked = 0

    async def _judge(self, *_: object) -> Any:
        self.asked += 1
        if isinstance(self.opinion, BaseException):
            raise self.opinion
        if isinstance(self.opinion, Deferred):
            return await self.opinion
        return self.opinion

    judge_connection = judge_hello = judge_sender = judge_recipient = judge_content = _judge


def seats(*opinions: object, **options: Any) -> list[Seat]:
    return [
        Seat(f"p{number}", Says(opinion), key=f"mta.policy[{number}]", **options)
        for number, opinion in enumerate(opinions)
    ]


def panel(*opinions: object, history: History | None = None, clock: Clock | None = None, **options: Any) -> Panel:
    return Panel(seats(*opinions, **options), clock or Clock(), history)


def at(stage: str, of: Panel) -> Verdict | Deferred[Verdict]:
    ask: dict[str, Callable[[], Verdict | Deferred[Verdict]]] = {
        "connection": lambda: of.judge_connection(session()),
        "hello": lambda: of.judge_hello(session()),
        "sender": lambda: of.judge_sender(T),
        "recipient": lambda: of.judge_recipient(T, R),
        "content": lambda: of.judge_content(T, Message(b"Subject: x\r\n\r\n")),
    }
    return ask[stage]()


STAGES = ("connection", "hello", "sender", "recipient", "content")


@pytest.fixture(autouse=True)
def failures() -> Any:
    """What was logged as a failure; a test that expects some takes them out."""
    logged: list[dict[str, Any]] = []

    def observe(event: dict[str, Any]) -> None:
        if event.get("log_level") is LogLevel.critical:
            logged.append(event)

    globalLogPublisher.addObserver(observe)
    yield logged
    globalLogPublisher.removeObserver(observe)
    assert logged == []


# --- order and silence -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("opinion", [YES, LATER, NO])
def test_the_first_opinion_wins_and_the_rest_are_not_asked(stage: str, opinion: Reply) -> None:
    last = Says(NO)
    asked = Panel([*seats(None, opinion), Seat("last", last)], Clock())
    assert at(stage, asked) == Verdict(opinion, (), "p1")
    assert last.asked == 0


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("opinions", [(), (None,), (None, None)])
def test_silence_passes_everybody_but_recipients(stage: str, opinions: tuple[None, ...]) -> None:
    verdict = at(stage, panel(*opinions))
    if stage == "recipient":
        assert verdict == NOT_PERMITTED
        assert str(NOT_PERMITTED.reply) == "550 5.7.1 Relaying not permitted"
    else:
        assert verdict == PASSED
        assert PASSED.reply is None


def test_only_those_that_provide_the_interface_are_asked() -> None:
    @implementer(ISenderPolicy)
    class Sender:
        async def judge_sender(self, _: object) -> Reply:
            return NO

        async def judge_recipient(self, *_: object) -> Reply:
            raise AssertionError("not declared, so not asked")

    asked = Panel([Seat("sender", Sender())], Clock())
    assert at("sender", asked) == Verdict(NO, (), "sender")
    assert at("recipient", asked) is NOT_PERMITTED


def test_an_object_may_provide_an_interface_by_itself() -> None:
    class Any_:
        async def judge_sender(self, _: object) -> Reply:
            return NO

    policy = Any_()
    directlyProvides(policy, ISenderPolicy)
    assert at("sender", Panel([Seat("x", policy)], Clock())) == Verdict(NO, (), "x")


# --- no Deferred where nothing waits -----------------------------------------------------------------------------


@pytest.mark.parametrize("stage", STAGES)
def test_a_question_that_need_not_wait_is_answered_at_once(stage: str) -> None:
    assert isinstance(at(stage, panel(None, None, YES)), Verdict)


def test_waiting_in_the_middle_goes_on_behind() -> None:
    waiting: Deferred[Any] = Deferred()
    asked = panel(Prepend((("A", "1"),)), waiting, Prepend((("C", "3"),)), YES)
    verdicts: list[Verdict] = []
    judged = at("recipient", asked)
    assert isinstance(judged, Deferred)
    judged.addCallback(verdicts.append)
    assert verdicts == []
    waiting.callback(Prepend((("B", "2"),)))
    assert verdicts == [Verdict(YES, (("A", "1"), ("B", "2"), ("C", "3")), "p3")]


def test_two_that_wait_one_after_the_other() -> None:
    first: Deferred[Any] = Deferred()
    second: Deferred[Any] = Deferred()
    clock = Clock()
    verdicts: list[Verdict] = []
    judged = at("recipient", panel(first, second, clock=clock))
    assert isinstance(judged, Deferred)
    judged.addCallback(verdicts.append)
    first.callback(None)
    second.callback(LATER)
    assert verdicts == [Verdict(LATER, (), "p1")]
    assert clock.getDelayedCalls() == []


# --- prepended fields --------------------------------------------------------------------------------------------


def test_fields_are_collected_in_order_and_come_with_silence_too() -> None:
    fields = Prepend((("X-One", "1"), ("X-Two", "2")))
    assert at("content", panel(fields, None)) == Verdict(None, fields.fields)
    assert at("recipient", panel(fields)) == Verdict(NOT_PERMITTED.reply, fields.fields)
    assert at("recipient", panel(fields, YES)) == Verdict(YES, fields.fields, "p1")


@pytest.mark.parametrize(
    "too_much",
    [
        Prepend((("X", "y"),) * (PREPENDED_FIELDS_MAX + 1)),
        Prepend((("X", "y" * PREPENDED_OCTETS_MAX),)),
    ],
)
def test_fields_are_bounded(too_much: Prepend, failures: list[Any]) -> None:
    verdict = at("content", panel(too_much))
    assert isinstance(verdict, Verdict)
    assert str(verdict.reply).startswith("451 4.3.0")
    failures.clear()


def test_the_bound_holds_for_all_policies_together(failures: list[Any]) -> None:
    half = Prepend((("X", "y"),) * (PREPENDED_FIELDS_MAX // 2))
    assert at("content", panel(half, half)) == Verdict(None, half.fields * 2)
    verdict = at("content", panel(half, half, half))
    assert isinstance(verdict, Verdict)
    assert verdict.by == "p2"
    failures.clear()


# --- failures ----------------------------------------------------------------------------------------------------

BROKEN = [
    ValueError("boom"),
    CancelledError(),
    SystemExit(1),
    True,
    "250 OK",
    250,
    (250, "2.0.0", "OK"),
    Reply(354, "go on"),
    object(),
]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("opinion", BROKEN, ids=lambda broken: type(broken).__name__)
def test_a_failing_policy_never_lets_mail_through(stage: str, opinion: object, failures: list[Any]) -> None:
    last = Says(YES)
    asked = Panel([*seats(opinion), Seat("last", last)], Clock())
    verdict = at(stage, asked)
    assert isinstance(verdict, Verdict)
    # In place of the banner only 421 and 554 are understood (RFC 5321 section 4.3.2).
    expected = "421 4.3.0" if stage == "connection" else "451 4.3.0"
    assert str(verdict.reply).startswith(expected)
    assert verdict.by == "p0"
    assert last.asked == 0
    assert len(failures) == 1
    failures.clear()


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("opinion", BROKEN, ids=lambda broken: type(broken).__name__)
def test_it_may_be_told_to_refuse(stage: str, opinion: object, failures: list[Any]) -> None:
    verdict = at(stage, panel(opinion, YES, on_failure="refuse"))
    assert isinstance(verdict, Verdict)
    assert verdict.reply is not None
    assert verdict.reply.is_permanent
    assert verdict.reply.code == (554 if stage == "connection" else 550)
    failures.clear()


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("opinion", BROKEN, ids=lambda broken: type(broken).__name__)
def test_it_may_be_told_to_be_ignored_which_is_silence_and_no_more(
    stage: str, opinion: object, failures: list[Any]
) -> None:
    assert at(stage, panel(opinion, LATER, on_failure="ignore")) == Verdict(LATER, (), "p1")
    assert at(stage, panel(opinion, on_failure="ignore")) == (NOT_PERMITTED if stage == "recipient" else PASSED)
    failures.clear()


def test_a_method_that_is_not_async_is_a_failure_too(failures: list[Any]) -> None:
    @implementer(ISenderPolicy)
    class Plain:
        def judge_sender(self, _: object) -> Reply:
            return YES

    verdict = at("sender", Panel([Seat("plain", Plain())], Clock()))
    assert isinstance(verdict, Verdict)
    assert str(verdict.reply).startswith("451")
    failures.clear()


def test_the_traceback_is_logged_with_the_key(failures: list[Any]) -> None:
    at("sender", panel(KeyError("where")))
    (event,) = failures
    assert event["policy"] == "p0"
    assert event["key"] == "mta.policy[0]"
    assert event["session_id"] == "s1"
    assert "_judge" in event["log_failure"].getTraceback()
    failures.clear()


def test_a_failure_after_waiting_counts_the_same(failures: list[Any]) -> None:
    waiting: Deferred[Any] = Deferred()
    clock = Clock()
    judged = at("sender", panel(waiting, clock=clock))
    assert isinstance(judged, Deferred)
    verdicts: list[Verdict] = []
    judged.addCallback(verdicts.append)
    waiting.errback(ValueError("late boom"))
    assert str(verdicts[0].reply).startswith("451 4.3.0")
    assert clock.getDelayedCalls() == []
    assert "late boom" in str(failures[0]["log_failure"].value)
    failures.clear()


# --- deadlines ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("on_failure", "code"), [("defer", 451), ("refuse", 550), ("ignore", None)])
def test_a_slow_policy_costs_what_a_failing_one_does(
    on_failure: OnFailure, code: int | None, failures: list[Any]
) -> None:
    cancelled: list[bool] = []
    never: Deferred[Any] = Deferred(lambda _: cancelled.append(True))
    clock = Clock()
    asked = Panel([Seat("slow", Says(never), deadline_seconds=5.0, on_failure=on_failure)], clock)
    verdicts: list[Verdict] = []
    judged = at("sender", asked)
    assert isinstance(judged, Deferred)
    judged.addCallback(verdicts.append)
    clock.advance(4.9)
    assert verdicts == []
    clock.advance(0.1)
    assert [verdict.reply and verdict.reply.code for verdict in verdicts] == [code]
    assert cancelled == [True]
    assert clock.getDelayedCalls() == []
    assert "no answer within 5 seconds" in str(failures[0]["log_failure"].value)
    failures.clear()


def test_what_a_late_policy_says_is_ignored_even_yes(failures: list[Any]) -> None:
    """One that takes its cancelling for an answer must not let mail through by being slow."""

    @implementer(IRecipientPolicy)
    class Stubborn:
        async def judge_recipient(self, *_: object) -> Reply:
            try:
                await Deferred()
            except Exception:
                return YES
            return YES

    clock = Clock()
    asked = Panel([Seat("stubborn", Stubborn(), deadline_seconds=1.0), *seats(YES)], clock)
    verdicts: list[Verdict] = []
    judged = at("recipient", asked)
    assert isinstance(judged, Deferred)
    judged.addCallback(verdicts.append)
    clock.advance(1.0)
    assert [str(verdict.reply)[:9] for verdict in verdicts] == ["451 4.3.0"]
    failures.clear()


def test_a_policy_that_will_not_be_cancelled_holds_nobody(failures: list[Any]) -> None:
    later: Deferred[Any] = Deferred()

    @implementer(ISenderPolicy)
    class Deaf:
        async def judge_sender(self, _: object) -> Reply:
            while True:
                try:
                    await Deferred()
                except CancelledError:
                    await later
                    raise KeyError("long after") from None

    clock = Clock()
    verdicts: list[Verdict] = []
    judged = at("sender", Panel([Seat("deaf", Deaf(), deadline_seconds=1.0)], clock))
    assert isinstance(judged, Deferred)
    judged.addCallback(verdicts.append)
    clock.advance(1.0)
    assert len(verdicts) == 1
    later.callback(None)  # its KeyError is nobody's business any more
    assert len(verdicts) == len(failures) == 1
    failures.clear()


def test_a_client_that_is_gone_cancels_the_policy_and_nobody_else_is_asked() -> None:
    cancelled: list[bool] = []
    never: Deferred[Any] = Deferred(lambda _: cancelled.append(True))
    clock = Clock()
    last = Says(YES)
    judged = at("sender", Panel([*seats(never), Seat("last", last)], clock))
    assert isinstance(judged, Deferred)
    errors: list[Any] = []
    judged.addErrback(lambda failure: errors.append(failure.type))
    judged.cancel()
    assert cancelled == [True]
    assert errors == [CancelledError]
    assert last.asked == 0
    assert clock.getDelayedCalls() == []


def test_cancelling_reaches_a_second_policy_that_waits() -> None:
    cancelled: list[bool] = []
    first: Deferred[Any] = Deferred()
    second: Deferred[Any] = Deferred(lambda _: cancelled.append(True))
    clock = Clock()
    judged = at("sender", panel(first, second, clock=clock))
    assert isinstance(judged, Deferred)
    judged.addErrback(lambda failure: failure.trap(CancelledError))
    first.callback(None)
    judged.cancel()
    assert cancelled == [True]
    assert clock.getDelayedCalls() == []


# --- shadows -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("opinion", [YES, LATER, NO, Prepend((("X", "y"),))], ids=str)
def test_a_shadow_is_recorded_and_never_enforced(stage: str, opinion: object) -> None:
    history = History()
    verdict = at(stage, panel(opinion, history=history, shadow=True))
    assert verdict == (NOT_PERMITTED if stage == "recipient" else PASSED)
    (event,) = history.events
    assert event["shadow"] is True
    assert event["opinion"] == (opinion if isinstance(opinion, Reply) else None)


@pytest.mark.parametrize("on_failure", ["defer", "refuse", "ignore"])
def test_a_shadow_that_fails_costs_nothing(on_failure: OnFailure, failures: list[Any]) -> None:
    history = History()
    assert at("sender", panel(ValueError("x"), history=history, shadow=True, on_failure=on_failure)) == PASSED
    assert history.events[0]["kind"] == "policy_failed"
    failures.clear()


# --- history -----------------------------------------------------------------------------------------------------


def test_an_opinion_is_recorded_with_what_led_to_it() -> None:
    history = History()
    at("recipient", panel(None, NO, history=history))
    assert history.events == [
        {
            "kind": "opinion",
            "session_id": "s1",
            "queue_id": "",
            "policy": "p1",
            "key": "mta.policy[1]",
            "stage": "recipient",
            "opinion": NO,
            "milliseconds": 0.0,
            "peer": "192.0.2.1",
            "reverse_path": T.reverse_path,
            "recipient": R.address,
        }
    ]


def test_the_time_that_it_took_is_measured() -> None:
    waiting: Deferred[Any] = Deferred()
    clock, history = Clock(), History()
    judged = at("content", panel(waiting, clock=clock, history=history))
    assert isinstance(judged, Deferred)
    clock.advance(1.25)
    waiting.callback(LATER)
    assert history.events[0]["milliseconds"] == 1250.0
    assert history.events[0]["queue_id"] == "q1"


def test_a_failure_is_recorded_with_its_error_and_its_cost(failures: list[Any]) -> None:
    history = History()
    at("hello", panel(ValueError("one\r\ntwo"), history=history))
    (event,) = history.events
    assert event["kind"] == "policy_failed"
    assert event["error"] == "ValueError: one two"
    assert str(event["opinion"]).startswith("451 4.3.0")
    failures.clear()


def test_silence_is_recorded_only_on_demand() -> None:
    history = History()
    asked = Panel(seats(None, YES), Clock(), history, record_silence=True)
    at("sender", asked)
    assert [(event["policy"], event["opinion"]) for event in history.events] == [("p0", None), ("p1", YES)]
    assert isinstance(at("sender", Panel(seats(None), Clock(), None, record_silence=True)), Verdict)


# --- everything at once ------------------------------------------------------------------------------------------


def test_no_mixture_of_policies_accepts_what_none_accepted(failures: list[Any]) -> None:
    """A recipient is accepted only if a positive reply came from an enforced seat before anything that says no."""
    chance = random.Random(2026)
    choices: list[object] = [None, YES, LATER, NO, ValueError("x"), True, Prepend((("X", "y"),))]
    for _ in range(500):
        drawn = [
            Seat(
                str(number),
                Says(chance.choice(choices)),
                on_failure=chance.choice(["defer", "ignore", "refuse"]),
                shadow=chance.random() < 0.3,
            )
            for number in range(chance.randrange(6))
        ]
        verdict = at("recipient", Panel(drawn, Clock()))
        assert isinstance(verdict, Verdict)
        assert verdict.reply is not None
        deciding = [
            seat
            for seat in drawn
            if not seat.shadow
            and isinstance(seat.policy, Says)
            and (
                isinstance(seat.policy.opinion, Reply)
                or (seat.on_failure != "ignore" and isinstance(seat.policy.opinion, Exception | bool))
            )
        ]
        accepted = bool(deciding) and isinstance(deciding[0].policy, Says) and deciding[0].policy.opinion is YES
        assert verdict.reply.is_positive == accepted
    failures.clear()
