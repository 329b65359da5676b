"""A watched training is bitwise the training without: losses, weights, buffers, random numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.nn.utils.rnn import pack_padded_sequence
from torch.optim import Optimizer
from torch.utils.checkpoint import checkpoint

import gradcheckup

STEPS = 6  # full looks at the first, second and fourth, glances between

Loop = tuple[nn.Module, Optimizer, Callable[[], Tensor]]


def _plain(model: nn.Module, given: Callable[[], Any], **settings: Any) -> Loop:
    """The loop that everybody writes, on fresh random inputs."""
    kind = settings.pop("kind", torch.optim.AdamW)
    optimizer = kind(model.parameters(), **{"lr": 0.01, **settings})

    def step() -> Tensor:
        optimizer.zero_grad()
        loss = model(given()).float().square().mean()
        loss.backward()
        optimizer.step()
        return loss

    return model, optimizer, step


def mlp() -> Loop:
    layers = [each for _ in range(4) for each in (nn.Linear(8, 8), nn.Sigmoid())]
    return _plain(nn.Sequential(*layers), lambda: torch.randn(6, 8))


def fused() -> Loop:
    if torch.__version__ < "2.5":
        pytest.skip("fused optimizers on the CPU came later")
    return _plain(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)),
                  lambda: torch.randn(6, 8), fused=True)  # fmt: skip


def foreach() -> Loop:
    return _plain(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)),
                  lambda: torch.randn(6, 8), foreach=True, kind=torch.optim.SGD)  # fmt: skip


class _Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm(self.conv(x))
        out += x
        return self.act(out)


def cnn() -> Loop:
    stem = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout2d(0.3)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(4, 2)]
    return _plain(nn.Sequential(*stem, _Residual(), *head), lambda: torch.randn(4, 3, 8, 8))


class _Sequence(nn.Module):
    def __init__(self, packed: bool) -> None:
        super().__init__()
        self.packed = packed
        self.rnn = nn.LSTM(4, 6, num_layers=2, dropout=0.2, bidirectional=True)
        self.head = nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        given: Any = pack_padded_sequence(x, torch.tensor([7, 5, 2])) if self.packed else x
        out, (state, _) = self.rnn(given)
        last = out.data.mean(0, keepdim=True) if self.packed else out[-1]
        return self.head(last) + state.sum()  # type: ignore[no-any-return]


def lstm() -> Loop:
    return _plain(_Sequence(packed=False), lambda: torch.randn(7, 3, 4))


def packed() -> Loop:
    return _plain(_Sequence(packed=True), lambda: torch.randn(7, 3, 4))


class _Block(nn.Module):
    def __init__(self, way: str | None = None) -> None:
        super().__init__()
        self.way = way
        self.norm, self.wide = nn.LayerNorm(8), nn.Linear(8, 24)
        self.out, self.drop = nn.Linear(8, 8), nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        if self.way is None:
            return self._run(x)
        return checkpoint(self._run, x, use_reentrant=self.way == "reentrant")  # type: ignore[no-any-return]

    def _run(self, x: Tensor) -> Tensor:
        query, key, value = (
            each.unflatten(-1, (2, 4)).transpose(1, 2)
            for each in self.wide(self.norm(x)).chunk(3, -1)
        )
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return x + self.drop(F.gelu(self.out(mixed.transpose(1, 2).flatten(2))))


class _Language(nn.Module):
    """A tiny GPT whose embedding is its head."""

    def __init__(self, way: str | None = None) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.blocks = nn.ModuleList(_Block(way) for _ in range(2))
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        y = self.embed(x)
        for block in self.blocks:
            y = block(y)
        return self.head(y)  # type: ignore[no-any-return]


def _tokens() -> Tensor:
    return torch.randint(11, (3, 6))


def tied_sdpa() -> Loop:
    return _plain(_Language(), _tokens)


def reentrant_checkpoint() -> Loop:
    return _plain(_Language("reentrant"), _tokens)


def checkpointed() -> Loop:
    return _plain(_Language("not reentrant"), _tokens)


def multi_head() -> Loop:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    return _plain(model, lambda: torch.randn(3, 5, 8))


class _Penalised(nn.Module):
    """A critic that differentiates itself inside its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.Softplus(), nn.Linear(8, 1))


