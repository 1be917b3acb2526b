"""The spool in memory, for tests.  It lies in the store, since `mailhub simulate` has it too."""

from mailhub.store.memory_spool import MemoryClaim, MemoryDraft, MemorySpool

__all__ = ["MemoryClaim", "MemoryDraft", "MemorySpool"]
