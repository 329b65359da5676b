"""GC203: the last layers give nearly the same output for every input."""

from __future__ import annotations

from collections.abc import Iterator

from gradcheckup.records import Finding, LayerRecord, Recording, Role, Severity, Step
from gradcheckup.rules import query
from gradcheckup.rules.rule import Rule
from gradcheckup.thresholds import Thresholds

# Rounding leaves 1e-7 in float32; an update is larger than what rounding makes of it.
_ROUNDING = 1e-5
_MOVED = 100.0


def check(recording: Recording, thresholds: Thresholds) -> Iterator[Finding]:
    """Flags a batch signal that fades on the way to the reference layer."""
    low = thresholds.signal_ratio_low

    def below(limit: float) -> tuple[int, ...]:
        return query.persistent(
            recording, lambda step: (share := step.end_to_end_signal) is not None and share < limit
        )

    severity, limit = Severity.CRITICAL, min(low, query.fading_limit(recording, thresholds))
    steps, cause = below(limit), "small-weights"
    if not steps and not recording.late:  # on a plateau every net wins next to nothing
        kept = thresholds.signal_kept * min(1.0, recording.steps[0].end_to_end_signal or 0.0)
        progress = query.progress(recording)
        if progress is not None and progress < thresholds.signal_progress:
            limit, steps, cause = kept, below(kept), "learning-rate"
    blank = () if steps else query.persistent(recording, _is_blank)
    if blank:
        yield _blank(recording, blank)
        return
    if not steps:
        severity, limit, cause = Severity.WARNING, low, "small-weights"
        steps = below(low)
    if not steps or query.recovers([step.end_to_end_signal for step in recording.steps]):
        return
    step = recording.at(steps[0])
    reference = step.signal_reference
    faint = [
        layer
        for layer in query.hidden(step, Role.WEIGHT)
        if layer.signal_ratio is not None and layer.signal_ratio < low
    ]
    yield Finding(
        code=RULE.code,
        rule=RULE.name,
        severity=severity,
        layers=query.names(faint) or ((reference.name,) if reference else ()),
        culprit=faint[0].name if faint else None,
        observed=step.end_to_end_signal,
        limit=limit,
        steps=steps,
        cause=cause,
        evidence=tuple(_evidence(recording, thresholds)),
    )


def _is_blank(step: Step) -> bool:
    """Whether the outputs are the same for all samples, and an update moves them all alike."""
    response = step.response
    if response is None or not response.gradient_distinct:
        return False
    ends = [layer for layer in step.layers if layer.output and layer.signal_ratio is not None]
    together = response.change_common > _MOVED * response.resolution
    apart = response.change_distinct > response.resolution
    return bool(ends) and all(map(_is_flat, ends)) and together and not apart


def _is_flat(layer: LayerRecord) -> bool:
    return layer.signal_ratio is not None and layer.signal_ratio < _ROUNDING


def _blank(recording: Recording, steps: tuple[int, ...]) -> Finding:
    """What is lost between the signal reference and the outputs."""
    layers = recording.settled[-1].layers
    # Where several outputs part, no layer behind stands on all paths.
    flat = [layer for layer in layers if _is_flat(layer) and layer.bottleneck is not False]
    flat = flat or [layer for layer in layers if _is_flat(layer) and layer.output]
    return Finding(
        code=RULE.code,
        rule=RULE.name,
        severity=Severity.CRITICAL,
        layers=query.names(flat),
        culprit=flat[0].name,
        observed=flat[0].signal_ratio,
        limit=_ROUNDING,
        steps=steps,
        cause="lost-input",
    )


def _evidence(
    recording: Recording, thresholds: Thresholds
) -> Iterator[tuple[str, float | int | str]]:
    start = recording.steps[0]
    if start.signal_reference:
        yield "reference", start.signal_reference.name
    if start.end_to_end_signal is not None:
        yield "signal_first", start.end_to_end_signal
    blindness = query.blindness(recording, thresholds)
    if blindness is not None:
        yield "blindness", blindness


RULE = Rule(
    code="GC203",
    name="collapsed-signal",
    summary="the last layers give nearly the same output for every input",
    formula=(
        "Signal: the standard deviation of y over the batch, per feature, then RMS over features. "
        "Flagged when that of the last hidden layer that no path bypasses is below the limit times "
        "the first layer's at every step of the second half of the probe, and does not climb; or "
        "where the first updates wiped it out: below signal_kept times what it was at step 0, "
        "while a step wins less than signal_progress of the loss by telling samples apart (see "
        "GC101; not asked of a net that was followed); or where the outputs differ by rounding "
        "alone (1e-5 of the first layer's signal), and updates move them together and not apart."
    ),
    default=(
        "A warning below signal_ratio_low = 0.02; critical below the limits of GC101, of which it "
        "is the mirror image: what shrinks a gradient on its way back shrinks the signal on its "
        "way forward. signal_kept = 0.05, signal_progress = 1e-3: with SGD at a learning rate of "
        "0.1 and momentum, four MLPs below both failed within 2000 steps; MNASNet 0.5 keeps 3% and "
        "wins all of its loss, to first order, and learns."
    ),
    false_alarms="A batch of identical samples has no signal anywhere and is not judged.",
    remedy="Larger initial weights (He, Xavier, LSUV), normalisation, skip connections.",
    check=check,
    yields=True,
    convicts=True,
)
