"""``gradcheckup diagnose``: from a target to a verdict."""

from __future__ import annotations

import sys
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from gradcheckup.cli.console import (
    check_figure,
    check_writable,
    color_option,
    print_out,
    write_file,
)
from gradcheckup.cli.failures import traceback_option
from gradcheckup.cli.options import Checkup, checkup, checkup_options, first, form_of, place
from gradcheckup.cli.progress import progress
from gradcheckup.cli.show import plot_option, save_figure, terminal_text
from gradcheckup.report import Report
from gradcheckup.settings import Settings, load_settings
from gradcheckup.tracebacks import relative

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

Options may stand in [tool.gradcheckup] of pyproject.toml: steps, batches,
follow, seed, select, ignore, fail-on, format, thresholds; also optimizer, lr
and input, for files that have no optimizer or data of their own.
"""


@click.command(epilog=_EPILOG)
@click.argument("target")
@checkup_options
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
@color_option
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

    checkup: Checkup
    fail_on: str
    form: str
    output: Path | None
    plot: Path | None
    verbose: bool
    no_color: bool


def _plan(given: dict[str, Any], settings: Settings) -> _Plan:
    """Everything that can be known wrong before the probe is refused here."""
    return _Plan(
        checkup=checkup(given, settings),
        fail_on=first(given["fail_on"], settings.fail_on, "critical"),
        form=given["form"] or form_of(given["output"]) or settings.format or "text",
        output=place(given["output"]),
        plot=place(given["plot"]),
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

        target = load_target(spec, TargetOptions(**plan.checkup.target))
        with progress(plan.checkup.steps) as on_step:
            return run(
                target.model,
                target.data,
                target.criterion,
                optimizer=target.optimizer,
                compute_loss=target.compute_loss,
                on_step=on_step,
                subject=target.subject,
                assumptions=target.assumptions,
                **plan.checkup.judging,
            )


def _exit_code(report: Report, fail_on: str) -> int:
    return 0 if fail_on == "never" else int(bool(report.at_least(fail_on)))
