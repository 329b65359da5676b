"""GC204: attention puts all its weight on one key."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

from gradcheckup.records import Finding, LayerRecord, Recording, Role, Severity, Step
from gradcheckup.rules import exploding_gradient, query
from gradcheckup.rules.rule import Rule
from gradcheckup.thresholds import Thresholds


def check(recording: Recording, thresholds: Thresholds) -> Iterator[Finding]:
    """Flags attention whose entropy is below a limit in at least half of its layers."""
    attention = _settled(recording)
    limit = thresholds.attention_entropy_warning
    low = [layer for layer, entropy in attention if entropy < limit]
    # In a trained net some layers are sharp by right, as one that copies the word before.
    if not low or 2 * len(low) < len(attention):
        return
    worst, observed = min(attention, key=lambda each: each[1])
    critical = _hopeless(recording, thresholds) or _explodes(recording, thresholds)
    yield Finding(
        code=RULE.code,
        rule=RULE.name,
        severity=Severity.CRITICAL if critical else Severity.WARNING,
        layers=query.names(low),
        culprit=low[0].name,
        observed=observed,
        limit=limit,
        steps=tuple(step.index for step in recording.steps if _below(step.layer(worst.key), limit)),
        cause="large-logits",
        evidence=(
            ("worst", worst.name),
            ("saturated", len(low)),
            ("attention", len(attention)),
            ("loss_first", recording.steps[0].loss),
            ("loss_last", recording.steps[-1].loss),
            ("optimizer", recording.optimizer),
        ),
    )


def _settled(recording: Recording) -> list[tuple[LayerRecord, float]]:
    """Layers with attention, each with its median entropy over the settled steps.

    The entropy differs from batch to batch, by a factor of three where it is low.
    """
    found = []
    for layer in recording.settled[-1].layers:
        calls = (step.layer(layer.key) for step in recording.settled)
        entropy = query.median(call.attention_entropy for call in calls if call)
        if entropy is not None:
            found.append((layer, entropy))
    return found


def _below(layer: LayerRecord | None, limit: float) -> bool:
    entropy = layer.attention_entropy if layer else None
    return entropy is not None and entropy < limit


def _hopeless(recording: Recording, thresholds: Thresholds) -> bool:
    """Whether a net that starts so sharp is not seen to learn.

    Its loss runs away; or the optimizer's steps follow the size of the gradient, and all of several
    layers are one-hot, or no path leads around what comes of them. Of a net that was trained none
    of this says anything: it may have learnt to attend to one key, and a small loss doubles from
    batch to batch.
    """
    if not _untrained(recording.steps[0]):
        return False
    bound = thresholds.loss_growth * abs(recording.steps[0].loss)
    beyond = [not step.loss <= bound for step in recording.settled]
    if 2 * sum(beyond) > len(beyond):
        return True
    entropies = [entropy for _, entropy in _settled(recording)]
    one_hot = max(entropies) < thresholds.attention_entropy_critical
    stiff = one_hot or _normed_in_between(recording.steps[0])
    return stiff and len(entropies) > 1 and not query.is_adaptive(recording)


def _normed_in_between(step: Step) -> bool:
    """Whether a norm that no path leads around lies between any two layers with attention.

    As in post-norm transformers (Xiong et al. 2020), where no residual stream carries what is there
    without attention past it, nor the gradient.
    """
    marks = [
        "attention" if layer.attention_entropy is not None else "norm"
        for layer in step.layers
        if layer.attention_entropy is not None or (layer.role is Role.NORM and layer.bottleneck)
    ]
    return all(pair != ("attention", "attention") for pair in pairwise(marks))


def _explodes(recording: Recording, thresholds: Thresholds) -> bool:
    """Whether the gradient grows from layer to layer, as large logits make it."""
    found = exploding_gradient.check(recording, thresholds)
    return any(each.cause != "learning-rate" for each in found)


def _untrained(step: Step) -> bool:
    """Whether vectors that start as zeros or ones, and leave them by any training, still are.

    Those of normalisation and of attention modules. Without any the net may have learnt to attend
    to one key, as a net does that looks things up.
    """
    layers = {
        layer.name
        for layer in step.layers
        if layer.role is Role.NORM or layer.attention_entropy is not None
    }
    vectors = [each for each in step.parameters if each.layer in layers and len(each.shape) == 1]
    return bool(vectors) and all(
        each.weight_norm is not None
        and (
            each.weight_norm == 0
            or math.isclose(each.weight_norm, math.sqrt(each.shape[0]), rel_tol=1e-7)
        )
        for each in vectors
    )


RULE = Rule(
    code="GC204",
    name="saturated-attention",
    summary="attention puts all its weight on one key",
    formula=(
        "Mean over rows (one query of one head of one sample) of the entropy of the attention "
        "weights, before dropout, over ln(number of keys that the row may see): 1 for equal "
        "weights, 0 where one key gets all. Seen in nn.MultiheadAttention, "
        "F.scaled_dot_product_attention, and attention written by hand (a softmax between two "
        "matrix products), on a few samples, heads and rows. Flagged where its median over the "
        "second half of the probe is below the limit, in at least half of the layers with "
        "attention. A softmax that picks one key has next to no slope: queries and keys hardly "
        "learn what to attend to, though large logits can make their gradient rise."
    ),
    default=(
        "attention_entropy_warning = 0.1, attention_entropy_critical = 0.01. With all logits x 100 "
        "small transformers have .02 to .07, at PyTorch's initialisation .95 to 1. Where the task "
        "is to look something up, pre-norm ones of 2 to 6 layers then stay at an accuracy of .16 "
        "to .76 (with logits x 1: 1.00); on digits, which need no attention, they learn (.80 to "
        ".95): a warning. Critical in a net that was not trained before where the loss settles "
        "above loss_growth times its first value (3 layers, weights N(0, 1), no scaling, SGD: "
        ".11); or, of two layers or more and under an optimizer whose steps follow the size of the "
        "gradient, where all are below attention_entropy_critical (10 such nets reached .09 to .77 "
        "on the digits, 7 of them .12 at most, while Adam's reach .71 to .90), or where a norm "
        "that no path leads around lies between them, as in post-norm transformers (Xiong et al. "
        "2020): of 11 such nets none learnt the digits (.09 to .34), with Adam 3 of 4 did (.91 to "
        ".95). And where the gradient explodes with it (GC102)."
    ),
    false_alarms=(
        "A trained net that has learnt to pick one key in most of its layers: a warning. Keys that "
        "a mask hides by less than -9000 count as visible."
    ),
    remedy=(
        "Divide the products of queries and keys by the square root of their width, start with "
        "smaller weights for both, or normalise both (QK norm)."
    ),
    check=check,
)
