"""A prescription as text: what was tried, what came of it, and what to change in one's own code."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from gradcheckup.prescription import Prescription, Trial
from gradcheckup.reports.names import fold
from gradcheckup.reports.numbers import count, number, percent
from gradcheckup.reports.sheet import Page
from gradcheckup.reports.text import headline

if TYPE_CHECKING:
    from rich.table import Table

_WIDTH = 80
_WIDEST_NAME = 36


def render_prescription(
    prescription: Prescription,
    *,
    width: int | None = None,
    color: bool = False,
    encoding: str = "utf-8",
) -> str:
    """The prescription as text, without a newline at its end.

    Args:
        prescription: What to show.
        width: Columns to fill, 80 unless given.
        color: With ANSI codes; without, there are none.
        encoding: That of the terminal or file it goes to: signs that it lacks are replaced.
    """
    page = Page(max(width or _WIDTH, 60), color=color, encoding=encoding)
    before = prescription.before
    word, about = headline(before)
    page.write(f"  {about}", lead=word, style="bold green" if before.healthy else "bold red")
    if before.assumptions:
        page.write("assumed: " + "; ".join(before.assumptions))
    for finding in before.findings:
        if finding.prescriptions or finding.severity.rank:
            page.write(f"{finding.code} {finding.rule}  {finding.severity.value}")
    if not prescription.trials and not prescription.refused:
        page.gap()
        page.write(_why_nothing(prescription))
        return page.text()
    page.gap()
    if before.healthy and prescription.learns is False:
        page.write(
            f"No critical finding, but after {count(prescription.budget, 'step')} it has learnt "
            "nothing."
        )
    page.write(_how(prescription))
    page.table(_table(prescription, page))
    page.gap()
    for line in _remarks(prescription):
        page.write(line)
    best = prescription.best
    if best is None:
        page.write("Nothing that was tried helps.", style="bold")
        if before.healthy and prescription.learns is False:
            page.write(
                "Look at the data and the loss: targets that have nothing to do with the inputs "
                "look like this."
            )
    else:
        for change in best.treated.changes:
            page.write(f"{change.what} {fold(change.layers)}".rstrip())
        page.gap()
        page.write("in your code, once the model is built:")
        page.code(best.treated.snippet)
    return page.text()


def _why_nothing(prescription: Prescription) -> str:
    nothing = prescription.nothing
    if nothing is None:
        return (
            "No treatment helps against this: the code has to change where the finding says. "
            "gradcheckup diagnose shows it."
        )
    accuracy = "" if nothing.accuracy is None else f", the accuracy is {nothing.accuracy:.2f}"
    return (
        f"Nothing to cure: it learns. In {count(prescription.budget, 'step')} the loss went from "
        f"{number(prescription.first_loss)} to {number(nothing.loss)}{accuracy}. --treatments all "
        "tries every treatment all the same."
    )


def _how(prescription: Prescription) -> str:
    trial = prescription.nothing
    seeds = len(trial.outcomes) if trial else 1
    where = (
        f"{count(prescription.held_out, 'batch', 'batches')} set aside"
        if prescription.held_out
        else "the training batches"
    )
    times = f", {seeds} seeds" if seeds > 1 else ""
    return (
        f"Tried on copies, {count(prescription.budget, 'step')} each{times}; loss (before: "
        f"{number(prescription.first_loss)}) on {where}:"
    )


def _table(prescription: Prescription, page: Page) -> Table:
    """One row a trial, best first, and the controls below."""
    from rich.table import Table
    from rich.text import Text

    assert prescription.nothing is not None  # noqa: S101 - else there is no table
    controls = [prescription.nothing]
    if prescription.random:
        controls.append(prescription.random)
    trials = [*prescription.trials, *controls]
    classifies = any(trial.accuracy is not None for trial in trials)
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("", max_width=_WIDEST_NAME)
    table.add_column("verdict", no_wrap=True)
    for heading in ("ratio", "satur.", "update", "loss"):
        table.add_column(heading, justify="right", no_wrap=True)
    if classifies:
        table.add_column("accuracy", justify="right", no_wrap=True)
    for index, trial in enumerate(trials):
        control = index >= len(prescription.trials)
        name = trial.treatment if trial is not prescription.random else f"random: {trial.treatment}"
        cells = [page.clean(cell) for cell in _cells(trial)]
        if not classifies:
            cells.pop()
        style = "dim" if control else "bold" if trial is prescription.best else ""
        table.add_row(Text(name), *cells, style=style)
    return table


def _cells(trial: Trial) -> list[str]:
    after = trial.after
    last = after.steps[-1]
    return [
        "healthy" if after.healthy else "unhealthy",
        number(after.end_to_end_ratio),
        percent(last.worst_saturation),
        number(last.smallest_update_ratio),
        number(trial.loss),
        "–" if trial.accuracy is None else f"{trial.accuracy:.2f}",
    ]


def _remarks(prescription: Prescription) -> Iterator[str]:
    """What a reader of the table has to know."""
    best = prescription.best
    if best is not None and best.acts_on == "updates" and not best.after.healthy:
        yield (
            f"{best.treatment} works on updates, not on the flow at the start: the finding stays "
            "until the net has learnt."
        )
    elif best is not None and not best.after.healthy:
        yield f"{best.treatment} learns in spite of a finding that stays."
    yield from _lagging(prescription)
    told = set()
    for treatment, reason in prescription.refused:
        if reason not in told:  # a pair is refused for what its parts are
            alone = reason.startswith(treatment)
            yield f"not tried: {reason if alone else f'{treatment}: {reason}'}"
        told.add(reason)


def _lagging(prescription: Prescription) -> Iterator[str]:
    nothing = prescription.nothing
    if nothing is None or nothing.after.healthy:
        return
    lagging = [
        trial.treatment
        for trial in prescription.trials
        if trial.after.healthy and not trial.beats(nothing)
    ]
    if lagging:
        yield f"Flow is restored, and learning not yet, by: {', '.join(lagging)}."
