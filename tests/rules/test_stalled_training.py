"""GC305 on recordings made by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from gradcheckup.records import Finding, Recording
from gradcheckup.rules import judge, stalled_training
from gradcheckup.rules.folding import fold
from gradcheckup.thresholds import Thresholds

Make = Callable[..., Any]
LIMITS = Thresholds(stalled_progress=1e-6, stalled_steps=5000)


@pytest.fixture
def followed(step: Make, recording: Make, response: Make) -> Callable[..., Recording]:
    """Two steps at first and two at the end of a course of 256, at each of which this is won.

    And this was won before, at step 64.
    """

    def make(won: float | None, **values: Any) -> Recording:
        answer = None if won is None else response(2.3 * won)
        steps = [replace(step(index, loss=2.3), response=answer) for index in (0, 1, 254, 255)]
        paces = () if won is None else (values.pop("before", won), won)
        made: Recording = recording(steps, **{"course": (2.3,) * 256, "paces": paces, **values})
        return made

    return make


@pytest.mark.parametrize(
    ("won", "values", "flagged"),
    [
        (0.9e-6, {}, True),
        (1.1e-6, {}, False),
        (-1e-9, {}, True),
        (None, {}, False),  # with compute_loss it is not measured
        (0.9e-6, {"course": ()}, False),  # eight steps do not tell
        (0.9e-6, {"rate_share": 0.5}, False),  # in the middle of a warm-up
        (0.9e-6, {"rate_share": 0.99}, True),
        # 192 steps from look to look: 192 * ln(1e-3 / 0.9e-6) / ln(growth) is 5285 and 4824.
        (0.9e-6, {"before": 0.9e-6 / 1.29}, True),
        (0.9e-6, {"before": 0.9e-6 / 1.322}, False),
        (0.9e-6, {"before": 1.2e-6}, True),  # slower and slower
        (9e-9, {"before": -1e-9}, True),  # rounding
        (0.9e-6, {"paces": (0.9e-6,)}, False),  # one look does not tell
    ],
)
def test_a_net_that_nothing_teaches(
    followed: Make, won: float | None, values: dict[str, Any], flagged: bool
) -> None:
    found = stalled_training.check(followed(won, **values), LIMITS)
    shown = [(each.severity.value, each.steps) for each in found]
    assert shown == [("critical", (254, 255))] * flagged


@pytest.mark.parametrize(("size", "flagged"), [(8e-3, False), (8e-7, True)])
def test_an_optimizer_with_steps_of_its_own_size_gets_away(
    followed: Make, parameter: Make, size: float, flagged: bool
) -> None:
    """Adam's first step is the learning rate for every element, here 8 x 8 of them at 1e-3."""
    weight = parameter("early.weight", learning_rate=1e-3, update_norm=size, gradient_norm=8e-4)
    made = followed(0.5e-6)
    made = replace(made, steps=tuple(replace(each, parameters=(weight,)) for each in made.steps))
    assert bool(list(stalled_training.check(made, LIMITS))) is flagged


def test_what_it_says(followed: Make) -> None:
    (found,) = (each for each in judge(followed(0.5e-6), LIMITS) if each.code == "GC305")
    assert found.prescriptions[0] == "optimizer"
    assert found.observed == pytest.approx(0.5e-6)
    assert found.fact("plateau_left") is None
    (found,) = stalled_training.check(followed(0.5e-6, before=0.5e-6 / 1.1), LIMITS)
    assert found.fact("plateau_left") == pytest.approx(192 * math.log(2000) / math.log(1.1))


@pytest.mark.parametrize(("severity", "lead"), [("critical", "GC101"), ("warning", "GC305")])
def test_it_gives_way_to_a_cause_that_is_as_bad(
    finding: Callable[..., Finding], severity: str, lead: str
) -> None:
    (found,) = fold([finding("GC305"), finding("GC101", severity)])
    assert found.code == lead
    assert len(found.consequences) == 1
