"""One of the processes of a hub that has several: what it has for itself, and what is its share of the whole.

The rule: workers share what is made to be shared (ports, accounts, mailboxes, the log file, what policies remember) and
have all else for themselves, so that none waits for another on the way of a message: each has a queue, a control socket
and a history database.  A limit of the configuration holds for the hub: each worker has its share of it, or hears from
its siblings what they count, as it does for what one client may do.

The first worker's places are those of a hub without workers: the number of workers may change at any start.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mailhub.app.config import Config

#: The directory, in the data directory, where each worker but the first has one of its own.
NAME = "workers"
#: The directory of a queue, in that of its worker.
SPOOL = "spool"
#: Processes of one hub.
WORKERS_MAX = 64
#: No history database is smaller than this; it is the least that `history.size_max` may be.
HISTORY_OCTETS_MIN = 16 * 1024 * 1024


@dataclass(frozen=True)
class Worker:
    """The worker of this number, 1 being the first, of so many processes in all."""

    number: int = 1
    count: int = 1

    @property
    def session_mark(self) -> str:
        """What tells its sessions from those of other workers, which begin at the same second."""
        return "" if self.number == 1 else f"{self.number}."

    def directory(self, data: Path) -> Path:
        """Where it keeps what is its own, in the data directory of the hub."""
        return data if self.number == 1 else data / NAME / str(self.number)

    def history_file(self, file: Path) -> Path:
        """Its history database, beside `file`, the first worker's."""
        return file if self.number == 1 else file.with_name(f"{file.stem}-{self.number}{file.suffix}")

    def share(self, whole: int) -> int:
        """Its share of a limit, at least 1 of it; 0 stays 0, which means that there is none."""
        return -(-whole // self.count)

    def config(self, hub: Config) -> Config:
        """The configuration of the hub, as it is for this worker."""
        if self == ALONE:
            return hub
        limits = hub.limits.model_copy(update={"sessions": self.share(hub.limits.sessions)})
        whole = hub.outbound.limits
        outbound = whole.model_copy(
            update={
                "per_destination": self.share(whole.per_destination),
                "messages_per_minute": self.share(whole.messages_per_minute),
            }
        )
        routes = tuple(
            route.model_copy(
                update={
                    "per_destination": None if route.per_destination is None else self.share(route.per_destination),
                    "messages_per_minute": None
                    if route.messages_per_minute is None
                    else self.share(route.messages_per_minute),
                }
            )
            for route in hub.route
        )
        history = hub.history.model_copy(
            update={
                "file": self.history_file(hub.history.file),
                "size_max": max(HISTORY_OCTETS_MIN, self.share(hub.history.size_max)),
            }
        )
        config = hub.model_copy(
            update={
                "limits": limits,
                "outbound": hub.outbound.model_copy(update={"limits": outbound}),
                "route": routes,
                "history": history,
                "queue": hub.queue.model_copy(update={"concurrency": self.share(hub.queue.concurrency)}),
                "accounts": hub.accounts.model_copy(update={"hash_threads": self.share(hub.accounts.hash_threads)}),
            }
        )
        return config.with_own_directory(self.directory(hub.data))


#: The only process of a hub.
ALONE = Worker()


def directories(data: Path) -> dict[int, Path]:
    """Where workers have kept something, by their numbers: those of now, and those of a time with more of them."""
    found = {1: data}
    try:
        names = sorted((path.name for path in (data / NAME).iterdir()), key=lambda name: (len(name), name))
    except OSError:
        return found
    for name in names:
        if name.isascii() and name.isdigit() and name[0] != "0" and name != "1":
            found[int(name)] = data / NAME / name
    return found


def history_files(file: Path) -> list[Path]:
    """The history databases of all workers there have been, the first one's first, whether that is there or not."""
    others: dict[int, Path] = {}
    try:
        for path in file.parent.iterdir():
            stem, dash, number = path.name.removesuffix(file.suffix).rpartition("-")
            if path.name.endswith(file.suffix) and dash and stem == file.stem and number.isascii() and number.isdigit():
                others[int(number)] = path
    except OSError:
        pass
    return [file, *(others[number] for number in sorted(others) if number > 1)]
