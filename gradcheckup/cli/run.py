"""``gradcheckup run``: an unchanged training script, watched, and a report when it ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import click

from gradcheckup.cli.console import (
    check_writable,
    color_option,
    stream_form,
    wrapped,
    write_file,
    write_line,
)
from gradcheckup.cli.failures import traceback_option
from gradcheckup.cli.options import form_of, limits_given, place, split
from gradcheckup.errors import UnhealthyError, UsageError
from gradcheckup.launching.script import Ending, run_file, run_module
from gradcheckup.launching.session import Session, numbered
from gradcheckup.launching.threads import Leftovers
from gradcheckup.report import Report
from gradcheckup.reports.text import headline, render
from gradcheckup.rules import choose_rules
from gradcheckup.runs.reading import steps_so_far
from gradcheckup.settings import Settings, load_settings
from gradcheckup.tracebacks import relative

_IN_FULL = 4
"""Reports to print in full; of further models, the first line."""

_EPILOG = """\b
examples
  gradcheckup run train.py --epochs 3
  gradcheckup run --every 50 --output report.json train.py --epochs 3
  gradcheckup run -m package.train --epochs 3
  gradcheckup run --stop-on critical train.py
  torchrun --nproc-per-node 2 -m gradcheckup run train.py

\b
exit codes
  that of the script; 1 also where it ends well and --fail-on is given and
  met; 2 usage error; 130 interrupted

