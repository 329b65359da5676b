"""Families of cases: which net, trained how, is number `index` of a family."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from benchmarks import foreign, literature, networks, planted, tasks
from benchmarks.cases import Case, Draw


def _mlp(index: int) -> Case:
    draw = Draw("mlp", index)
    width = draw("width", (16, 32, 64, 128, 256, 512))
    # Wide nets stop where they would take minutes.
    deepest = 30 if width <= 128 else 10
    depths = [depth for depth in (2, 3, 4, 5, 6, 8, 10, 13, 16, 20, 25, 30) if depth <= deepest]
    depth = draw("depth", depths)
    activation = draw("activation", list(networks.ACTIVATIONS))
    init = draw(
        "init",
        (
            *("default", "default", "default"),
            *("xavier", "he", "lecun", "orthogonal"),
            *("normal-0.02", "normal-0.3", "normal-1", "normal-10"),
        ),
    )
    norm = draw("norm", ("none", "none", "none", "batch", "layer"))
    skips = draw("skips", ("plain", "plain", "residual"))

    def build() -> nn.Module:
        widths = [64, *[width] * depth, 10]
        make = networks.ACTIVATIONS[activation]
        model = networks.mlp(widths, make, norm=norm, residual=skips == "residual")
        return networks.initialise(model, init)

    return draw.case(tasks.digits(), build)


def _cnn(index: int) -> Case:
    draw = Draw("cnn", index)
    depth = draw("depth", (1, 2, 3, 4, 6, 8, 12, 16))
    head = draw("head", ("flatten", "mean"))
    # Ten classes from the means of four channels are too much to ask of any net.
    channels = draw("channels", (8, 16) if head == "mean" else (4, 8, 16))
    activation = draw("activation", ("relu", "relu", "gelu", "silu", "leaky", "tanh", "sigmoid"))
    init = draw(
        "init", ("default", "default", "he", "xavier", "orthogonal", "normal-0.02", "normal-0.3")
    )
    norm = draw("norm", ("none", "none", "batch", "group"))
    skips = draw("skips", ("plain", "plain", "residual"))

    def build() -> nn.Module:
        model = networks.cnn(
            depth,
            channels,
            networks.ACTIVATIONS[activation],
            norm=norm,
            residual=skips == "residual",
            head=head,
        )
        return networks.initialise(model, init)

    return draw.case(tasks.digits(1, 8, 8), build)


def _recurrent(index: int) -> Case:
    draw = Draw("recurrent", index)
    kind = draw("kind", ("rnn-tanh", "rnn-relu", "lstm", "gru"))
    width = draw("width", (16, 32, 64))
    layers = draw("layers", (1, 1, 2, 3))
    init = draw("init", ("default", "default", "identity", "xavier", "normal-0.02", "normal-0.3"))
    sequence = draw("sequence", ("rows", "rows", "halves", "recall", "recall"))
    if sequence == "recall":
        length = draw("length", (3, 5, 10, 20, 50, 100))
        task, features = tasks.recall(length), 10
    else:
        length, features = (8, 8) if sequence == "rows" else (16, 4)
        task = tasks.digits(length, features)
    return draw.case(task, lambda: networks.recurrent(kind, features, width, layers, init))


def _transformer(index: int) -> Case:
    draw = Draw("transformer", index)
    depth = draw("depth", (1, 2, 3, 4, 6, 9, 12))
    width = draw("width", (16, 32))
    activation = draw("activation", ("relu", "gelu"))
    order = draw("norm", ("pre", "post"))
    init = draw("init", ("default", "default", "xavier", "normal-0.02", "normal-0.3"))
    factor = draw("attention", (1, 1, 1, 10, 100))
    dropout = draw("dropout", (0.0, 0.0, 0.1))

    def build() -> nn.Module:
        model = networks.Transformer(
            depth, width, activation=activation, pre_norm=order == "pre", dropout=dropout
        )
        networks.initialise(model, init)
        model.scale_attention(factor)
        return model

    return draw.case(tasks.digits(8, 8), build)


def _attention(index: int) -> Case:
    draw = Draw("attention", index)
    depth = draw("depth", (1, 2, 3, 4, 6))
    width = draw("width", (32, 64))
    activation = draw("activation", ("relu", "gelu"))
    order = draw("norm", ("pre", "post"))
    factor = draw("attention", (1, 1, 10, 30, 100, 1000))
    pairs = draw("pairs", (3, 5, 8))

    def build() -> nn.Module:
        model = networks.Transformer(
            depth,
            width,
            activation=activation,
            pre_norm=order == "pre",
            dropout=0.0,
            tokens=pairs + 1,
            features=20,
            last=True,
        )
        model.scale_attention(factor)
        return model

    return draw.case(tasks.lookup(pairs), build)


FAMILIES: dict[str, Callable[[int], Case]] = {
    "mlp": _mlp,
    "cnn": _cnn,
    "recurrent": _recurrent,
    "transformer": _transformer,
    "attention": _attention,
    "foreign": foreign.case,
    "literature": literature.case,
    "planted": planted.case,
}


def cases(family: str, count: int) -> list[Case]:
    """The first cases of a family; one with a fixed list may have fewer than `count`."""
    if family == "literature":
        count = min(count, len(literature.FAULTS))
    return [FAMILIES[family](index) for index in range(count)]
