"""What the end of a run says: notes on baselines, and baselines that no test used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pytest_gradcheckup import properties


def summarise(terminal: pytest.TerminalReporter, reports: Sequence[pytest.TestReport]) -> None:
    """Write a section, where there is something to say.

    Args:
        terminal: Where to.
        reports: Those that have properties, of all workers.
    """
    lines = [*properties.values(reports, properties.NOTE), *_unused(terminal, reports)]
    if lines:
        terminal.section("gradcheckup")
        for line in lines:
            terminal.write_line(line)


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
