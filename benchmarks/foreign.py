"""Nets of kinds to which no threshold was fitted, under optimizers to which none was.

The other families grew up with the rules: whoever fits a limit has looked at some of their nets.
These are here to be asked last. Their tasks, and what counts as having learnt them, are the same.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import networks, tasks
from benchmarks.cases import Case, Draw, Optimizer
from benchmarks.networks import Residual
from benchmarks.parts import TokenMean
from benchmarks.tasks import Task

_Layer = Callable[[], nn.Module]
_Made = tuple[Task, Callable[[], nn.Module]]

OPTIMIZERS: dict[str, Optimizer] = {
    "sgd-0.03-plain": functools.partial(torch.optim.SGD, lr=0.03),
    "sgd-0.3-plain": functools.partial(torch.optim.SGD, lr=0.3),
    "nesterov-0.03": functools.partial(torch.optim.SGD, lr=0.03, momentum=0.9, nesterov=True),
    "adam-0.01": functools.partial(torch.optim.Adam, lr=0.01),
    "adamw-0.0003": functools.partial(torch.optim.AdamW, lr=3e-4, weight_decay=0.05),
    "rmsprop-0.001": functools.partial(torch.optim.RMSprop, lr=1e-3),
    "nadam-0.003": functools.partial(torch.optim.NAdam, lr=3e-3),
    "adagrad-0.03": functools.partial(torch.optim.Adagrad, lr=0.03),
}
_ACTIVATIONS: dict[str, _Layer] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "mish": nn.Mish,
    "hardswish": nn.Hardswish,
    "softplus": nn.Softplus,
    "softsign": nn.Softsign,
    "prelu": nn.PReLU,
    "hardtanh": nn.Hardtanh,
}
_INITS = ("default", "default", "default", "he-uniform", "orthogonal", "uniform-0.05", "normal-0.3")
_DEPTHS = (1, 2, 3, 4, 6, 9, 14)


class _Concatenated(nn.Module):
    """x beside f(x), as in a DenseNet."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.inner(x)], dim=1)


class _Highway(nn.Module):
    """t f(x) + (1 - t) x with a learnt t, which starts low (Srivastava et al. 2015)."""

    def __init__(self, inner: nn.Module, width: int) -> None:
        super().__init__()
        self.inner, self.carry = inner, nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        share = torch.sigmoid(self.carry(x) - 1)
        mixed: Tensor = share * self.inner(x) + (1 - share) * x
        return mixed


class _Gated(nn.Module):
    """One half of the features times the sigmoid of the other."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(before, 2 * width)

    def forward(self, x: Tensor) -> Tensor:
        return F.glu(self.linear(x))


class _Turned(nn.Module):
    """What works on the last dimension works on the one before it."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.inner(x.transpose(1, 2))
        return found.transpose(1, 2)


class _Pooled(nn.Module):
    """A recurrent net that reads in both directions; the mean or the largest of its outputs."""

    def __init__(self, core: nn.RNNBase, *, largest: bool) -> None:
        super().__init__()
        self.core, self.largest = core, largest
        self.head = nn.Linear(2 * core.hidden_size, 10)

    def forward(self, x: Tensor) -> Tensor:
        outputs, _ = self.core(x)
        scores: Tensor = self.head(outputs.amax(1) if self.largest else outputs.mean(1))
        return scores


class _Asked(nn.Module):
    """Tokens that learnt questions attend to, by a softmax written by hand."""

    def __init__(self, features: int, width: int, questions: int, behind: nn.Module) -> None:
        super().__init__()
        self.keys, self.values = nn.Linear(features, width), nn.Linear(features, width)
        self.questions = nn.Parameter(torch.randn(questions, width))
        self.behind = behind

    def forward(self, x: Tensor) -> Tensor:
        logits = self.questions @ self.keys(x).transpose(1, 2) / self.questions.shape[1] ** 0.5
        scores: Tensor = self.behind((logits.softmax(-1) @ self.values(x)).flatten(1))
        return scores


def _activation(draw: Draw) -> _Layer:
    return _ACTIVATIONS[draw("activation", list(_ACTIVATIONS))]


def _norm(name: str, width: int) -> list[nn.Module]:
    norms: dict[str, Callable[[int], nn.Module]] = {
        "batch": nn.BatchNorm1d,
        "layer": nn.LayerNorm,
        "rms": nn.RMSNorm,
        "group": functools.partial(nn.GroupNorm, 2),
        "instance": functools.partial(nn.InstanceNorm2d, affine=True),
    }
    return [] if name == "none" else [norms[name](width)]


