"""What the end of a run says: checks, notes, unused baselines; the index, and annotations."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pytest_gradcheckup import properties
from pytest_gradcheckup.annotations import annotation
from pytest_gradcheckup.files import write_whole
from pytest_gradcheckup.unused import unused

_PHASES = ("setup", "call", "teardown")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A check, with the test that made it.

    Attributes:
        test: What pytest says of the test.
        check: What its journal says.
        failed: True where it does not hold and the test failed; a test may expect it not to.
    """

    test: pytest.TestReport
    check: dict[str, Any]
    failed: bool


def summarise(terminal: pytest.TerminalReporter, reports: Sequence[pytest.TestReport]) -> None:
    """Write a section, the index and annotations, each where there is something to say.

    Args:
        terminal: Where to.
        reports: All of the run, of all workers.
    """
    entries = [*_entries(reports)]
    option = terminal.config.option
    # A baseline with a name of its own may serve several tests.
    notes = dict.fromkeys(properties.values(reports, properties.NOTE))
    lines = [*([_counted(entries)] if entries else []), *notes, *unused(terminal.config, reports)]
    if lines:
        terminal.section("gradcheckup")
    for line in lines:
        terminal.write_line(line)
    if option.gradcheckup_report and entries:
        index = Path(option.gradcheckup_report) / "index.md"
        try:
            write_whole(index, _index(entries))
        except OSError as error:
            terminal.write_line(f"cannot write {index}: {error}")
        else:
            terminal.write_line(f"reports: {index}")
    if option.gradcheckup_github:
        for entry in entries:
            if entry.failed:
                root = terminal.config.rootpath
                terminal.write_line(annotation(entry.test, root, _message(entry)))


def _entries(reports: Sequence[pytest.TestReport]) -> Iterator[Entry]:
    """Each check once: a report has those of the phases before it too, and so have subtests.

    A check fails where the part of the test fails in which it was made.
    """
    tests: dict[str, list[pytest.TestReport]] = {}
    for report in reports:
        tests.setdefault(report.nodeid, []).append(report)
    for phases in tests.values():
        phases.sort(key=lambda report: _PHASES.index(report.when))
        failed = {report.when for report in phases if report.failed}
        known = 0
        for report in phases:
            checks = [json.loads(each) for each in properties.values([report], properties.CHECK)]
            for check in checks[known:]:
                broken = not check["holds"] and report.when in failed
                yield Entry(test=report, check=check, failed=broken)
            known = max(known, len(checks))


def _counted(entries: Sequence[Entry]) -> str:
    failed = sum(entry.failed for entry in entries)
    expected = sum(not entry.check["holds"] for entry in entries) - failed
    said = [
        f"{number} {what}"
        for number, what in ((failed, "failed"), (expected, "failed as expected"))
        if number
    ]
    checks = f"{len(entries)} check{'s' if len(entries) > 1 else ''}"
    return ", ".join([checks, *(said or ["all hold"])])


def _index(entries: Sequence[Entry]) -> str:
    """A table in Markdown with a row a check."""
    rows = ["| test | check | model | holds | findings | report |", "|---|---|---|---|---|---|"]
    for entry in entries:
        check = entry.check
        files = ""
        if "files" in check:
            files = f"[text]({check['files']}.txt), [JSON]({check['files']}.json)"
        cells = (
            f"`{entry.test.nodeid}`",
            check["check"],
            check["model"],
            "yes" if check["holds"] else "**no**" if entry.failed else "no, as expected",
            check.get("error") or ", ".join(check["findings"]),
        )
        rows.append(
            f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} | {files} |"
        )
    return "\n".join(["# Gradient checks", "", *rows, ""])


def _message(entry: Entry) -> str:
    check = entry.check
    if "error" in check:
        return f"{entry.test.nodeid}: {check['check']}: {check['error']}"
    found = ", ".join(check["findings"]) or "no finding"
    return f"{entry.test.nodeid}: {check['check']} fails for {check['model']} ({found})"
