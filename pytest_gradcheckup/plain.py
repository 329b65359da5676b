"""Assertions on a report, without the fixture: beside `gradcheckup.assert_healthy(report)`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from gradcheckup import Report, UsageError
from pytest_gradcheckup import claims
from pytest_gradcheckup.failures import fail
from pytest_gradcheckup.majority import Case, Verdict
from pytest_gradcheckup.settings import matching
from pytest_gradcheckup.tracebacks import HIDDEN

__tracebackhide__ = HIDDEN


def assert_no(code: str, report: Report) -> None:
    """Fails where a rule found something, however bad.

    Args:
        code: ``GC101``, the beginning of codes (``GC1``) or a name (``vanishing-gradient``).
        report: Of `gradcheckup.diagnose`, or another one. A rule that it was not judged by found
            nothing.

    Raises:
        UnhealthyError: An AssertionError, with the report.
        UsageError: There is no such rule, or this is no report.
    """
    verdict = _verdict(report, "assert_no('GC101', report)")
    if not isinstance(code, str):
        raise UsageError(f"expected a rule code first, got {type(code).__name__}")
    try:
        codes = matching(code, "assert_no")
    except pytest.UsageError as error:
        raise UsageError(str(error)) from None
    found = claims.with_codes(report, codes)
    if found:
        silence = "leave the assertion out, or diagnose with thresholds={...}"
        fail(f"expected no {code}, found {claims.named(found)}", verdict, silence, found)


def assert_reaches(report: Report, layer: str) -> None:
    """Fails where no gradient of the loss reached a layer: none arrived, or exactly 0.

    Args:
        report: Of `gradcheckup.diagnose`, or another one.
        layer: Its name, as ``stem.conv``; of a module of layers, one has to be reached.

    Raises:
        UnhealthyError: An AssertionError, with the report.
        UsageError: The model has no such layer, or this is no report.
    """
    verdict = _verdict(report, "assert_reaches(report, 'stem.conv')")
    if not isinstance(layer, str):
        raise UsageError(f"expected the name of a layer second, got {type(layer).__name__}")
    claim = claims.unreached(report, layer)
    if claim is not None:
        fail(claim, verdict, "leave the assertion out")


def assert_all_parameters_train(report: Report, *, ignore: str | Iterable[str] = ()) -> None:
    """Fails where a parameter was the same after the probe, also where it is frozen on purpose.

    Args:
        report: Of `gradcheckup.diagnose`, or another one.
        ignore: Names to leave out, with the wildcards of a shell: ``backbone.*``, ``*.bias``.

    Raises:
        UnhealthyError: An AssertionError, with the report.
        UsageError: This is no report, or these are no names.
    """
    verdict = _verdict(report, "assert_all_parameters_train(report)")
    found = claims.standing(report, claims.name_patterns(ignore))
    if found:
        claim = claims.unchanged(found, len(report.steps))
        fail(claim, verdict, f"ignore=[{found[0].name!r}, ...]")


def _verdict(report: Any, example: str) -> Verdict:
    """Against a report, if anything is."""
    if not isinstance(report, Report):
        raise UsageError(
            f"expected a report of diagnose, as in {example}, got {type(report).__name__}"
        )
    return Verdict((Case(None, report, broken=True),), broken=True)
