"""Inputs that a model may take, guessed from the layers that would consume them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import singledispatch

import torch
from torch import nn

from gradcheckup.targets.inputs import InputSpec

# Sizes that published networks and data sets have, the cheap and frequent ones first.
_PIXELS = (64, 224, 96, 32, 28, 299, 128, 256, 84, 48, 16, 8, 100, 112, 150, 180, 160, 192, 200, 40)
_LENGTHS = (64, 128, 256, 1000, 100, 784, 28, 32, 16, 500, 512, 1024, 2048, 4096, 16000)
_TOKENS = (8, 32, 64, 128)
_VOLUMES = ((16, 32, 32), (8, 64, 64), (16, 112, 112), (32, 32, 32), (16, 16, 16))
_ROWS = 32
_BATCH = 8
_STEPS = 16
_MOST = 60


@dataclass(frozen=True, slots=True)
class _Surroundings:
    """What the rest of the model says about a layer's input.

    Attributes:
        model: The whole model.
        flattens: An `nn.Flatten` comes before the layer.
    """

    model: nn.Module
    flattens: bool

    @property
    def sequential(self) -> nn.RNNBase | nn.MultiheadAttention | None:
        """The first layer that works on sequences."""
        kinds = (nn.RNNBase, nn.MultiheadAttention)
        return next((each for each in self.model.modules() if isinstance(each, kinds)), None)


def candidates(model: nn.Module) -> list[InputSpec]:
    """Inputs that the model may take, likeliest first: its first layers say what they consume."""
    specs: dict[InputSpec, None] = {}
    flattens = False
    for module in model.modules():
        flattens = flattens or isinstance(module, nn.Flatten)
        specs.update(dict.fromkeys(_consumed_by(module, _Surroundings(model, flattens))))
    for module in model.modules():
        specs.update(dict.fromkeys(_consumed_by_parameters(module)))
    return list(specs)[:_MOST]


@singledispatch
def _consumed_by(module: nn.Module, around: _Surroundings) -> Iterator[InputSpec]:
    """What this layer takes, were it the first; nothing for layers that take anything."""
    del module, around
    return iter(())


@_consumed_by.register(nn.Embedding)
def _tokens(module: nn.Embedding, around: _Surroundings) -> Iterator[InputSpec]:
    """Integer tokens, also with time first, and single ones."""
    tables = [table for table in around.model.modules() if isinstance(table, nn.Embedding)]
    for high in (module.num_embeddings, min(table.num_embeddings for table in tables)):
        yield InputSpec(shape=(_BATCH, _STEPS), dtype=torch.int64, high=high)
        yield InputSpec(shape=(_STEPS, _BATCH), dtype=torch.int64, high=high, batch_axis=1)
        for length in _TOKENS:
            yield InputSpec(shape=(_BATCH, length), dtype=torch.int64, high=high)
        yield InputSpec(shape=(_BATCH,), dtype=torch.int64, high=high)


@_consumed_by.register(nn.EmbeddingBag)
def _bags(module: nn.EmbeddingBag, around: _Surroundings) -> Iterator[InputSpec]:
    del around
    yield InputSpec(shape=(_BATCH, _STEPS), dtype=torch.int64, high=module.num_embeddings)


@_consumed_by.register(nn.RNNBase)
def _recurrent(module: nn.RNNBase, around: _Surroundings) -> Iterator[InputSpec]:
    del around
    yield _sequence(module.input_size, batch_first=module.batch_first)


@_consumed_by.register(nn.MultiheadAttention)
def _attention(module: nn.MultiheadAttention, around: _Surroundings) -> Iterator[InputSpec]:
    del around
    yield _sequence(module.embed_dim, batch_first=module.batch_first)


@_consumed_by.register(nn.RNNCellBase)
def _cell(module: nn.RNNCellBase, around: _Surroundings) -> Iterator[InputSpec]:
    del around
    yield InputSpec(shape=(_ROWS, module.input_size))


@_consumed_by.register(nn.Linear)
def _linear(module: nn.Linear, around: _Surroundings) -> Iterator[InputSpec]:
    """Rows of features; sequences or images first where other layers say so."""
    size = module.in_features or 64
    rows = InputSpec(shape=(_ROWS, size), note=_lazy_note(module, module.in_features, size))
    images = [
        InputSpec(shape=(_ROWS, channels, side, side))
        for channels in (1, 3)
        if (side := math.isqrt(size // channels)) > 1 and channels * side * side == size
    ]
    layer = around.sequential
    sequence = _sequence(size, batch_first=layer.batch_first if layer else True)
    if layer:
        yield from (sequence, rows)
    elif around.flattens:
        yield from (*images, rows, sequence)
    else:
        yield from (rows, sequence, *images)


@_consumed_by.register(nn.LayerNorm)
def _layer_norm(module: nn.LayerNorm, around: _Surroundings) -> Iterator[InputSpec]:
    layer = around.sequential
    if len(module.normalized_shape) > 1 or not layer:
        yield InputSpec(shape=(_ROWS, *module.normalized_shape))
    if len(module.normalized_shape) == 1:
        first = layer.batch_first if layer else True
        yield _sequence(module.normalized_shape[0], batch_first=first)


@_consumed_by.register(nn.BatchNorm1d)
def _batch_norm_rows(module: nn.BatchNorm1d, around: _Surroundings) -> Iterator[InputSpec]:
    if module.num_features:
        yield InputSpec(shape=(_ROWS, module.num_features))
        yield from _grids(module.num_features, 1, around.model)


@_consumed_by.register(nn.BatchNorm2d)
def _batch_norm_images(module: nn.BatchNorm2d, around: _Surroundings) -> Iterator[InputSpec]:
    if module.num_features:
        yield from _grids(module.num_features, 2, around.model)


@_consumed_by.register(nn.GroupNorm)
def _group_norm(module: nn.GroupNorm, around: _Surroundings) -> Iterator[InputSpec]:
    yield from _grids(module.num_channels, 2, around.model)


@_consumed_by.register(nn.Conv1d)
@_consumed_by.register(nn.Conv2d)
@_consumed_by.register(nn.Conv3d)
def _convolution(
    module: nn.Conv1d | nn.Conv2d | nn.Conv3d, around: _Surroundings
) -> Iterator[InputSpec]:
    note = _lazy_note(module, module.in_channels, 3)
    yield from _grids(module.in_channels or 3, len(module.kernel_size), around.model, note=note)


@_consumed_by.register(nn.ConvTranspose1d)
@_consumed_by.register(nn.ConvTranspose2d)
@_consumed_by.register(nn.ConvTranspose3d)
def _transposed(
    module: nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d, around: _Surroundings
) -> Iterator[InputSpec]:
    """A generator starts from a vector, a decoder from a small map."""
    del around
    for size in (1, 4, 8, 7):
        sides = (size,) * len(module.kernel_size)
        yield InputSpec(shape=(_BATCH, module.in_channels or 64, *sides))


def _consumed_by_parameters(module: nn.Module) -> Iterator[InputSpec]:
    """A last resort for home-made layers: the shapes of their own matrices."""
    if type(module).__module__.startswith("torch.nn."):
        return
    for parameter in module.parameters(recurse=False):
        if parameter.dim() == 2:
            for size in (parameter.shape[1], parameter.shape[0]):
                yield InputSpec(shape=(_ROWS, size))


def _sequence(size: int, *, batch_first: bool) -> InputSpec:
    if batch_first:
        return InputSpec(shape=(_BATCH, _STEPS, size))
    return InputSpec(shape=(_STEPS, _BATCH, size), batch_axis=1)


def _grids(channels: int, axes: int, model: nn.Module, *, note: str = "") -> Iterator[InputSpec]:
    """Signals, images or volumes of the usual sizes; one that the model names comes first."""
    if axes == 3:
        for volume in _VOLUMES:
            yield InputSpec(shape=(4, channels, *volume), note=note)
        return
    sizes = [(size,) * axes for size in (_PIXELS if axes == 2 else _LENGTHS)]
    if axes == 2 and channels == 1:
        sizes.insert(0, (28, 28))
    for name in ("image_size", "img_size", "input_size"):
        named = getattr(model, name, None)
        if isinstance(named, int) and not isinstance(named, bool):
            sizes.insert(0, (named,) * axes)
        elif isinstance(named, (tuple, list)) and len(named) >= axes:
            sizes.insert(0, tuple(named[-axes:]))
    for size in sizes:
        if all(type(side) is int and side > 0 for side in size):
            yield InputSpec(shape=(_BATCH, channels, *size), note=note)


def _lazy_note(module: nn.Module, size: int, assumed: int) -> str:
    return "" if size else f"{type(module).__name__} takes any width: {assumed} assumed"
