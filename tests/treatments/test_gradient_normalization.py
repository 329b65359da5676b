"""`gradient_normalization`: backpropagation by hand, and that nothing but the gradient changes."""

from __future__ import annotations

import copy
import io
import runpy
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import gradcheckup

DEMO = Path(__file__).parents[2] / "demos" / "deep_sigmoid.py"


def batch(dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    values = torch.randn(16, 6, generator=draw, dtype=torch.float64).to(dtype)
    return values, torch.randint(3, (16,), generator=draw)


X, Y = batch()


class Chain(nn.Module):
    """Sigmoids that no module stands for."""

    def __init__(self, depth: int = 4, width: int = 6) -> None:
        super().__init__()
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.output = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.hidden:
            x = torch.sigmoid(layer(x))
        return self.output(x)  # type: ignore[no-any-return]


def net(depth: int = 4, dtype: torch.dtype = torch.float64) -> Chain:
    torch.manual_seed(0)
    return Chain(depth).to(dtype)


def treat(model: nn.Module, data: Any = (X, Y)) -> nn.Module:
    return gradcheckup.treat(model, "gradient_normalization", data).model


def gradients(model: nn.Module, loss: Callable[[nn.Module], Tensor] | None = None) -> list[Tensor]:
    model.zero_grad()
    result = loss(model) if loss else nn.functional.cross_entropy(model(X), Y)
    result.backward()  # type: ignore[no-untyped-call]
    return [each.grad.clone() for each in model.parameters() if each.grad is not None]


def by_hand(model: Chain, x: Tensor = X, y: Tensor = Y, factor: float = 1.0) -> list[Tensor]:
    """Backpropagation on paper, with each delta given the norm of the last one."""
    states = [x]
    for layer in model.hidden:
        states.append(torch.sigmoid(states[-1] @ layer.weight.T + layer.bias).detach())
    logits = states[-1] @ model.output.weight.T + model.output.bias
    error = (torch.softmax(logits, 1) - nn.functional.one_hot(y, 3)) * factor / len(x)
    found = [error.sum(0), error.T @ states[-1]]
    delta = (error @ model.output.weight) * states[-1] * (1 - states[-1])
    norm = delta.norm()
    for index in reversed(range(len(model.hidden))):
        delta = delta * norm / delta.norm()
        found += [delta.sum(0), delta.T @ states[index]]
        delta = (delta @ model.hidden[index].weight) * states[index] * (1 - states[index])  # type: ignore[operator]
    return [each.detach() for each in reversed(found)]


def assert_same(found: list[Tensor], expected: list[Tensor], rtol: float = 1e-10) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=rtol, atol=0)


def test_gradients_are_those_of_backpropagation_with_equal_deltas() -> None:
    model = net()
    assert_same(gradients(treat(model)), by_hand(model))
    plain = gradients(model)
    assert plain[0].norm() < 0.01 * by_hand(model)[0].norm()  # or nothing would be rescaled


def test_the_forward_is_the_same_to_the_bit_and_so_are_the_names() -> None:
    model = net(dtype=torch.float32)
    treated = treat(model, batch(torch.float32))
    assert torch.equal(treated(X.float()), model(X.float()))
    with torch.no_grad():
        assert torch.equal(treated(X.float()), model(X.float()))
    assert list(treated.state_dict()) == list(model.state_dict())
    model.load_state_dict(treated.state_dict())
    assert not model.hidden[0]._forward_hooks


@pytest.mark.parametrize("factor", [1024.0, 1e-6, -1.0])
def test_gradients_are_proportional_to_the_loss(factor: float) -> None:
    treated = treat(net())
    found = gradients(treated, lambda model: factor * nn.functional.cross_entropy(model(X), Y))
    assert_same(found, [factor * each for each in gradients(treated)])


def test_every_backward_pass_has_a_reference_of_its_own() -> None:
    """Gradients accumulate, in whichever order forwards and backwards come."""
    model = net()
    treated = treat(model)
    other, targets = batch(seed=1)
    expected = [
        one + another
        for one, another in zip(by_hand(model), by_hand(model, other, targets, 100), strict=True)
    ]

    def loss(x: Tensor, y: Tensor, factor: float = 1) -> Tensor:
        return factor * nn.functional.cross_entropy(treated(x), y)

    loss(X, Y).backward()  # type: ignore[no-untyped-call]
    loss(other, targets, 100).backward()  # type: ignore[no-untyped-call]
    assert_same([each.grad for each in treated.parameters()], expected)
    treated.zero_grad()
    first, second = loss(X, Y), loss(other, targets, 100)
    first.backward()  # type: ignore[no-untyped-call]
    second.backward()  # type: ignore[no-untyped-call]
    assert_same([each.grad for each in treated.parameters()], expected)


