"""`python -m tests.crash.failing_disk KIND`: a file system shuts itself down right before the kernel is asked to sync.

So does one whose disk fails, while the program lives on.  What our disk then says of each sync is printed as JSON:
the name of an error, or "" where it said yes, which is a lie.
"""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Callable
from contextlib import closing

from mailhub.store import disk
from tests.crash.filesystem import CannotMount, Filesystem, filesystems, leave_namespace


def _answer(filesystem: Filesystem, work: Callable[[disk.RealDisk, str], None]) -> str:
    """What the work says whose first sync comes just behind the shutdown."""
    kept = disk._synchronize, disk._synchronize_file_system

    def behind_shutdown(synchronize: Callable[[int], None]) -> Callable[[int], None]:
        def late(descriptor: int) -> None:
            filesystem.cut()
            synchronize(descriptor)

        return late

    disk._synchronize, disk._synchronize_file_system = map(behind_shutdown, kept)
    try:
        work(disk.RealDisk(), str(filesystem.point))
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    finally:
        disk._synchronize, disk._synchronize_file_system = kept
    return ""


def _file(real: disk.RealDisk, place: str) -> None:
    with closing(real.create(f"{place}/file")) as file:
        file.write(b"octets")
        file.fsync()


def _file_system(real: disk.RealDisk, place: str) -> None:
    with closing(real.create(f"{place}/shared")) as file:
        file.write(b"octets")
        file.sync_file_system()


def _directory(real: disk.RealDisk, place: str) -> None:
    real.create(f"{place}/name").close()
    real.rename(f"{place}/name", f"{place}/other")
    real.fsync_directory(place)


def main() -> int:
    try:
        leave_namespace()
        with filesystems(sys.argv[1], 3) as (_, made):
            works = {"file": _file, "file system": _file_system, "directory": _directory}
            said = {name: _answer(each, work) for (name, work), each in zip(works.items(), made, strict=True)}
            for each in made:
                each.unmount()
    except CannotMount as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps(said))
    return 0 if all(said.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
