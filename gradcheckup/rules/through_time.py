"""GC105: the gradient of a recurrent layer is lost, or runs away, on its way back through time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

from gradcheckup.records import Finding, Recording, Severity, Step
from gradcheckup.rules import query
from gradcheckup.rules.rule import Rule
from gradcheckup.rules.time_course import TimeCourse, time_courses
from gradcheckup.thresholds import Thresholds

_VANISHING, _EXPLODING = "vanishing-through-time", "exploding-through-time"
_BEYOND = 10.0

Holds = Callable[[TimeCourse], bool]
Steps = tuple[int, ...]


def check(recording: Recording, thresholds: Thresholds) -> Iterator[Finding]:
    """Flags recurrent layers whose early time steps count for nothing, or for too much."""
    resolution, low = thresholds.time_resolution, thresholds.time_ratio_low

    def forgets(course: TimeCourse) -> bool:
        return course.blind(resolution) >= thresholds.blind_share * course.length

    blind = _persistent(recording, forgets)
    faint = blind or _persistent(recording, lambda course: course.blind(low) > 0)
    # To forget matters where the rest of the sequence does not tell enough.
    bearings = [_bearing(recording, name, thresholds.dependence) for name in faint]
    nothing = bearings == ["none"] * len(faint)
    if blind or (faint and nothing):
        lost = nothing and all(
            (blind or _stays(recording, name, thresholds.time_moving_update))
            and _decides(recording, name)
            for name in faint
        )
        yield _vanishing(
            recording,
            faint,
            resolution if blind else low,
            Severity.CRITICAL if lost else Severity.WARNING,
            "none" if nothing else next(each for each in bearings if each != "none"),
        )
    limit = thresholds.gradient_ratio_high
    # Of a layer that runs backward in time and whose first output is read, the last steps are the
    # far ones: there nothing grows beyond what comes in.
    grown = _persistent(
        recording, lambda each: each.growth > limit and each.norms[0] > _BEYOND * each.received
    )
    if grown:
        yield _exploding(recording, grown, limit)


def _persistent(recording: Recording, holds: Holds) -> dict[str, Steps]:
    """Layers all of whose sequences show something at every settled step; and at which steps."""
    names = query.names(each for each in recording.steps[-1].layers if each.time_profile)
    return {
        name: steps for name in names if (steps := query.persistent(recording, _shows(name, holds)))
    }


def _stays(recording: Recording, name: str, share: float) -> bool:
    """Whether updates follow the gradient's size, and are too small to bring a layer anywhere."""
    calls = (each for step in recording.settled for each in step.layers if each.name == name)
    ratio = query.median(each.update_ratio for each in calls)
    return not query.is_adaptive(recording) and ratio is not None and ratio < share


def _shows(name: str, holds: Holds) -> Callable[[Step], bool]:
    def shows(step: Step) -> bool:
        courses = time_courses(step, name)
        return bool(courses) and all(map(holds, courses))

    return shows


def _decides(recording: Recording, name: str) -> bool:
    """Whether the net depends on a layer: no path from the first layer leads around it."""
    calls = [layer for layer in recording.steps[0].layers if layer.name == name]
    return any(layer.bottleneck is not False for layer in calls)


def _bearing(recording: Recording, name: str, limit: float) -> str:
    """Whether what a layer hands on bears on the targets: `some`, `none` or `unknown`."""
    found = [
        layer.dependence
        for step in recording.steps
        for layer in step.layers
        if layer.name == name and layer.dependence is not None
    ]
    if name in recording.telling:
        return "some"
    if not found:
        return "unknown"
    # A mean over as many independent values as there are batches.
    mean = math.fsum(found) / len(found)
    return "some" if mean * math.sqrt(recording.batches) >= limit else "none"


def _vanishing(
    recording: Recording,
    found: Mapping[str, Steps],
    limit: float,
    severity: Severity,
    bearing: str,
) -> Finding:
    name, steps = next(iter(found.items()))
    step = recording.at(steps[0])
    course = min(time_courses(step, name), key=lambda each: each.blind(limit))
    evidence: list[tuple[str, float | int | str]] = [
        ("time_steps", course.length),
        ("blind_steps", course.blind(limit)),
        ("bearing", bearing),
    ]
    rate = course.per_step(limit)
    if rate is not None:
        evidence.append(("per_step", rate))
    return Finding(
        code=RULE.code,
        rule=_VANISHING,
        severity=severity,
        layers=tuple(found),
        culprit=name,
        observed=course.first,
        limit=limit,
        steps=steps,
        evidence=tuple(evidence),
    )