def _vectors(draw: Draw) -> _Made:
    """Fully connected: tapering, concatenated, highway or gated."""
    activation = _activation(draw)
    kind = draw("kind", ("taper", "concatenated", "highway", "gated"))
    width, depth = draw("width", (16, 32, 64, 128)), draw("depth", _DEPTHS)
    norm = draw("norm", ("none", "none", "none", "batch", "layer", "rms"))

    def build() -> nn.Module:
        layers: list[nn.Module] = [nn.Linear(64, width), activation()]
        now = width
        for place in range(depth):
            after = max(8, round(width * (1 - place / depth))) if kind == "taper" else width
            after = 8 if kind == "concatenated" else after
            inner: list[nn.Module] = [nn.Linear(now, after), *_norm(norm, after), activation()]
            if kind == "gated":
                layers += [_Gated(now, after), *_norm(norm, after)]
            elif kind == "highway":
                layers.append(_Highway(nn.Sequential(*inner), now))
            elif kind == "concatenated":
                layers.append(_Concatenated(nn.Sequential(*inner)))
            else:
                layers += inner
            now = now + after if kind == "concatenated" else after
        return nn.Sequential(*layers, nn.Linear(now, 10))

    return tasks.digits(), build


def _images(draw: Draw) -> _Made:
    """Depthwise separable convolutions behind a stem."""
    activation = _activation(draw)
    width, depth = draw("width", (8, 16)), draw("depth", (1, 2, 3, 5, 8))
    norm = draw("norm", ("none", "none", "group", "instance"))
    skips = draw("skips", ("plain", "residual"))

    def build() -> nn.Module:
        layers: list[nn.Module] = [nn.Conv2d(1, width, 3, padding=1), activation()]
        for _ in range(depth):
            block = nn.Sequential(
                nn.Conv2d(width, width, 3, padding=1, groups=width),
                nn.Conv2d(width, width, 1),
                *_norm(norm, width),
                activation(),
            )
            layers.append(Residual(block) if skips == "residual" else block)
        return nn.Sequential(*layers, nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16 * width, 10))

    return tasks.digits(1, 8, 8), build


def _mixer(draw: Draw) -> _Made:
    """An MLP-Mixer over the rows of an image (Tolstikhin et al. 2021)."""
    activation = _activation(draw)
    width, depth = draw("width", (16, 32)), draw("depth", (1, 2, 4, 8))

    def mlp(size: int) -> nn.Sequential:
        return nn.Sequential(nn.Linear(size, 2 * size), activation(), nn.Linear(2 * size, size))

    def build() -> nn.Module:
        layers: list[nn.Module] = [nn.Linear(8, width)]
        for _ in range(depth):
            layers.append(Residual(nn.Sequential(nn.LayerNorm(width), _Turned(mlp(8)))))
            layers.append(Residual(nn.Sequential(nn.LayerNorm(width), mlp(width))))
        return nn.Sequential(*layers, TokenMean(), nn.Linear(width, 10))

    return tasks.digits(8, 8), build


def _sequence(draw: Draw) -> tuple[Task, int, int]:
    """A task over time, its length and its features."""
    length = draw("length", (8, 16, 20))
    if length == 20:
        return tasks.recall(length), length, 10
    features = 64 // length
    return tasks.digits(length, features), length, features


def _dilated(draw: Draw) -> _Made:
    """Dilated convolutions over time (Bai et al. 2018)."""
    activation = _activation(draw)
    width, depth = draw("width", (16, 32)), draw("depth", (2, 3, 4, 6, 10))
    skips = draw("skips", ("plain", "residual"))
    task, length, features = _sequence(draw)

    def build() -> nn.Module:
        layers: list[nn.Module] = [nn.Linear(features, width)]
        for place in range(depth):
            reach = 2 ** (place % 4)
            conv = nn.Conv1d(width, width, 3, padding=reach, dilation=reach)
            block = nn.Sequential(_Turned(conv), activation())
            layers.append(Residual(block) if skips == "residual" else block)
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(length * width, 10))

    return task, build


def _both_ways(draw: Draw) -> _Made:
    """Recurrent nets in both directions, of which all outputs are pooled."""
    kind, width = draw("kind", ("rnn", "lstm", "gru")), draw("width", (16, 32))
    layers, pool = draw("layers", (1, 2)), draw("pool", ("mean", "largest"))
    task, _, features = _sequence(draw)
    cores: dict[str, type[nn.RNNBase]] = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}

    def build() -> nn.Module:
        core = cores[kind](features, width, layers, batch_first=True, bidirectional=True)
        return _Pooled(core, largest=pool == "largest")

    return task, build


def _asked(draw: Draw) -> _Made:
    """Attention of a few learnt questions to the rows of an image, and layers behind it."""
    activation = _activation(draw)
    width, depth = draw("width", (16, 32)), draw("depth", _DEPTHS)
    questions = draw("questions", (2, 4))

    def build() -> nn.Module:
        widths = [questions * width, *[width] * depth, 10]
        return _Asked(8, width, questions, networks.mlp(widths, activation))

    return tasks.digits(8, 8), build


_STRUCTURES: dict[str, Callable[[Draw], _Made]] = {
    "vectors": _vectors,
    "images": _images,
    "mixer": _mixer,
    "dilated": _dilated,
    "both ways": _both_ways,
    "asked": _asked,
}


def case(index: int) -> Case:
    """Number `index` of the family."""
    draw = Draw("foreign", index)
    structure = draw("structure", ("vectors", "vectors", *_STRUCTURES))
    init = draw("init", _INITS)
    task, build = _STRUCTURES[structure](draw)
    return draw.case(task, lambda: networks.initialise(build(), init), OPTIMIZERS)
