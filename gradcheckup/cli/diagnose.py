"""``gradcheckup diagnose``: from a target to a verdict."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gradcheckup.cli.console import check_figure, check_writable, print_out, write_file
from gradcheckup.cli.failures import traceback_option
from gradcheckup.cli.progress import progress
from gradcheckup.cli.show import plot_option, save_figure, terminal_text
from gradcheckup.errors import UsageError
from gradcheckup.records import Severity
from gradcheckup.report import Report
from gradcheckup.rules import choose
from gradcheckup.settings import Settings, check_threshold, load_settings
from gradcheckup.thresholds import Thresholds
from gradcheckup.tracebacks import relative

if TYPE_CHECKING:
    pass

_EPILOG = """\b
examples
  gradcheckup diagnose model.py
  gradcheckup diagnose model.py:Net --input 8,3,64,64 --optimizer adam
  gradcheckup diagnose model.py --format json --output report.json
  gradcheckup diagnose model.py --plot layers.png
  gradcheckup diagnose torchvision.models:resnet50 --input 8,3,96,96

\b
exit codes
  0 healthy, 1 findings as bad as --fail-on or worse, 2 usage or target
  error, 3 a bug in gradcheckup, 130 interrupted

Options may stand in [tool.gradcheckup] of pyproject.toml: steps, seed,
select, ignore, fail-on, format, thresholds; also optimizer, lr and input,
for files that have no optimizer or data of their own.
"""


class _Finite(click.FloatRange):
    """A number that is neither NaN nor infinite."""

    name = "number"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """The number, or click's error."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


@click.command(epilog=_EPILOG)
@click.argument("target")
@click.option("--model", metavar="NAME", help="Name of the model in the file.")
@click.option("--data", metavar="NAME", help="Name of the data in the file.")
@click.option(
    "--input",
    "shapes",
    multiple=True,
    metavar="SHAPE",
    help="Random inputs of this shape, batch first: 8,3,64,64, or 8,128:1000 for integers below "
    "1000. Repeat it for several inputs.",
)
@click.option("--criterion", metavar="NAME", help="Name of the loss in the file or in torch.nn.")
@click.option(
    "--optimizer", metavar="NAME", help="Name of the optimizer in the file or in torch.optim."
)
@click.option("--lr", type=_Finite(min=0), help="Learning rate.")
@click.option("--momentum", type=_Finite(min=0), help="Momentum, where it has one.")
@click.option("--weight-decay", type=_Finite(min=0), help="Weight decay.")
@click.option("--steps", type=click.IntRange(min=1), help="Steps of the probe.  [default: 8]")
@click.option(
    "--seed",
    type=click.IntRange(min=0, max=2**32 - 1),
    help="For weights, data and probe.  [default: 0]",
)
@click.option("--select", multiple=True, metavar="CODES", help="Only these rules: GC101,GC2.")
@click.option("--ignore", multiple=True, metavar="CODES", help="Not these rules.")
@click.option(
    "--threshold", "limits", multiple=True, metavar="NAME=VALUE", help="Judge by another limit."
)
@click.option(
    "--fail-on",
    type=click.Choice(["critical", "warning", "never"]),
    help="What makes the exit code 1.  [default: critical]",
)
@click.option("--format", "form", type=click.Choice(["text", "json"]), help="[default: text]")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the report here instead of stdout; as JSON where it ends in .json.",
)
@plot_option
@click.option("-v", "--verbose", is_flag=True, help="All findings in full, and all layers.")
@click.option("--no-color", is_flag=True, help="No colours; NO_COLOR=1 does the same.")
@traceback_option
def diagnose(target: str, **options: Any) -> int:
    """Train a copy of the model for a few steps and say what its gradients lack.

    TARGET is model.py, model.py:Name or package.module:Name: a class, a
    function that builds the model, or the model.

    In the file these names are used when they are there: model or
    build_model(); data, batch or build_data(); criterion; optimizer or
    build_optimizer(model); compute_loss(model, batch). What is missing is
    guessed, and the report says so.
    """
    plan = _plan(options, load_settings(Path.cwd()))
    if plan.output:
        check_writable(plan.output)
    if plan.plot:
        check_figure(plan.plot)
    report = _probe(target, plan)
    from gradcheckup.reports.text import render

    if plan.form == "json":
        text = report.to_json()
    elif plan.output:
        text = render(report, verbose=plan.verbose)
    else:
        text = terminal_text(report, verbose=plan.verbose, no_color=plan.no_color)
    if plan.output:
        write_file(plan.output, text)
        verdict = "healthy" if report.healthy else "unhealthy"
        click.echo(f"{verdict}; report written to {relative(plan.output)}", err=True)
    else:
        print_out(text)
    if plan.plot:
        save_figure(report, plan.plot)
    return _exit_code(report, plan.fail_on)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """Options over settings over defaults."""

    target: dict[str, Any]
    steps: int
    seed: int
    select: tuple[str, ...]
    ignore: tuple[str, ...]
    thresholds: Thresholds
    fail_on: str
    form: str
    output: Path | None
    plot: Path | None
    verbose: bool
    no_color: bool


