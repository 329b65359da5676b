"""What a monitor remembers of a training run, beside the steps it measured in full."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One optimizer step at which gradient norms of weight layers were read.

    Attributes:
        index: Number of optimizer steps before this one.
        loss: The loss before the update; that of the first backward pass of the step.
        norms: ||dL/dy|| of each layer of `History.layers`; None where no gradient arrived. Where
            every or every second step is sampled and there are more than eight layers, all but the
            two of the end-to-end ratio take turns, and are None out of turn.
        gradient_norm: Norm of the gradient of the weight matrices as the optimizer got it, behind
            any clipping; estimated from a sample of their elements.
        end_to_end_ratio: Norm of the first layer over that of the reference layer; None where one
            of them is missing.
        culprits: Where several processes train: of each that read a NaN or Inf in its own share of
            the batch, its rank and the first such layer, or ``loss``.
    """

    index: int
    loss: float | None
    norms: tuple[float | None, ...]
    gradient_norm: float | None = None
    end_to_end_ratio: float | None = None
    culprits: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """A training run as it was watched. Old samples are thinned out, so that it stays small.

    Attributes:
        every: Of how many optimizer steps one was sampled.
        steps: Number of optimizer steps seen.
        skipped: Sampled steps whose update the gradient scaler left out.
        layers: Names of the weight layers, in execution order.
        samples: Oldest first.
        first_bad: Index of the first sampled step with a NaN or Inf; None without any.
        first_culprits: `Sample.culprits` of that step.
        processes: How many processes train the model together. Norms are then those over the
            batches of all, and the loss is the mean of theirs.
        apart: Sampled steps left out because the processes ran different layers in them.
    """

    every: int
    steps: int
    skipped: int = 0
    layers: tuple[str, ...] = ()
    samples: tuple[Sample, ...] = ()
    first_bad: int | None = None
    first_culprits: tuple[tuple[int, str], ...] = ()
    processes: int = 1
    apart: int = 0
