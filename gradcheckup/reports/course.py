"""The course of a watched run: what became of the gradient and of the loss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gradcheckup.history import History
from gradcheckup.reports.numbers import count, number
from gradcheckup.reports.sparkline import sparkline

_LABEL = 10
_COLUMNS = 40


def course(history: History, width: int) -> list[str]:
    """Lines that draw the end-to-end gradient ratio and the loss over the sampled steps.

    Empty for a run of fewer than three samples.
    """
    samples = history.samples
    if len(samples) < 3:
        return []
    lines = []
    for label, values in (
        ("ratio", [each.end_to_end_ratio for each in samples]),
        ("loss", [each.loss for each in samples]),
    ):
        if any(value is not None for value in values):
            ends = f"  {_end(values)} → {_end(values[::-1])}"
            columns = max(min(_COLUMNS, width - _LABEL - len(ends)), 8)
            lines.append(f"{label:<{_LABEL}}{sparkline(values, columns)}{ends}")
    span = f"over time: step {samples[0].index} → {samples[-1].index}"
    lines.extend(" " * _LABEL + text for text in (span, *_remarks(history)))
    return lines


def _end(values: Sequence[float | None]) -> str:
    return number(next((value for value in values if value is not None), None))


def _remarks(history: History) -> Iterator[str]:
    if history.first_bad is not None:
        yield f"first NaN or Inf at step {history.first_bad}{_on_ranks(history)}"
    if history.skipped:
        yield f"{count(history.skipped, 'sampled step')} skipped by the gradient scaler"
    if history.apart:
        steps = count(history.apart, "sampled step")
        yield f"{steps} left out: the processes ran different layers"


def _on_ranks(history: History) -> str:
    """``, in fc2 on rank 3``, or the first of many ranks."""
    if not history.first_culprits:
        return ""
    rank, layer = history.first_culprits[0]
    others = len(history.first_culprits) - 1
    more = f" and {others} more of {history.processes}" if others else f" of {history.processes}"
    return f", in {layer} on rank {rank}{more}"
