"""What the worker processes of one hub tell each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from zope.interface import implementer

from mailhub.interfaces import ISiblings


@implementer(ISiblings)
class NoSiblings:
    """There is one process, and nobody to tell."""

    def tell(self, topic: str, news: Sequence[object]) -> None:
        """Nobody hears it."""

    def hear(self, topic: str, heard: Callable[[Sequence[object]], None]) -> None:
        """Nobody says anything."""
