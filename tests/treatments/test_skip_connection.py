"""Inserted shortcuts against nets written by hand with the same weights."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import gradcheckup
from gradcheckup import treat

INPUTS, WIDTH, CLASSES = 12, 16, 4


def forward_of(model: nn.Module, kind: str, x: Tensor) -> Tensor:
    """Three square layers between a first and a last one, with a way around each."""
    first, *square, last = [each for each in model.modules() if isinstance(each, nn.Linear)]
    act: Callable[[Tensor], Tensor] = getattr(torch, kind)
    x = act(first(x))
    for layer in square:
        x = x + act(layer(x))
    return last(x)


def mlp() -> nn.Module:
    widths = [INPUTS, WIDTH, WIDTH, WIDTH, WIDTH]
    hidden = [
        layer
        for before, width in pairwise(widths)
        for layer in (nn.Linear(before, width), nn.Sigmoid())
    ]
    return nn.Sequential(*hidden, nn.Linear(WIDTH, CLASSES))


def nested() -> nn.Module:
    """Each layer with its activation in a Sequential of its own, and those in another one."""
    flat = mlp()
    pairs = [nn.Sequential(flat[2 * index], flat[2 * index + 1]) for index in range(4)]
    return nn.Sequential(nn.Sequential(*pairs), nn.Sequential(flat[8]))


class InForward(nn.Module):
    """Layers by position or by name, activations as functions."""

    def __init__(self, *, by_name: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH if index else 12, WIDTH) for index in range(4))
        self.last = nn.Linear(WIDTH, CLASSES)
        self.by_name = by_name

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.sigmoid(layer(input=x) if self.by_name else layer(x))
        return self.last(input=x) if self.by_name else self.last(x)


NETS: dict[str, Callable[[], nn.Module]] = {
    "Sequential": mlp,
    "nested": nested,
    "in forward": InForward,
    "by name": lambda: InForward(by_name=True),
}


def batch(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("net", NETS)
def test_a_skip_is_x_plus_f_of_x(net: str) -> None:
    torch.manual_seed(0)
    model, x = NETS[net](), batch(5, INPUTS)
    treated = treat(model, "skip_connection", x).model
    expected = forward_of(model, "sigmoid", x)
    for each in (treated, copy.deepcopy(treated), pickle.loads(pickle.dumps(treated))):  # noqa: S301
        assert torch.equal(each(x), expected)
        assert torch.equal(each(x[:3]), forward_of(model, "sigmoid", x[:3]))


@pytest.mark.parametrize("net", NETS)
def test_gradients_are_those_of_the_sum(net: str) -> None:
    torch.manual_seed(0)
    model, x = NETS[net](), batch(5, INPUTS)
    treated = treat(model, "skip_connection", x).model
    treated(x).square().sum().backward()
    forward_of(model, "sigmoid", x).square().sum().backward()
    pairs = zip(treated.parameters(), model.parameters(), strict=True)
    for found, expected in pairs:
        torch.testing.assert_close(found.grad, expected.grad)


@pytest.mark.parametrize("net", ["Sequential", "nested", "in forward"])
def test_a_skip_can_span_several_layers(net: str) -> None:
    torch.manual_seed(0)
    model, x = NETS[net](), batch(5, INPUTS)
    result = treat(model, "skip_connection", x, span=2)
    first, one, two, three, last = [x for x in model.modules() if isinstance(x, nn.Linear)]
    h = torch.sigmoid(first(x))
    h = h + torch.sigmoid(two(torch.sigmoid(one(h))))
    expected = last(torch.sigmoid(three(h)))
    torch.testing.assert_close(result.model(x), expected, rtol=0, atol=0)
    assert len(result.changes[0].layers) == 2


def test_in_sequences_it_is_made_of_modules() -> None:
    """Where there is a hook, TorchScript and other exporters would leave the shortcut out."""
    for build in (mlp, nested):
        treated = treat(build(), "skip_connection", batch(5, INPUTS)).model
        assert not any(each._forward_pre_hooks for each in treated.modules())
        assert sum(type(each).__name__ == "Residual" for each in treated.modules()) == 3


def test_convolutions_that_work_in_place() -> None:
    torch.manual_seed(0)
    stem, body, head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 2, 1)
    model = nn.Sequential(stem, nn.ReLU(inplace=True), body, nn.ReLU(inplace=True), head)
    x = batch(2, 3, 6, 6)
    treated = treat(model, "skip_connection", x).model
    h = stem(x).relu()
    assert torch.equal(treated(x), head(h + body(h).relu()))


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("block", [8, 2])
def test_dense_layers_read_the_inputs_of_earlier_ones(net: str, block: int) -> None:
    torch.manual_seed(0)
    model, x = NETS[net](), batch(5, INPUTS)
    treated = treat(model, "skip_connection:dense", x, block=block).model
    layers = [each for each in treated.modules() if isinstance(each, nn.Linear)]
    given: list[Tensor] = [x]
    for index, layer in enumerate(layers):
        read = given[index]
        start = (index - 1) // block * block  # a block ends with the layer that begins the next
        if index:
            read = torch.cat([read, *given[start:index]], 1)
        out = nn.functional.linear(read, layer.weight, layer.bias)
        assert (layer.in_features, layer.out_features) == (read.shape[1], out.shape[1])
        given.append(torch.sigmoid(out))
    for each in (treated, copy.deepcopy(treated), pickle.loads(pickle.dumps(treated))):  # noqa: S301
        assert torch.equal(each(x), out)


def test_dense_convolutions_read_more_channels() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, 4, 3, padding=1), nn.Flatten()
    )
    x = batch(2, 3, 6, 6)
    treated = treat(model, "skip_connection:dense", x).model
    assert treated[2].in_channels == 11
    h = torch.tanh(treated[0](x))
    layer = treated[2]
    out = nn.functional.conv2d(torch.cat([h, x], 1), layer.weight, layer.bias, padding=1)
    assert torch.equal(treated(x), out.flatten(1))


def test_widened_layers_keep_the_size_of_what_they_hand_on() -> None:
    """With inputs of one size: Var(y) = fan_in Var(w) E[x^2], whatever the fan-in."""
    torch.manual_seed(0)
    layers = [nn.Linear(400, 400, bias=False) for _ in range(3)]
    before = [float(each.weight.detach().square().sum()) for each in layers]
    treated = treat(nn.Sequential(*layers), "skip_connection:dense", batch(2, 400)).model
    after = [float(treated[index].weight.detach().square().sum()) for index in range(3)]
    assert [treated[index].in_features for index in range(3)] == [400, 800, 1200]
    assert after == pytest.approx(before, rel=0.02)


@pytest.mark.parametrize("key", ["skip_connection", "skip_connection:dense"])
def test_the_graph_of_a_forward_pass_is_not_kept_alive(key: str) -> None:
    x = batch(5, INPUTS)
    treated = treat(InForward(), key, x).model
    alive: list[Any] = []
    for layer in treated.modules():
        if isinstance(layer, nn.Linear):
            layer.register_forward_hook(lambda _, given, __: alive.append(weakref.ref(given[0])))
    out = treated(x)
    del out
    gc.collect()
    assert len(alive) == 5
    assert all(each() is None for each in alive[1:])  # the first one is the test's own


class Stage(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.two(torch.tanh(self.one(x))))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.stages = nn.Linear(INPUTS, WIDTH), nn.ModuleList([Stage(), Stage()])
        self.last = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x))
        for stage in self.stages:
            x = stage(x)
        return self.last(x)


def test_the_snippet_names_the_forward_that_calls_the_layers() -> None:
    snippet = treat(Net(), "skip_connection", batch(5, INPUTS)).snippet
    assert snippet.splitlines() == [
        "# in Stage.forward, add what these are given to what comes out:",
        "#   x = x + tanh(self.one(x))",
        "#   x = x + tanh(self.two(x))",
    ]
    chain = "x"
    for layer in ("stages[0].one", "stages[0].two", "stages[1].one", "stages[1].two"):
        chain = f"tanh(self.{layer}({chain}))"
    across = treat(Net(), "skip_connection", batch(5, INPUTS), span=4).snippet
    assert across.splitlines() == [
        "# in Net.forward, add what these are given to what comes out:",
        f"#   x = x + {chain}",
    ]
    dense = treat(Net(), "skip_connection:dense", batch(5, INPUTS), block=1).snippet
    assert "# in Stage.forward, where x0, x1 ... are the inputs of earlier layers:" in dense
    assert "#   self.two(torch.cat([x, x0], -1))   # and make it with 32 inputs" in dense


def test_a_flat_sequence_has_a_snippet_that_runs() -> None:
    torch.manual_seed(0)
    model, x = mlp(), batch(5, INPUTS)
    result = treat(model, "skip_connection", x)
    expected = forward_of(model, "sigmoid", x)
    exec(result.snippet, {"model": model, "nn": nn})  # noqa: S102 - what a user does with it
    assert torch.equal(model(x), expected)


class Bypassed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(INPUTS, WIDTH), nn.Linear(WIDTH, CLASSES)
        self.blocks = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x))
        for block in self.blocks:
            x = x + torch.tanh(block(x))
        return self.last(x)


@pytest.mark.parametrize(
    ("model", "options", "said"),
    [
        (nn.Linear(12, 4), {}, "there are no two weight layers in a row"),
        (nn.Sequential(nn.Linear(12, 8), nn.Linear(8, 4)), {}, "give hidden layers the same width"),
        (mlp(), {"span": 9}, "no 9 layers in a row that are not bypassed already keep the shape"),
        (Bypassed(), {}, "no layer that is not bypassed already keeps the shape of its input"),
    ],
)
def test_where_it_does_not_apply_it_says_why(
    model: nn.Module, options: dict[str, float], said: str
) -> None:
    with pytest.raises(gradcheckup.TreatmentError) as caught:
        treat(model, "skip_connection", batch(5, INPUTS), **options)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(INPUTS, WIDTH), nn.Linear(WIDTH, CLASSES)
        self.one, self.two = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.two.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x))
        return self.last(torch.tanh(self.two(torch.tanh(self.one(x)))))


def test_tied_weights_stay_tied() -> None:
    torch.manual_seed(0)
    model, x = Tied(), batch(5, INPUTS)
    for key, widened in (("skip_connection", ()), ("skip_connection:dense", ("last",))):
        result = treat(model, key, x)
        treated = result.model
        assert treated.one.weight is treated.two.weight
        assert torch.equal(treated.one.weight, model.one.weight)
        assert not widened or result.changes[0].layers == widened


def test_a_shortcut_into_a_checkpoint_is_refused() -> None:
    """Its end would run again in the backward pass, without what it adds: wrong gradients."""

    class Net(InForward):
        def forward(self, x: Tensor) -> Tensor:
            first, second, *others = self.layers
            x = torch.sigmoid(second(torch.sigmoid(first(x))))
            for layer in others:
                x = checkpoint(_sigmoid_of(layer), x, use_reentrant=False)
            return self.last(x)

    with pytest.raises(gradcheckup.TreatmentError, match="runs the end of a shortcut again"):
        treat(Net(), "skip_connection", batch(5, INPUTS))


def _sigmoid_of(layer: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda x: torch.sigmoid(layer(x))


def test_a_shortcut_out_of_a_checkpoint_and_one_inside() -> None:
    class Net(InForward):
        def forward(self, x: Tensor) -> Tensor:
            first, *others = self.layers
            x = checkpoint(self.through, torch.sigmoid(first(x)), others, use_reentrant=False)
            return self.last(x)

        def through(self, x: Tensor, layers: list[nn.Module]) -> Tensor:
            for layer in layers:
                x = torch.sigmoid(layer(x))
            return x

    torch.manual_seed(0)
    model, x = Net(), batch(5, INPUTS)
    treated = treat(model, "skip_connection", x).model
    for _ in range(2):
        treated.zero_grad()
        found, expected = treated(x), forward_of(model, "sigmoid", x)
        assert torch.equal(found, expected)
        model.zero_grad()
        found.square().sum().backward()
        expected.square().sum().backward()
        for one, other in zip(treated.parameters(), model.parameters(), strict=True):
            torch.testing.assert_close(one.grad, other.grad)
