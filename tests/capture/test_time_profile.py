"""The gradient along the sequence of recurrent layers: against autograd by hand, and theory."""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.checkpoint import checkpoint

import gradcheckup
from gradcheckup import LayerRecord
from gradcheckup.records import time_points
from gradcheckup.statistics import dependence

KINDS = (nn.RNN, nn.LSTM, nn.GRU)
BATCH, TIME, FEATURES, WIDTH = 5, 9, 3, 4
RELATIVE = 1e-5


def _seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _drawn(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=_seeded(), dtype=dtype)


def _measured(model: nn.Module, x: Any, **settings: Any) -> list[LayerRecord]:
    """The layers with a time profile; the loss weighs every element of the output differently."""
    report = gradcheckup.diagnose(
        model, (x, torch.zeros(1)), compute_loss=lambda net, batch: _loss(net(batch[0])),
        steps=1, **settings,
    )  # fmt: skip
    return [layer for layer in report.layers if layer.time_profile is not None]


def _loss(output: Tensor) -> Tensor:
    weights = torch.linspace(0.5, 1.5, output.numel(), device=output.device)
    return (output * weights.view_as(output).to(output.dtype)).square().sum()


def _wide(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).double()


class Reader(nn.Module):
    """A recurrent layer of which something is read."""

    def __init__(self, kind: Any, read: str = "last", **settings: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rnn = kind(FEATURES, WIDTH, **settings)
        self.read = read

    def forward(self, x: Tensor) -> Tensor:
        output, state = self.rnn(x)
        state = state[0] if isinstance(state, tuple) else state
        last = output[:, -1] if self.rnn.batch_first else output[-1]
        out: Tensor = {"last": last, "all": output, "state": state}[self.read]
        return out


def _by_hand(model: nn.Module, x: Tensor, axis: int) -> list[float]:
    """Norms of dL/dx_t in float64, by autograd on a wide copy."""
    x = x.double().requires_grad_()
    _loss(_wide(model)(x)).backward()
    assert x.grad is not None
    others = [dim for dim in range(x.ndim) if dim != axis]
    return list(x.grad.pow(2).sum(others).sqrt().tolist())


@pytest.mark.parametrize("read", ["last", "all", "state"])
@pytest.mark.parametrize("settings", [{}, {"num_layers": 2}, {"bidirectional": True}], ids=str)
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_profile_of_a_recurrent_layer(
    kind: Any, batch_first: bool, settings: dict[str, Any], read: str
) -> None:
    model = Reader(kind, read, batch_first=batch_first, **settings)
    x = _drawn(BATCH, TIME, FEATURES) if batch_first else _drawn(TIME, BATCH, FEATURES)
    (layer,) = _measured(model, x)
    assert (layer.name, layer.call, layer.time_steps) == ("rnn", 0, TIME)
    assert layer.time_profile == pytest.approx(_by_hand(model, x, int(batch_first)), rel=RELATIVE)


@pytest.mark.parametrize("kind", KINDS)
def test_sequence_without_a_batch(kind: Any) -> None:
    class Alone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = kind(FEATURES, WIDTH, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.rnn(x)[0][-1]
            return out

    torch.manual_seed(0)
    model, x = Alone(), _drawn(TIME, FEATURES)
    (layer,) = _measured(model, x)
    assert layer.time_profile == pytest.approx(_by_hand(model, x, 0), rel=RELATIVE)
    assert layer.dependence is None


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_packed_sequences(kind: Any, ordered: bool) -> None:
    """Of each time step the sequences count that still run."""
    lengths = torch.tensor([9, 6, 4, 4, 1] if ordered else [4, 9, 1, 6, 4])

    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.rnn = kind(FEATURES, WIDTH, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=ordered)
            output, _ = pad_packed_sequence(self.rnn(packed)[0], batch_first=True)
            return output[torch.arange(len(x)), lengths - 1]

    model, x = Packed(), _drawn(BATCH, TIME, FEATURES)
    (layer,) = _measured(model, x)
    assert layer.time_steps == TIME
    assert layer.time_profile == pytest.approx(_by_hand(model, x, 1), rel=RELATIVE)


def test_the_use_beside_the_layer_does_not_count() -> None:
    """The input goes around the layer as well, and both gradients meet in the layer before it."""

    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.stem, self.rnn = nn.Linear(FEATURES, WIDTH), nn.GRU(WIDTH, WIDTH)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            return x + self.rnn(x)[0]

    model, x = Around(), _drawn(TIME, BATCH, FEATURES)
    (layer,) = _measured(model, x)
    wide = _wide(model)
    given = wide.stem(x.double()).detach().requires_grad_()
    into = given.detach().requires_grad_()
    _loss(given + wide.rnn(into)[0]).backward()
    assert into.grad is not None
    assert layer.time_profile == pytest.approx(into.grad.norm(dim=(1, 2)).tolist(), rel=RELATIVE)


class Loop(nn.Module):
    """Cells, or a recurrence by hand, over time; the last state is read."""

    def __init__(self, cell: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        if cell is None:
            self.inputs, self.hidden = nn.Linear(FEATURES, WIDTH), nn.Linear(WIDTH, WIDTH)
        else:
            self.cell = cell(FEATURES, WIDTH)
        self.states: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.states.clear()
        state: Any = None
        if not hasattr(self, "cell"):
            state = x.new_zeros(x.shape[1], WIDTH)
            for now in x:
                recurrent = self.hidden(state)
                self._keep(recurrent)
                state = torch.tanh(self.inputs(now) + recurrent)
            return state  # type: ignore[no-any-return]
        for now in x:
            state = self.cell(now, state)
            self._keep(*(state if isinstance(state, tuple) else (state,)))
        out: Tensor = state[0] if isinstance(state, tuple) else state
        return out

    def _keep(self, *states: Tensor) -> None:
        if self.states is not None and states[0].dtype == torch.float64:
            for state in states:
                state.retain_grad()
            self.states.append(states)  # type: ignore[arg-type]


@pytest.mark.parametrize("cell", [nn.RNNCell, nn.LSTMCell, nn.GRUCell, None])
def test_loop_over_cells(cell: Any) -> None:
    model, x = Loop(cell), _drawn(TIME, BATCH, FEATURES)
    layers = _measured(model, x)
    wide = _wide(model)
    _loss(wide(x.double())).backward()
    by_hand = [
        sum(float(each.grad.square().sum()) for each in states if each.grad is not None) ** 0.5
        for states in wide.states
    ]
    # The layer that sees the inputs alone is no recurrence: its calls do not build on each other.
    (layer,) = layers
    assert (layer.name, layer.call) == ("hidden" if cell is None else "cell", 0)
    assert layer.time_steps == TIME
    assert layer.time_profile == pytest.approx(by_hand, rel=RELATIVE)


@pytest.mark.parametrize("chunk", [1, 3])
def test_a_layer_that_is_given_its_sequence_in_chunks(chunk: int) -> None:
    class Chunked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.rnn = nn.GRU(FEATURES, WIDTH)

        def forward(self, x: Tensor) -> Tensor:
            state = None
            for part in x.split(chunk):
                output, state = self.rnn(part, state)
            return output[-1]

    model, x = Chunked(), _drawn(TIME, BATCH, FEATURES)
    (layer,) = _measured(model, x)
    assert layer.time_steps == TIME
    if chunk > 1:
        assert layer.time_profile == pytest.approx(_by_hand(model, x, 0), rel=RELATIVE)


def test_sequences_of_their_own_have_profiles_of_their_own() -> None:
    class Siamese(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.rnn = nn.LSTM(FEATURES, WIDTH)

        def forward(self, x: Tensor) -> Tensor:
            one, other = self.rnn(x)[0][-1], self.rnn(3 * x[2:])[0][-1]
            return torch.cat([one, other])

    layers = _measured(Siamese(), _drawn(TIME, BATCH, FEATURES))
    assert [(layer.call, layer.time_steps) for layer in layers] == [(0, TIME), (1, TIME - 2)]


@pytest.mark.parametrize("recompute", ["frozen", "no_grad"])
def test_nothing_is_measured_where_nothing_learns(recompute: str) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.GRU(FEATURES, WIDTH), nn.Linear(WIDTH, 2)
            self.rnn.requires_grad_(recompute != "frozen")
            self.requires = False

        def forward(self, x: Tensor) -> Tensor:
            with torch.set_grad_enabled(recompute != "no_grad"):
                output = self.rnn(x)[0]
            assert not output.requires_grad
            output.numpy()
            out: Tensor = self.head(output)
            return out

    assert _measured(Net(), _drawn(TIME, BATCH, FEATURES)) == []


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("given", ["data", "layer"])
@pytest.mark.parametrize("kind", KINDS)
def test_inside_a_checkpoint(kind: Any, given: str, reentrant: bool) -> None:
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.stem = nn.Linear(FEATURES, FEATURES)
            self.rnn, self.again = kind(FEATURES, WIDTH), True

        def forward(self, x: Tensor) -> Tensor:
            x = x if given == "data" and not reentrant else self.stem(x)
            run = functools.partial(checkpoint, self.rnn, use_reentrant=reentrant)
            output = run(x)[0] if self.again else self.rnn(x)[0]
            return output[-1]

    model, x = Checkpointed(), _drawn(TIME, BATCH, FEATURES)
    (layer,) = _measured(model, x)
    model.again = False
    (plain,) = _measured(model, x)
    assert layer.time_profile == plain.time_profile


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    model = Reader(nn.GRU).to(dtype)
    (layer,) = _measured(model, _drawn(TIME, BATCH, FEATURES).to(dtype))
    by_hand = _by_hand(model, _drawn(TIME, BATCH, FEATURES).to(dtype), 0)
    assert layer.time_profile == pytest.approx(by_hand, rel=0.1)


def test_keyword_input_and_a_wrapper() -> None:
    class Wrapped(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.module = inner

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.module(input=x)[0][-1]
            return out

    torch.manual_seed(0)
    model, x = Wrapped(nn.LSTM(FEATURES, WIDTH)), _drawn(TIME, BATCH, FEATURES)
    (layer,) = _measured(model, x)
    assert layer.time_profile == pytest.approx(_by_hand(model, x, 0), rel=RELATIVE)


def test_a_forward_of_the_users_own_may_change_its_input() -> None:
    class Scaled(nn.GRU):
        def forward(self, x: Tensor) -> Any:  # type: ignore[override]
            x *= 2
            return super().forward(x)

    x = _drawn(TIME, BATCH, FEATURES)
    before = x.clone()
    for model in (Reader(Scaled), nn.Sequential(nn.Linear(FEATURES, FEATURES), Reader(Scaled))):
        _measured(model, x)
        assert torch.equal(x, before)


# -- theory --------------------------------------------------------------------------------------


class Linear(nn.Module):
    """h_t = W h_(t-1) + U x_t, without activation."""

    def __init__(self, recurrent: Tensor) -> None:
        super().__init__()
        torch.manual_seed(0)
        width = len(recurrent)
        self.u, self.w = nn.Linear(FEATURES, width), nn.Linear(width, width, bias=False)
        self.w.weight.data = recurrent.clone()

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(x.shape[1], len(self.w.weight))
        for now in x:
            state = self.u(now) + self.w(state)
        return state


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.25])
def test_a_linear_recurrence_passes_powers_of_its_matrix(factor: float) -> None:
    """A multiple of an orthogonal matrix passes `factor` of the gradient's length a step."""
    turned = torch.linalg.qr(_drawn(WIDTH, WIDTH)).Q
    (layer,) = _measured(Linear(factor * turned), _drawn(20, BATCH, FEATURES))
    profile = layer.time_profile
    assert profile is not None
    shares = [norm / profile[-1] for norm in profile]
    assert shares == pytest.approx([factor**back for back in range(19, -1, -1)], rel=1e-4)


def test_values_far_below_float32s_squares_are_no_zeros() -> None:
    (layer,) = _measured(Linear(0.1 * torch.eye(WIDTH)), _drawn(34, BATCH, FEATURES))
    profile = layer.time_profile
    assert profile is not None
    assert len(profile) == 33
    assert profile[0] / profile[-1] == pytest.approx(1e-33, rel=1e-2)
    (layer,) = _measured(Linear(0.1 * torch.eye(WIDTH)), _drawn(60, BATCH, FEATURES))
    assert layer.time_profile is not None
    assert layer.time_profile[0] == 0.0  # autograd's own float32 underflow is a real zero


# -- sampling ------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 2, 33, 34, 100, 1000])
def test_points_are_spread_evenly_with_both_ends(length: int) -> None:
    points = time_points(length)
    assert len(points) == min(length, 33)
    assert (points[0], points[-1]) == (0, length - 1)
    gaps = {after - before for before, after in itertools.pairwise(points)}
    assert not gaps or max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize("loop", [False, True])
def test_long_sequences_keep_33_points(loop: bool) -> None:
    model = Loop(nn.GRUCell) if loop else Reader(nn.GRU, "all")
    x = _drawn(100, BATCH, FEATURES)
    (layer,) = _measured(model, x)
    assert layer.time_steps == 100
    assert layer.time_profile is not None
    assert len(layer.time_profile) == 33
    if not loop:
        expected = _by_hand(model, x, 0)
        chosen = [expected[time] for time in time_points(100)]
        assert layer.time_profile == pytest.approx(chosen, rel=RELATIVE)


# -- dependence ----------------------------------------------------------------------------------


def _shuffled(one: Tensor, other: Tensor, times: int = 4000) -> float:
    """The same by its definition: a cross-covariance, against actual shuffles."""
    one, other = one - one.mean(0), other - other.mean(0)

    def size(order: Tensor) -> float:
        return float((one[order].T @ other).square().sum())

    drawn = torch.tensor([size(torch.randperm(len(one))) for _ in range(times)])
    return float((size(torch.arange(len(one))) - drawn.mean()) / drawn.std())


@pytest.mark.parametrize("link", [0.0, 0.3, 1.0])
def test_dependence_is_what_shuffling_says(link: float) -> None:
    torch.manual_seed(1)
    one = torch.randn(48, 6, dtype=torch.float64)
    other = link * one @ torch.randn(6, 9).double() + torch.randn(48, 9).double()
    found = dependence(one, other)
    assert found is not None
    assert float(found) == pytest.approx(_shuffled(one, other), rel=0.3, abs=0.4)


def test_dependence_of_tiny_values_and_of_too_little() -> None:
    one = _drawn(16, 3)
    found, tiny = dependence(one, one + 1), dependence(1e-30 * one, 1e30 * (one + 1))
    assert found is not None
    assert tiny is not None
    assert float(tiny) == pytest.approx(float(found), rel=1e-3)
    assert dependence(one[:7], one[:7]) is None
    same = dependence(one, torch.ones(16, 3))
    assert same is not None
    assert bool(same.isnan())


class Classifier(nn.Module):
    """Classifies sequences, batch first, by the last output of a core that has time first."""

    def __init__(self, core: nn.Module) -> None:
        super().__init__()
        self.core, self.head = core, nn.Linear(WIDTH, FEATURES)
        # Predictions that differ between samples have to do with the gradients as well.
        self.head.weight.data *= 0.1

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.core(x.movedim(0, 1)))
        return out


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("build", [*KINDS, nn.LSTMCell])
def test_dependence_of_a_recurrent_layer(build: Any, linked: bool) -> None:
    """Targets that are the last input, or have nothing to do with anything."""
    found = []
    for seed in range(5):
        x = torch.randn(64, TIME, FEATURES, generator=_seeded(seed))
        y = torch.randint(FEATURES, (64,), generator=_seeded(seed + 100))
        if linked:
            y = x[:, -1].argmax(1)
        core = Loop(build) if build is nn.LSTMCell else Reader(build)
        report = gradcheckup.diagnose(Classifier(core), (x, y), F.cross_entropy, steps=1)
        found += [each.dependence for each in report.layers if each.dependence is not None]
    assert len(found) == 5
    middle = sorted(found)[2]
    assert middle > 3 if linked else abs(middle) < 1.2


# -- the measured run is the run ------------------------------------------------------------------


def _trained(model: nn.Module, x: Tensor, steps: int) -> tuple[list[float], dict[str, Tensor]]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    losses = []
    torch.manual_seed(7)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = _loss(model(x))
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses, model.state_dict()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("stem", [False, True])
@pytest.mark.parametrize(
    "build",
    [
        *(functools.partial(Reader, kind, num_layers=2, dropout=0.3) for kind in KINDS),
        *(functools.partial(Reader, kind, bidirectional=True) for kind in KINDS),
        functools.partial(Loop, nn.LSTMCell),
        functools.partial(Loop, None),
    ],
)
def test_a_measured_run_is_the_run(
    build: Callable[[], nn.Module], stem: bool, dtype: torch.dtype
) -> None:
    """Bit for bit, whether the input requires a gradient of its own or is given one."""
    model = nn.Sequential(nn.Linear(FEATURES, FEATURES), build()) if stem else build()
    model, x = model.to(dtype), _drawn(TIME, BATCH, FEATURES).to(dtype)
    losses, final = _trained(copy.deepcopy(model), x, 4)
    probed: list[nn.Module] = []

    def compute_loss(net: nn.Module, batch: Any) -> Tensor:
        probed.append(net)
        return _loss(net(batch[0]))

    report = gradcheckup.diagnose(
        model, (x, x), compute_loss=compute_loss, steps=4, follow=0, seed=7,
        optimizer=functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9),
    )  # fmt: skip
    assert [step.loss for step in report.steps] == losses
    for name, value in probed[-1].state_dict().items():
        assert torch.equal(value, final[name]), name
    assert x.grad is None
    assert not x.requires_grad
