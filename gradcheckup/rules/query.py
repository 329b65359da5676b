"""Questions that several rules ask of a recording."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

from gradcheckup.records import LayerRecord, ParameterRecord, Recording, Role, Step
from gradcheckup.thresholds import Thresholds

# Adam, Lion and Adagrad begin with 1, RMSprop with 10.
_OWN_SIZE = (0.05, 20.0)
_TREND = 3
_CLIMB = 1.5
_NEAR, _LOST, _STILL = 10, 5, 1.5
_NEGLIGIBLE, _LEARNING = 1e-8, 1e-3

NOTHING = 0.9
"""Share of the loss that is kept by who knows nothing."""


def hidden(step: Step, role: Role) -> list[LayerRecord]:
    """Layers of a role in execution order, without those at the loss end."""
    return [layer for layer in step.layers if layer.role is role and not layer.output]


def in_front_of_norms(step: Step) -> dict[tuple[str, int], LayerRecord]:
    """The norms right behind weight layers, by the key of the layer."""
    run = [layer for layer in step.layers if layer.role is not Role.CONTAINER]
    return {
        layer.key: following
        for layer, following in pairwise(run)
        if layer.role is Role.WEIGHT and following.role is Role.NORM
    }


def names(layers: Iterable[LayerRecord]) -> tuple[str, ...]:
    """Their names in order, each once."""
    return tuple(dict.fromkeys(layer.name for layer in layers))


def persistent(recording: Recording, holds: Callable[[Step], bool]) -> tuple[int, ...]:
    """Steps at which something held, if it held at every settled step; else none."""
    if not all(holds(step) for step in recording.settled):
        return ()
    return tuple(step.index for step in recording.steps if holds(step))


def lasting(recording: Recording, names: Callable[[Recording], Collection[str]]) -> Recording:
    """Of a long run the part, up to its end, that tells the same as its settled steps do.

    What was cut in the middle of a run counts, and since when. A probe is left whole.

    Args:
        recording: The run.
        names: Of what something is told.
    """
    if not recording.history:
        return recording
    late = replace(recording, steps=recording.settled)
    told = names(late)
    for step in reversed(recording.steps[: -len(late.steps)]):
        longer = replace(late, steps=(step, *late.steps))
        if names(longer) != told:
            break
        late = longer
    return late


def median(values: Iterable[float | None]) -> float | None:
    """Median of the finite values; None without any."""
    finite = [value for value in values if value is not None and math.isfinite(value)]
    return statistics.median(finite) if finite else None


def updated(step: Step) -> list[ParameterRecord]:
    """Parameters that the optimizer is meant to change."""
    return [each for each in step.parameters if each.trainable and each.learning_rate]


def by_name(recording: Recording) -> dict[str, list[ParameterRecord]]:
    """The records of each parameter over the steps."""
    found: dict[str, list[ParameterRecord]] = {}
    for step in recording.steps:
        for each in step.parameters:
            found.setdefault(each.name, []).append(each)
    return found


def is_matrix(parameter: ParameterRecord) -> bool:
    """Whether it mixes features, as a weight does and a bias or a scale does not."""
    return len(parameter.shape) > 1


def left_out_on_purpose(recording: Recording, left_out: Sequence[ParameterRecord]) -> bool:
    """Whether `compute_loss` trains one net and leaves whole others alone.

    So it is for the two nets of a GAN, or a target network beside the one that learns.
    """
    if recording.objective != "compute_loss":
        return False
    names = {each.name for each in left_out}
    parts = {each.name.partition(".")[0] for each in left_out}
    trainable = [each for each in recording.steps[0].parameters if each.trainable]
    return all(each.name in names for each in trainable if each.name.partition(".")[0] in parts)


def per_layer(step: Step) -> tuple[float, int] | None:
    """Geometric mean of the gain a weight layer from the first to the reference, and their number.

    None where either gradient is missing or zero.
    """
    first = step.first
    ratio = step.end_to_end_ratio
    if first is None or not ratio or not math.isfinite(ratio):
        return None
    weights = [layer.key for layer in step.layers if layer.role is Role.WEIGHT]
    order = [layer.key for layer in step.layers]
    end = order.index(step.reference) if step.reference in order else len(order) - 1
    count = sum(order.index(key) < end for key in weights if key != first.key)
    count += step.reference != first.key
    return (ratio ** (1 / count), count) if count else None


def updates_at_both_ends(step: Step) -> Iterator[tuple[str, float]]:
    """Update ratios of the first layer and of the reference, as evidence."""
    first, reference = step.first, step.layer(step.reference)
    if first and first.update_ratio is not None:
        yield "update_first", first.update_ratio
    behind = reference if reference and reference.update_ratio is not None else None
    behind = behind or next((layer for layer in reversed(step.layers) if layer.update_ratio), None)
    if behind and behind.update_ratio is not None:
        yield "update_reference", behind.update_ratio


def first_outside(
    layers: Sequence[LayerRecord], outside: Callable[[float], bool]
) -> LayerRecord | None:
    """The first layer whose gain is outside a band."""
    return next((layer for layer in layers if layer.gain is not None and outside(layer.gain)), None)


def shares(step: Step) -> tuple[float, float] | None:
    """How a gradient is passed, as geometric means: by activations, and by the weights behind them.

    The first is the norm in front of an activation over that behind it (its effective slope), the
    second that behind it over the one at the next weight layer's output.
    """
    slopes, weights = [], []
    flow = [
        (layer, math.log(layer.gradient_norm))
        for layer in step.layers
        if layer.gradient_norm
        and math.isfinite(layer.gradient_norm)
        and layer.role in (Role.WEIGHT, Role.NORM, Role.ACTIVATION)
    ]
    for (before, inner), (here, outer), (after, behind) in zip(
        flow, flow[1:], flow[2:], strict=False
    ):
        if here.role is Role.ACTIVATION and not here.gate and before.role is not Role.ACTIVATION:
            slopes.append(inner - outer)
            if after.role is Role.WEIGHT:
                weights.append(outer - behind)
    if not slopes or not weights:
        return None
    return math.exp(statistics.fmean(slopes)), math.exp(statistics.fmean(weights))


def is_adaptive(recording: Recording) -> bool:
    """Whether the optimizer gives every parameter a step of its own size, as Adam does.

    Judged by what it did in its first steps: the root mean square of each matrix's update, over
    the learning rate, is then about 1 whatever the gradient; plain SGD's is the gradient's.
    """
    seen = 0
    for each in recording.steps[0].parameters:
        rate, change, gradient = each.learning_rate, each.update_norm, each.gradient_norm
        if not (is_matrix(each) and rate and change and gradient):
            continue
        size = math.sqrt(math.prod(each.shape))
        own = change / (rate * size)
        if not _OWN_SIZE[0] < own < _OWN_SIZE[1] or math.isclose(own, gradient / size, rel_tol=0.1):
            return False
        seen += 1
    return seen > 0


def fading_limit(recording: Recording, thresholds: Thresholds) -> float:
    """The ratio below which a gradient or signal is lost, for the updates that really arrive.

    0 where no ratio is: an optimizer that scales every parameter's step makes up for it, as long as
    the outputs answer.
    """
    blind = is_blind(recording, thresholds)
    adaptive = is_adaptive(recording)
    if blind:
        return thresholds.gradient_ratio_low
    if adaptive and blind is not None:
        return 0.0
    limits = [thresholds.gradient_ratio_critical, thresholds.gradient_ratio_low]
    if adaptive or _first_moves(recording, thresholds.moving_update):
        limits.append(thresholds.gradient_ratio_critical_moving)
    return min(limits)


def is_blind(recording: Recording, thresholds: Thresholds) -> bool | None:
    """Whether updates do not see the input: what they change is the same for all samples.

    None where the response of the outputs was not measured.
    """
    responses = [(step.response, abs(step.loss)) for step in recording.settled]
    if all(response is None or response.condition is None for response, _ in responses):
        return None
    return all(
        response is not None
        and (response.condition or 0.0) > thresholds.blind_condition
        and response.progress < thresholds.blind_progress * loss
        for response, loss in responses
    )


def _first_moves(recording: Recording, share: float) -> bool:
    """Whether a large learning rate makes up for the small gradient of the first layer."""
    moves = median(step.first.update_ratio for step in recording.settled if step.first)
    return moves is not None and moves >= share


def progress(recording: Recording) -> float | None:
    """Share of the loss that a settled step wins by telling samples apart; None if not measured."""
    return median(
        step.response.progress / abs(step.loss)
        for step in recording.settled
        if step.response and step.loss
    )


def pace(recording: Recording) -> float | None:
    """The same at the learning rate that a scheduler started from: a warm-up begins with less."""
    found = progress(recording)
    return None if found is None else found / recording.rate_share


def is_stalled(recording: Recording, thresholds: Thresholds) -> bool:
    """Whether no step teaches the net to tell samples apart; False where it was not measured."""
    found = pace(recording)
    return found is not None and abs(found) < thresholds.stalled_progress


def plateau_left(recording: Recording) -> float:
    """Steps that a plateau still lasts, where a step wins more and more; inf with fewer looks.

    Plateaus end at saddles, which are left exponentially (Saxe, McClelland & Ganguli 2014): as the
    pace has grown from the first look to the last, so it goes on until a step wins a thousandth.
    """
    if len(recording.paces) < 2:
        return math.inf
    first, last = recording.paces[0], recording.paces[-1]
    growth = last / max(first, _NEGLIGIBLE)
    if growth <= 1:
        return math.inf
    between = len(recording.course) * 3 // 4
    return between * max(math.log(_LEARNING / last) / math.log(growth), 0.0)


def blindness(recording: Recording, thresholds: Thresholds) -> float | None:
    """The condition number of the response, where `is_blind` holds."""
    if not is_blind(recording, thresholds):
        return None
    return median(step.response.condition for step in recording.settled if step.response)


def is_fading(recording: Recording, thresholds: Thresholds) -> bool:
    """Whether gradient and signal both fade towards their limits as the steps end.

    Of 560 nets of `benchmarks/verdicts.py` eight do, and one of these learns, if slowly.
    """
    gradient = [step.end_to_end_ratio for step in recording.steps]
    signal = [step.end_to_end_signal for step in recording.steps]
    return _fades(gradient, thresholds.gradient_ratio_low) and _fades(
        signal, thresholds.signal_ratio_low
    )


def _fades(course: Sequence[float | None], limit: float) -> bool:
    first, middle, last = course[0], course[len(course) // 2], course[-1]
    if first is None or middle is None or last is None:
        return False
    return last < min(_NEAR * limit, first / _LOST, middle / _STILL)


def has_learnt(recording: Recording, thresholds: Thresholds) -> bool:
    """Whether next to nothing is left to learn, so that weights which stand still are no fault."""
    left = recording.unexplained
    return left is not None and left < thresholds.unexplained_loss


def knows_nothing(recording: Recording) -> bool:
    """Whether a net that was followed knew next to nothing of its batches then."""
    return (recording.unlearnt or 0.0) > NOTHING


def generalizes(recording: Recording, thresholds: Thresholds) -> bool:
    """Whether a net that was trained on for longer knows most of what other batches ask for."""
    known = recording.generalization
    return known is not None and known.unlearnt < thresholds.unlearnt_loss


def learns_nothing(recording: Recording, thresholds: Thresholds) -> bool:
    """Whether such a net knows next to nothing of other batches, although regression does."""
    known = recording.generalization
    if known is None or known.regression is None or recording.rate_share < 1:
        return False
    if known.steps < thresholds.schooled_steps:
        return False
    if known.regression >= thresholds.unexplained_variance:
        return False
    nothing = known.unlearnt > NOTHING
    if known.readout is None:
        return nothing
    # What begins to learn shows in the direction of the outputs before it shows in the loss.
    share = thresholds.readout_nothing if nothing else thresholds.readout_little
    return 1 - known.readout < share * (1 - known.regression)


def asks_for_nothing(recording: Recording) -> bool:
    """Whether the loss has no gradient even at the outputs, as a hinge loss that is met."""
    ends = [layer for step in recording.steps for layer in step.layers if layer.output]
    return bool(ends) and all(not layer.gradient_norm for layer in ends)


def recovers(ratios: Sequence[float | None]) -> bool:
    """Whether a ratio climbs by itself: from an exact zero, or clear of where it was and still on.

    It is held against the median of what came before: the lowest of many noisy values lies far
    below the others without any trend.
    """
    risen = [ratio for ratio in ratios if ratio and math.isfinite(ratio)]
    if len(risen) < _TREND:
        return False
    rising = risen[-1] > risen[-2] > risen[-3]
    return rising and (ratios[0] == 0 or risen[-1] >= _CLIMB * statistics.median(risen[:-1]))
