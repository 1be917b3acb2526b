"""One question to several history databases: those of the workers of one hub.

A message stays with the worker that has taken it, and so does a session.  So every story stands whole in one database,
and the answer is that of all, the newest of all stories first.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from mailhub.history.pages import HistoryUnreadable, Pages, Span, Told
from mailhub.history.question import Answer, Question, ask, newest_first


@dataclass(frozen=True)
class Found:
    """The answer, what the databases hold in all, and the events that say how many were lost before them, in order.

    `unreadable` says of each database that could not be asked why that is.
    """

    answer: Answer
    span: Span | None
    gaps: tuple[Told, ...]
    unreadable: tuple[str, ...]


def ask_all(paths: Sequence[str | os.PathLike[str]], question: Question) -> Found:
    """Raises HistoryUnreadable, with the first reason, if none can be read."""
    answers: list[Answer] = []
    spans: list[Span] = []
    gaps: list[Told] = []
    faults: list[HistoryUnreadable] = []
    for path in paths:
        try:
            pages = Pages(path)
            try:
                answer, span, lost = ask(pages, question), pages.span(), pages.gaps()
            finally:
                pages.close()
        except HistoryUnreadable as fault:
            faults.append(fault)
            continue
        answers.append(answer)
        spans += [] if span is None else [span]
        gaps += lost
    if not answers:
        raise faults[0]
    gaps.sort(key=lambda gap: gap.at)
    return Found(_merged(answers, question.limit), _spanned(spans), tuple(gaps), tuple(str(fault) for fault in faults))


def _merged(answers: Sequence[Answer], limit: int) -> Answer:
    """As one database would answer that has all of it."""
    if len(answers) == 1:
        return answers[0]
    found = [each for answer in answers for each in zip(answer.stories, answer.found_at, strict=True)]
    found.sort(key=lambda each: each[1], reverse=True)
    return newest_first(found[:limit], len(found) > limit or any(answer.is_cut for answer in answers))


def _spanned(spans: Sequence[Span]) -> Span | None:
    if not spans:
        return None
    return Span(
        min(span.begins_at for span in spans),
        max(span.ends_at for span in spans),
        sum(span.events for span in spans),
    )
