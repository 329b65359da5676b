"""Likely causes in words: the keys of `Finding.cause` and what a reader is told."""

from __future__ import annotations

from gradcheckup.records import Finding
from gradcheckup.reports.numbers import count, number

_WORDS = {
    "squashing-activation": "activations that squash the gradient",
    "small-weights": "initial weights that are too small for this depth",
    "large-weights": "initial weights that are too large for this depth",
    "large-logits": "queries and keys whose products are too large for the softmax",
    "large-recurrent-weights": "recurrent weights that are too large for this many time steps",
    "dead-units": "units that never fire and pass nothing back",
    "underflow": "numbers too small for the precision of the weights",
    "float16-range": "gradients near 6e-8 and below, which float16 takes for 0",
    "detached": "the graph is cut on the way: detach(), .item(), .data, argmax or a new tensor",
    "not-in-optimizer": "these parameters were not given to the optimizer",
    "not-registered": "the model keeps them where parameters() does not look, as in a plain list",
    "zero-learning-rate": "the learning rate of their parameter group is 0",
    "learning-rate": "the learning rate does not fit the size of the weights",
    "oversized-step": "one update that was too large: a batch unlike the others, or the rate",
    "constant-initialisation": "all weights start with the same value",
    "zero-factors": "two factors of a product both start at 0, so neither gets a gradient",
    "single-unit-softmax": "a softmax over a single unit is 1 whatever goes in",
    "overflow": "numbers too large for their precision",
    "in-forward": "it arises in the forward pass",
    "in-loss": "it arises in the loss: log or division by 0, or exp of a large number",
    "in-gradient": "it arises in the backward pass: the square root or the norm of 0, for instance",
    "normalisation-growth": "every normalisation without a skip around it enlarges the gradient",
    "bias-before-normalisation": "the normalisation behind it takes the bias out again",
    "shift-invariance": "what follows does not change with a constant (an attention key bias)",
    "lost-input": "what is computed here is the same for every sample, as a mean over the batch is",
    "depth": "many layers, each of which loses a little",
}
_LARGEST_SLOPE = {"sigmoid": "at most 0.25"}


def describe_cause(finding: Finding) -> str:
    """The likely cause of a finding; empty when none is known."""
    if finding.cause is None:
        return ""
    if finding.cause == "squashing-activation":
        return _squashing(finding)
    words = _WORDS.get(finding.cause, finding.cause.replace("-", " "))
    share = finding.fact("weight_share")
    if finding.cause in ("small-weights", "large-weights") and isinstance(share, float):
        words += f" (they pass {number(share)}× a layer)"
    return words


def _squashing(finding: Finding) -> str:
    """``7 sigmoids (each passes 0.21 of the gradient) behind weights that pass 0.58×``."""
    kind, amount = finding.fact("activation"), finding.fact("activations")
    slope, weights = finding.fact("slope_share"), finding.fact("weight_share")
    if not isinstance(kind, str):
        words = _WORDS["squashing-activation"]
    else:
        words = count(amount, kind) if isinstance(amount, int) else f"{kind} activations"
    if isinstance(slope, float):
        words += f" (each passes {number(slope)} of the gradient)"
    elif kind in _LARGEST_SLOPE:
        words += f" (each passes {_LARGEST_SLOPE[str(kind)]} of the gradient)"
    if isinstance(weights, float) and weights < 1:
        words += f" behind weights that pass {number(weights)}× a layer"
    return words
