"""Are gradcheckup's verdicts right? Judge nets before training, train them, and compare.

    python -m benchmarks.verdicts --help
    python -m benchmarks.verdicts --cases 40 --output results.jsonl

The net is diagnosed as it is initialised, with the optimizer and the batches that it is then
trained with; its outcome is the label. Other detectors (`peers`) judge the same steps of the same
net. See `families` for the nets, `tasks` for what counts as having learnt.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import click
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from benchmarks import tables
from benchmarks.cases import Case
from benchmarks.commands import INTERRUPTED, names, reported
from benchmarks.examination import consult, examine
from benchmarks.families import FAMILIES, cases
from benchmarks.peers import PEERS, installed
from benchmarks.results import Result, append, identity, load
from benchmarks.training import FAILS, LEARNS


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--families",
    default=",".join(FAMILIES),
    show_default=True,
    callback=names(FAMILIES),
    metavar="NAME,...",
    help="Families of nets.",
)
@click.option(
    "--cases",
    "count",
    type=click.IntRange(min=1),
    default=40,
    show_default=True,
    metavar="N",
    help="Cases per family; the first N are the same in every run.",
)
@click.option(
    "--skip",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="N",
    help="Leave the first N cases of each family out: those that limits were set on.",
)
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Seeds per case, from 0.",
)
@click.option(
    "--budget",
    type=click.IntRange(min=1),
    metavar="STEPS",
    help="Training steps.  [default: the task's own, 500 or 900]",
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("results.jsonl"),
    show_default=True,
    help="Results, one line of JSON per case; cases that are there already are skipped.",
)
@click.option(
    "--calibration",
    "half",
    flag_value="calibration",
    help="Only the half of the architectures to fit thresholds on.",
)
@click.option(
    "--held-out",
    "half",
    flag_value="held-out",
    help="Only the other half, to judge thresholds on.",
)
@click.option(
    "--again",
    is_flag=True,
    help="Judge known cases again, as after a change of rules; their outcomes are kept.",
)
@click.option(
    "--reports",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Also save every report there, for `gradcheckup show`.",
)
@click.option(
    "--peers",
    default=",".join(installed()),
    show_default=True,
    callback=names(PEERS),
    metavar="NAME,...",
    help="Other detectors to ask beside gradcheckup, known cases as well; '' for none.",
)
@click.option("--summary", is_flag=True, help="Run nothing, print what the output file holds.")
def main(
    *,
    families: list[str],
    count: int,
    skip: int,
    seeds: int,
    budget: int | None,
    output: Path,
    half: str | None,
    again: bool,
    reports: Path | None,
    peers: list[str],
    summary: bool,
) -> None:
    """Compare gradcheckup's verdicts on untrained nets with what becomes of the nets.

    Interrupt at any time: finished cases are kept, and the same command goes on from there.
    """
    absent = sorted(set(peers) - set(installed()))
    if absent:
        raise click.UsageError(f"{', '.join(absent)} is not installed: pip install {absent[0]}")
    torch.set_num_threads(1)  # nets this small only get slower with more
    todo = [
        (case, seed, budget or case.task.budget)
        for name in families
        for case in cases(name, count)[skip:]
        for seed in range(seeds)
        if half in {None, case.half}
    ]
    interrupted = False
    if not summary:
        try:
            _run(todo, output, again=again, reports=reports, peers=peers)
        except KeyboardInterrupt:
            interrupted = True
    done = load(output)
    found = [done[key] for each in todo if (key := identity(*each)) in done]
    show(found)
    if len(found) < len(todo):
        click.echo(f"\n{len(found)} of {len(todo)} cases done; run again to go on.", err=True)
    if interrupted:
        sys.exit(INTERRUPTED)


def _run(
    todo: list[tuple[Case, int, int]],
    output: Path,
    *,
    again: bool,
    reports: Path | None,
    peers: list[str],
) -> None:
    """Examines what is not done yet, and asks peers that were not asked yet."""
    done = load(output)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with bar:
        task = bar.add_task("", total=len(todo))
        for case, seed, budget in todo:
            bar.update(task, description=f"{case.family}/{case.index} seed {seed}")
            known = done.get(identity(case, seed, budget))
            with reported(bar.console, f"{case.family}/{case.index} seed {seed}"):
                found = known
                if found is None or again:
                    found = examine(case, seed, budget, known=known, reports=reports)
                found = consult(case, seed, found, peers)
                if found is not known:
                    append(output, found)
            bar.advance(task)


def show(results: Iterable[Result]) -> None:
    """Prints the scores by family, then every verdict that the outcome contradicts."""
    results = list(results)
    console = Console(width=None if sys.stdout.isatty() else 400, highlight=False)
    console.print(tables.families(results))
    console.print(tables.tools(results))
    planted = tables.faults(results)
    if planted.row_count:
        console.print(planted)
    for title, label, healthy in (
        ("Flagged, but they learn", LEARNS, False),
        ("Missed: they fail to learn", FAILS, True),
    ):
        _listed(console, title, tables.listing(results, label, healthy=healthy))
    _listed(console, "Seeds with one outcome and two verdicts", tables.disagreements(results))


def _listed(console: Console, title: str, view: Table) -> None:
    if view.row_count:
        console.print(f"\n{title}: {view.row_count}\n")
        console.print(view)


if __name__ == "__main__":
    main()
