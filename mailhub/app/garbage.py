"""How often the interpreter looks for circles of garbage in the memory of a hub.

What was made before the hub runs (modules, classes, the configuration) is there until the end, so it is not looked
through again and again; and a message leaves nearly nothing behind that forms a circle, so it is looked less often than
after every 700 new objects, which is the habit of CPython.
"""

from __future__ import annotations

import gc

#: New objects between two looks at the youngest.
YOUNGEST_MAX = 10_000


def settle() -> None:
    """Everything that there is now stays.  Called once, when all is built."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNGEST_MAX)
