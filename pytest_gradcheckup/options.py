"""What a call may say beside model, data and criterion, as types."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypedDict

import gradcheckup
from pytest_gradcheckup.tracebacks import HIDDEN

__tracebackhide__ = HIDDEN


class ProbeOptions(TypedDict, total=False):
    """How to train the copy that is measured; what is left out comes from the settings.

    `optimizer` and `compute_loss` are those of `gradcheckup.diagnose`.
    """

    optimizer: Any
    compute_loss: Callable[[Any, Any], Any] | None
    steps: int
    batches: int
    follow: int
    seed: int
    seeds: int


class CheckOptions(ProbeOptions, total=False):
    """How to judge, beside: rules and limits are those of `gradcheckup.diagnose`.

    `fail_on` is ``critical`` or ``warning``: what is that bad or worse fails.
    """

    select: str | Iterable[str]
    ignore: str | Iterable[str]
    thresholds: gradcheckup.Thresholds | Mapping[str, float]
    fail_on: str


class WatchOptions(TypedDict, total=False):
    """What `gradcheckup.watch` takes beside model and optimizer."""

    every: int
    select: str | Iterable[str]
    ignore: str | Iterable[str]
    thresholds: gradcheckup.Thresholds | Mapping[str, float]
    grad_scaler: Any
    on_finding: Callable[[gradcheckup.Finding], object] | None
    stop_on: gradcheckup.Severity | str | None
    log: str | Path | None
    subject: str
    process_group: Any


def check_probe_options(options: Mapping[str, Any]) -> None:
    """Refuses what says how to judge, for an assertion that no rule judges.

    Raises:
        UsageError: There is such an option.
    """
    judging = CheckOptions.__optional_keys__ - ProbeOptions.__optional_keys__
    stray = [name for name in options if name in judging]
    if stray:
        raise gradcheckup.UsageError(
            f"{', '.join(stray)}: no bearing on this assertion, whatever rules say; leave it out"
        )
