"""What is kept of each check: a property of its test, and files where they are asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gradcheckup import GradcheckupError, ReportError
from pytest_gradcheckup import properties
from pytest_gradcheckup.files import write_whole
from pytest_gradcheckup.majority import Verdict
from pytest_gradcheckup.shelf import file_name
from pytest_gradcheckup.tracebacks import HIDDEN

if TYPE_CHECKING:
    from typing_extensions import Self

__tracebackhide__ = HIDDEN


class Journal:
    """The checks of one test, in order.

    Args:
        test: Its node id.
        folder: Where reports go; None where they are not asked for.
        record: Told each check, as a property of the test.
    """

    def __init__(self, test: str, folder: Path | None, record: Callable[[str, str], None]) -> None:
        self._test, self._folder, self._record = test, folder, record
        self._checks = 0

    def check(self, name: str) -> Check:
        """A check that is about to be made, as a context: also what keeps it from it is kept."""
        return Check(self, name)

    def enter(self, check: str, verdict: Verdict) -> None:
        """One check that was made.

        Raises:
            ReportError: The report cannot be written.
        """
        self._checks += 1
        report = verdict.telling.report
        entry: dict[str, Any] = {
            "check": check,
            "holds": not verdict.broken,
            "model": report.recording.model,
            "seeds": [case.seed for case in verdict.cases if case.seed is not None],
            "findings": [f"{each.code} {each.severity.value}" for each in report.findings],
        }
        if self._folder is not None:
            stem = f"{file_name(self._test.replace('/', '.').replace('::', '.'))}-{self._checks}"
            try:
                write_whole(self._folder / f"{stem}.txt", f"{report}\n")
            except OSError as error:
                raise ReportError(f"--gradcheckup-report: {error}") from None
            report.to_json(self._folder / f"{stem}.json")
            entry["files"] = stem
        self._record(properties.CHECK, json.dumps(entry))

    def refuse(self, check: str, error: BaseException) -> None:
        """One check that could not be made: what was given cannot be used, or compared with."""
        entry = {
            "check": check,
            "holds": False,
            "model": "",
            "seeds": [],
            "findings": [],
            "error": (str(error).splitlines() or [type(error).__name__])[0],
        }
        self._record(properties.CHECK, json.dumps(entry))


class Check:
    """One check while it is made: entered with its verdict, or with the error that ended it."""

    def __init__(self, journal: Journal, name: str) -> None:
        self._journal, self._name = journal, name
        self._entered = False

    def enter(self, verdict: Verdict) -> None:
        """What came of it.

        Raises:
            ReportError: The report cannot be written.
        """
        self._journal.enter(self._name, verdict)
        self._entered = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, (GradcheckupError, pytest.UsageError)) and not self._entered:
            self._journal.refuse(self._name, error)


def journal_of(node: pytest.Item) -> Journal:
    """The journal of a test."""
    folder = node.config.getoption("gradcheckup_report")

    return Journal(node.nodeid, Path(folder) if folder else None, properties.recorder(node))
