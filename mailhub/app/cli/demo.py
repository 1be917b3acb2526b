"""`mailhub demo`: what mailhub does, shown within seconds on a hub that is made for it.

The demo has scripted remote hosts in it, and these belong to mailhub.testing, which nothing of the product imports.  So
this command runs another program, as `python -m mailhub.testing.demo` would, in this process.
"""

from __future__ import annotations

import runpy
import sys

import click

PROGRAM = "mailhub.testing.demo"


@click.command()
@click.option("--once", is_flag=True, help="End after the six mails.")
def demo(once: bool) -> None:
    """Show six mails on a hub that is made for it, and removed again.

    No root, no DNS, no domain is needed, and nothing leaves this machine: a hub and the hosts that it talks to run in
    one process, on high ports of 127.0.0.1, with a temporary directory.  The six mails are delivered, refused as relay,
    greylisted and then accepted, deferred and then delivered, bounced, and forwarded; the story of each is told.

    Then it says how to go on playing, and ends with Ctrl-C.  Exit status with --once: 0 if all six went as they should,
    1 if not.
    """
    sys.argv[1:] = ["--once"] if once else []
    runpy.run_module(PROGRAM, run_name="__main__", alter_sys=True)
