"""What is kept of each check: a property of its test, and files where they are asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gradcheckup import ReportError
from pytest_gradcheckup import properties
from pytest_gradcheckup.files import write_whole
from pytest_gradcheckup.majority import Verdict
from pytest_gradcheckup.shelf import file_name
from pytest_gradcheckup.tracebacks import HIDDEN

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


def journal_of(node: pytest.Item) -> Journal:
    """The journal of a test."""
    folder = node.config.getoption("gradcheckup_report")

    def record(name: str, value: str) -> None:
        node.user_properties.append((name, value))

    return Journal(node.nodeid, Path(folder) if folder else None, record)
