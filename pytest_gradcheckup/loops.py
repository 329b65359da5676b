"""Loops that tests train in and watch: `gradcheckup.watch(model, optimizer)` of the fixture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

import pytest

import gradcheckup
from gradcheckup import Monitor, Report
from pytest_gradcheckup.options import WatchOptions
from pytest_gradcheckup.settings import CheckSettings
from pytest_gradcheckup.suggestions import suggestion
from pytest_gradcheckup.tracebacks import HIDDEN

__tracebackhide__ = HIDDEN

_SEEDS: WeakKeyDictionary[Monitor, int] = WeakKeyDictionary()
"""What the random numbers of the test started from that watches."""


def watch(
    model: Any, optimizer: Any, settings: CheckSettings, options: Mapping[str, Any]
) -> Monitor:
    """A monitor that judges as the settings of a test say, and samples every step.

    Args:
        model: Of `gradcheckup.watch`.
        optimizer: Likewise.
        settings: Of the test.
        options: See `WatchOptions`; they win over the settings.

    Raises:
        GradcheckupError: One of them cannot be used.
    """
    known = sorted(WatchOptions.__optional_keys__)
    for name in options:
        if name not in known:
            hint = suggestion(name, known, f"there are {', '.join(known)}")
            raise gradcheckup.UsageError(f"gradcheckup.watch: unknown option {name!r}; {hint}")
    judging = {name: options.get(name) for name in ("select", "ignore", "thresholds")}
    try:
        settings = settings.changed(judging, "gradcheckup.watch")
    except pytest.UsageError as error:
        raise gradcheckup.UsageError(str(error)) from None
    passed: dict[str, Any] = {
        # A loop of a test is short.
        "every": 1,
        **options,
        "select": settings.select or None,
        "ignore": settings.ignore or None,
        "thresholds": settings.thresholds,
    }
    try:
        monitor = gradcheckup.watch(model, optimizer, **passed)
    except gradcheckup.GradcheckupError as error:
        raise type(error)(str(error)) from None
    _SEEDS[monitor] = settings.seed
    return monitor


def watched(monitor: Monitor) -> tuple[int | None, Report]:
    """The seed of the test that watches, None where it is not known, and the verdict so far.

    Raises:
        UsageError: Nothing was sampled, or the monitor did not see all of the loop.
    """
    try:
        report = monitor.report()
    except gradcheckup.UsageError as error:
        raise gradcheckup.UsageError(str(error)) from None
    if monitor.failure:
        raise gradcheckup.UsageError(
            "expected a loop that was watched to its end, but the monitor stopped by itself: "
            f"{monitor.failure}; monitor.report() is on the steps before"
        )
    return _SEEDS.get(monitor), report
