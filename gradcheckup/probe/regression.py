"""What kernel ridge regression makes of the batches that a net is trained on.

Where a net knows nothing of new batches, this tells whether there was anything to know.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from gradcheckup.nesting import tensors
from gradcheckup.probe.batches import split

_MOST_SAMPLES = 768
_MOST_FEATURES = 4096
_PENALTIES = (0.01, 0.1, 1.0, 10.0)


def unexplained_variance(
    known: Sequence[Any], new: Sequence[Any], model: nn.Module
) -> float | None:
    """The share of the variance of new targets that regression on known batches leaves.

    Ridge regression with a linear and with a Gaussian kernel on standardised inputs (Saunders,
    Gammerman & Vovk 1998); whichever predicts each known sample from the others best (Allen's
    PRESS, 1974). Classes are regressed on as indicators; of inputs that are whole numbers it
    counts in how many places two samples agree.

    Args:
        known: Batches to fit.
        new: Batches to predict.
        model: Whose `forward` tells inputs from targets.

    Returns:
        About 1 where nothing can be predicted; None where targets are not one class or number
        each, or samples differ in shape.
    """
    try:
        fitted, asked = _samples(known, model), _samples(new, model)
        return None if fitted is None or asked is None else _left(fitted, asked)
    except (RuntimeError, TypeError, ValueError):  # ragged sequences, inputs that are no tensors
        return None


@dataclass(frozen=True, slots=True)
class _Samples:
    """Inputs, flattened, as numbers and as symbols, and targets; the samples first."""

    numbers: Tensor
    symbols: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)


def _samples(batches: Sequence[Any], model: nn.Module) -> _Samples | None:
    numbers: list[Tensor] = []
    symbols: list[Tensor] = []
    targets: list[Tensor] = []
    for batch in batches:
        inputs, wanted = split(batch, model, keep_targets=False)
        wanted = _targets(wanted)
        if wanted is None:
            return None
        parts = list(_parts(inputs, len(wanted)))
        if not parts:
            return None
        for kind, found in ((True, numbers), (False, symbols)):
            of_kind = [each for each in parts if each.is_floating_point() is kind]
            empty = torch.empty(len(wanted), 0)
            found.append(torch.cat([empty, *of_kind], dim=1) if of_kind else empty)
        targets.append(wanted)
        if sum(map(len, targets)) >= _MOST_SAMPLES:
            break
    numeric, symbolic, wanted = (
        torch.cat(each)[:_MOST_SAMPLES] for each in (numbers, symbols, targets)
    )
    return _Samples(_thinned(numeric).double(), _thinned(symbolic), wanted)


def _targets(given: Any) -> Tensor | None:
    """One number, one truth value or one class for each sample.

    Where more is asked for, as of an autoencoder, a net may be too narrow to say it all.
    """
    if not isinstance(given, Tensor) or not given.ndim or not len(given):
        return None
    found = given.detach().cpu()
    if found.numel() == len(found):
        return found.flatten()
    one_of_many = found.ndim == 2 and bool(((found == 0) | (found == 1)).all())
    if one_of_many and bool((found.sum(dim=1) == 1).all()):
        return found.int().argmax(dim=1)
    return None


def _parts(inputs: Any, samples: int) -> Iterator[Tensor]:
    """Tensors of an input with the samples first, flattened."""
    for each in tensors(inputs):
        plain = each.detach().cpu()
        if plain.is_complex():
            plain = torch.view_as_real(plain)
        if plain.dtype is torch.bool:
            plain = plain.float()
        if plain.ndim > 1 and len(plain) != samples:  # time first
            plain = plain.transpose(0, 1)
        if plain.ndim and len(plain) == samples:
            yield plain.reshape(samples, -1)


def _thinned(features: Tensor) -> Tensor:
    return features[:, :: -(-features.shape[1] // _MOST_FEATURES) or 1]


def _left(known: _Samples, new: _Samples) -> float | None:
    wanted, asked = _indicators(known.targets, new.targets)
    mean = wanted.mean(dim=0)
    spread = float((asked - mean).square().sum())
    if not spread > 0:
        return None
    best, left = None, None
    same = torch.eye(len(known), dtype=torch.float64)
    for within, across in _kernels(known, new):
        for penalty in _PENALTIES:
            inverse = torch.cholesky_inverse(torch.linalg.cholesky(within + penalty * same))
            weights = inverse @ (wanted - mean)
            press = float((weights / inverse.diagonal()[:, None]).square().sum())
            if best is None or press < best:
                best = press
                left = float((across @ weights + mean - asked).square().sum()) / spread
    return left if left is not None and math.isfinite(left) else None


def _indicators(known: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
    """Targets as numbers: a column for each class."""
    if known.is_floating_point() or known.dtype is torch.bool:
        return known.double()[:, None], new.double()[:, None]
    classes, places = torch.unique(torch.cat([known, new]), return_inverse=True)
    columns = functional.one_hot(places, len(classes)).double()
    return columns[: len(known)], columns[len(known) :]


def _kernels(known: _Samples, new: _Samples) -> Iterator[tuple[Tensor, Tensor]]:
    """Among known samples, and from new ones to them: linear, then Gaussian."""
    alike = _alike(known.symbols, known.symbols), _alike(new.symbols, known.symbols)
    if not known.numbers.numel():
        yield alike
        return
    scale, shift = known.numbers.std(dim=0, correction=0), known.numbers.mean(dim=0)
    varying = scale > 0
    width = max(int(varying.sum()), 1)
    one, other = ((each.numbers - shift)[:, varying] / scale[varying] for each in (known, new))
    yield one @ one.T / width + alike[0], other @ one.T / width + alike[1]
    within, across = torch.cdist(one, one).square(), torch.cdist(other, one).square()
    usual = within.median().clamp(min=torch.finfo(within.dtype).tiny)
    yield (-within / usual).exp() + alike[0], (-across / usual).exp() + alike[1]


def _alike(some: Tensor, others: Tensor) -> Tensor:
    """In which share of their places samples have the same symbol."""
    found = torch.zeros(len(some), len(others), dtype=torch.float64)
    for one, other in zip(some.T, others.T, strict=True):
        found += one[:, None] == other
    return found / max(some.shape[1], 1)
