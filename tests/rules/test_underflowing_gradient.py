"""GC403, and what GC101 and GC104 leave to it, on recordings made by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from gradcheckup.records import Recording
from gradcheckup.rules import underflowing_gradient, vanishing_gradient, zero_gradient
from gradcheckup.thresholds import Thresholds

Make = Callable[..., Any]
LIMITS = Thresholds(underflow_warning=0.1, underflow_critical=0.9, underflow_share=0.6)
ADAM, FOLLOWING = 1.0, 0.3
"""Update over learning rate, by element: of its own size, and that of the gradient."""


@pytest.fixture
def with_shares(parameter: Make, step: Make, recording: Make) -> Make:
    """Four steps with these shares lost by early, late and head in the second half."""

    def make(
        *shares: float | None, own: float = ADAM, third: Sequence[float | None] | None = None
    ) -> Recording:
        names = ("early", "late", "head")

        def parameters(lost: Sequence[float | None]) -> list[Any]:
            return [
                parameter(
                    f"{name}.weight",
                    gradient_norm=0.3 * 8,
                    update_norm=0.01 * own * 8,
                    gradient_lost=share,
                )
                for name, share in zip(names, lost, strict=True)
            ]

        none = (None,) * 3
        return recording(
            [
                step(0, None, parameters(none)),
                step(1, None, parameters(none)),
                step(2, None, parameters(shares if third is None else third)),
                step(3, None, parameters(shares)),
            ]
        )

    return make


@pytest.mark.parametrize(
    ("shares", "own", "severity", "layers"),
    [
        ((1.0, 0.95, 0.0), ADAM, "critical", ("early", "late")),
        ((1.0, 0.95, 0.0), FOLLOWING, "warning", ("early", "late")),
        ((1.0, 1.0, 1.1), FOLLOWING, "critical", ("early", "late", "head")),
        ((1.0, 0.89, 0.0), ADAM, "warning", ("early", "late")),
        ((1.0, None, None), ADAM, "critical", ("early",)),  # what has no gradient has no say
        ((0.1, 0.09, -0.5), ADAM, "warning", ("early",)),
    ],
)
def test_severity_by_how_much_is_lost(
    with_shares: Make,
    shares: tuple[float | None, ...],
    own: float,
    severity: str,
    layers: tuple[str, ...],
) -> None:
    (found,) = underflowing_gradient.check(with_shares(*shares, own=own), LIMITS)
    assert (found.severity.value, found.layers) == (severity, layers)
    assert found.steps == (2, 3)
    assert found.observed == max(share for share in shares if share is not None)
    assert found.limit == (0.9 if severity == "critical" else 0.1)
    assert found.fact("total") == sum(share is not None for share in shares)


@pytest.mark.parametrize("shares", [(0.09, 0.0, -2.0), (None, None, None)])
def test_what_arrives_is_not_flagged(with_shares: Make, shares: tuple[float | None, ...]) -> None:
    assert list(underflowing_gradient.check(with_shares(*shares), LIMITS)) == []


def test_a_loss_at_one_step_alone_is_not_flagged(with_shares: Make) -> None:
    for before in ((0.0, 0.0, 0.0), (None, None, None)):
        recording = with_shares(1.0, 1.0, 1.0, third=before)
        assert list(underflowing_gradient.check(recording, LIMITS)) == []


def test_biases_and_untrained_weights_have_no_say(
    parameter: Make, step: Make, recording: Make
) -> None:
    made = recording(
        [
            step(
                0,
                None,
                [
                    parameter("early.bias", shape=(8,), gradient_lost=1.0),
                    parameter("late.weight", learning_rate=None, gradient_lost=1.0),
                ],
            )
        ]
    )
    assert list(underflowing_gradient.check(made, LIMITS)) == []


def test_a_zero_gradient_that_a_scale_lifts_is_no_zero_gradient(
    parameter: Make, step: Make, recording: Make
) -> None:
    def made(lost: float | None) -> Recording:
        zero = parameter("early.weight", gradient_norm=0.0, gradient_lost=lost)
        return recording([step(0, None, [zero, parameter("late.weight")])])

    assert [each.code for each in zero_gradient.check(made(None), LIMITS)] == ["GC104"]
    assert list(zero_gradient.check(made(1.0), LIMITS)) == []


@pytest.mark.parametrize(("kept", "flagged"), [(1e-3, True), (0.5, False), (None, False)])
def test_a_gradient_vanishes_where_what_float16_keeps_of_it_does(
    layer: Make, parameter: Make, step: Make, recording: Make, kept: float | None, flagged: bool
) -> None:
    layers = [
        layer("early", gradient_norm=0.0, gradient_ratio=0.0, gain=0.0),
        *([layer("middle", gradient_norm=kept, gradient_ratio=kept)] if kept else []),
        layer("head", output=True),
    ]
    made = recording([step(0, layers, [parameter("early.weight", gradient_lost=1.0)])])
    found = [each.code for each in vanishing_gradient.check(made, LIMITS)]
    assert found == (["GC101"] if flagged else [])
