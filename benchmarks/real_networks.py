"""Are verdicts right on networks that people use? torchvision's, trained on an easy task.

    python -m benchmarks.real_networks --help
    python -m benchmarks.real_networks --models resnet18,alexnet

Each model is trained from scratch with two optimizers to tell ten noisy random images apart, for
120 steps of 16, and labelled by its loss: famous is not the same as healthy. It is diagnosed as it
was initialised, on the batches that its training begins with. A model whose training would take too
long gets a verdict all the same: one that is called healthy is no false alarm, whatever comes.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import click
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import gradcheckup
from benchmarks import zoo
from benchmarks.commands import INTERRUPTED
from benchmarks.jsonlines import append_line
from benchmarks.training import FAILS, LEARNS
from benchmarks.zoo_results import Line, load, table


def examine(line: Line, *, memory: float, limit: float, reports: Path | None) -> Line:
    """Diagnoses a model, unless that was done, and trains it, or says why not."""
    try:
        needed = zoo.needs(line.model)[1]
        if needed > memory:
            raise zoo.TooLargeError(  # noqa: TRY301 - noted as what training raises is
                f"needs {needed:.1f} GiB of {memory:g}"
            )
        if line.healthy is None:
            line = _judged(line, reports)
        outcome = zoo.train(
            line.model,
            line.setting,
            side=line.side,
            steps=line.steps,
            seed=line.seed,
            limit=limit,
        )
    except (zoo.TooLargeError, gradcheckup.GradcheckupError, MemoryError, RuntimeError) as error:
        return replace(line, note=f"{type(error).__name__}: {error}".splitlines()[0])
    return replace(line, label=outcome.label, loss=outcome.loss, peak=outcome.peak, note="")


def _judged(line: Line, reports: Path | None) -> Line:
    report = zoo.judge(line.model, line.setting, side=line.side, seed=line.seed)
    if reports is not None:
        reports.mkdir(parents=True, exist_ok=True)
        report.to_json(reports / f"{line.model}-{line.setting}-{line.seed}.json")
    return replace(
        line,
        healthy=report.healthy,
        ratios=tuple(map(_finite, (report.steps[0], report.steps[-1]))),
        findings=tuple(f"{finding.code} {finding.severity.value}" for finding in report.findings),
    )


def _finite(step: gradcheckup.Step) -> float | None:
    ratio = step.end_to_end_ratio
    return ratio if ratio is not None and math.isfinite(ratio) else None


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--models", metavar="NAME,...", help="torchvision's names.  [default: all]")
@click.option(
    "--pixels",
    type=click.IntRange(min=32),
    default=64,
    show_default=True,
    help="Side of the images; models that need more (ViTs) get the least that they need.",
)
@click.option("--steps", type=click.IntRange(min=1), default=120, show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "--memory",
    type=float,
    default=8.0,
    show_default=True,
    metavar="GIB",
    help="Skip models that need more.",
)
@click.option(
    "--minutes",
    type=float,
    default=20.0,
    show_default=True,
    help="Train no model that would take longer, by its first steps; 0: no model at all.",
)
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("real_networks.jsonl"),
    show_default=True,
    help="Results, one line of JSON each; only what is not there, or was skipped, is done.",
)
@click.option(
    "--reports",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Also save every report there, for `gradcheckup show`.",
)
def main(
    *,
    models: str | None,
    pixels: int,
    steps: int,
    seed: int,
    memory: float,
    minutes: float,
    threads: int,
    output: Path,
    reports: Path | None,
) -> None:
    """Train and diagnose torchvision's classification models, and print both in Markdown.

    Interrupt at any time: the same command goes on from there.
    """
    known = zoo.names()
    chosen = [name.strip() for name in models.split(",")] if models else known
    if unknown := sorted(set(chosen) - set(known)):
        raise click.BadParameter(f"torchvision has no {', '.join(unknown)}", param_hint="--models")
    torch.set_num_threads(threads)
    todo = [
        Line(model=name, setting=setting, side=max(pixels, side), steps=steps, seed=seed)
        for name in chosen
        for side in [zoo.needs(name)[0]]
        for setting in zoo.SETTINGS
    ]
    interrupted = False
    try:
        _run(todo, output, memory=memory, limit=60 * minutes, reports=reports)
    except KeyboardInterrupt:
        interrupted = True
    done = load(output)
    _show([done[each.key] for each in todo if each.key in done])
    if interrupted:
        sys.exit(INTERRUPTED)


def _run(
    todo: Sequence[Line], output: Path, *, memory: float, limit: float, reports: Path | None
) -> None:
    done = load(output)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True
    ) as bar:
        task = bar.add_task("", total=len(todo))
        for line in todo:
            bar.update(task, description=f"{line.model} {line.setting}")
            known = done.get(line.key)
            if known is None or known.note:  # with other limits it may not be skipped again
                found = examine(known or line, memory=memory, limit=limit, reports=reports)
                if found != known:
                    append_line(output, asdict(found))
            bar.advance(task)


def _show(lines: Sequence[Line]) -> None:
    console = Console(width=None if sys.stdout.isatty() else 400, highlight=False)
    console.print(table(lines))
    clear = [each for each in lines if each.label in {LEARNS, FAILS}]
    for title, label in (("learn", LEARNS), ("do not learn", FAILS)):
        some = [each for each in clear if each.label == label]
        right = sum(not each.wrong for each in some)
        console.print(f"\n{len(some)} {title}, {right} of them judged right")


if __name__ == "__main__":
    main()
