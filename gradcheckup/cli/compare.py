"""``gradcheckup compare``: two reports side by side."""

from __future__ import annotations

from pathlib import Path

import click

from gradcheckup.cli.console import color_option, print_out, stdout_form
from gradcheckup.cli.failures import traceback_option
from gradcheckup.cli.show import read_report
from gradcheckup.comparison import compare as run

_EPILOG = """\b
examples
  gradcheckup diagnose model.py --format json --output before.json
  gradcheckup diagnose model.py --optimizer adam --output after.json
  gradcheckup compare before.json after.json

\b
exit codes
  0 no worse, 1 healthy before and unhealthy after, 2 usage error
"""


@click.command(epilog=_EPILOG)
@click.argument("before", type=click.Path(path_type=Path))
@click.argument("after", type=click.Path(path_type=Path))
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text")
@click.option("-v", "--verbose", is_flag=True, help="All layers that changed, and all names.")
@color_option
@traceback_option
def compare(before: Path, after: Path, form: str, verbose: bool, no_color: bool) -> int:
    """Compare two reports that --format json wrote.

    Verdict, figures, findings and layers, each before and after. The exit
    code is 1 when the verdict turned from healthy to unhealthy.
    """
    comparison = run(read_report(before), read_report(after))
    if form == "json":
        print_out(comparison.to_json())
    else:
        from gradcheckup.reports.contrast import render

        look = stdout_form(no_color=no_color)
        print_out(render(comparison, verbose=verbose, more="--verbose", **look))
    return int(comparison.worse)
