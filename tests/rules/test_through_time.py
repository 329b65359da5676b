"""GC105 on recordings made by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from gradcheckup.records import Finding, LayerRecord, Recording, Role, Severity
from gradcheckup.rules import choose_rules, judge, through_time
from gradcheckup.thresholds import Thresholds

Make = Callable[..., Any]
LIMITS = Thresholds(
    time_resolution=1e-7,
    time_ratio_low=1e-4,
    blind_share=0.3,
    dependence=1.5,
    gradient_ratio_high=100.0,
    time_moving_update=5e-4,
)
# The root mean square of an update over the learning rate: 1 for Adam, the gradient's for SGD.
ADAM = {"update_norm": 0.01 * 8, "gradient_norm": 1e-4}
SGD = {"update_norm": 0.01 * 1e-4, "gradient_norm": 1e-4}
SLOW = 4e-4  # times its size that a layer moves a step


def _falling(length: int, factor: float) -> tuple[float, ...]:
    return tuple(factor**back for back in range(length - 1, -1, -1))


@pytest.fixture
def through(layer: Make, step: Make, parameter: Make, recording: Make) -> Callable[..., Recording]:
    """Four steps of a net whose recurrent layer has this time profile."""

    def make(
        profile: Sequence[float] | None,
        *,
        dependence: float | None = 0.0,
        batches: int = 1,
        telling: tuple[str, ...] = (),
        steps: int = 4,
        optimizer: dict[str, float] = SGD,
        **fields: Any,
    ) -> Recording:
        settings = {"kind": "rnn", "time_profile": profile, "dependence": dependence}
        settings["time_steps"] = profile and len(profile)
        settings["update_ratio"] = SLOW
        rnn = layer("rnn", **(settings | fields))
        layers, weights = [rnn, layer("head", output=True)], [parameter("rnn.weight", **optimizer)]
        made = [step(index, layers, weights) for index in range(steps)]
        return recording(made, batches=batches, telling=telling)

    return make


def _found(recording: Recording) -> Finding | None:
    found = list(through_time.check(recording, LIMITS))
    assert len(found) <= 1
    return found[0] if found else None


def test_a_state_that_forgets_and_says_nothing_is_critical(through: Make) -> None:
    found = _found(through(_falling(33, 0.4)))
    assert found is not None
    assert (found.code, found.rule) == ("GC105", "vanishing-through-time")
    assert found.severity is Severity.CRITICAL
    assert (found.layers, found.culprit) == (("rnn",), "rnn")
    assert found.observed == 0.4**32
    assert found.limit == 1e-7
    assert found.steps == (0, 1, 2, 3)
    assert found.fact("time_steps") == 33
    # 0.4^17 = 1.7e-7 is seen and 0.4^18 is not: the last 18 steps are left.
    assert found.fact("blind_steps") == 15
    assert found.fact("per_step") == pytest.approx(0.4)
    assert found.fact("bearing") == "none"


@pytest.mark.parametrize(
    ("length", "optimizer", "severity"),
    [
        (33, ADAM, Severity.CRITICAL),
        (25, ADAM, Severity.WARNING),
        (25, SGD, Severity.CRITICAL),
        (12, ADAM, Severity.WARNING),
        (12, SGD, Severity.CRITICAL),
        (11, SGD, None),
    ],
)
def test_how_far_it_reaches_decides(
    through: Make, length: int, optimizer: dict[str, float], severity: Severity | None
) -> None:
    """At 0.4 a step, 18 are seen: 7 of 25 are less than 30%; 0.4^10 is not yet faint.

    SGD does not make up for a gradient that is small: 0.4^11 = 4.2e-5 is too little for it.
    """
    found = _found(through(_falling(length, 0.4), optimizer=optimizer))
    assert (found and found.severity) is severity


@pytest.mark.parametrize("fields", [{"update_ratio": 5e-4}, {"update_ratio": None}])
def test_sgd_that_moves_the_layer_may_yet_find_the_way(
    through: Make, fields: dict[str, float | None]
) -> None:
    found = _found(through(_falling(12, 0.4), **fields))
    assert found is not None
    assert found.severity is Severity.WARNING


@pytest.mark.parametrize("dependence", [1.6, 40.0, None])
def test_a_state_that_tells_enough_is_a_warning(through: Make, dependence: float | None) -> None:
    found = _found(through(_falling(33, 0.1), dependence=dependence))
    assert found is not None
    assert found.severity is Severity.WARNING
    assert found.fact("bearing") == ("unknown" if dependence is None else "some")
    # And where it is only faint, nothing is to be said.
    assert _found(through(_falling(16, 0.5), dependence=dependence)) is None


@pytest.mark.parametrize(("batches", "severity"), [(1, Severity.CRITICAL), (8, Severity.WARNING)])
def test_many_batches_are_more_evidence(through: Make, batches: int, severity: Severity) -> None:
    found = _found(through(_falling(33, 0.1), dependence=0.7, batches=batches))
    assert found is not None
    assert found.severity is severity


def test_a_net_that_has_learnt_is_no_worse_than_a_warning(through: Make) -> None:
    """Gradients without a pattern are what is left when all is learnt, too."""
    found = _found(through(_falling(33, 0.1), telling=("rnn",)))
    assert found is not None
    assert (found.severity, found.fact("bearing")) == (Severity.WARNING, "some")


def test_a_branch_that_can_be_bypassed_is_a_warning(through: Make) -> None:
    found = _found(through(_falling(33, 0.1), bottleneck=False))
    assert found is not None
    assert found.severity is Severity.WARNING


@pytest.mark.parametrize(
    "profile",
    [
        None,
        (1.0,),
        (0.0,) * 33,
        (1.0,) * 33,
        _falling(33, 0.1)[::-1],  # padding, or the far end of a layer that runs backward
        (*_falling(16, 0.1)[::-1], 0.0, *_falling(16, 0.1)),  # read at both ends
        (*(0.0,) * 20, *(1.0,) * 13),  # a mask
        (float("nan"), *_falling(32, 0.1)),
    ],
)
def test_profiles_that_are_no_fault(through: Make, profile: tuple[float, ...] | None) -> None:
    assert _found(through(profile, gradient_norm=1e3)) is None


def test_zeros_by_underflow_are_zeros_all_the_same(through: Make) -> None:
    found = _found(through((*(0.0,) * 15, *_falling(18, 0.001)[-18:])))
    assert found is not None
    assert (found.severity, found.observed) == (Severity.CRITICAL, 0.0)


def test_only_what_persists_counts(through: Make) -> None:
    sick, well = through(_falling(33, 0.1)), through((1.0,) * 33)
    recovered = replace(sick, steps=(*sick.steps[:2], *well.steps[2:]))
    assert _found(recovered) is None
    struck = replace(sick, steps=(*well.steps[:2], *sick.steps[2:]))
    found = _found(struck)
    assert found is not None
    assert found.steps == (2, 3)


def test_sequences_of_one_layer_stand_together(through: Make, layer: Make) -> None:
    """One sequence that reaches back is enough to learn from."""
    sick = through(_falling(33, 0.1))
    other = layer("rnn", call=1, time_profile=(1.0,) * 33, time_steps=33)
    both = tuple(replace(step, layers=(*step.layers, other)) for step in sick.steps)
    assert _found(replace(sick, steps=both)) is None


# -- exploding -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("growth", "found"), [(99.0, False), (101.0, True)])
def test_growth_towards_the_first_step(through: Make, growth: float, found: bool) -> None:
    profile = (growth, growth / 2, 3.0, 1.0, 0.0, 0.0)
    finding = _found(through(profile, gradient_norm=1.0))
    assert bool(finding) is found
    if finding:
        assert (finding.code, finding.rule) == ("GC105", "exploding-through-time")
        assert finding.severity is Severity.CRITICAL
        assert (finding.observed, finding.limit) == (101.0, 100.0)


def test_nothing_explodes_beyond_what_comes_in(through: Make) -> None:
    """The first output of a layer that reads both ways: the last steps are the far ones."""
    assert _found(through(_falling(9, 0.1)[::-1], gradient_norm=0.5)) is None
    assert _found(through(_falling(9, 0.1)[::-1], gradient_norm=0.05)) is not None


# -- one cause, one finding ----------------------------------------------------------------------


def test_what_lies_in_front_of_the_layer_is_a_consequence(
    layer: Make, step: Make, recording: Make
) -> None:
    layers: list[LayerRecord] = [
        layer("stem", gradient_ratio=1e-9, gradient_norm=1e-9),
        layer("rnn", time_profile=_falling(33, 0.1), time_steps=33, dependence=0.0),
        layer("head", output=True, role=Role.WEIGHT),
    ]
    made = recording([step(index, layers, reference="rnn") for index in range(4)])
    (found,) = judge(made, LIMITS, choose_rules(["GC101", "GC105"], None))
    assert found.code == "GC105"
    assert [each.code for each in found.consequences] == ["GC101"]
    assert found.prescriptions
