"""GC101 to GC104 on recordings made by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from gradcheckup.records import Recording, Role, Severity
from gradcheckup.rules import (
    exploding_gradient,
    severed_gradient,
    vanishing_gradient,
    zero_gradient,
)
from gradcheckup.thresholds import Thresholds

Make = Callable[..., Any]
LIMITS = Thresholds(
    gradient_ratio_low=0.02,
    gradient_ratio_critical=0.004,
    gradient_ratio_critical_moving=1e-4,
    moving_update=1e-4,
    signal_growth_cap=1e4,
    blind_condition=1e4,
    blind_progress=1e-6,
    gradient_ratio_high=100.0,
)


@pytest.fixture
def with_ratios(layer: Make, step: Make, recording: Make) -> Callable[..., Recording]:
    """A recording whose first layer has these gradient ratios, one a step."""

    def make(*ratios: float | None) -> Recording:
        return recording(
            step(
                index,
                [
                    layer("early", gradient_ratio=ratio, gradient_norm=ratio, gain=ratio),
                    layer("late"),
                    layer("head", output=True),
                ],
            )
            for index, ratio in enumerate(ratios)
        )

    return make


def test_vanishing_names_the_starved_layer_and_the_evidence(with_ratios: Make) -> None:
    (found,) = vanishing_gradient.check(with_ratios(1e-6, 1e-6, 1e-6, 1e-6), LIMITS)
    assert (found.code, found.severity) == ("GC101", Severity.CRITICAL)
    assert found.layers == ("early",)
    assert found.observed == 1e-6
    assert found.limit == 0.004
    assert found.steps == (0, 1, 2, 3)


@pytest.mark.parametrize(
    ("ratios", "by_updates"),
    [
        ((1.0, 0.5, 1e-6, 1e-6), True),
        ((0.01, 0.5, 1e-6, 1e-6), False),  # it faded before any update
        ((1e-6, 1e-6, 1e-6, 1e-6), False),
    ],
)
def test_what_fades_after_the_first_update_was_made_by_it(
    with_ratios: Make, ratios: tuple[float, ...], by_updates: bool
) -> None:
    (found,) = vanishing_gradient.check(with_ratios(*ratios), LIMITS)
    assert (found.cause == "learning-rate") is by_updates


@pytest.mark.parametrize(
    ("ratio", "severity"), [(0.0039, "critical"), (0.0041, "warning"), (0.019, "warning")]
)
def test_fading_is_a_warning_before_it_is_critical(
    with_ratios: Make, ratio: float, severity: str
) -> None:
    (found,) = vanishing_gradient.check(with_ratios(*[ratio] * 4), LIMITS)
    assert found.severity.value == severity


@pytest.mark.parametrize(("ratio", "severity"), [(0.9e-4, "critical"), (1.1e-4, "warning")])
def test_an_optimizer_with_steps_of_its_own_size_bears_more(
    layer: Make, parameter: Make, step: Make, recording: Make, ratio: float, severity: str
) -> None:
    # Adam's first step is the learning rate for every element, here 8 x 8 of them at 1e-3.
    weights = [
        parameter(f"{name}.weight", learning_rate=1e-3, update_norm=8e-3, gradient_norm=8 * size)
        for name, size in (("early", ratio), ("late", 10.0))
    ]
    flow = [layer("early", gradient_ratio=ratio), layer("late"), layer("head", output=True)]
    steps = [step(index, flow, weights) for index in range(4)]
    (found,) = vanishing_gradient.check(recording(steps), LIMITS)
    assert found.severity.value == severity


@pytest.mark.parametrize(
    ("optimizer", "ratio", "condition", "progress", "severity"),
    [
        ("sgd", 0.019, 2e4, 1e-7, "critical"),  # blind: what is below gradient_ratio_low counts
        ("sgd", 0.019, 0.9e4, 1e-7, "warning"),
        ("sgd", 0.019, 2e4, 2e-6, "warning"),  # but the loss falls by telling samples apart
        ("sgd", 0.0039, 10.0, 1e-2, "critical"),  # not blind: SGD starves the first layer
        ("adam", 0.019, 2e4, 1e-7, "critical"),
        ("adam", 1e-9, 10.0, 1e-2, "warning"),  # not blind: Adam makes up for any ratio
        ("adam", 1e-9, 2e4, -1.0, "critical"),
    ],
)
def test_updates_that_do_not_see_the_input_are_critical(
    layer: Make,
    parameter: Make,
    step: Make,
    recording: Make,
    response: Make,
    optimizer: str,
    ratio: float,
    condition: float,
    progress: float,
    severity: str,
) -> None:
    update = 8e-3 if optimizer == "adam" else 1e-3
    weight = parameter("late.weight", learning_rate=1e-3, update_norm=update, gradient_norm=1.0)
    early = layer("early", gradient_ratio=ratio, gradient_norm=ratio)
    flow = [early, layer("late"), layer("head", output=True)]
    late = response(progress, change_distinct=1 / condition)
    answers = [None, None, late, late]
    steps = [
        replace(step(index, flow, [weight]), response=answer)
        for index, answer in enumerate(answers)
    ]
    (found,) = vanishing_gradient.check(recording(steps), LIMITS)
    assert found.severity.value == severity
    blind = condition > 1e4 and progress < 1e-6
    assert found.fact("blindness") == (pytest.approx(condition) if blind else None)


@pytest.mark.parametrize(("moved", "severity"), [(1.1e-4, "warning"), (0.9e-4, "critical")])
def test_a_first_layer_that_moves_all_the_same_bears_more(
    layer: Make, step: Make, recording: Make, moved: float, severity: str
) -> None:
    early = layer("early", gradient_ratio=0.002, update_ratio=moved)
    flow = [early, layer("late", update_ratio=0.1), layer("head", output=True)]
    (found,) = vanishing_gradient.check(recording(step(k, flow) for k in range(4)), LIMITS)
    assert found.severity.value == severity


def test_a_ratio_that_climbs_from_zero_recovers(with_ratios: Make) -> None:
    # A zero-initialised head under Adam: learns, though still below the limit after eight steps.
    rising = (0.0, 0.0012, 0.0019, 0.0027, 0.0034, 0.0045, 0.0051, 0.0063)
    assert not list(vanishing_gradient.check(with_ratios(*rising), LIMITS))
    assert list(vanishing_gradient.check(with_ratios(*[0.0012] * 8), LIMITS))


@pytest.mark.parametrize(
    "ratios",
    [
        (0.021, 0.021, 0.021, 0.021),  # just inside the limit
        (1e-6, 0.5, 0.5, 0.5),  # a zero-initialised branch: only step 0
        (1e-6, 1e-6, 1e-6, 0.5),  # recovers at the last step
        (1e-6, 1e-6, 0.5, 1e-6),  # one settled step is fine
        (1.0, 1.0, 1.0, 1.0),
        (None, None, None, None),  # severed is GC103's
        (math.nan, math.nan, math.nan, math.nan),  # non-finite is GC402's
    ],
)
def test_not_vanishing(with_ratios: Make, ratios: tuple[float, ...]) -> None:
    assert not list(vanishing_gradient.check(with_ratios(*ratios), LIMITS))


def test_vanishing_that_begins_later_is_found_with_its_steps(with_ratios: Make) -> None:
    (found,) = vanishing_gradient.check(with_ratios(1.0, 1.0, 1e-9, 1e-9), LIMITS)
    assert found.steps == (2, 3)


def test_a_hard_zero_is_not_called_vanishing(with_ratios: Make) -> None:
    assert not list(vanishing_gradient.check(with_ratios(0.0, 0.0, 0.0, 0.0), LIMITS))


def test_exploding_just_above_and_just_below_the_limit(with_ratios: Make) -> None:
    (found,) = exploding_gradient.check(with_ratios(101, 101, 101, 101), LIMITS)
    assert (found.code, found.observed, found.limit) == ("GC102", 101, 100)
    assert not list(exploding_gradient.check(with_ratios(99, 99, 99, 99), LIMITS))


def test_growth_that_settles_is_not_exploding(with_ratios: Make) -> None:
    assert not list(exploding_gradient.check(with_ratios(2500, 300, 10, 9), LIMITS))


@pytest.mark.parametrize(
    ("role", "ratio", "found"),
    [
        (Role.NORM, 2.0, False),  # it undoes the size of a small first layer
        (Role.NORM, 110.0, True),
        (Role.NORM, None, True),
        (Role.ACTIVATION, 2.0, True),
    ],
)
def test_what_a_norm_behind_the_first_layer_makes_of_its_size_is_no_growth(
    layer: Make, step: Make, recording: Make, role: Role, ratio: float | None, found: bool
) -> None:
    first, second = layer("early", gradient_ratio=250.0), layer("then", role=role)
    layers = [
        first,
        replace(second, gradient_ratio=ratio),
        layer("late"),
        layer("head", output=True),
    ]
    made = recording([step(index, layers) for index in range(4)])
    assert bool(list(exploding_gradient.check(made, LIMITS))) is found


@pytest.mark.parametrize(
    ("optimizer", "signal", "ratio", "found"),
    [
        ("adam", 30.0, 2900.0, False),  # scaled both ways: Adam does not mind
        ("adam", 30.0, 3100.0, True),
        ("adam", 0.1, 110.0, True),  # the gradient alone grows
        ("adam", 1e12, 0.9e6, False),
        ("adam", 1e12, 1.1e6, True),  # beyond any scale
        ("sgd", 30.0, 110.0, True),
    ],
)
def test_growth_of_signal_and_gradient_alike_is_a_scale_to_adam(
    layer: Make,
    parameter: Make,
    step: Make,
    recording: Make,
    optimizer: str,
    signal: float,
    ratio: float,
    found: bool,
) -> None:
    # 8 x 8 elements that all move by the learning rate, or by the gradient times it.
    update = 8e-3 if optimizer == "adam" else 1e-3
    weight = parameter("late.weight", learning_rate=1e-3, update_norm=update, gradient_norm=1.0)
    early = layer("early", gradient_ratio=ratio, gradient_norm=ratio)
    flow = [early, layer("late", signal_ratio=signal), layer("head", output=True)]
    made = recording(step(index, flow, [weight]) for index in range(4))
    assert bool(list(exploding_gradient.check(made, LIMITS))) is found


@pytest.mark.parametrize(
    ("losses", "outputs", "found"),
    [
        ((80.0, 60.0, 40.0, 30.0), 20.0, False),  # falls by a quarter a step
        ((80.0, 75.0, 78.0, 76.0), 20.0, True),  # large outputs that say nothing, and stay so
        ((2.0, 2.1, 1.9, 2.0), 20.0, False),  # trained before: they say much
        ((80.0, 60.0, math.nan), 20.0, False),  # GC401's
        ((80.0,), 20.0, False),  # nobody knows yet
    ],
)
def test_a_scale_is_one_where_steps_tell_in_the_loss(
    layer: Make,
    parameter: Make,
    step: Make,
    recording: Make,
    losses: tuple[float, ...],
    outputs: float,
    found: bool,
) -> None:
    weight = parameter("late.weight", learning_rate=1e-3, update_norm=8e-3, gradient_norm=1.0)
    early = layer("early", gradient_ratio=2900.0, gradient_norm=2900.0)
    head = layer("head", output=True, signal=outputs)
    flow = [early, layer("late", signal_ratio=30.0), head]
    made = recording(step(index, flow, [weight], loss=loss) for index, loss in enumerate(losses))
    assert bool(list(exploding_gradient.check(made, LIMITS))) is found


def test_normalisation_layers_raise_the_exploding_limit(
    layer: Make, step: Make, recording: Make
) -> None:
    # Thirty BatchNorm layers with ReLU grow by sqrt(pi / (pi - 1))^30 = 314 in theory.
    def made(ratio: float) -> Recording:
        grown = {"gradient_ratio": ratio, "gradient_norm": ratio}
        norms = [layer(f"n{k}", role=Role.NORM, kind="batchnorm1d", **grown) for k in range(30)]
        flow = [layer("early", **grown), *norms, layer("late"), layer("head", output=True)]
        return recording(step(index, flow) for index in range(4))

    expected = (math.pi / (math.pi - 1)) ** 15
    assert not list(exploding_gradient.check(made(0.98 * expected), LIMITS))
    assert list(exploding_gradient.check(made(1.02 * expected), LIMITS))


@pytest.mark.parametrize(
    ("losses", "norms", "moved", "explodes"),
    [
        ((1.0, 9.0, 99.0, 999.0), (1.0, 50.0, 900.0, 2000.0), 2.0, True),
        ((1.0, 9.0, math.inf), (1.0, 50.0, math.inf), 2.0, True),
        ((1.0, 1.0, 1.0, 1.0), (1.0, 50.0, 900.0, 2000.0), 2.0, False),  # the loss stays
        ((1.0, 9.0, 99.0, 999.0), (1.0, 5.0, 9.0, 20.0), 2.0, False),  # the gradient stays
        # A converged net meets samples it has not seen: the data changed, not the weights.
        ((1e-4, 1e-4, 0.8, 1.6), (1.0, 1.0, 900.0, 2000.0), 0.005, False),
    ],
)
def test_a_gradient_that_runs_away_with_the_loss(
    layer: Make,
    step: Make,
    recording: Make,
    parameter: Make,
    losses: tuple[float, ...],
    norms: tuple[float, ...],
    moved: float,
    explodes: bool,
) -> None:
    flow = [layer("early", update_ratio=moved), layer("late"), layer("head", output=True)]
    steps = [
        step(index, flow, [parameter("early.weight", gradient_norm=norm)], loss)
        for index, (loss, norm) in enumerate(zip(losses, norms, strict=True))
    ]
    assert bool(list(exploding_gradient.check(recording(steps), LIMITS))) is explodes


def _cut(layer: Make, parameter: Make, step: Make, **early: Any) -> list[Any]:
    return [
        step(
            index,
            [layer("early", gradient_norm=None), layer("late"), layer("head", output=True)],
            [parameter("early.weight", gradient_norm=None, **early), parameter("late.weight")],
        )
        for index in range(4)
    ]


def test_severed_names_both_sides_of_the_cut(
    layer: Make, parameter: Make, step: Make, recording: Make
) -> None:
    (found,) = severed_gradient.check(recording(_cut(layer, parameter, step)), LIMITS)
    assert (found.code, found.severity) == ("GC103", Severity.CRITICAL)
    assert (found.culprit, found.fact("behind")) == ("early", "late")


@pytest.mark.parametrize("early", [{"trainable": False}, {"learning_rate": None}])
def test_what_is_not_meant_to_train_is_not_severed(
    layer: Make, parameter: Make, step: Make, recording: Make, early: dict[str, Any]
) -> None:
    steps = _cut(layer, parameter, step, **early)
    assert not list(severed_gradient.check(recording(steps), LIMITS))


def test_a_gradient_at_one_step_is_enough(
    layer: Make, parameter: Make, step: Make, recording: Make
) -> None:
    steps = _cut(layer, parameter, step)
    steps[2] = step(2, None, [parameter("early.weight"), parameter("late.weight")])
    assert not list(severed_gradient.check(recording(steps), LIMITS))


def test_a_module_that_never_ran_is_not_severed(
    layer: Make, parameter: Make, step: Make, recording: Make
) -> None:
    made = recording(_cut(layer, parameter, step), never_called=("early",))
    assert not list(severed_gradient.check(made, LIMITS))


def _zero_steps(
    layer: Make, parameter: Make, step: Make, norms: tuple[float | None, ...]
) -> list[Any]:
    return [
        step(
            index,
            [layer("early", gradient_norm=norm), layer("late"), layer("head", output=True)],
            [parameter("early.weight", gradient_norm=norm), parameter("late.weight")],
        )
        for index, norm in enumerate(norms)
    ]


@pytest.mark.parametrize(
    ("norms", "flagged"),
    [
        ((0.0, 0.0, 0.0, 0.0), True),
        ((0.0, 1e-30, 1e-30, 1e-30), False),  # exactly zero at step 0 only
        ((0.0, 0.0, 0.0, 1e-30), False),
        ((1e-30, 1e-30, 1e-30, 1e-30), False),  # tiny is not zero
        ((None, None, None, None), False),  # no gradient is GC103's or GC501's
        ((math.nan, 0.0, 0.0, 0.0), False),
    ],
)
def test_zero_gradient_is_exact_and_persistent(
    layer: Make,
    parameter: Make,
    step: Make,
    recording: Make,
    norms: tuple[float | None, ...],
    flagged: bool,
) -> None:
    found = list(zero_gradient.check(recording(_zero_steps(layer, parameter, step, norms)), LIMITS))
    assert [each.code for each in found] == ["GC104"] * flagged
    assert all(each.severity is Severity.CRITICAL for each in found)


@pytest.mark.parametrize(
    ("unexplained", "at_the_outputs", "flagged"),
    [
        (0.0, 0.0, False),  # all learnt: the loss asks for nothing
        (0.0, 1.0, True),  # it asks, and nothing arrives
        (0.5, 0.0, True),  # it asks for nothing, and little was learnt
        (None, 0.0, True),
    ],
)
def test_zero_gradients_of_a_loss_that_is_met_are_no_fault(
    layer: Make,
    parameter: Make,
    step: Make,
    recording: Make,
    unexplained: float | None,
    at_the_outputs: float,
    flagged: bool,
) -> None:
    flow = [
        layer("early", gradient_norm=0.0),
        layer("head", output=True, gradient_norm=at_the_outputs),
    ]
    shown = [parameter("early.weight", gradient_norm=0.0)]
    made = recording((step(k, flow, shown) for k in range(4)), unexplained=unexplained)
    assert len(list(zero_gradient.check(made, LIMITS))) == flagged


def test_zero_gradients_of_a_loss_that_is_nan_say_nothing(
    layer: Make, parameter: Make, step: Make, recording: Make
) -> None:
    shown = [parameter("early.weight", gradient_norm=0.0)]
    made = recording([step(0, [layer("early", gradient_norm=0.0)], shown, loss=math.nan)])
    assert not list(zero_gradient.check(made, LIMITS))


def test_softmax_over_one_unit_is_named_as_the_cause(
    layer: Make, parameter: Make, step: Make, recording: Make
) -> None:
    softmax = layer(
        "softmax", role=Role.ACTIVATION, kind="softmax", shape=(32, 1), output=True, signal=0.0
    )
    flow = [layer("early", gradient_norm=0.0), softmax]
    steps = [step(k, flow, [parameter("early.weight", gradient_norm=0.0)]) for k in range(4)]
    (found,) = zero_gradient.check(recording(steps), LIMITS)
    assert (found.cause, found.culprit) == ("single-unit-softmax", "softmax")


@pytest.mark.parametrize(("bias", "told"), [(1e-9, True), (0.0, True), (1e-4, False)])
def test_a_bias_in_front_of_normalisation_is_information(
    layer: Make, parameter: Make, step: Make, recording: Make, bias: float, told: bool
) -> None:
    flow = [
        layer("early"),
        layer("norm", role=Role.NORM, kind="batchnorm1d"),
        layer("late"),
        layer("head", output=True),
    ]
    shown = [
        parameter("early.weight"),
        parameter("early.bias", shape=(8,), gradient_norm=bias),
        parameter("late.weight"),
    ]
    found = list(zero_gradient.check(recording(step(k, flow, shown) for k in range(4)), LIMITS))
    assert [(each.severity, each.cause, each.layers) for each in found] == [
        (Severity.INFORMATION, "bias-before-normalisation", ("early.bias",))
    ] * told


def test_a_loss_scale_moves_no_limit(layer: Make, step: Make, recording: Make) -> None:
    def scaled(by: float) -> Recording:
        early = layer("early", gradient_norm=0.05 * by, gradient_ratio=0.05)
        late = layer("late", gradient_norm=by)
        return recording(step(k, [early, late, layer("head", output=True)]) for k in range(4))

    for scale in (1e-20, 1.0, 1e20):
        assert not list(vanishing_gradient.check(scaled(scale), LIMITS))
        assert not list(exploding_gradient.check(scaled(scale), LIMITS))
