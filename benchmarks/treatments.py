"""Does the first choice of `prescribe` cure? Sick nets, treated and trained, beside the best known.

    python -m benchmarks.treatments --help
    python -m benchmarks.treatments --cases 20

Nets are drawn and trained; those that fail, with more steps and at a tenth of the learning rate as
well (`benchmarks/training.py`), are sick; the others are counted apart. `prescribe` is
given each as it was initialised, the untreated optimizer and the training data. Its first choice is
then trained from the start, as long as the untreated net was, and cures where the treated net is
called healthy and ends within .05 of the accuracy of the best known configuration of that
architecture. A treatment drawn at random is trained beside it.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import gradcheckup
from benchmarks import sick
from benchmarks.cases import Case
from benchmarks.commands import INTERRUPTED
from benchmarks.jsonlines import append_line, read_lines
from benchmarks.training import FAILS, train

_NEAR = 0.05


def examine(case: Case, seed: int, budget: int) -> dict[str, Any]:
    """One line of results: scores, and what was chosen; nets that learn get no treatment."""
    outcome = train(case, seed, case.task.budget)
    line: dict[str, Any] = {
        "index": case.index,
        "seed": seed,
        "net": {**case.architecture, "optimizer": case.optimizer},
        "label": outcome.label,
        "untreated": outcome.score or 0.0,
    }
    if line["untreated"] > case.task.fails:
        return line
    line["best_known"] = sick.best_known(case, seed)
    torch.manual_seed(seed)
    model = case.build()
    epoch = len(case.task.inputs) // case.batch_size
    started = time.perf_counter()
    found = gradcheckup.prescribe(
        model,
        list(islice(case.task.batches(case.batch_size, seed), epoch)),
        case.task.criterion(),
        optimizer=case.make_optimizer(model.parameters()),
        budget=budget,
        seed=case.index,  # so that the random treatment is another one for each net
    )
    line["seconds"] = round(time.perf_counter() - started, 1)
    line["found"] = [finding.code for finding in found.before.findings]
    line["first"] = _follow(case, found.best, seed)
    line["random"] = _follow(case, found.random, seed)
    return line


def _prepare() -> None:
    """Readies a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one that waits for it is interrupted
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # gradients that vanish take twice the time otherwise


def _examine(index: int, seed: int, budget: int) -> dict[str, Any]:
    return examine(sick.case(index), seed, budget)


def _follow(case: Case, trial: gradcheckup.Trial | None, seed: int) -> dict[str, Any] | None:
    """Trains what a trial started with."""
    if trial is None:
        return None
    reached = sick.score(case, trial.treated.model, _stages(case, trial.treated), seed)
    return {"treatment": trial.treatment, "healthy": trial.after.healthy, "score": reached}


def _stages(case: Case, treated: Any) -> Iterable[tuple[torch.optim.Optimizer, int]]:
    """Ordinary training, or that of a plan."""
    if treated.plan is None:
        yield from sick.whole(case, treated.optimizer)
        return
    for stage, steps, _ in treated.plan.shared_out(case.task.budget):
        yield stage.optimizer, steps


def _best(line: dict[str, Any]) -> float:
    """The best that is known, by a treatment as well."""
    tried = (line[which]["score"] for which in ("first", "random") if line[which])
    return max(line["best_known"], *tried, 0.0)


def _is_near(line: dict[str, Any], which: str) -> bool:
    return bool(line[which]["score"] >= _best(line) - _NEAR)


def cured(line: dict[str, Any], which: str) -> bool:
    """Whether the `first` choice, or the `random` one, cured a net."""
    return bool(line[which] and line[which]["healthy"] and _is_near(line, which))


def summary(lines: Sequence[dict[str, Any]]) -> str:
    """Rates of cure, in Markdown, and what was not cured."""
    treated = [line for line in lines if "first" in line]
    nets = [line for line in treated if line["label"] == FAILS]
    treatable = [line for line in nets if _best(line) > line["untreated"] + _NEAR]
    rows = ["| nets | sick | first choice cures | is healthy | is near the best | random cures |"]
    rows.append("|---|---|---|---|---|---|")
    rest = [line for line in treated if line["label"] != FAILS]
    groups = {
        **{
            kind: [line for line in treatable if line["net"]["kind"] == kind]
            for kind in sorted({line["net"]["kind"] for line in treatable})
        },
        "all": treatable,
        "slow, unstable or halfway": rest,
    }
    for kind, these in groups.items():
        if not these:
            continue
        counts = [
            sum(cured(line, "first") for line in these),
            sum(bool(line["first"] and line["first"]["healthy"]) for line in these),
            sum(bool(line["first"]) and _is_near(line, "first") for line in these),
            sum(cured(line, "random") for line in these),
        ]
        shares = " | ".join(f"{count} ({count / len(these):.2f})" for count in counts)
        rows.append(f"| {kind} | {len(these)} | {shares} |")
    beyond = len(nets) - len(treatable)
    known = f"of {beyond} no configuration is known that learns"
    rows += ["", f"{len(lines)} nets drawn, {len(nets)} sick; {known}."]
    missed = [line for line in treatable + rest if not cured(line, "first")]
    if missed:
        rows += [
            "",
            "| not cured | label | untreated | best known | first choice | healthy | score |",
        ]
        rows.append("|---|---|---|---|---|---|---|")
    for line in missed:
        net = " ".join(str(value) for value in line["net"].values())
        first = line["first"] or {"treatment": "none", "healthy": "", "score": 0.0}
        rows.append(
            f"| {line['index']}: {net} | {line['label']} | {line['untreated']:.2f} "
            f"| {_best(line):.2f} | {first['treatment']} | {first['healthy']} "
            f"| {first['score']:.2f} |"
        )
    return "\n".join(rows)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--cases", type=click.IntRange(min=1), default=120, show_default=True, help="Nets drawn."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "--budget",
    type=click.IntRange(min=1),
    default=200,
    show_default=True,
    help="Steps of each trial.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=Path("treatments.jsonl"),
    show_default=True,
    metavar="FILE",
    help="Results, one line of JSON each; nets that are there are skipped.",
)
@click.option(
    "--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Nets at a time."
)
@click.option("--summary", "summarise", is_flag=True, help="Run nothing, print what is there.")
def main(cases: int, seed: int, budget: int, output: Path, jobs: int, *, summarise: bool) -> None:
    """Treat sick nets with the first choice of prescribe, and say how many it cures.

    Small nets come first. Interrupt at any time: finished nets are kept, and the same command goes
    on from there.
    """
    if not summarise:
        _run(cases, seed, budget, output, jobs)
    click.echo(summary([line for line in read_lines(output, dict) if line["seed"] == seed]))


def _run(cases: int, seed: int, budget: int, output: Path, jobs: int) -> None:
    done = {(line["index"], line["seed"]) for line in read_lines(output, dict)}
    todo = [
        case.index
        for case in sorted(sick.cases(cases), key=sick.weights)
        if (case.index, seed) not in done
    ]
    columns = (TextColumn("nets"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    try:
        with (
            get_context("spawn").Pool(jobs, _prepare) as pool,
            Progress(*columns, console=Console(stderr=True), transient=True) as bar,
        ):
            lines = pool.imap_unordered(partial(_examine, seed=seed, budget=budget), todo)
            for line in bar.track(lines, total=len(todo)):
                append_line(output, line)
    except KeyboardInterrupt:
        click.echo("interrupted; the same command goes on from here", err=True)
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
