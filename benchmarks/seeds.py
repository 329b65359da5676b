"""Do verdicts of one net differ between seeds only where its outcomes do?

    python -m benchmarks.seeds --help
    python -m benchmarks.seeds --families mlp --cases 60 --seeds 3

A seed initialises the net and draws its batches. Each net is judged under all seeds; those on whose
verdicts the seeds do not agree are trained under each of them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click
import torch
from rich.box import MARKDOWN
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from benchmarks.cases import Case
from benchmarks.commands import INTERRUPTED, names, reported
from benchmarks.examination import judge
from benchmarks.families import FAMILIES, cases
from benchmarks.jsonlines import append_line, read_lines
from benchmarks.results import identity
from benchmarks.scores import CLEAR
from benchmarks.training import train


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One net under one seed.

    Attributes:
        identity: See `Result`.
        healthy: The verdict.
        findings: Code and severity of the findings.
        label: See `Outcome`; empty where it was not trained.
        score: See `Outcome`.
    """

    identity: str
    healthy: bool
    findings: tuple[str, ...]
    label: str = ""
    score: float | None = None


def judged(case: Case, seed: int) -> Line:
    """The verdict on a net under a seed."""
    report = judge(case, seed)
    return Line(
        identity=identity(case, seed, case.task.budget),
        healthy=report.healthy,
        findings=tuple(f"{each.code} {each.severity.value}" for each in report.findings),
    )


def trained(line: Line, case: Case, seed: int) -> Line:
    """The same with its outcome."""
    outcome = train(case, seed, case.task.budget)
    return replace(line, label=outcome.label, score=outcome.score)


def differ(lines: Iterable[Line]) -> bool:
    """Whether not all verdicts are the same."""
    return len({each.healthy for each in lines}) > 1


def contradicted(lines: Iterable[Line]) -> bool:
    """Whether two that came to the same clear outcome got different verdicts."""
    lines = list(lines)
    return any(differ(each for each in lines if each.label == label) for label in CLEAR)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--families",
    default="mlp,cnn,recurrent,transformer",
    show_default=True,
    callback=names(FAMILIES),
    metavar="NAME,...",
    help=f"Families of nets: {', '.join(FAMILIES)}.",
)
@click.option("--cases", "count", type=click.IntRange(min=1), default=40, show_default=True)
@click.option("--seeds", type=click.IntRange(min=2), default=3, show_default=True)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("seeds.jsonl"),
    show_default=True,
    help="Results, one line of JSON per net and seed; what is there already is not done again.",
)
def main(*, families: list[str], count: int, seeds: int, output: Path) -> None:
    """Judge nets under several seeds, and train those whose verdicts differ.

    Interrupt at any time: finished nets are kept, and the same command goes on from there.
    """
    torch.set_num_threads(1)  # nets this small only get slower with more
    todo = [case for name in families for case in cases(name, count)]
    interrupted, found = False, []
    try:
        found.extend(_run(todo, range(seeds), output))
    except KeyboardInterrupt:
        interrupted = True
    _show(found)
    if interrupted:
        click.echo(f"\n{len(found)} of {len(todo)} nets done; run again to go on.", err=True)
        sys.exit(INTERRUPTED)


def _run(
    todo: list[Case], seeds: Iterable[int], output: Path
) -> Iterator[tuple[Case, dict[int, Line]]]:
    done = {line.identity: line for line in read_lines(output, _decode)}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    console = Console(stderr=True)
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
        task = bar.add_task("", total=len(todo))
        for case in todo:
            name = f"{case.family}/{case.index}"
            bar.update(task, description=name)
            with reported(console, name):
                yield case, _examined(case, seeds, done, output)
            bar.advance(task)


def _examined(
    case: Case, seeds: Iterable[int], done: dict[str, Line], output: Path
) -> dict[int, Line]:
    lines: dict[int, Line] = {}
    for seed in seeds:
        known = done.get(identity(case, seed, case.task.budget))
        lines[seed] = known or judged(case, seed)
        if known is None:
            append_line(output, asdict(lines[seed]))
    if differ(lines.values()):
        for seed, line in lines.items():
            if not line.label:
                lines[seed] = trained(line, case, seed)
                append_line(output, asdict(lines[seed]))
    return lines


def _decode(values: dict[str, Any]) -> Line:
    return Line(**values | {"findings": tuple(values["findings"])})


def _show(found: list[tuple[Case, dict[int, Line]]]) -> None:
    console = Console(width=None if sys.stdout.isatty() else 400, highlight=False)
    counts = Table(box=MARKDOWN)
    for name in ("family", "nets", "verdicts differ", "though outcomes are the same"):
        counts.add_column(name)
    for family in dict.fromkeys(case.family for case, _ in found):
        nets = [lines.values() for case, lines in found if case.family == family]
        counts.add_row(
            family, str(len(nets)), str(sum(map(differ, nets))), str(sum(map(contradicted, nets)))
        )
    console.print(counts)
    listed = Table(box=MARKDOWN)
    for name in ("net", "optimizer", "seed", "verdict", "outcome", "score", "findings"):
        listed.add_column(name, overflow="fold")
    for case, lines in found:
        net = f"{case.family}/{case.index}: {', '.join(map(str, case.architecture.values()))}"
        for seed, line in lines.items() if differ(lines.values()) else ():
            listed.add_row(
                net,
                case.optimizer,
                str(seed),
                "healthy" if line.healthy else "unhealthy",
                line.label,
                "–" if line.score is None else f"{line.score:.2f}",
                "; ".join(line.findings),
            )
            net = ""
    if listed.row_count:
        console.print()
        console.print(listed)


if __name__ == "__main__":
    main()
