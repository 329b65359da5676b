"""GC401, GC402 and GC501 to GC504 on recordings made by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from gradcheckup.records import Severity
from gradcheckup.rules import (
    frozen_parameters,
    misspelt_requires_grad,
    non_finite_activation,
    non_finite_gradient,
    symmetric_weights,
    unused_parameters,
)
from gradcheckup.thresholds import Thresholds

Make = Callable[..., Any]
LIMITS = Thresholds(symmetric_spread=1e-5)


def test_the_first_layer_with_nan_is_the_culprit(layer: Make, step: Make, recording: Make) -> None:
    broken = [layer("early"), layer("late", finite=False), layer("head", finite=False)]
    (found,) = non_finite_activation.check(
        recording([step(0), step(1, broken, loss=math.nan)]), LIMITS
    )
    assert (found.code, found.culprit, found.fact("before")) == ("GC401", "late", "early")
    assert found.steps == (1,)


def test_a_signal_that_overflowed_is_told_from_a_wrong_formula(
    layer: Make, step: Make, recording: Make
) -> None:
    def found(signals: list[float], index: int) -> Any:
        shown = [layer(f"layer{number}", signal=each) for number, each in enumerate(signals)]
        broken = step(index, [*shown, layer("late", finite=False)], loss=math.nan)
        (finding,) = non_finite_activation.check(
            recording([*map(step, range(index)), broken]), LIMITS
        )
        return finding

    growing = found([2.0, 1e5, 2e30], 0)
    assert (growing.cause, growing.fact("grown")) == ("large-weights", pytest.approx(1e30))
    assert found([2.0, 1e5, 2e30], 1).cause == "overflow"
    assert found([2.0, 1e3, 4e3], 0).cause == "in-forward"
    assert found([2.0, 1e30, 4e3], 0).cause == "in-forward"  # it was scaled back


def test_a_gradient_that_overflowed_is_told_from_a_wrong_formula(
    layer: Make, parameter: Make, step: Make, recording: Make
) -> None:
    def cause(norms: list[float]) -> str | None:
        shown = [layer(f"layer{index}", gradient_norm=each) for index, each in enumerate(norms)]
        held = [parameter("layer0.weight", gradient_norm=math.nan)]
        (finding,) = non_finite_gradient.check(recording([step(0, shown, held)]), LIMITS)
        cause: str | None = finding.cause
        return cause

    assert cause([math.nan, math.inf, 1e30, 1e10, 0.1]) == "large-weights"
    assert cause([math.nan, math.inf, 1.0, 0.3, 0.1]) == "in-gradient"


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_breaks_alone_is_its_own_culprit(
    step: Make, recording: Make, loss: float
) -> None:
    (found,) = non_finite_activation.check(recording([step(0, loss=loss)]), LIMITS)
    assert (found.culprit, found.cause) == ("loss", "in-loss")


def test_layers_without_a_floating_point_output_are_not_broken(
    layer: Make, step: Make, recording: Make
) -> None:
    shown = [layer("early", finite=None), layer("late")]
    assert not list(non_finite_activation.check(recording([step(0, shown)]), LIMITS))


def test_the_last_layer_with_a_nan_gradient_is_the_culprit(
    layer: Make, parameter: Make, step: Make, recording: Make
) -> None:
    shown = [
        layer("early", gradient_norm=math.nan),
        layer("middle", gradient_norm=math.inf),
        layer("late"),
    ]
    held = [parameter("early.weight", gradient_norm=math.nan)]
    (found,) = non_finite_gradient.check(recording([step(0, shown, held)]), LIMITS)
    assert (found.code, found.culprit, found.steps) == ("GC402", "middle", (0,))


def test_a_nan_gradient_behind_a_nan_output_is_no_second_finding(
    layer: Make, step: Make, recording: Make
) -> None:
    shown = [layer("early", finite=False, gradient_norm=math.nan)]
    assert not list(non_finite_gradient.check(recording([step(0, shown, loss=math.nan)]), LIMITS))


def test_healthy_values_are_not_reported(parameter: Make, step: Make, recording: Make) -> None:
    made = recording([step(0, None, [parameter("early.weight", gradient_norm=None)])])
    assert not list(non_finite_activation.check(made, LIMITS))
    assert not list(non_finite_gradient.check(made, LIMITS))


def test_unused_when_the_module_never_ran_or_ran_without_it(
    layer: Make, parameter: Make, step: Make, recording: Make
) -> None:
    shown = [
        parameter("spare.weight", gradient_norm=None, update_norm=0.0),
        parameter("early.extra", gradient_norm=None, update_norm=0.0),
        parameter("early.weight"),
    ]
    steps = [step(k, [layer("early"), layer("late")], shown) for k in range(2)]
    (found,) = unused_parameters.check(recording(steps, never_called=("spare",)), LIMITS)
    assert (found.code, found.severity) == ("GC501", Severity.WARNING)
    assert found.layers == ("spare.weight", "early.extra")


def test_a_parameter_that_was_used_once_is_used(
    parameter: Make, step: Make, recording: Make
) -> None:
    steps = [
        step(0, None, [parameter("early.weight", gradient_norm=None)]),
        step(1, None, [parameter("early.weight")]),
    ]
    assert not list(unused_parameters.check(recording(steps), LIMITS))


def test_frozen_parameters_are_neither_unused_nor_more_than_information(
    parameter: Make, step: Make, recording: Make
) -> None:
    frozen = parameter("early.weight", trainable=False, learning_rate=None, gradient_norm=None)
    made = recording([step(0, None, [frozen, parameter("late.weight")])])
    assert not list(unused_parameters.check(made, LIMITS))
    (found,) = frozen_parameters.check(made, LIMITS)
    assert (found.severity, found.layers) == (Severity.INFORMATION, ("early.weight",))


def test_misspelt_flags_are_listed(step: Make, recording: Make) -> None:
    made = recording([step(0)], misspelt=("early.weight.require_grad",))
    (found,) = misspelt_requires_grad.check(made, LIMITS)
    assert (found.severity, found.culprit) == (Severity.WARNING, "early.weight.require_grad")
    assert not list(misspelt_requires_grad.check(recording([step(0)]), LIMITS))


@pytest.mark.parametrize(
    ("spreads", "flagged"),
    [
        ((0.0, 0.0, 0.0, 0.0), True),
        ((0.9e-5, 0.9e-5, 0.9e-5, 0.9e-5), True),
        ((1.1e-5, 1.1e-5, 1.1e-5, 1.1e-5), False),
        ((0.0, 0.1, 0.2, 0.3), False),  # a zero-initialised head differs after a step
        ((0.0, 0.0, 0.0, 0.1), False),
        ((None, None, None, None), False),  # a vector
        ((math.nan, math.nan, math.nan, math.nan), False),
    ],
)
def test_symmetric_weights(
    parameter: Make,
    step: Make,
    recording: Make,
    spreads: tuple[float | None, ...],
    flagged: bool,
) -> None:
    steps = [
        step(k, None, [parameter("early.weight", row_spread=spread)])
        for k, spread in enumerate(spreads)
    ]
    found = list(symmetric_weights.check(recording(steps), LIMITS))
    assert [(each.code, each.layers) for each in found] == [("GC504", ("early",))] * flagged


def test_one_step_cannot_tell_whether_weights_stay_equal(
    parameter: Make, step: Make, recording: Make
) -> None:
    made = recording([step(0, None, [parameter("early.weight", row_spread=0.0)])])
    assert not list(symmetric_weights.check(made, LIMITS))
