"""What the end of a run says: checks, notes, unused baselines; the index, and annotations."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_gradcheckup import properties
from pytest_gradcheckup.files import write_whole

Entry = tuple[pytest.TestReport, dict[str, Any]]
"""A check, with the test that made it."""


def summarise(terminal: pytest.TerminalReporter, reports: Sequence[pytest.TestReport]) -> None:
    """Write a section, the index and annotations, each where there is something to say.

    Args:
        terminal: Where to.
        reports: Those of test bodies, of all workers.
    """
    entries = [
        (report, json.loads(value))
        for report in reports
        for value in properties.values([report], properties.CHECK)
    ]
    option = terminal.config.option
    # A baseline with a name of its own may serve several tests.
    notes = dict.fromkeys(properties.values(reports, properties.NOTE))
    lines = [*([_counted(entries)] if entries else []), *notes, *_unused(terminal, reports)]
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
        for line in _annotations(entries):
            terminal.write_line(line)


def _counted(entries: Sequence[Entry]) -> str:
    broken = sum(not entry["holds"] for _, entry in entries)
    checks = f"{len(entries)} check{'s' if len(entries) > 1 else ''}"
    return f"{checks}, all hold" if not broken else f"{checks}, {broken} failed"


def _index(entries: Sequence[Entry]) -> str:
    """A table in Markdown with a row a check."""
    rows = ["| test | check | model | holds | findings | report |", "|---|---|---|---|---|---|"]
    for report, entry in entries:
        files = f"[text]({entry['files']}.txt), [JSON]({entry['files']}.json)"
        cells = (
            f"`{report.nodeid}`",
            entry["check"],
            entry["model"],
            "yes" if entry["holds"] else "**no**",
            ", ".join(entry["findings"]),
        )
        rows.append(
            f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} | {files} |"
        )
    return "\n".join(["# Gradient checks", "", *rows, ""])


def _annotations(entries: Sequence[Entry]) -> Iterator[str]:
    """Workflow commands of GitHub Actions, which it shows beside the test in a pull request."""
    for report, entry in entries:
        if not entry["holds"]:
            path, line, _ = report.location
            found = ", ".join(entry["findings"]) or "no finding"
            message = f"{report.nodeid}: {entry['check']} fails for {entry['model']} ({found})"
            place = f"file={_escaped(path, property_too=True)},line={(line or 0) + 1}"
            yield f"::error {place},title=gradcheckup::{_escaped(message)}"


def _escaped(text: str, *, property_too: bool = False) -> str:
    for sign, code in (("%", "%25"), ("\r", "%0D"), ("\n", "%0A")):
        text = text.replace(sign, code)
    if property_too:
        text = text.replace(":", "%3A").replace(",", "%2C")
    return text


def _unused(
    terminal: pytest.TerminalReporter, reports: Sequence[pytest.TestReport]
) -> Iterator[str]:
    """Baselines of the modules that ran, unless only some tests were asked for or got through."""
    option = terminal.config.option
    some = option.keyword or option.markexpr or any("::" in each for each in terminal.config.args)
    incomplete = {"failed", "error", "skipped", "deselected"} & {
        key for key, found in terminal.stats.items() if found
    }
    if some or incomplete:
        return
    used = {Path(value) for value in properties.values(reports, properties.BASELINE)}
    for folder in sorted({path.parent for path in used}):
        for path in sorted(folder.glob("*.json")):
            if path not in used:
                yield f"unused baseline: {path.name} (in {folder})"
