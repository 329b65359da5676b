"""A net is looked at twice: once to write its baseline, and then to compare it with that."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pytest_gradcheckup import differences
from pytest_gradcheckup.baseline import Baseline, measured, unfit_number, where_it_broke
from pytest_gradcheckup.comparing import compared
from pytest_gradcheckup.failures import fail
from pytest_gradcheckup.journal import Check
from pytest_gradcheckup.majority import Verdict, majority
from pytest_gradcheckup.probing import Probing
from pytest_gradcheckup.shelf import Shelf
from pytest_gradcheckup.tracebacks import HIDDEN

__tracebackhide__ = HIDDEN


def first_look(probe: Probing, path: Path, shelf: Shelf, check: Check, *, tolerance: float) -> None:
    """Write the baseline of a net.

    Raises:
        UnhealthyError: A number is not finite.
        UsageError: Another test of the run wrote the same file, for a net that is not like it.
        ReportError: It cannot be written.
    """
    verdict, now, ended = _measured(probe)
    unfit = ended or unfit_number(now)
    verdict = verdict.turned(unfit is not None)
    if unfit is None:
        shelf.check_alone(path, now, tolerance)
    check.enter(verdict)
    if unfit is not None:
        claim = differences.unfit(path.name, unfit)
        found = verdict.telling.report.at_least(probe.settings.fail_on)
        fail(claim, verdict, "leave the baseline out", found)
    shelf.write(path, now)
    shelf.note(f"{path.name} written: {len(now.layers)} layers")


def second_look(
    probe: Probing, path: Path, shelf: Shelf, check: Check, *, before: Baseline, tolerance: float
) -> None:
    """Compare a net with its baseline.

    Raises:
        UnhealthyError: It is not as it was.
    """
    verdict, now, ended = _measured(probe)
    difference = compared(before, now, tolerance, ended)
    verdict = verdict.turned(difference.broken)
    name = path.name
    check.enter(verdict)
    if difference.broken:
        found = verdict.telling.report.at_least(probe.settings.fail_on)
        details = differences.details(difference, tolerance)
        fail(differences.claim(name), verdict, differences.UPDATE, found, details)
    remark = differences.remark(name, difference)
    if remark:
        shelf.note(remark)


def _measured(probe: Probing) -> tuple[Verdict, Baseline, str | None]:
    """With all seeds: whether most of them end in NaN or Inf, the numbers, and where they end."""
    cases = [
        replace(case, broken=where_it_broke(case.report) is not None) for case in probe.cases()
    ]
    verdict = majority(tuple(cases))
    ended = where_it_broke(verdict.telling.report) if verdict.broken else None
    return verdict, measured([case.report for case in cases]), ended
