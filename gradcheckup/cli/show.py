"""``gradcheckup show``: a report that was written earlier, once more."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from gradcheckup.cli.console import color_wanted, print_out, width_of
from gradcheckup.cli.failures import traceback_option
from gradcheckup.errors import ReportError
from gradcheckup.report import Report
from gradcheckup.serialization import load_report
from gradcheckup.suggestions import nearest

_EPILOG = """\b
examples
  gradcheckup diagnose model.py --format json --output report.json
  gradcheckup show report.json --verbose
"""


@click.command(epilog=_EPILOG)
@click.argument("report", type=click.Path(path_type=Path))
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text")
@click.option("-v", "--verbose", is_flag=True, help="All findings in full, and all layers.")
@click.option("--no-color", is_flag=True, help="No colours; NO_COLOR=1 does the same.")
@traceback_option
def show(report: Path, form: str, verbose: bool, no_color: bool) -> int:
    """Show a report that --format json wrote.

    The exit code is 0 whatever the verdict was.
    """
    if not report.exists():
        folder = report.parent
        found = nearest(report.name, [path.name for path in folder.glob("*.json")])
        hint = f"; did you mean {folder / found}?" if found else ""
        raise ReportError(f"no such file: {report}{hint}")
    loaded = load_report(report)
    print_out(
        loaded.to_json()
        if form == "json"
        else terminal_text(loaded, verbose=verbose, no_color=no_color)
    )
    return 0


def terminal_text(report: Report, *, verbose: bool, no_color: bool) -> str:
    """The text report for where stdout goes."""
    from gradcheckup.reports.text import render

    return render(
        report,
        verbose=verbose,
        width=width_of(sys.stdout),
        color=color_wanted(sys.stdout, refused=no_color),
        encoding=sys.stdout.encoding or "utf-8",
    )
