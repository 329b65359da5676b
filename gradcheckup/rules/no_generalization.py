"""GC306: a net that was trained on knows little of new batches, though regression does."""

from __future__ import annotations

from collections.abc import Iterator

from gradcheckup.records import Finding, Recording, Severity
from gradcheckup.rules import query
from gradcheckup.rules.rule import Rule
from gradcheckup.thresholds import Thresholds


def check(recording: Recording, thresholds: Thresholds) -> Iterator[Finding]:
    """Flags a net that learns nothing where there is something to learn."""
    known = recording.generalization
    if known is None or known.regression is None:
        return
    if not query.learns_nothing(recording, thresholds):
        return
    evidence: list[tuple[str, float | int | str]] = [
        ("schooled", known.steps),
        ("batches", known.batches),
        ("regression", known.regression),
        ("optimizer", recording.optimizer),
    ]
    if known.readout is not None:
        evidence.append(("readout", known.readout))
    nothing = known.unlearnt > query.NOTHING
    yield Finding(
        code=RULE.code,
        rule=RULE.name,
        severity=Severity.CRITICAL,
        observed=known.unlearnt,
        limit=query.NOTHING if nothing else None,
        evidence=tuple(evidence),
    )


RULE = Rule(
    code="GC306",
    name="no-generalization",
    summary="trained on for long, the net knows little of new batches, though regression does",
    formula=(
        "Of a light net (5e7 multiply-adds a forward pass) in which nothing critical was found: up "
        "to 32 more batches of the data are taken, a third of them is kept apart, and the net is "
        "trained on with the others, their samples shuffled where they can be told. At steps 64, "
        "128, 256 … 2048 it is asked what it keeps on those that were kept apart, of the loss that "
        "it has where the samples exchange their outputs; below .05 it has passed, with a warning "
        "that more steps may settle below .03. It is critical, after schooled_steps at least, that "
        "it keeps more than 0.9, and that what regression on its outputs explains of the targets "
        "kept apart is less than readout_nothing of what regression on the inputs explains; or, "
        "whatever it keeps, that this share is below readout_little; where the inputs leave less "
        "than unexplained_variance. That is kernel ridge regression, linear or Gaussian, whichever "
        "predicts each sample best from the others, fitted to the batches that the net was trained "
        "on, of targets that are one class or number a sample. Where a net knew something when it "
        "was asked, or its loss runs away, all that is asked once more, of the net trained in "
        "another order of the samples, and only what is found then too counts. What is a warning "
        "of GC101, GC102, GC105 or GC203 is then the reason, and critical. Not in a warm-up or a "
        "schedule that holds the rate low."
    ),
    default=(
        "schooled_steps = 2000; unexplained_variance = 0.5; readout_nothing = 0.5; "
        "readout_little = 0.4. Of 4320 nets of benchmarks/verdicts.py it is found for 110 that "
        "fail, for 17 that learn at a tenth of the learning rate, for 2 that end in between, and "
        "for none of those that learn: mostly RNNs, LSTMs and GRUs that have to "
        "remember 10 steps and more and learn the noise of their batches by heart, then nets "
        "behind BatchNorm whose weights are so large that no step turns them. Regression leaves "
        ".1 to .4 of the variance of digits and of a symbol among 100 steps of noise, and 1 of "
        "targets that have nothing to do with the inputs: of such data nobody is asked to know "
        "anything."
    ),
    false_alarms=(
        "A net that needs more than 2000 steps to begin, and is given them. Regression sees "
        "everything the model is given, also inputs that the model leaves out on purpose."
    ),
    remedy=(
        "Of a recurrent net: LSTM or GRU with the bias of the forget gate at 1 to 5, an orthogonal "
        "recurrent matrix, attention over all outputs. Otherwise normalisation, skip connections, "
        "Adam in place of SGD, another learning rate."
    ),
    check=check,
)
