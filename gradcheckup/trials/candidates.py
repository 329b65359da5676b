"""Which treatments are worth trying, by what was found."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

from gradcheckup.records import Finding, Severity
from gradcheckup.report import Report
from gradcheckup.treatments import TREATMENTS

_FLOW = ("normalization", "weight_scale", "activation")
"""What makes nearly any net trainable, tried even where the findings point elsewhere."""

_PAIRS = (
    ("normalization", "optimizer"),
    ("weight_scale", "optimizer"),
    ("activation", "optimizer"),
    ("skip_connection", "normalization"),
    ("skip_connection", "activation"),
    ("weight_scale", "gradient_clipping"),
    ("weight_scale", "normalization"),
)
"""Pairs whose parts do not undo each other, in the order in which they are applied: one of them
mends what flows, the other what the optimizer makes of it, or the other half of the flow. Norms
undo the scale of the layers in front of them, and not that of the output layer's weights."""

_TRIPLES = (("skip_connection", "normalization", "optimizer"),)

_RESIDUAL = "weight_scale + skip_connection + normalization"
"""What very deep nets are made with (He et al. 2016), tried whatever was found."""


def candidates(report: Report) -> tuple[str, ...]:
    """The treatments to try for a report, the likeliest first; none where nothing was found.

    What the findings prescribe, what mends flow in general, and combinations of these.
    """
    prescribed = [key for finding in _pressing(report) for key in finding.prescriptions]
    if not prescribed:
        return ()
    return _combined(dict.fromkeys((*prescribed, *_FLOW, "optimizer")))


def in_any_case() -> tuple[str, ...]:
    """The treatments to try where a model does not learn and nothing was found."""
    return _combined(dict.fromkeys((*_FLOW, "skip_connection", "optimizer", "gradient_clipping")))


def _combined(singles: Iterable[str]) -> tuple[str, ...]:
    keys = list(singles)
    groups = (group for group in (*_PAIRS, *_TRIPLES) if all(key in keys for key in group))
    return (*keys, *map(" + ".join, groups), _RESIDUAL)


def _pressing(report: Report) -> Iterator[Finding]:
    """The critical findings; the warnings where there is none."""
    critical = [each for each in report.findings if each.severity is Severity.CRITICAL]
    yield from critical or (each for each in report.findings if each.severity is Severity.WARNING)


def drawn(seed: int) -> Iterator[str]:
    """Every treatment in every variant, in random order: what a blind guess would try."""
    every = [f"{each.key}:{variant}" for each in TREATMENTS for variant in each.variants]
    random.Random(seed).shuffle(every)  # noqa: S311 - no secret
    yield from every