Options of gradcheckup stand before SCRIPT; all behind it is the script's.
The report goes to stderr, as stdout belongs to the script. select, ignore
and thresholds may stand in [tool.gradcheckup] of pyproject.toml.
"""


@click.command(
    epilog=_EPILOG,
    context_settings={"allow_interspersed_args": False},
    options_metavar="[OPTIONS]",
)
@click.argument("script")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[ARGUMENTS]...")
@click.option("-m", "module", is_flag=True, help="SCRIPT is a module, as for python -m.")
@click.option(
    "--every",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    metavar="N",
    help="Look at one of N optimizer steps.",
)
@click.option("--select", multiple=True, metavar="CODES", help="Only these rules: GC101,GC2.")
@click.option("--ignore", multiple=True, metavar="CODES", help="Not these rules.")
@click.option(
    "--threshold", "limits", multiple=True, metavar="NAME=VALUE", help="Judge by another limit."
)
@click.option(
    "--stop-on",
    type=click.Choice(["critical", "warning"]),
    help="End the training at such a finding, with exit code 1.",
)
@click.option(
    "--fail-on",
    type=click.Choice(["critical", "warning"]),
    help="Exit code 1 for such findings, where the script itself ends well.",
)
@click.option("--format", "form", type=click.Choice(["text", "json"]), help="Of --output.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the report here instead of stderr; as JSON where it ends in .json.",
)
@click.option(
    "--log",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Log each sampled step here at once, for gradcheckup show: run.jsonl.",
)
@click.option("-v", "--verbose", is_flag=True, help="All findings in full, and all layers.")
@color_option
@traceback_option
def run(script: str, arguments: tuple[str, ...], **options: Any) -> int:
    """Run a training script, and say at its end what its gradients lacked.

    SCRIPT runs as under python, unchanged. Its models and optimizers are
    found when it trains, and watched as gradcheckup.watch does. The report
    comes also after an error or Ctrl-C.
    """
    plan = _plan(script, options, load_settings(Path.cwd()))
    with ExitStack() as watch:
        leftovers = Leftovers()
        watch.callback(leftovers.close)
        session = watch.enter_context(Session(plan.watching, log=plan.log))
        ending = (run_module if options["module"] else run_file)(script, arguments)
        if not plan.stopped(ending):
            ending.complain()
        if leftovers.any():
            rest = watch.pop_all()
            leftovers.postpone(lambda: _concluded(rest, session, plan, ending), ending.code)
            return ending.code
    return _concluded(watch, session, plan, ending)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """Options over settings over defaults.

    Attributes:
        watching: Keyword arguments of `watch`.
        stops: Whether a finding may end the training.
        fail_on: Severity that makes the exit code 1; None for none.
        form: Of what is written to `output`.
        output: Where reports go; stderr where None.
        log: Where sampled steps go.
        verbose: Say more.
        no_color: Whether colour is refused.
    """

    watching: dict[str, Any]
    stops: bool
    fail_on: str | None
    form: str
    output: Path | None
    log: Path | None
    verbose: bool
    no_color: bool

    def stopped(self, ending: Ending) -> bool:
        """Whether a finding has ended the script."""
        return self.stops and isinstance(ending.error, UnhealthyError)

    def place(self, index: int) -> Path | None:
        """Where the report of this index goes: report.json, report-2.json, ..."""
        return numbered(self.output, index) if self.output else None


def _concluded(watch: ExitStack, session: Session, plan: _Plan, ending: Ending) -> int:
    """Watches no longer, reports, and returns the exit code."""
    watch.close()
    if not session.here or os.environ.get("RANK", "0") != "0":
        return ending.code  # a fork, or one of several processes, of which the first reports
    with suppress(OSError, ValueError):  # a reader that has gone, or a script that closed stdout
        sys.stdout.flush()
    reports = session.reports()
    stream = sys.stderr
    unwritten = _write(reports, plan)
    with suppress(OSError, ValueError):
        for text in (*_told(reports, session.notes(), plan, ending, stream), *unwritten):
            write_line(text, stream)
    return ending.code or (2 if unwritten else int(_fails(reports, plan.fail_on)))


def _plan(script: str, given: dict[str, Any], settings: Settings) -> _Plan:
    """Everything that can be known wrong before the script runs is refused here."""
    select = split(given["select"]) or settings.select
    ignore = split(given["ignore"]) or settings.ignore
    choose_rules(select, ignore)
    output, log = place(given["output"]), place(given["log"])
    for path in filter(None, (output, log)):
        check_writable(path)
    if log:
        steps_so_far(log)
    if given["form"] and not output:
        raise UsageError("--format is that of a file: give --output too, as stdout is the script's")
    return _Plan(
        watching={
            "every": given["every"],
            "thresholds": {**settings.thresholds, **limits_given(given["limits"])},
            "select": select or None,
            "ignore": ignore or None,
            "stop_on": given["stop_on"],
            "subject": script,
        },
        stops=given["stop_on"] is not None,
        fail_on=given["fail_on"],
        form=given["form"] or form_of(output) or "text",
        output=output,
        log=log,
        verbose=given["verbose"],
        no_color=given["no_color"],
    )


def _told(
    reports: list[Report], notes: list[str], plan: _Plan, ending: Ending, stream: TextIO
) -> Iterator[str]:
    """What stderr is told when the script has ended, behind an empty line."""
    look = stream_form(stream, no_color=plan.no_color)
    yield ""
    if plan.stopped(ending):
        yield "stopped by --stop-on: the exit code is 1"
    for index, report in enumerate(reports):
        path = plan.place(index)
        if path:
            word, _ = headline(report)
            yield f"{word}  {report.recording.model}; report written to {relative(path)}"
        elif index < _IN_FULL:
            yield render(report, verbose=plan.verbose, **look)
        else:
            yield wrapped("  ".join(headline(report)), look["width"])
    for note in notes:
        yield wrapped(f"gradcheckup: {note}", look["width"], other="  ")


def _write(reports: list[Report], plan: _Plan) -> list[str]:
    """Writes reports to files, if that is wanted; says which of them could not be written."""
    failures = []
    for index, report in enumerate(reports):
        path = plan.place(index)
        if path:
            json = plan.form == "json"
            try:
                write_file(path, report.to_json() if json else render(report, verbose=plan.verbose))
            except UsageError as error:
                failures.append(f"error: {error}")
    return failures


def _fails(reports: list[Report], fail_on: str | None) -> bool:
    return fail_on is not None and any(report.at_least(fail_on) for report in reports)
