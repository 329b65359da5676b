"""What tests say of themselves to the end of the run: properties, which workers and JUnit carry."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import pytest

BASELINE = "gradcheckup_baseline"
"""The path of a baseline that a test used."""
CHECK = "gradcheckup_check"
"""A check that was made, as a JSON object."""
FOLDER = "gradcheckup_folder"
"""Where the baselines of a module stand and how many tests it has, as a JSON object; once each."""
NOTE = "gradcheckup_note"
"""A line for the summary of the run."""


def recorder(node: pytest.Item) -> Callable[[str, str], None]:
    """Has a test say a value under a name."""

    def record(name: str, value: str) -> None:
        node.user_properties.append((name, value))

    return record


def values(reports: Iterable[pytest.TestReport], name: str) -> Iterator[str]:
    """All that tests said under this name, in order."""
    for report in reports:
        yield from (str(value) for key, value in report.user_properties if key == name)
