"""`python -m bench`: the command line of the benchmarks."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

from bench import compare, fairness, history, plan, profile, queue, results
from bench.hub import Hub

ROOT = Path(__file__).parents[1]
#: On the disk of the checkout, and ignored by git.
PLACE = ROOT / "var" / "bench"


#: All that is measured can go before everybody else's work.
urgently = click.option("--urgent", is_flag=True, help="Before all other work, on a machine that is not ours alone.")


def tell(text: str) -> None:
    """How far it is, for whoever watches."""
    click.echo(text, err=True)


def command() -> str:
    """What was typed, for the results."""
    return " ".join(["python -m bench", *sys.argv[1:]])


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def main() -> None:
    """Measure mailhub, beside Debian's Postfix where that is to be had (`make interop`, as root, brings it).

    Everything runs on 127.0.0.1, on ports that are free, with files under var/bench/ that are removed again.  Leave
    the machine alone meanwhile: the table shows how much of it others used.
    """


@main.command(name="compare")
@click.option("--short", is_flag=True, help="Two minutes: the six cells of the goal, in three rounds.")
@click.option("--rounds", type=int, help="How often each cell is measured.  [default: 5, or 3 with --short]")
@click.option("--messages", default=2000, show_default=True, help="Messages of one cell of 4 KiB.")
@click.option("--only", multiple=True, help="Only cells with this in their names, such as 'Maildir' or '100 KiB'.")
@click.option("--workers", help="Numbers of worker processes of mailhub.  [default: 1,2, or 1 with --short]")
@click.option("--pin", is_flag=True, help="Bind the server to core 0, load and sink to the others.")
@urgently
@click.option("--alone", is_flag=True, help="mailhub without Postfix.")
@click.option("--name", help="Write bench/results/NAME.md and .json.  [default: full or short]")
@click.option("--list", "listing", is_flag=True, help="Say which cells there are, and measure nothing.")
def compare_(
    short: bool,
    rounds: int | None,
    messages: int,
    only: tuple[str, ...],
    workers: str | None,
    pin: bool,
    urgent: bool,
    alone: bool,
    name: str | None,
    listing: bool,
) -> None:
    """mailhub and Postfix in turn, with the same load: rates, CPU time, memory.

    Both keep their logs, sync what they accept and run with their default settings; what is changed, and why, stands in
    docs/how-to/run-the-benchmarks.md.  First, each shows under strace that it syncs, and that it delivers what it got.
    """
    counts = [int(word) for word in (workers or ("1" if short else "1,2")).split(",")]
    cells = plan.short(counts) if short else plan.full(counts)
    cells = tuple(cell for cell in cells if all(word in cell.name for word in only))
    if listing:
        click.echo("\n".join(cell.name for cell in cells))
        return
    rounds = rounds or (3 if short else 5)
    begun_at = time.monotonic()
    about = results.about(command(), rounds, ROOT)
    servers = (Hub,) if alone else compare.both()
    comparison = compare.Comparison(PLACE, cells, rounds, messages, servers, pin, tell)
    with fairness.one_group(urgent) as is_fair:
        found = comparison.run()
    if not is_fair:
        found.notes.append("Server and load stood before the scheduler as it found them: there is no group for them.")
    click.echo(results.markdown(found, about))
    table = results.write(found, about, name or ("short" if short else "full"))
    click.echo(f"{table.relative_to(ROOT)}, in {time.monotonic() - begun_at:.0f} s", err=True)


@main.command(name="history")
@click.option("--rounds", default=5, show_default=True, help="How often each variant is measured.")
@click.option("--messages", default=2000, show_default=True, help="Messages of one run.")
@urgently
def history_(rounds: int, messages: int, urgent: bool) -> None:
    """What share of a message's CPU time the history and the log take."""
    about = results.about(command(), rounds, ROOT)
    with fairness.one_group(urgent):
        costs = [history.cost(PLACE, cell, messages, rounds, tell) for cell in history.CELLS]
    page = results.head("What history costs", about) + "\n" + history.markdown(costs)
    click.echo(page)
    results.save("history", page, {"about": about, "costs": [results.plain(cost) for cost in costs]})


@main.command(name="queue")
@click.option("--rounds", default=3, show_default=True, help="How often a full queue is compared with an empty one.")
@click.option("--messages", default=2000, show_default=True, help="New messages of one run.")
@urgently
def queue_(rounds: int, messages: int, urgent: bool) -> None:
    """100,000 messages that wait, 1,000 recipients, 10,000 idle sessions: what they cost."""
    about = results.about(command(), rounds, ROOT)
    with fairness.one_group(urgent):
        figures = queue.Scale(PLACE, rounds, messages, tell).run()
    page = results.head("The scale of the queue", about) + "\n" + queue.markdown(figures)
    click.echo(page)
    results.save("queue", page, {"about": about, "figures": queue.plain(figures)})


@main.command(name="profile")
@click.option("--messages", default=2000, show_default=True, help="Messages of one cell.")
@urgently
def profile_(messages: int, urgent: bool) -> None:
    """Where the time of one message goes, by floor of the house."""
    about = results.about(command(), 1, ROOT)
    with fairness.one_group(urgent):
        tables = [(cell, profile.profile(PLACE, cell, messages, tell)) for cell in profile.CELLS]
    page = "\n".join(
        [results.head("Where the time of one message goes", about), *(profile.markdown(*table) for table in tables)]
    )
    click.echo(page)
    found = {cell.name: [results.plain(floor) for floor in floors] for cell, floors in tables}
    results.save("profile", page, {"about": about, "floors": found})


if __name__ == "__main__":
    main()
