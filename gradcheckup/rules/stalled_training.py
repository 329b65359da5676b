"""GC305: a net that was followed knows nothing of its batches, and no step teaches it."""

from __future__ import annotations

import math
from collections.abc import Iterator

from gradcheckup.records import Finding, Recording, Severity
from gradcheckup.rules import query
from gradcheckup.rules.rule import Rule
from gradcheckup.thresholds import Thresholds


def check(recording: Recording, thresholds: Thresholds) -> Iterator[Finding]:
    """Flags steps behind a plateau by which next to nothing is learnt from the input."""
    waited = recording.late and len(recording.paces) > 1
    known = recording.generalization
    if known is not None and known.unlearnt <= query.NOTHING:  # the forecast has failed
        return
    if not waited or not query.is_stalled(recording, thresholds):
        return
    left = query.plateau_left(recording)
    if left <= thresholds.stalled_steps:
        return
    if query.is_adaptive(recording):  # Adam's steps do not shrink with the gradient
        return
    evidence: list[tuple[str, float | int | str]] = [
        ("pace_before", recording.paces[0]),
        ("loss_first", recording.steps[0].loss),
        ("loss_last", recording.steps[-1].loss),
        ("optimizer", recording.optimizer),
    ]
    if math.isfinite(left):
        evidence.append(("plateau_left", left))
    yield Finding(
        code=RULE.code,
        rule=RULE.name,
        severity=Severity.CRITICAL,
        observed=query.pace(recording),
        limit=thresholds.stalled_progress,
        steps=tuple(step.index for step in recording.settled),
        evidence=tuple(evidence),
    )


RULE = Rule(
    code="GC305",
    name="stalled-training",
    summary="the loss stands still, and no step tells samples apart",
    formula=(
        "Of a small net that was followed, where at step 64 and at step 256 exchanging its outputs "
        "among the samples changes the loss by less than a tenth: the share of the loss that a "
        "step wins, to first order, by telling samples apart (see GC101), as a median over eight "
        "steps, below stalled_progress at step 256; where the loss has stopped falling, and the "
        "share has grown so slowly since step 64 that a step wins a thousandth only after more "
        "than stalled_steps further ones (plateaus end at saddles, which are left exponentially; "
        "Saxe, McClelland & Ganguli 2014); under an optimizer whose steps follow the size of the "
        "gradient (SGD). A light net of which the data has more is trained on to see (GC306). "
        "Where a scheduler holds the learning rate below the one it started from, it is scaled up "
        "to that."
    ),
    default=(
        "stalled_progress = 4e-5: a tenth of the loss takes 2500 steps. stalled_steps = 5000. Of "
        "the plateaus of 1900 nets, those from which a net learnt with SGD within 2000 steps had a "
        "share that grew by a half and more from step 64 to 256 (a CNN at 1e-6 by 5.2), but for "
        "one, which grew by 1.24 and would have lasted 4800 steps. LSTMs and GRUs that have to "
        "remember 10 to 50 steps, and do not learn it within 2000, grew by less than 1.1. With "
        "Adam 15 ReLU layers learnt."
    ),
    false_alarms=(
        "A net that takes a thousand steps and more to leave its plateau, and is given them: where "
        "many layers are small, the growth itself grows (8 tanh layers at 5e-8, N(0, 0.02^2) "
        "weights and LayerNorm, learn from step 900 on). A warm-up "
        "without a torch scheduler looks like a learning rate that is too small."
    ),
    remedy=(
        "A larger learning rate, Adam in place of SGD, larger initial weights, normalisation; for "
        "recurrent nets fewer layers or a shorter way back through time."
    ),
    check=check,
)
