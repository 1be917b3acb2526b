"""What explains itself and what does not; the stories themselves are lived through in tests/scenarios/test_stories."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mailhub.history.causes import FORMS, unexplained
from mailhub.history.pages import Told
from mailhub.history.words import GAP

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "events.md").read_text()
A, B = "a@x.example", "b@example.test"


def story(*changes: tuple[str, dict[str, object]], without: str = "") -> list[Told]:
    """A message from the hello to its end, with other facts for some kinds of events and without some."""
    session, queue = ("s1", ""), ("s1", "q1")
    asked = {"peer": "192.0.2.1", "reverse_path": A, "recipient": B}
    policy = {"policy": "p", "key": "mta.policy[0]", "stage": "recipient"}
    facts: dict[str, tuple[tuple[str, str], dict[str, object]]] = {
        "greeted": (session, {"peer": "192.0.2.1", "verb": "EHLO", "hello": "x.example"}),
        "opinion": (session, {**policy, **asked, "opinion": "250 2.1.5 OK"}),
        "queued": (queue, {"reverse_path": A, "recipients": [B], "size": 1, "peer": "192.0.2.1"}),
        "attempted": (queue, {"route": "local", "recipients": [B]}),
        "delivered": (queue, {"recipient": B, "reply": "250 OK", "detail": "new/1"}),
    }
    for kind, changed in changes:
        facts[kind] = facts[kind][0], facts[kind][1] | changed
    return [
        Told(float(number), kind, *ids, told) for number, (kind, (ids, told)) in enumerate(facts.items())
        if kind != without
    ]  # fmt: skip


def test_a_whole_story_explains_itself() -> None:
    assert unexplained(story()) == []


@pytest.mark.parametrize(
    ("events", "complaint"),
    [
        (story(without="greeted"), "comes before a hello"),
        (story(without="opinion"), "whom no opinion has accepted"),
        (story(("opinion", {"shadow": True})), "whom no opinion has accepted"),
        (story(("opinion", {"shadow": False})), "has a shadow that is none"),
        (story(("opinion", {"opinion": "450 4.7.1 Later"})), "whom no opinion has accepted"),
        (story(("opinion", {"key": ""})), "does not tell key"),
        (story(("queued", {"recipients": [A]})), "whom no opinion has accepted"),
        (story(without="queued"), "was never queued"),
        (story(without="attempted"), f"has no attempt for {B}"),
        (story(("attempted", {"route": "x.example"})), "does not tell why of its route"),
        (story(without="delivered"), f"is gone, and nothing tells the end of it for {B}"),
        (story(("delivered", {"detail": ""})), "does not tell detail"),
        (story(("delivered", {"recipient": A})), "who is no recipient of this message"),
        ([*story(), *story()[-1:]], f"comes behind the end of {B}"),
        ([*story(), *story()[-2:-1]], f"comes behind the end of {B}"),
        ([Told(0.0, "invented")], "is of a kind that the table of forms does not know"),
        ([Told(0.0, "refused", "s1", "", {"stage": "RCPT", "reply": "550 No"})], "tells none of by rule"),
        ([Told(0.0, "refused", "s1", "", {"stage": "RCPT", "reply": "550 No", "by": "p"})], "p has not said so"),
    ],
)
def test_what_does_not_explain_itself(events: list[Told], complaint: str) -> None:
    assert any(complaint in found for found in unexplained(events)), unexplained(events)


def test_what_is_still_queued_needs_no_end() -> None:
    assert unexplained(story(without="delivered"), queued={"q1"}) == []


def test_of_a_history_with_a_gap_nothing_is_asked() -> None:
    assert unexplained([Told(0.0, GAP, facts={"events": 7}), *story(without="queued")]) == []


def test_every_kind_of_event_is_described_with_its_facts() -> None:
    rows = dict(re.findall(r"^\| `([a-z_ ]+)` \| ([^|]*) \|", PAGE, re.MULTILINE))
    assert rows.keys() == FORMS.keys() | {GAP}
    for kind, form in FORMS.items():
        assert set(form.facts.split()) <= set(re.findall(r"`([a-z_]+)`", rows[kind])), kind