def _plan(given: dict[str, Any], settings: Settings) -> _Plan:
    """Everything that can be known wrong before the probe is refused here."""
    seed = _first(given["seed"], settings.seed, 0)
    select = _split(given["select"]) or settings.select
    ignore = _split(given["ignore"]) or settings.ignore
    choose(select, ignore)
    hyperparameters = {
        name: given[name] for name in ("lr", "momentum", "weight_decay") if given[name] is not None
    }
    return _Plan(
        target={
            "model": given["model"],
            "data": given["data"],
            "input": given["shapes"],
            "criterion": given["criterion"],
            "optimizer": given["optimizer"],
            "hyperparameters": hyperparameters,
            "default_input": settings.input,
            "default_optimizer": settings.optimizer,
            "default_lr": settings.lr,
            "seed": seed,
        },
        steps=_first(given["steps"], settings.steps, 8),
        seed=seed,
        select=select,
        ignore=ignore,
        thresholds=Thresholds(**{**settings.thresholds, **_limits(given["limits"])}),
        fail_on=_first(given["fail_on"], settings.fail_on, "critical"),
        form=given["form"] or _form_of(given["output"]) or settings.format or "text",
        # The model's code may change the working directory.
        output=Path.cwd() / given["output"] if given["output"] else None,
        plot=Path.cwd() / given["plot"] if given["plot"] else None,
        verbose=given["verbose"],
        no_color=given["no_color"],
    )


def _probe(spec: str, plan: _Plan) -> Report:
    """Import torch, load the target, and run the probe."""
    to_stdout = plan.form == "json" and plan.output is None
    # What the user's code prints must not land in the middle of the JSON.
    with redirect_stdout(sys.stderr) if to_stdout else nullcontext():
        from gradcheckup.checkup import diagnose as run
        from gradcheckup.targets import TargetOptions, load_target

        target = load_target(spec, TargetOptions(**plan.target))
        with progress(plan.steps) as on_step:
            return run(
                target.model,
                target.data,
                target.criterion,
                optimizer=target.optimizer,
                compute_loss=target.compute_loss,
                steps=plan.steps,
                seed=plan.seed,
                thresholds=plan.thresholds,
                select=plan.select or None,
                ignore=plan.ignore or None,
                on_step=on_step,
                subject=target.subject,
                assumptions=target.assumptions,
            )


def _exit_code(report: Report, fail_on: str) -> int:
    if fail_on == "never":
        return 0
    limit = Severity(fail_on).rank
    return int(any(finding.severity.rank >= limit for finding in report.findings))


def _split(values: Sequence[str]) -> tuple[str, ...]:
    """``("GC1,GC2", "GC301")`` as three codes."""
    return tuple(part.strip() for value in values for part in value.split(",") if part.strip())


def _limits(pairs: Sequence[str]) -> dict[str, float]:
    limits = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(f"--threshold {pair!r}: expected NAME=VALUE, as dead_warning=0.3")
        try:
            limits[check_threshold(name, "--threshold")] = float(value)
        except ValueError:
            raise UsageError(f"--threshold {pair!r}: {value!r} is no number") from None
    return limits


def _form_of(output: Path | None) -> str | None:
    """A file called .json is to hold JSON."""
    return "json" if output and output.suffix == ".json" else None


def _first(*values: Any) -> Any:
    """The first that is not None, or None."""
    return next((value for value in values if value is not None), None)
