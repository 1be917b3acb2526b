"""What the workers of one simulated machine tell each other: in a moment, in order, and lost when one of them dies.

News are JSON on their way, as between real processes, so that nothing comes through here that would not there.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict, deque
from collections.abc import Callable, Sequence

from twisted.logger import Logger
from zope.interface import implementer

from mailhub.interfaces import ISiblings
from mailhub.testing.internet import Host

#: How long news are on the way, at least and at most.
NEWS_SECONDS = (0.0001, 0.005)


class Exchange:
    """All workers of one machine."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.members: list[SimulatedSiblings] = []

    def join(self, host: Host) -> SimulatedSiblings:
        """The siblings of a process that begins."""
        made = SimulatedSiblings(self, host)
        self.members = [*(member for member in self.members if member.host.is_alive), made]
        return made


@implementer(ISiblings)
class SimulatedSiblings:
    """See above."""

    log = Logger()

    def __init__(self, exchange: Exchange, host: Host) -> None:
        self.host = host
        self._exchange = exchange
        self._heard: dict[str, list[Callable[[Sequence[object]], None]]] = {}
        self._on_the_way: dict[SimulatedSiblings, deque[tuple[str, str]]] = defaultdict(deque)

    def tell(self, topic: str, news: Sequence[object]) -> None:
        """As ISiblings.  Raises TypeError for what is no JSON."""
        text = json.dumps(list(news))
        for other in self._exchange.members:
            if other is not self and other.host.is_alive:
                self._on_the_way[other].append((topic, text))
                other.host.callLater(self._exchange.chance.uniform(*NEWS_SECONDS), self._arrives, other)

    def hear(self, topic: str, heard: Callable[[Sequence[object]], None]) -> None:
        """As ISiblings."""
        self._heard.setdefault(topic, []).append(heard)

    def _arrives(self, other: SimulatedSiblings) -> None:
        topic, text = self._on_the_way[other].popleft()
        if not self.host.is_alive:
            return  # it died with the news in its hands
        for heard in other._heard.get(topic, ()):
            try:
                heard(json.loads(text))
            except Exception:
                self.log.failure("news of {topic} were not understood", topic=topic)
