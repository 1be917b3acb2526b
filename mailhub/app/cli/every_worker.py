"""All processes of a hub asked as one: each has a queue and a control socket, and the postmaster sees one queue.

The rule: what answers is shown, and what is missing is told.  A worker is missing if it cannot be asked and may have
something in its queue; one that does not run and has nothing there is past, and nobody asks for it.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mailhub.app.cli.control_client import NoAnswer, NotRunning, Refused, Request
from mailhub.app.control_path import NAME
from mailhub.app.waiting import waiting
from mailhub.app.worker import SPOOL, directories

if TYPE_CHECKING:
    from mailhub.app.config import Config

_ELSEWHERE = " of any worker that answers"


class EveryWorker:
    """For one request.  What each method gives are answers as those of a hub without workers: the last has the key
    "done".  They raise NoAnswer if nobody answers, and Refused if all that answer say no.

    When the answers have come to their end, `missing` says of each worker that could not be asked why that is.
    """

    def __init__(self, config: Config) -> None:
        self._places = directories(config.data)
        self._workers = config.workers
        self._faults: dict[int, NoAnswer] = {}
        self._refusals: dict[int, Refused] = {}
        #: By their numbers.
        self.missing: dict[int, str] = {}

    # --- what can be asked for -----------------------------------------------------------------------------------

    def list_messages(self, limit: int | None = None, **request: Any) -> Iterator[dict[str, Any]]:
        """Of all queues, by queue id, which is by age: a line a message, its recipients behind it."""
        found = 0
        with self._asked("list", limit=limit, **request) as sent:
            parts = (self._messages(number, each) for number, each in sent.items())
            for message in heapq.merge(*parts, key=lambda lines: str(lines[0]["message"]["queue_id"])):
                yield from message
                found += 1
                if found == limit:
                    break
        self._end()
        yield {"done": {"messages": found}}

    def show(self, queue_id: str, content: bool = False) -> Iterator[dict[str, Any]]:
        """The message, from whoever has it.  Where somebody has it, nothing is missing."""
        with self._asked("show", queue_id=queue_id, content=content) as sent:
            for number, each in sent.items():
                answers = each.answers()
                try:
                    first = next(answers)
                except NoAnswer as fault:
                    self._faults[number] = fault
                except Refused as refusal:
                    self._refusals[number] = refusal
                else:
                    yield first
                    yield from answers
                    return
        refusals = dict.fromkeys(str(refusal) for refusal in self._refusals.values())
        self._end(all_may_refuse=True)
        text = "; ".join(refusals)
        raise Refused(text + _ELSEWHERE if self.missing and text.endswith(" in the queue") else text)

    def steer(self, **request: Any) -> Iterator[dict[str, Any]]:
        """A line a message with what became of it.  A queue id that is nowhere is told once; where all that are given
        are somewhere, nothing is missing."""
        named = set(request.get("queue_ids", ()))
        counts: dict[str, int] = {}
        found: set[str] = set()
        gone: dict[str, dict[str, Any]] = {}

        def counted(steered: Mapping[str, Any]) -> dict[str, Any]:
            counts[steered["result"]] = counts.get(steered["result"], 0) + 1
            return {"steered": steered}

        with self._asked("steer", **request) as sent:
            for number, each in sent.items():
                for answer in self._answers(number, each):
                    if "steered" not in answer:
                        continue
                    steered = answer["steered"]
                    if named and steered["result"] == "gone":
                        gone[steered["queue_id"]] = steered  # here; it may be in the queue of another
                    else:
                        found.add(steered["queue_id"])
                        yield counted(steered)
        self._end()
        if named and named <= found:
            self.missing.clear()
        for queue_id, steered in gone.items():
            if queue_id not in found:
                yield counted({**steered, "why": steered["why"] + _ELSEWHERE} if self.missing else steered)
        yield {"done": counts}

    # --- the workers -----------------------------------------------------------------------------------------------

    @contextmanager
    def _asked(self, do: str, **request: Any) -> Iterator[dict[int, Request]]:
        """The same request to all at once, so that none waits for what another does."""
        with ExitStack() as stack:
            sent = {}
            for number, place in self._places.items():
                try:
                    sent[number] = stack.enter_context(Request(place, do, **request))
                except NoAnswer as fault:
                    self._faults[number] = fault
            yield sent

    def _answers(self, number: int, sent: Request) -> Iterator[dict[str, Any]]:
        """Those of one worker; that it stops in the middle is remembered."""
        try:
            yield from sent.answers()
        except NoAnswer as fault:
            self._faults[number] = fault
        except Refused as refusal:
            self._refusals[number] = refusal

    def _messages(self, number: int, sent: Request) -> Iterator[list[dict[str, Any]]]:
        """The lines of each message that has come whole."""
        lines: list[dict[str, Any]] = []
        for answer in self._answers(number, sent):
            if "recipient" in answer:
                lines.append(answer)
                continue
            if lines:
                yield lines
            lines = [answer] if "message" in answer else []

    def _end(self, all_may_refuse: bool = False) -> None:
        """Say who is missing.  Raises NoAnswer if all are, and Refused if all that answer say no."""
        if len(self._faults) == len(self._places):
            raise self._nobody()
        for number, fault in sorted(self._faults.items()):
            if not isinstance(fault, NotRunning):
                self.missing[number] = f"worker {number}, whose part of the queue is missing here: {fault}"
            elif not self._is_past(number):
                self.missing[number] = (
                    f"worker {number} does not run, and its part of the queue is missing here: try again, or look with"
                    f" sqlite3 {self._database(number)}"
                )
        if all_may_refuse:
            return
        if len(self._faults) + len(self._refusals) == len(self._places):
            raise next(iter(self._refusals.values()))
        for number, refusal in self._refusals.items():
            self.missing[number] = f"worker {number}, whose part of the queue is missing here: {refusal}"

    def _nobody(self) -> NoAnswer:
        for fault in self._faults.values():
            if not isinstance(fault, NotRunning):
                return fault
        others = (number for number in self._places if number > 1 and not self._is_past(number))
        return NotRunning(str(self._faults[1]) + "".join(f" and {self._database(number)}" for number in others))

    def _database(self, number: int) -> Path:
        return self._places[number] / SPOOL / "queue.db"

    def _is_past(self, number: int) -> bool:
        """Whether nothing is missing where nobody listens: no socket of one that died, and an empty queue."""
        place = self._places[number]
        died = number <= self._workers and os.path.lexists(place / NAME)
        return not died and waiting(place / SPOOL) == 0
