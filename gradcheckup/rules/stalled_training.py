"""GC305: a net that was followed knows nothing of its batches, and no step teaches it."""

from __future__ import annotations

from collections.abc import Iterator

from gradcheckup.records import Finding, Recording, Severity
from gradcheckup.rules import query
from gradcheckup.rules.rule import Rule
from gradcheckup.thresholds import Thresholds


def check(recording: Recording, thresholds: Thresholds) -> Iterator[Finding]:
    """Flags steps behind a plateau by which next to nothing is learnt from the input."""
    # Adam's steps do not shrink with the gradient.
    stuck = recording.late and query.is_stalled(recording, thresholds)
    if not stuck or query.is_adaptive(recording):
        return
    yield Finding(
        code=RULE.code,
        rule=RULE.name,
        severity=Severity.CRITICAL,
        observed=query.pace(recording),
        limit=thresholds.stalled_progress,
        steps=tuple(step.index for step in recording.settled),
        evidence=(
            ("loss_first", recording.steps[0].loss),
            ("loss_last", recording.steps[-1].loss),
            ("optimizer", recording.optimizer),
        ),
    )


RULE = Rule(
    code="GC305",
    name="stalled-training",
    summary="the loss stands still, and no step tells samples apart",
    formula=(
        "Of a small net that was followed to step 64 and whose loss has stopped falling: where "
        "exchanging its outputs among the samples changes the loss by less than a tenth, the share "
        "of the loss that a step wins, to first order, by telling samples apart (see GC101), as a "
        "median over the last eight steps, below stalled_progress; under an optimizer whose steps "
        "follow the size of the gradient (SGD). Where a scheduler holds the "
        "learning rate below the one it started from, it is scaled up to that."
    ),
    default=(
        "stalled_progress = 1e-6: a tenth of the loss takes 100,000 steps. Of the plateaus of 1900 "
        "nets, those from which a net learnt within 500 steps with SGD were left at 1.7e-6 and "
        "more, all but one at 1.2e-5. Of ten nets below it seven did not learn within 2000 steps, "
        "as an LSTM of two layers with N(0, 0.02^2) weights (1.6e-8), two only at a tenth of the "
        "learning rate, and one late. With Adam 15 ReLU layers learnt."
    ),
    false_alarms=(
        "A plateau is left faster and faster: what takes 100,000 steps at this pace takes fewer. A "
        "warm-up without a torch scheduler looks like a learning rate that is too small."
    ),
    remedy=(
        "A larger learning rate, Adam in place of SGD, larger initial weights, normalisation; for "
        "recurrent nets fewer layers or a shorter way back through time."
    ),
    check=check,
)
