"""GC301 to GC304 on recordings made by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from gradcheckup.records import Generalization, Recording, Role, Severity
from gradcheckup.rules import (
    accumulating_gradient,
    oversized_update,
    starved_layer,
    unchanged_parameters,
)
from gradcheckup.thresholds import Thresholds

Make = Callable[..., Any]
LIMITS = Thresholds(starved_update=1e-4, oversized_update=1.0, carried_gradient=1e-3)


@pytest.fixture
def with_updates(layer: Make, step: Make, recording: Make) -> Callable[..., Recording]:
    """A recording whose first layer has these update ratios; the others have 1e-3."""

    def make(*ratios: float | None, losses: tuple[float, ...] = (1.0, 0.9, 0.8, 0.7)) -> Recording:
        return recording(
            step(
                index,
                [
                    layer("early", update_ratio=ratio),
                    layer("middle", update_ratio=1e-3),
                    layer("late", update_ratio=1e-3),
                    layer("head", output=True, update_ratio=1e-3),
                ],
                loss=losses[index],
            )
            for index, ratio in enumerate(ratios)
        )

    return make


@pytest.mark.parametrize(
    ("ratios", "flagged"),
    [
        ((0.9e-7,) * 4, True),
        ((1.1e-7,) * 4, False),
        ((1e-12, 1e-3, 1e-3, 1e-3), False),  # a warm-up or a zero branch
        ((1e-12, 1e-12, 1e-12, 1e-3), False),
        ((None,) * 4, False),  # frozen
        ((0.0,) * 4, False),  # does not move at all: GC303's
    ],
)
def test_starved_layer(with_updates: Make, ratios: tuple[float | None, ...], flagged: bool) -> None:
    found = list(starved_layer.check(with_updates(*ratios), LIMITS))
    assert [(each.severity, each.layers) for each in found] == [
        (Severity.WARNING, ("early",))
    ] * flagged


@pytest.mark.parametrize(
    ("ratios", "losses", "flagged"),
    [
        ((2.0,) * 4, (1.0, 1.2, 1.3, 1.3), True),  # lasts and does not learn
        ((2.0,) * 4, (1.0, 0.8, 0.6, 0.4), False),  # lasts and learns
        ((0.9,) * 4, (1.0, 1.2, 1.3, 1.3), False),  # just below the limit
        ((2.0, 0.1, 0.1, 0.1), (1.0, 1.2, 1.3, 1.3), False),  # one peak, no divergence
        ((2.0, 0.1, 0.1, 0.1), (1.0, 5.0, 5.0, 5.0), True),  # one peak, then diverged
        ((2.0, 9.0, 9.0, 9.0), (1.0, 5.0, 50.0, math.nan), True),
        ((None,) * 4, (1.0, 5.0, 50.0, 500.0), False),
    ],
)
def test_oversized_update(
    with_updates: Make, ratios: tuple[float | None, ...], losses: tuple[float, ...], flagged: bool
) -> None:
    found = list(oversized_update.check(with_updates(*ratios, losses=losses), LIMITS))
    assert [each.code for each in found] == ["GC302"] * flagged


@pytest.mark.parametrize(
    ("last", "unlearnt", "flagged"),
    [(0.9, 0.5, False), (0.9, None, False), (0.9, 0.95, True), (1.1, 0.5, True)],
)
def test_what_follows_an_oversized_update(
    with_updates: Make, last: float, unlearnt: float | None, flagged: bool
) -> None:
    """It is got over where the loss ends lower, unless that is what a net at chance has."""
    made = with_updates(2.0, 0.1, 0.1, 0.1, losses=(1.0, 5.0, 5.0, 5.0))
    made = replace(made, course=(*[5.0] * 63, last), unlearnt=unlearnt)
    assert bool(list(oversized_update.check(made, LIMITS))) is flagged


@pytest.mark.parametrize(("left", "flagged"), [(0.24, False), (0.26, True)])
def test_who_knows_other_batches_has_got_over_it(
    with_updates: Make, left: float, flagged: bool
) -> None:
    """The loss after 64 steps may still be high."""
    made = with_updates(2.0, 0.1, 0.1, 0.1, losses=(1.0, 5.0, 5.0, 5.0))
    known = Generalization(steps=128, batches=20, unlearnt=left)
    made = replace(made, course=(5.0,) * 64, unlearnt=0.6, generalization=known)
    assert bool(list(oversized_update.check(made, LIMITS))) is flagged


@pytest.mark.parametrize(("last", "flagged"), [(0.1, False), (1.2, True)])
def test_one_peak_in_front_of_a_norm_is_none(
    layer: Make, step: Make, recording: Make, *, last: float, flagged: bool
) -> None:
    """ResNet-50 with SGD: the loss goes from 2.6 to 14, and the net learns."""

    def shown(ratio: float) -> list[Any]:
        return [
            layer("conv", update_ratio=ratio),
            layer("bn", role=Role.NORM, update_ratio=0.1),
            layer("fc", update_ratio=0.1, output=True),
        ]

    steps = [
        step(index, shown(ratio), loss=loss)
        for index, (ratio, loss) in enumerate([(2.2, 2.6), (0.9, 6.0), (last, 14.0), (last, 10.0)])
    ]
    assert bool(list(oversized_update.check(recording(steps), LIMITS))) is flagged


@pytest.mark.parametrize(
    ("fields", "cause", "severity"),
    [
        ({"learning_rate": None, "update_norm": None}, "not-in-optimizer", Severity.CRITICAL),
        ({"update_norm": 0.0}, "underflow", Severity.CRITICAL),
        (
            {"update_norm": 0.0, "learning_rate": 0.0},
            "zero-learning-rate",
            Severity.WARNING,
        ),
    ],
)
def test_unchanged_parameters_by_cause(
    parameter: Make,
    step: Make,
    recording: Make,
    fields: dict[str, Any],
    cause: str,
    severity: Severity,
) -> None:
    shown = [parameter("early.weight", **fields), parameter("late.weight")]
    (found,) = unchanged_parameters.check(recording(step(k, None, shown) for k in range(4)), LIMITS)
    assert (found.code, found.cause, found.severity) == ("GC303", cause, severity)
    assert found.layers == ("early.weight",)


@pytest.mark.parametrize(("change", "flagged"), [(0.01, False), (0.0, True)])
def test_a_loop_without_an_optimizer_is_judged_by_what_moves(
    parameter: Make, step: Make, recording: Make, change: float, flagged: bool
) -> None:
    shown = [parameter("early.weight", learning_rate=None, update_norm=change)]
    loop = replace(recording(step(k, None, shown) for k in range(4)), optimizer="")
    assert bool(list(unchanged_parameters.check(loop, LIMITS))) is flagged


@pytest.mark.parametrize(("unexplained", "flagged"), [(1e-9, False), (0.1, True), (None, True)])
def test_updates_lost_in_rounding_are_no_fault_of_a_net_that_has_learnt(
    parameter: Make, step: Make, recording: Make, unexplained: float | None, flagged: bool
) -> None:
    shown = [parameter("early.weight", update_norm=0.0)]
    made = recording((step(k, None, shown) for k in range(4)), unexplained=unexplained)
    assert len(list(unchanged_parameters.check(made, LIMITS))) == flagged


@pytest.mark.parametrize(
    "fields",
    [
        {"trainable": False, "learning_rate": None, "update_norm": None},  # frozen
        {"gradient_norm": None, "update_norm": 0.0},  # no gradient: GC103's or GC501's
        {"gradient_norm": 0.0, "update_norm": 0.0},  # zero gradient: GC104's
        {"update_norm": 1e-30},
    ],
)
def test_what_has_another_reason_is_not_unchanged(
    parameter: Make, step: Make, recording: Make, fields: dict[str, Any]
) -> None:
    shown = [parameter("early.weight", **fields), parameter("late.weight")]
    made = recording(step(k, None, shown) for k in range(4))
    assert not list(unchanged_parameters.check(made, LIMITS))


def test_a_warm_up_that_moves_later_is_not_unchanged(
    parameter: Make, step: Make, recording: Make
) -> None:
    steps = [
        step(k, None, [parameter("early.weight", update_norm=norm)])
        for k, norm in enumerate((0.0, 0.0, 0.0, 1e-6))
    ]
    assert not list(unchanged_parameters.check(recording(steps), LIMITS))


@pytest.mark.parametrize(
    ("carried", "flagged"),
    [
        ((0.0, 1.0, 1.0, 1.0), True),
        ((0.0, 0.0011, 0.0011, 0.0011), True),
        ((0.0, 0.0009, 0.0009, 0.0009), False),
        ((None, None, None, None), False),  # zero_grad set it to None
        ((0.0, 0.0, 0.0, 0.0), False),  # or to 0
        ((1.0, 0.0, 0.0, 0.0), False),  # left over from before the probe
    ],
)
def test_accumulating_gradient(
    parameter: Make,
    step: Make,
    recording: Make,
    carried: tuple[float | None, ...],
    flagged: bool,
) -> None:
    steps = [
        step(k, None, [parameter("early.weight", carried_norm=norm)])
        for k, norm in enumerate(carried)
    ]
    found = list(accumulating_gradient.check(recording(steps), LIMITS))
    assert [each.code for each in found] == ["GC304"] * flagged
