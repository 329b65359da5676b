"""What tests of watching share: a process without the monitors of the tests before."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gradcheckup.watching.start import _OPEN


@pytest.fixture(autouse=True)
def _alone() -> Iterator[None]:
    """A monitor that a test forgot listens to every backward pass until it is garbage."""
    _close_all()
    yield
    _close_all()


def _close_all() -> None:
    for reference in list(_OPEN.values()):
        monitor = reference()
        if monitor is not None:
            monitor.close()
