"""Writes down what the hub records, as it is handed to the history, so that the same can be recorded again.

Only to learn what there is to record: the policy has no opinion, and nothing is measured while it is in use.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass

from zope.interface import implementer

from mailhub.history.log import HistoryLog
from mailhub.plugin import Hub, IConnectionPolicy, PolicyMaker, Reply, Session


@implementer(IConnectionPolicy)
@dataclass
class Eavesdrop:
    """`path` is the file, which becomes a sequence of pickles: time, kind, session_id, queue_id, facts.

    One pickler makes all of them, so that what is one object here is one when they are read again: history spares
    itself work where it meets the same address or reply.
    """

    hub: Hub
    path: str = ""

    def __post_init__(self) -> None:
        record = HistoryLog.record
        file = open(self.path, "ab", buffering=0)  # noqa: SIM115 (as long as the hub lives)

        pickler = pickle.Pickler(file)

        def tell(log: HistoryLog, kind: str, session_id: str = "", queue_id: str = "", **facts: object) -> None:
            pickler.dump((log._clock.seconds(), kind, session_id, queue_id, facts))
            record(log, kind, session_id, queue_id, **facts)

        HistoryLog.record = tell  # type: ignore[method-assign,assignment]

    async def judge_connection(self, session: Session) -> Reply | None:
        return None


eavesdrop = PolicyMaker("eavesdrop", Eavesdrop)
