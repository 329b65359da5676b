"""A tanh recurrence of `weight_scale` hands the gradient on through the whole sequence.

What is kept of a squared gradient is measured by autograd, through a recurrence written by hand.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

from gradcheckup import treat

WIDTH, FEATURES = 24, 6


class Reader(nn.Module):
    """Classifies a sequence (batch, time, features) by the last state."""

    def __init__(self, core: nn.Module) -> None:
        super().__init__()
        self.core, self.head = core, nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.core, nn.RNNCell):
            state = x.new_zeros(len(x), WIDTH)
            for step in x.unbind(1):
                state = self.core(step, state)
            return self.head(state)
        given = x if self.core.batch_first else x.transpose(0, 1)
        return self.head(self.core(given)[1][-1])


def sequences(length: int, size: float = 1.0) -> Tensor:
    made = torch.randn(32, length, FEATURES, generator=torch.Generator().manual_seed(1))
    return size * made


def unrolled(x: Tensor, inward: Tensor, around: Tensor, start: Tensor) -> Tensor:
    """States (batch, time, units) by h <- tanh(V x + W h)."""
    states, state = [], start
    for step in x.unbind(1):
        state = torch.tanh(step @ inward.T + state @ around.T)
        states.append(state)
    return torch.stack(states, 1)


def kept(x: Tensor, inward: Tensor, around: Tensor) -> float:
    """E |J^T v|^2 / |v|^2 for random v, J the Jacobian of the last state by the one before all."""
    start = torch.zeros(len(x), WIDTH, requires_grad=True)
    last = unrolled(x, inward.detach(), around.detach(), start)[:, -1]
    shares = []
    for seed in range(20):
        v = torch.randn(last.shape, generator=torch.Generator().manual_seed(seed))
        (gradient,) = torch.autograd.grad(last, start, v, retain_graph=True)
        shares.append(float(gradient.square().sum() / v.square().sum()))
    return sum(shares) / len(shares)


CORES: dict[str, Callable[[], nn.Module]] = {
    "batch first": lambda: nn.RNN(FEATURES, WIDTH, batch_first=True),
    "time first": lambda: nn.RNN(FEATURES, WIDTH),
    "no bias": lambda: nn.RNN(FEATURES, WIDTH, bias=False, batch_first=True),
    "cell": lambda: nn.RNNCell(FEATURES, WIDTH),
}


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize(("length", "size"), [(5, 1.0), (40, 1.0), (40, 0.01), (40, 100.0)])
def test_a_third_of_the_squared_gradient_lasts_the_sequence(
    core: str, length: int, size: float
) -> None:
    torch.manual_seed(0)
    x = sequences(length, size)
    module = treat(Reader(CORES[core]()), "weight_scale", x).model.core
    ending = "" if core == "cell" else "_l0"
    inward, around = (getattr(module, f"weight_{each}{ending}") for each in ("ih", "hh"))
    # Mean-field theory takes units to be independent, and states grow along the sequence.
    assert kept(x, inward, around) == pytest.approx(1 / math.e, rel=0.25)
    xavier = torch.empty_like(inward)
    nn.init.xavier_normal_(xavier)
    if length * size > 20:
        assert kept(x, xavier, around) < 0.05


class Loop(nn.Module):
    """A recurrence written by hand, of one layer or two."""

    def __init__(self, count: int = 1, kind: str = "tanh") -> None:
        super().__init__()
        self.embed = nn.Linear(FEATURES, 16)
        self.inward = nn.ModuleList(nn.Linear(each, WIDTH) for each in (16, WIDTH)[:count])
        self.around = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(count))
        self.head = nn.Linear(WIDTH, 3)
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        states = [x.new_zeros(len(x), WIDTH) for _ in self.around]
        for step in self.embed(x).unbind(1):
            given = step
            for index, (inward, around) in enumerate(zip(self.inward, self.around, strict=True)):
                act = nn.functional.softsign if self.kind == "softsign" else torch.tanh
                given = states[index] = act(inward(given) + around(states[index]))
        return self.head(given)


@pytest.mark.parametrize("by_snippet", [False, True])
def test_recurrences_written_by_hand_keep_it(*, by_snippet: bool) -> None:
    torch.manual_seed(0)
    model, x = Loop(2), sequences(30)
    treated = treat(model, "weight_scale", x)
    net, tolerance = (model, 0.45) if by_snippet else (treated.model, 0.3)
    if by_snippet:
        exec(treated.snippet, {"model": model, "nn": nn})  # noqa: S102
    given = net.embed(x).detach()
    for inward, around in zip(net.inward, net.around, strict=True):
        gram = around.weight.detach() @ around.weight.detach().T
        torch.testing.assert_close(gram, torch.eye(WIDTH), atol=1e-5, rtol=0)
        assert kept(given, inward.weight, around.weight) == pytest.approx(1 / math.e, rel=tolerance)
        start = torch.zeros(len(x), WIDTH)
        given = unrolled(given, inward.weight, around.weight, start).detach()


def test_recurrences_of_softsign_keep_it() -> None:
    torch.manual_seed(0)
    x = sequences(30)
    net = treat(Loop(kind="softsign"), "weight_scale", x).model
    start = torch.zeros(len(x), WIDTH, requires_grad=True)
    state = start
    for step in net.embed(x).unbind(1):
        state = nn.functional.softsign(net.inward[0](step) + net.around[0](state))
    v = torch.randn(state.shape)
    (gradient,) = torch.autograd.grad(state, start, v)
    share = float(gradient.square().sum() / v.square().sum())
    assert share == pytest.approx(1 / math.e, rel=0.4)


class Gated(nn.Module):
    """A minimal gated unit: h <- (1 - f) h + f tanh(V x + U (f h)) (Zhou et al. 2016)."""

    def __init__(self) -> None:
        super().__init__()
        self.forget_x, self.forget_h = nn.Linear(FEATURES, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.new_x, self.new_h = nn.Linear(FEATURES, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(len(x), WIDTH)
        for step in x.unbind(1):
            gate = torch.sigmoid(self.forget_x(step) + self.forget_h(state))
            new = torch.tanh(self.new_x(step) + self.new_h(gate * state))
            state = (1 - gate) * state + gate * new
        return self.head(state)


def test_gates_keep_states_on_their_own() -> None:
    """Their inputs have variance 1, as those of any first layer."""
    torch.manual_seed(0)
    x = sequences(30)
    net = treat(Gated(), "weight_scale", x).model
    assert float(net.new_x(x).detach().std()) == pytest.approx(1, rel=0.1)


def test_every_layer_of_a_stack_keeps_it() -> None:
    torch.manual_seed(0)
    x = sequences(30)
    core = nn.RNN(FEATURES, WIDTH, num_layers=3, batch_first=True, dropout=0.5)
    core = treat(Reader(core), "weight_scale", x).model.core
    given = x
    for depth in range(3):
        inward, around = (getattr(core, f"weight_{each}_l{depth}") for each in ("ih", "hh"))
        assert kept(given, inward, around) == pytest.approx(1 / math.e, rel=0.3), depth
        given = unrolled(given, inward, around, torch.zeros(len(x), WIDTH)).detach()


def test_both_directions_keep_it() -> None:
    class BothWays(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.core = nn.RNN(FEATURES, WIDTH, batch_first=True, bidirectional=True)
            self.head = nn.Linear(2 * WIDTH, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.core(x)[0].mean(1))

    torch.manual_seed(0)
    x = sequences(30)
    core = treat(BothWays(), "weight_scale", x).model.core
    for ending, given in (("_l0", x), ("_l0_reverse", x.flip(1))):
        inward, around = (getattr(core, f"weight_{each}{ending}") for each in ("ih", "hh"))
        assert kept(given, inward, around) == pytest.approx(1 / math.e, rel=0.3), ending


def test_a_packed_sequence_has_a_length_of_its_own() -> None:
    class Packed(Reader):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.core(pack_sequence(list(x)))[1][-1])

    torch.manual_seed(0)
    x = sequences(30)
    core = treat(Packed(nn.RNN(FEATURES, WIDTH)), "weight_scale", x).model.core
    assert kept(x, core.weight_ih_l0, core.weight_hh_l0) == pytest.approx(1 / math.e, rel=0.25)


def xavier_std(rows: int = WIDTH) -> float:
    return math.sqrt(2 / (FEATURES + rows))  # Glorot & Bengio 2010


def is_xavier(weight: Tensor) -> bool:
    error = 4 / math.sqrt(2 * weight.numel())
    return abs(float(weight.detach().std()) / xavier_std() - 1) < error


@pytest.mark.parametrize(
    "core",
    [
        lambda: nn.RNN(FEATURES, WIDTH, nonlinearity="relu", batch_first=True),
        lambda: nn.GRU(FEATURES, WIDTH, batch_first=True),
    ],
    ids=["relu", "gru"],
)
def test_what_does_not_saturate_over_time_is_drawn_by_xavier(
    core: Callable[[], nn.Module],
) -> None:
    torch.manual_seed(0)
    treated = treat(Reader(core()), "weight_scale", sequences(40)).model
    assert all(map(is_xavier, treated.core.weight_ih_l0.split(WIDTH)))


def test_inputs_of_zeros_say_nothing_of_the_scale() -> None:
    torch.manual_seed(0)
    treated = treat(Reader(nn.RNNCell(FEATURES, WIDTH)), "weight_scale", sequences(40, 0.0)).model
    assert is_xavier(treated.core.weight_ih)


def test_states_that_do_not_come_from_the_inputs_say_nothing_of_their_scale() -> None:
    class Started(Reader):
        def forward(self, x: Tensor) -> Tensor:
            state = x.new_full((len(x), WIDTH), 3.0)
            for step in x.unbind(1):
                state = self.core(step, state)
            return self.head(state)

    torch.manual_seed(0)
    treated = treat(Started(nn.RNNCell(FEATURES, WIDTH)), "weight_scale", sequences(8)).model
    assert is_xavier(treated.core.weight_ih)


def test_frozen_input_weights_keep_their_values() -> None:
    model = Reader(nn.RNN(FEATURES, WIDTH, batch_first=True))
    model.core.weight_ih_l0.requires_grad_(requires_grad=False)
    treated = treat(model, "weight_scale", sequences(20)).model
    assert torch.equal(treated.core.weight_ih_l0, model.core.weight_ih_l0)
    assert not torch.equal(treated.core.weight_hh_l0, model.core.weight_hh_l0)


@pytest.mark.parametrize("core", CORES)
def test_the_snippet_scales_alike(core: str) -> None:
    torch.manual_seed(0)
    model, x = Reader(CORES[core]()), sequences(40)
    snippet = treat(model, "weight_scale", x).snippet
    exec(snippet, {"model": model, "nn": nn})  # noqa: S102
    ending = "" if core == "cell" else "_l0"
    inward, around = (getattr(model.core, f"weight_{each}{ending}") for each in ("ih", "hh"))
    assert kept(x, inward, around) == pytest.approx(1 / math.e, rel=0.35)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_remembers_what_came_thirty_steps_before(seed: int) -> None:
    """Ten symbols under noise, chance .10."""
    generator = torch.Generator().manual_seed(0)
    symbols = torch.randint(0, 10, (2000,), generator=generator)
    x = 0.3 * torch.randn(2000, 30, 10, generator=generator)
    x[:, 0] = nn.functional.one_hot(symbols, 10).float()

    class Recall(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.core, self.head = nn.RNN(10, 32, batch_first=True), nn.Linear(32, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.core(x)[0][:, -1])

    torch.manual_seed(seed)
    model = treat(Recall(), "weight_scale", x[:64], seed=seed).model
    optimizer = torch.optim.Adam(model.parameters())
    for step in range(500):
        rows = torch.randperm(1500, generator=generator)[:64] if step else torch.arange(64)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[rows]), symbols[rows]).backward()
        optimizer.step()
    right = model(x[1500:]).argmax(1) == symbols[1500:]
    assert float(right.float().mean()) > 0.92
