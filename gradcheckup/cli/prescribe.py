"""``gradcheckup prescribe``: tries treatments on copies of a model."""

from __future__ import annotations

import sys
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

import click

from gradcheckup.cli.console import check_writable, color_option, print_out, stdout_form, write_file
from gradcheckup.cli.failures import traceback_option
from gradcheckup.cli.options import Checkup, checkup, checkup_options, form_of, place, split
from gradcheckup.cli.progress import trial_progress
from gradcheckup.errors import UsageError
from gradcheckup.prescription import Prescription
from gradcheckup.settings import load_settings
from gradcheckup.tracebacks import relative

_EPILOG = """\b
examples
  gradcheckup prescribe model.py
  gradcheckup prescribe model.py --budget 60s --seeds 3
  gradcheckup prescribe model.py --treatments normalization,activation:gelu
  gradcheckup prescribe model.py --treatments "skip_connection + optimizer"
  gradcheckup prescribe model.py --format json --output trials.json

\b
exit codes
  0 something helps, or there is nothing to cure; 1 nothing that was tried
  helps; 2 usage or target error, 3 a bug in gradcheckup, 130 interrupted
"""


@click.command(epilog=_EPILOG)
@click.argument("target")
@checkup_options
@click.option(
    "--treatments",
    multiple=True,
    metavar="KEYS",
    help="Try these: keys with or without a variant, joined by + to be applied together, or all. "
    "[default: by the findings; what mends nearly any net where it does not learn without one]",
)
@click.option(
    "--budget",
    default="200",
    metavar="N|TIME",
    help="Training steps of each trial, or a time for all of them: 60s, 5m.  [default: 200]",
)
@click.option(
    "--seeds", type=click.IntRange(min=1), default=1, help="Seeds per trial.  [default: 1]"
)
@click.option(
    "--save",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Save the initial weights of the best treated model, a state_dict.",
)
@click.option("--format", "form", type=click.Choice(["text", "json"]), help="[default: text]")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the result here instead of stdout; as JSON where it ends in .json.",
)
@color_option
@traceback_option
def prescribe(target: str, **options: Any) -> int:
    """Try treatments on copies of the model and say which helps.

    Diagnoses TARGET, applies what may help to copies of it, trains each for the
    same budget beside the untreated model and a random treatment, and ranks
    them by what was measured. For the best one it prints the change to make.
    Your model stays as it is. TARGET is as for diagnose.
    """
    asked = checkup(options, load_settings(Path.cwd()))
    form = options["form"] or form_of(options["output"]) or "text"
    output, save = place(options["output"]), place(options["save"])
    for file in filter(None, (output, save)):
        check_writable(file)
    found = _try(target, asked, options, to_stdout=form == "json" and output is None)
    if save:
        _save(found, save)
    if form == "json":
        text = found.to_json()
    else:
        from gradcheckup.reports.prescription import render_prescription

        look = {} if output else stdout_form(no_color=options["no_color"])
        text = render_prescription(found, **look)
    if output:
        write_file(output, text)
        best = found.best.treatment if found.best else "nothing"
        click.echo(f"best: {best}; written to {relative(output)}", err=True)
    else:
        print_out(text)
    return int(found.best is None and found.needed)


def _try(spec: str, asked: Checkup, options: dict[str, Any], *, to_stdout: bool) -> Prescription:
    """Import torch, load the target, and make the trials."""
    with redirect_stdout(sys.stderr) if to_stdout else nullcontext():
        from gradcheckup.prescribing import prescribe as run
        from gradcheckup.targets import TargetOptions, load_target

        treatments = split(options["treatments"]) if options["treatments"] else None
        target = load_target(spec, TargetOptions(**asked.target))
        with trial_progress() as on_trial:
            return run(
                target.model,
                target.data,
                target.criterion,
                optimizer=target.optimizer,
                compute_loss=target.compute_loss,
                treatments="all" if treatments == ("all",) else treatments,
                budget=_budget(options["budget"]),
                seeds=options["seeds"],
                on_trial=on_trial,
                subject=target.subject,
                assumptions=target.assumptions,
                names=target.names,
                **asked.judging,
            )


def _budget(text: str) -> int | str:
    return int(text) if text.strip().isdecimal() else text


def _save(found: Prescription, path: Path) -> None:
    """The weights from which the best trial started."""
    import torch

    if found.best is None:
        click.echo("nothing that was tried helps: no weights to save", err=True)
        return
    try:
        torch.save(found.best.treated.model.state_dict(), path)
    except (OSError, RuntimeError) as error:
        raise UsageError(f"cannot write {relative(path)}: {error}") from None