def double_backward() -> Loop:
    """The gradient penalty of WGAN-GP."""
    model = _Penalised()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

    def step() -> Tensor:
        optimizer.zero_grad()
        real, fake = torch.randn(5, 4), torch.randn(5, 4)
        mixed = (real * 0.3 + fake * 0.7).requires_grad_()
        (slope,) = torch.autograd.grad(model.body(mixed).sum(), mixed, create_graph=True)
        loss = model.body(fake).mean() - model.body(real).mean()
        loss = loss + (slope.norm(dim=1) - 1).square().mean()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return model, optimizer, step


def autocast() -> Loop:
    model = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 2))

    class Cast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return self.inner(x)  # type: ignore[no-any-return]

    return _plain(Cast(), lambda: torch.randn(4, 8))


def parametrized() -> Loop:
    """Power iterations change a buffer in each forward pass."""
    model = nn.Sequential(
        parametrizations.spectral_norm(nn.Linear(6, 6)),
        nn.Tanh(),
        parametrizations.weight_norm(nn.Linear(6, 2)),
    )
    return _plain(model, lambda: torch.randn(4, 6))


def lbfgs() -> Loop:
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1))
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=4, line_search_fn="strong_wolfe")
    data = torch.randn(8, 4)

    def step() -> Tensor:
        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = (model(data) - data[:, :1].sin()).square().mean()
            loss.backward()
            return loss

        return optimizer.step(closure)  # type: ignore[arg-type, return-value]

    return model, optimizer, step


def accumulated() -> Loop:
    """Micro-batches, clipping, a schedule, and an evaluation between two steps."""
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)

    def step() -> Tensor:
        optimizer.zero_grad()
        for _ in range(3):
            loss = model(torch.randn(5, 6)).square().mean() / 3
            loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.05)
        optimizer.step()
        schedule.step()
        model.eval()
        with torch.no_grad():
            model(torch.randn(2, 6))
        model(torch.randn(2, 6))
        model.train()
        return loss

    return model, optimizer, step


LOOPS = [
    mlp, fused, foreach, cnn, lstm, packed, tied_sdpa, reentrant_checkpoint, checkpointed,
    multi_head, double_backward, autocast, parametrized, lbfgs, accumulated,
]  # fmt: skip


def _bits(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().flatten().contiguous().view(torch.uint8).tolist()
    return value


def _course(make: Callable[[], Loop], watched: bool, every: int = 1) -> dict[str, Any]:
    torch.manual_seed(1)
    model, optimizer, step = make()
    monitor = gradcheckup.watch(model, optimizer, every=every) if watched else None
    losses = [step() for _ in range(STEPS)]
    if monitor is not None:
        monitor.close()
        assert monitor.failure is None
        assert [each.index for each in monitor.report().recording.history.samples] == [
            *range(0, STEPS, every)
        ]
    return {
        "losses": [_bits(loss) for loss in losses],
        "state": {name: _bits(value) for name, value in model.state_dict().items()},
        "gradients": [_bits(each.grad) for each in model.parameters()],
        "optimizer": [
            {name: _bits(value) for name, value in state.items() if isinstance(value, Tensor)}
            for state in optimizer.state.values()
        ],
        "random": _bits(torch.get_rng_state()),
    }


@pytest.mark.parametrize("make", LOOPS, ids=lambda make: make.__name__)
def test_the_training_is_bitwise_the_same(make: Callable[[], Loop]) -> None:
    assert _course(make, watched=True) == _course(make, watched=False)


def test_the_test_can_fail() -> None:
    def disturbed() -> Loop:
        model, optimizer, step = mlp()
        torch.randn(1)
        return model, optimizer, step

    assert _course(disturbed, watched=False) != _course(mlp, watched=False)
