"""GC201 to GC203 on recordings made by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from gradcheckup.records import Recording, Role, Severity
from gradcheckup.rules import collapsed_signal, dead_units, saturated_activation
from gradcheckup.thresholds import Thresholds

Make = Callable[..., Any]
LIMITS = Thresholds(
    saturation_warning=0.5,
    saturation_critical=0.9,
    dead_warning=0.5,
    dead_critical=0.9,
    signal_ratio_low=0.02,
    signal_kept=0.05,
    signal_progress=1e-3,
)


@pytest.fixture
def squashed(layer: Make, step: Make, recording: Make) -> Callable[..., Recording]:
    """A net with one activation; keyword values are lists over the steps or constants."""

    def make(count: int = 4, **values: Any) -> Recording:
        def at(index: int) -> dict[str, Any]:
            return {
                name: value[index] if isinstance(value, list) else value
                for name, value in values.items()
            }

        return recording(
            step(
                index,
                [
                    layer("early"),
                    layer("act", **({"role": Role.ACTIVATION, "kind": "sigmoid"} | at(index))),
                    layer("late"),
                    layer("head", output=True),
                ],
            )
            for index in range(count)
        )

    return make


@pytest.mark.parametrize(
    ("share", "severity"),
    [
        (0.49, None),
        (0.5, Severity.WARNING),
        (0.89, Severity.WARNING),
        (0.91, Severity.CRITICAL),
        (None, None),
        (math.nan, None),
    ],
)
def test_saturation_on_both_sides_of_its_limits(
    squashed: Make, share: float | None, severity: Severity | None
) -> None:
    found = list(saturated_activation.check(squashed(saturation=share), LIMITS))
    assert [each.severity for each in found] == ([severity] if severity else [])


@pytest.mark.parametrize(
    ("shares", "found"),
    [
        ([0.99, 0.1, 0.1, 0.1], False),
        ([0.99, 0.99, 0.1, 0.99], False),
        ([0.1, 0.1, 0.99, 0.99], True),
    ],
)
def test_saturation_has_to_persist(squashed: Make, shares: list[float], found: bool) -> None:
    assert bool(list(saturated_activation.check(squashed(saturation=shares), LIMITS))) is found


@pytest.mark.parametrize("place", [{"gate": True}, {"output": True}])
def test_gates_and_outputs_may_saturate(squashed: Make, place: dict[str, bool]) -> None:
    assert not list(saturated_activation.check(squashed(saturation=0.99, **place), LIMITS))


@pytest.mark.parametrize(
    ("share", "severity"),
    [
        (0.49, None),
        (0.5, Severity.WARNING),
        (0.89, Severity.WARNING),
        (0.91, Severity.CRITICAL),
        (None, None),
        (math.nan, None),
    ],
)
def test_dead_units_on_both_sides_of_their_limits(
    squashed: Make, share: float | None, severity: Severity | None
) -> None:
    found = list(dead_units.check(squashed(kind="relu", dead_fraction=share), LIMITS))
    assert [each.severity for each in found] == ([severity] if severity else [])


def test_dead_is_what_never_fired_up_to_the_last_step(squashed: Make) -> None:
    woken = squashed(kind="relu", dead_fraction=[1.0, 0.9, 0.6, 0.1])
    assert not list(dead_units.check(woken, LIMITS))


def test_dead_units_beside_a_skip_are_a_warning(squashed: Make) -> None:
    branch = squashed(kind="relu", dead_fraction=1.0, bottleneck=False)
    (found,) = dead_units.check(branch, LIMITS)
    assert found.severity is Severity.WARNING


def test_saturation_beside_a_skip_is_a_warning(squashed: Make) -> None:
    (found,) = saturated_activation.check(squashed(saturation=0.99, bottleneck=False), LIMITS)
    assert found.severity is Severity.WARNING


@pytest.fixture
def with_signals(layer: Make, step: Make, recording: Make) -> Callable[..., Recording]:
    """A recording whose reference layer has these signal ratios, one a step."""

    def make(*ratios: float | None) -> Recording:
        return recording(
            step(
                index,
                [
                    layer("early"),
                    layer("late", signal=ratio, signal_ratio=ratio),
                    layer("head", output=True),
                ],
            )
            for index, ratio in enumerate(ratios)
        )

    return make


@pytest.mark.parametrize(
    ("ratios", "flagged"),
    [
        ((0.019, 0.019, 0.019, 0.019), True),
        ((0.021, 0.021, 0.021, 0.021), False),
        ((1e-5, 0.5, 0.5, 0.5), False),
        ((1e-5, 1e-5, 1e-5, 0.5), False),
        ((None, None, None, None), False),  # a batch of one sample has no signal
        ((math.nan, math.nan, math.nan, math.nan), False),
    ],
)
def test_collapsed_signal(
    with_signals: Make, ratios: tuple[float | None, ...], flagged: bool
) -> None:
    found = list(collapsed_signal.check(with_signals(*ratios), LIMITS))
    assert [(each.code, each.layers) for each in found] == [("GC203", ("late",))] * flagged


@pytest.mark.parametrize(
    ("signals", "bottleneck", "apart", "found"),
    [
        ((9e-6, 9e-6), True, 1e-8, ("head", "aside")),
        ((9e-6, 9e-6), False, 1e-8, ("head", "aside")),  # two heads, none on every path
        ((9e-6, 2e-5), True, 1e-8, None),  # one of them knows the input
        ((9e-6, 9e-6), True, 2e-7, None),  # updates tell samples apart
        ((None, None), True, 1e-8, None),
    ],
)
def test_outputs_that_are_the_same_for_every_sample(
    layer: Make,
    step: Make,
    recording: Make,
    response: Make,
    signals: tuple[float | None, ...],
    bottleneck: bool,
    apart: float,
    found: tuple[str, ...] | None,
) -> None:
    answer = response(0.0, change_common=1e-3, change_distinct=apart, resolution=1e-7)
    heads = [
        layer(name, output=True, bottleneck=bottleneck, signal=signal, signal_ratio=signal)
        for name, signal in zip(("head", "aside"), signals, strict=True)
    ]
    steps = [step(index, [layer("early"), layer("late"), *heads]) for index in range(4)]
    made = recording(replace(each, response=answer) for each in steps)
    causes = [(each.cause, each.layers) for each in collapsed_signal.check(made, LIMITS)]
    assert causes == ([("lost-input", found)] if found else [])


@pytest.mark.parametrize(
    ("ratios", "progress", "found"),
    [
        ((0.9, 0.5, 0.044, 0.04), 9e-4, "learning-rate"),  # 5% of 0.9 are 0.045
        ((0.9, 0.5, 0.044, 0.04), 1.1e-3, None),  # but it learns
        ((0.9, 0.5, 0.044, 0.04), None, None),  # whether it learns is not known
        ((0.9, 0.5, 0.046, 0.04), 9e-4, None),
        ((3.0, 0.5, 0.049, 0.04), 9e-4, "learning-rate"),  # no more than the first layer's
        ((3.0, 0.5, 0.051, 0.04), 9e-4, None),
        ((0.9, 0.03, 0.04, 0.3), 9e-4, None),  # one that comes back
        ((0.9, 1e-3, 1e-3, 1e-3), 1.0, "small-weights"),  # lost by any measure
    ],
)
def test_updates_that_wipe_out_the_signal(
    with_signals: Make,
    response: Make,
    ratios: tuple[float, ...],
    progress: float | None,
    found: str | None,
) -> None:
    made = with_signals(*ratios)
    answer = None if progress is None else response(progress)
    made = replace(made, steps=tuple(replace(step, response=answer) for step in made.steps))
    causes = [
        each.cause
        for each in collapsed_signal.check(made, LIMITS)
        if each.severity is Severity.CRITICAL
    ]
    assert causes == ([found] if found else [])


def test_what_a_step_wins_on_a_plateau_says_nothing(with_signals: Make, response: Make) -> None:
    """What was kept of the signal is asked of the first updates alone."""
    made = with_signals(0.9, 0.5, 0.044, 0.04)
    steps = tuple(replace(step, response=response(9e-4)) for step in made.steps)
    last = tuple(replace(step, index=60 + step.index) for step in steps[2:])
    for course, severities in (((), ["critical"]), ((2.3,) * 64, [])):
        followed = replace(made, steps=(*steps[:2], *last), course=course)
        assert followed.late is bool(course)
        found = collapsed_signal.check(followed, LIMITS)
        assert [each.severity.value for each in found] == severities
