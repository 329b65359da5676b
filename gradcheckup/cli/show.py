"""``gradcheckup show``: a report that was written earlier, once more."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from gradcheckup.cli.console import check_figure, color_option, print_out, stdout_form
from gradcheckup.cli.failures import traceback_option
from gradcheckup.errors import ReportError
from gradcheckup.files import reason
from gradcheckup.report import Report
from gradcheckup.runs.reading import is_run, parse_run
from gradcheckup.serialization import parse_report
from gradcheckup.suggestions import nearest
from gradcheckup.tracebacks import relative

Function = TypeVar("Function", bound=Callable[..., Any])

_EPILOG = """\b
examples
  gradcheckup diagnose model.py --format json --output report.json
  gradcheckup show report.json --verbose
  gradcheckup show report.json --plot layers.png
  gradcheckup show run.jsonl
"""


def plot_option(function: Function) -> Function:
    """``--plot FILE``, for commands that have a report to draw."""
    return click.option(
        "--plot",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Draw the layers into this file too: .png, .svg or .pdf.",
    )(function)


@click.command(epilog=_EPILOG)
@click.argument("report", type=click.Path(path_type=Path))
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text")
@plot_option
@click.option("-v", "--verbose", is_flag=True, help="All findings in full, and all layers.")
@color_option
@traceback_option
def show(report: Path, form: str, plot: Path | None, verbose: bool, no_color: bool) -> int:
    """Show a report that --format json wrote, or the log of a watched run.

    A log (.jsonl) can be shown while the run goes on. The exit code is 0 whatever the verdict was.
    """
    loaded = read_report(report)
    if plot:
        check_figure(plot)
    print_out(
        loaded.to_json()
        if form == "json"
        else terminal_text(loaded, verbose=verbose, no_color=no_color)
    )
    if plot:
        save_figure(loaded, plot)
    return 0


def read_report(path: Path) -> Report:
    """The report in this file, or that of the run whose log it is.

    Raises:
        ReportError: There is none.
    """
    if not path.exists():
        folder = path.parent
        found = nearest(path.name, [each.name for each in folder.glob("*.json*")])
        hint = f"; did you mean {folder / found}?" if found else ""
        raise ReportError(f"no such file: {path}{hint}")
    try:
        content = path.read_bytes()  # once: a pipe has it no second time
    except OSError as error:
        raise ReportError(f"cannot read report {path}: {reason(error)}") from None
    return parse_run(content, path) if is_run(content) else parse_report(content, path)


def save_figure(report: Report, path: Path) -> None:
    """Draw a report, and say where; stdout may be read by a program."""
    report.plot(path)
    click.echo(f"figure written to {relative(path)}", err=True)


def terminal_text(report: Report, *, verbose: bool, no_color: bool) -> str:
    """The text report for where stdout goes."""
    from gradcheckup.reports.text import render

    return render(report, verbose=verbose, **stdout_form(no_color=no_color))
