"""What can be asserted of a report: plain functions that say what speaks against it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from gradcheckup import Finding, LayerRecord, ParameterRecord, Report, UsageError
from pytest_gradcheckup.suggestions import suggestion
from pytest_gradcheckup.tracebacks import HIDDEN

__tracebackhide__ = HIDDEN

_MOST_ROWS = 12


def with_codes(report: Report, codes: Collection[str]) -> tuple[Finding, ...]:
    """The findings of these rules, whatever their severity, also those folded under others."""
    return tuple(
        each for finding in report.findings for each in finding.walk() if each.code in codes
    )


def named(findings: Iterable[Finding]) -> str:
    """``GC101 vanishing-gradient, GC203 collapsed-signal``, each once."""
    return ", ".join(dict.fromkeys(f"{each.code} {each.rule}" for each in findings))


def unreached(report: Report, layer: str) -> str | None:
    """Why no gradient of the loss reaches this layer; None where one does.

    A layer is reached where ||dL/dy|| of its output is measured and not 0, in any call and at any
    step: the branch of a residual block that starts at zero has a gradient from the second step
    on. A module of layers is reached where one of its layers is.

    Raises:
        UsageError: The model has no layer of this name.
    """
    records = [each for step in report.steps for each in step.layers if _within(each.name, layer)]
    if not records:
        if any(_within(name, layer) for name in report.recording.never_called):
            return f"{layer} did not run: nothing in the model's forward calls it"
        raise UsageError(_no_such_layer(report, layer))
    if any(each.gradient_norm for each in records):
        return None
    return f"no gradient reaches {layer}: {_nothing(records)} at all {len(report.steps)} steps"


@dataclass(frozen=True, slots=True)
class Standing:
    """A parameter that did not change in any step of a probe, and why."""

    name: str
    reason: str


def name_patterns(ignore: Any) -> tuple[str, ...]:
    """Patterns of names, from one or several.

    Raises:
        UsageError: It is something else.
    """
    given = [ignore] if isinstance(ignore, str) else ignore
    if not isinstance(given, Iterable) or not all(isinstance(each, str) for each in (*given,)):
        raise UsageError(f"expected ignore to be names, as ['*.bias'], got {ignore!r}")
    return tuple(given)


def standing(report: Report, ignore: Iterable[str] = ()) -> tuple[Standing, ...]:
    """The parameters that no step changed, in the model's order.

    Args:
        report: Of a probe.
        ignore: Patterns of names to leave out, as in a shell: ``*.bias``.
    """
    patterns = tuple(ignore)
    found = []
    for name, course in _courses(report).items():
        left_out = any(fnmatchcase(name, pattern) for pattern in patterns)
        if not left_out and not any(_may_have_moved(each, report) for each in course):
            found.append(Standing(name, _why_standing(course, report)))
    return tuple(found)


def unchanged(found: Sequence[Standing], steps: int) -> str:
    """The first line says how many parameters stand still, the others which and why."""
    width = max(len(each.name) for each in found)
    rows = [f"  {each.name:<{width}}  {each.reason}" for each in found[:_MOST_ROWS]]
    rest = len(found) - len(rows)
    first = f"{len(found)} of the parameters did not change in {steps} steps"
    return "\n".join([first, *rows, *([f"  and {rest} more"] if rest else [])])


def _within(name: str, layer: str) -> bool:
    return name == layer or name.startswith(f"{layer}.")


def _nothing(records: Iterable[LayerRecord]) -> str:
    """Exactly 0 and none at all have different causes."""
    if any(each.gradient_norm == 0 for each in records):
        return "it is exactly 0"
    return "none arrives (its output is detached, or nothing below the loss requires grad)"


def _no_such_layer(report: Report, layer: str) -> str:
    names = dict.fromkeys(_modules(report))
    hint = suggestion(layer, names, f"there are {', '.join([*names][:8])} …")
    return f"expected the name of a layer of {report.recording.model}, got {layer!r}; {hint}"


def _modules(report: Report) -> Iterator[str]:
    """The names of layers and of the modules that they are in."""
    for record in report.layers:
        parts = record.name.split(".")
        yield from (".".join(parts[:end]) for end in range(1, len(parts) + 1))


def _courses(report: Report) -> dict[str, list[ParameterRecord]]:
    """What became of each parameter, step by step."""
    courses: dict[str, list[ParameterRecord]] = {}
    for step in report.steps:
        for record in step.parameters:
            courses.setdefault(record.name, []).append(record)
    return courses


def _may_have_moved(record: ParameterRecord, report: Report) -> bool:
    """A watched loop does not always tell: of a large embedding a step moves but a few rows.

    It may also update its weights without an optimizer. Where there is one, what it never got is
    measured by nobody and stands still.
    """
    if record.update_norm is not None:
        return record.update_norm != 0
    unowned = record.learning_rate is None and bool(report.recording.optimizer)
    return record.trainable and bool(record.gradient_norm) and not unowned


def _why_standing(course: list[ParameterRecord], report: Report) -> str:
    last = course[-1]
    reasons = (
        (not last.trainable, "frozen: requires_grad is False"),
        (last.layer in report.recording.never_called, "its module did not run"),
        (last.learning_rate is None, "not among the optimizer's parameters"),
        (all(each.gradient_norm is None for each in course), "no gradient arrives"),
        (not any(each.gradient_norm for each in course), "its gradient is exactly 0"),
        (not last.learning_rate, "its learning rate is 0"),
        (True, "it has a gradient, and the optimizer leaves it as it is"),
    )
    return next(reason for holds, reason in reasons if holds)