def _exploding(recording: Recording, found: Mapping[str, Steps], limit: float) -> Finding:
    name, steps = next(iter(found.items()))
    step = recording.at(steps[0])
    course = min(time_courses(step, name), key=lambda each: each.growth)
    decides = any(_decides(recording, each) for each in found)
    return Finding(
        code=RULE.code,
        rule=_EXPLODING,
        severity=Severity.CRITICAL if decides else Severity.WARNING,
        layers=tuple(found),
        culprit=name,
        observed=course.growth,
        limit=limit,
        steps=steps,
        cause="large-recurrent-weights",
        evidence=(
            ("time_steps", course.length),
            ("per_step", course.growth ** (1 / max(course.length - 1, 1))),
        ),
    )


RULE = Rule(
    code="GC105",
    name=_VANISHING,
    summary="a recurrent layer's gradient vanishes, or explodes, on its way back through time",
    formula=(
        "Time profile: the L2 norm over batch and features of dL/dx_t, along the sequence that a "
        "recurrent layer is given; for a cell in a loop and for hand-written recurrences, of "
        "dL/dy_t over their calls. A step is blind where it is below time_resolution times the "
        "peak. Vanishing: blind_share of the steps or more, from the beginning on, are blind at "
        "every step of the second half of the probe. It is critical where every path leads through "
        "the layer and what it hands on has no bearing on the targets: the dependence (linear "
        "HSIC; Gretton et al. 2005, 2008) of its output and the gradient that it gets for it, over "
        "the samples of a batch, in standard deviations of shuffled samples, as a mean over the "
        "probe times the square root of the number of different batches, is below the limit named "
        "dependence, and the loss rises by less than a tenth where the samples exchange the "
        "layer's states. Otherwise, and where it cannot be measured (fewer than 8 samples), it is "
        "a warning; as is a first step below time_ratio_low in a layer of no bearing, which is "
        "critical under an optimizer whose steps follow the size of the gradient (SGD), where they "
        "move the layer by less than time_moving_update. Exploding "
        "(exploding-through-time): the first step's norm is above gradient_ratio_high times the "
        "last one's that is not 0, and ten times what the layer received."
    ),
    default=(
        "time_resolution = 1e-7, the resolution of float32; blind_share = 0.3; dependence = 1.5; "
        "time_ratio_low = 1e-4; time_moving_update = 5e-4. "
        "Set on nets of width 32 that were then trained for 500 steps with Adam 1e-3 or SGD 0.1. "
        "RNN, LSTM and GRU that have to name a symbol 50 or 100 steps back are .30 to .70 blind, "
        "with a first step at 1e-10 to 1e-24 of the peak, and stay at chance; so they do where it "
        "stands anywhere in 100 steps. Nets that are as blind learn where the last steps tell "
        "enough: forecasts from 100 steps (.94 and .97 of the variance), majorities (LSTM .76), "
        "digits pixel by pixel (64 steps; RNN .61, LSTM .67 to .82, GRU .62 to .87): of these the "
        "outputs depend on their gradients by 1.2 to 60 standard deviations, of the failing ones "
        "by -1.3 to 1. A symbol 20 steps back (first step at 1e-4) is learnt halfway with Adam and "
        "not at all with SGD. Given 2000 steps, LSTMs with Adam learn it 25 and 40 steps back "
        "(1e-5; 1e-8 and .12 blind), with SGD 0.1, which moves them by 1e-3 and more a step, most "
        "LSTMs and GRUs 20 to 40 steps back; GRUs with Adam do not, 30 and 40 steps back: between "
        "1e-4 and blind_share it is a warning. With SGD 0.01 (1e-4 to 4e-4) none of them learns it "
        "20 to 40 steps back in 2000 steps; RNNs, which it moves by 7e-4, may. First "
        "steps that receive 450 to 50,000 times the last one's belong to nets "
        "that end at .06 to .37; those of 5 to 50 times partly learn. See the recurrent family of "
        "benchmarks/verdicts.py."
    ),
    false_alarms=(
        "A net whose targets depend on late steps in a way that its initial states do not show; "
        "small batches show less. Zeros at the end (padding), exact zeros that begin at once (a "
        "mask) and a low in the middle (a layer that reads both ways) are no fault."
    ),
    remedy=(
        "LSTM or GRU with the bias of the forget gate at 1 to 5, an orthogonal or identity "
        "recurrent matrix (gain 1), attention or pooling over all outputs instead of the last one, "
        "shorter or strided sequences, a loss at every step. Against explosion: gradient clipping "
        "by norm, a smaller recurrent matrix."
    ),
    check=check,
    yields=True,
    convicts=True,
)