def test_one_graph_can_be_differentiated_twice() -> None:
    model = net()
    treated = treat(model)
    loss = nn.functional.cross_entropy(treated(X), Y)
    loss.backward(retain_graph=True)  # type: ignore[no-untyped-call]
    (1000 * loss).backward()  # type: ignore[no-untyped-call]
    expected = [1001 * each for each in by_hand(model)]
    assert_same([each.grad for each in treated.parameters()], expected)


def test_a_backward_pass_that_failed_leaves_nothing_behind() -> None:
    model = net()
    treated = treat(model)
    state = treated.hidden[1](torch.sigmoid(treated.hidden[0](X)))  # type: ignore[index, operator]

    def fail(_: Tensor) -> None:
        raise RuntimeError("out of memory")

    torch.sigmoid(state).register_hook(fail)  # type: ignore[no-untyped-call]
    last = treated.output(torch.sigmoid(treated.hidden[3](torch.sigmoid(state))))  # type: ignore[index, operator]
    state.register_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        (1e9 * last).sum().backward()
    assert_same(gradients(treated), by_hand(model))


def test_zeros_and_what_is_not_finite_come_through() -> None:
    model = net()
    treated = treat(model)
    blocked = {1: 0.0, 0: float("nan")}
    seen: dict[int, Tensor] = {}
    for index, factor in blocked.items():
        hidden = treated.hidden[index]  # type: ignore[index]
        keep = hidden._forward_hooks.copy()
        hidden._forward_hooks.clear()
        # In front of the treatment's hook: what arrives.
        hidden.register_forward_hook(
            lambda _, __, output, f=factor: output.register_hook(lambda g: g * f) and None
        )
        hidden._forward_hooks.update(keep)
        hidden.register_forward_hook(
            lambda _, __, output, i=index: (
                output.register_hook(lambda g: seen.__setitem__(i, g.clone())) and None
            )
        )
    found = gradients(treated)
    assert not seen[1].any()
    assert seen[0].isnan().all()
    expected = by_hand(model)
    assert_same(found[4:], expected[4:])  # above, all is as it should be


def test_a_last_layer_without_a_gradient_is_no_reference() -> None:
    model = net()
    treated = treat(model)
    found = gradients(treated, lambda each: 0 * each(X).sum())
    assert not any(each.any() for each in found)


def test_gradients_of_which_nothing_is_left_in_float32_squares() -> None:
    """Thirty sigmoids: 1e-28 arrives at the first layer, whose square float32 has no number for."""
    model = net(30, torch.float32)
    x, y = batch(torch.float32)
    first = gradients(model, lambda each: nn.functional.cross_entropy(each(x), y))[0]
    assert first.any()
    assert not first.norm()
    treated = treat(model, (x, y))
    found = gradients(treated, lambda each: 1e-20 * nn.functional.cross_entropy(each(x), y))
    expected = by_hand(copy.deepcopy(model).double(), x.double(), y, 1e-20)
    for one, other in zip(found, expected, strict=True):
        assert float((one.double() - other).norm() / other.norm()) < 1e-4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_rescaled_in_full(dtype: torch.dtype) -> None:
    model = net(6, dtype)
    x, y = batch(dtype)
    treated = treat(model, (x, y))
    found = gradients(treated, lambda each: nn.functional.cross_entropy(each(x).float(), y))
    expected = by_hand(copy.deepcopy(model).double(), x.double(), y)
    assert found[0].dtype is dtype
    for one, other in zip(found, expected, strict=True):
        assert float((one.double() - other).norm() / other.norm()) < 0.1


def test_frozen_layers_and_partial_losses() -> None:
    model = net()
    model.hidden[2].requires_grad_(False)
    assert_same(gradients(treat(model)), by_hand(model)[:4] + by_hand(model)[6:])
    for layer in model.hidden[:3]:
        layer.requires_grad_(False)
    assert_same(gradients(treat(model)), by_hand(model)[6:])


