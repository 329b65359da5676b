"""What tests say of themselves to the end of the run: properties, which workers and JUnit carry."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest

BASELINE = "gradcheckup_baseline"
"""The path of a baseline that a test used."""
NOTE = "gradcheckup_note"
"""A line for the summary of the run."""


def values(reports: Iterable[pytest.TestReport], name: str) -> Iterator[str]:
    """All that tests said under this name, each once, in order."""
    found = (str(value) for each in reports for key, value in each.user_properties if key == name)
    yield from dict.fromkeys(found)