@pytest.mark.parametrize("how", ["deepcopy", "saved"])
def test_copies_work_on_their_own(how: str) -> None:
    treated = treat(net())
    gradients(treated)
    if how == "deepcopy":
        twin = copy.deepcopy(treated)
    else:
        file = io.BytesIO()
        torch.save(treated, file)
        file.seek(0)
        twin = torch.load(file, weights_only=False)
    hooks = [next(iter(each._forward_hooks.values())) for each in twin.hidden]
    references = {id(hook.reference) for hook in hooks}
    assert len(references) == 1
    old = next(iter(treated.hidden[0]._forward_hooks.values()))  # type: ignore[index, union-attr]
    assert id(old.reference) not in references
    assert_same(gradients(twin), by_hand(net()))


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoints_change_nothing(reentrant: bool) -> None:
    """Also where the forward runs again inside a backward pass of its own."""
    model = net()
    treated = treat(model)

    def loss(each: nn.Module) -> Tensor:
        def stretch(first: int) -> Callable[[Tensor], Tensor]:
            return lambda x: torch.sigmoid(
                each.hidden[first + 1](torch.sigmoid(each.hidden[first](x)))  # type: ignore[index, operator]
            )

        x = X.clone().requires_grad_()
        for first in (0, 2):
            x = checkpoint(stretch(first), x, use_reentrant=reentrant)  # type: ignore[no-untyped-call]
        return nn.functional.cross_entropy(each.output(x), Y)  # type: ignore[operator]

    assert_same(gradients(treated, loss), by_hand(model))
    assert_same(gradients(treated, loss), by_hand(model))


# Of torch's own, where it looks at tensors between two graphs.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_compiled_training_has_the_same_gradients() -> None:
    model = net()
    compiled = torch.compile(treat(model), backend="aot_eager")
    for _ in range(3):
        assert_same(gradients(compiled), by_hand(model))
    torch._dynamo.reset()


def test_every_call_of_a_shared_layer_is_rescaled() -> None:
    class Unrolled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.RNNCell(6, 6)
            self.output = nn.Linear(6, 3)
            self.states: list[Tensor] = []

        def forward(self, x: Tensor) -> Tensor:
            self.states = [x]
            for _ in range(5):
                self.states.append(self.cell(x, self.states[-1]))
            return self.output(self.states[-1])  # type: ignore[no-any-return]

    torch.manual_seed(0)
    treated = treat(Unrolled().double())
    loss = nn.functional.cross_entropy(treated(X), Y)
    norms: list[float] = []
    for state in treated.states[1:]:  # type: ignore[index, union-attr]
        state.register_hook(lambda gradient: norms.append(float(gradient.norm())))
    loss.backward()  # type: ignore[no-untyped-call]
    assert len(norms) == 5
    assert all(one == pytest.approx(other, rel=1e-12) for one, other in pairwise(norms))


@pytest.mark.parametrize("network", ["demo", "sequential", "convolutions"])
def test_diagnose_reads_ratios_of_one(network: str) -> None:
    torch.manual_seed(0)
    data: Any = (torch.randn(32, 1, 8, 8), torch.randint(10, (32,)))
    if network == "demo":
        model = runpy.run_path(str(DEMO))["build_model"]()
    elif network == "sequential":
        layers = [nn.Linear(64, 64) for _ in range(6)]
        pairs = [each for layer in layers for each in (layer, nn.ReLU(inplace=True))]
        model = nn.Sequential(nn.Flatten(), *pairs, nn.Linear(64, 10))
    else:
        layers = [nn.Conv2d(1 if not index else 8, 8, 3, padding=1) for index in range(4)]
        pairs = [each for layer in layers for each in (layer, nn.ReLU())]
        model = nn.Sequential(*pairs, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    treated = gradcheckup.treat(model, "gradient_normalization", data, nn.CrossEntropyLoss())
    before = gradcheckup.diagnose(model, data, nn.CrossEntropyLoss())
    after = gradcheckup.diagnose(treated.model, data, nn.CrossEntropyLoss())
    assert before.end_to_end_ratio < 0.2
    assert after.end_to_end_ratio == pytest.approx(1, rel=1e-5)
    weights = [each for each in after.layers if each.name in treated.changes[0].layers]
    assert len(weights) == (7 if network == "demo" else len(layers))
    for layer in weights:
        assert layer.gradient_ratio == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("depth", [4, 30])
def test_the_snippet_does_the_same(depth: int) -> None:
    model = net(depth)
    result = gradcheckup.treat(model, "gradient_normalization", (X, Y))
    own = copy.deepcopy(model)
    exec(result.snippet, {"model": own, "nn": nn, "torch": torch})  # noqa: S102 - a user's paste
    assert max(map(len, result.snippet.splitlines())) <= 100
    for _ in range(2):
        assert_same(gradients(own), gradients(result.model))


def test_where_it_does_not_apply_it_says_why() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.recurrent = nn.LSTM(6, 6, num_layers=2)
            self.output = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.output(self.recurrent(x)[0])  # type: ignore[no-any-return]

    def refused(model: nn.Module) -> str:
        with pytest.raises(gradcheckup.TreatmentError) as caught:
            treat(model, (X.float(), Y))
        assert not any(each._forward_hooks for each in model.modules())
        return str(caught.value)

    assert "expected hidden layers that return one tensor, got lstm" in refused(Recurrent())
    assert "there is no hidden weight layer" in refused(nn.Linear(6, 3))
    single = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))
    assert "0 is the only hidden layer" in refused(single)
