"""Attention that is saturated, attention that is sharp by right, and softmaxes that are neither.

Where a docstring says what becomes of a net, it was trained for 500 steps with the optimizer it
is judged with, on the digits (chance is .10). The others ask only whether a softmax is attention.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gradcheckup

Batches = list[tuple[Tensor, Tensor]]
Digits = Callable[..., Batches]
SGD = functools.partial(torch.optim.SGD, lr=0.01, momentum=0.9)
ADAM = functools.partial(torch.optim.Adam, lr=1e-3)
CE = nn.CrossEntropyLoss()


def lookup(count: int, samples: int = 64, pairs: int = 8) -> Batches:
    """Pairs of a key and a value, then one of the keys: which value belongs to it?"""
    generator = torch.Generator().manual_seed(0)
    batches = []
    for _ in range(count):
        keys = torch.rand(samples, 10, generator=generator).argsort(1)[:, :pairs]
        values = torch.randint(0, 10, (samples, pairs), generator=generator)
        asked = torch.randint(0, pairs, (samples, 1), generator=generator)
        known = torch.cat([F.one_hot(keys, 10), F.one_hot(values, 10)], -1)
        question = F.one_hot(keys.gather(1, asked), 10)
        question = torch.cat([question, torch.zeros_like(question)], -1)
        inputs = torch.cat([known, question], 1).float()
        batches.append((inputs, values.gather(1, asked).squeeze(1)))
    return batches


class Transformer(nn.Module):
    """Of torch's own layers; `sharpness` multiplies the logits of all attention."""

    def __init__(
        self, depth: int, sharpness: float = 1, *, features: int = 8, last: bool = False
    ) -> None:
        super().__init__()
        self.last = last
        self.embed = nn.Linear(features, 32)
        self.position = nn.Parameter(0.1 * torch.randn(9 if last else 8, 32))
        layer = nn.TransformerEncoderLayer(
            32, 4, 64, dropout=0.0, batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(
            layer, depth, nn.LayerNorm(32), enable_nested_tensor=False
        )
        self.head = nn.Linear(32, 10)
        for block in self.encoder.layers:
            block.self_attn.in_proj_weight.data[:32] *= sharpness

    def forward(self, x: Tensor) -> Tensor:
        x = self.encoder(self.embed(x) + self.position)
        out: Tensor = self.head(x[:, -1] if self.last else x.mean(1))
        return out


def heads(joined: Tensor) -> Iterator[Tensor]:
    """Queries, keys and values of four heads."""
    for part in joined.chunk(3, -1):
        yield part.unflatten(-1, (4, -1)).transpose(1, 2)


class Unscaled(nn.Module):
    """Attention from scratch, without the division by the root of the width."""

    def __init__(self, std: float) -> None:
        super().__init__()
        self.stem = nn.Linear(8, 64)
        self.norms = nn.ModuleList(nn.LayerNorm(64) for _ in range(3))
        self.qkvs = nn.ModuleList(nn.Linear(64, 192) for _ in range(3))
        self.outs = nn.ModuleList(nn.Linear(64, 64) for _ in range(3))
        self.head = nn.Linear(64, 10)
        for qkv in self.qkvs:
            nn.init.normal_(qkv.weight, std=std)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for norm, qkv, out in zip(self.norms, self.qkvs, self.outs, strict=True):
            q, k, v = heads(qkv(norm(x)))
            mixed = F.softmax(q @ k.transpose(-2, -1), dim=-1) @ v
            x = x + out(mixed.transpose(1, 2).flatten(2))
        scores: Tensor = self.head(x.mean(1))
        return scores


def diagnosed(model: nn.Module, data: Any, optimizer: Any = SGD) -> gradcheckup.Report:
    return gradcheckup.diagnose(model, data, CE, optimizer=optimizer)


def trained(model: nn.Module, data: Batches, optimizer: Any, steps: int) -> nn.Module:
    chosen = optimizer(model.parameters())
    for step in range(steps):
        inputs, targets = data[step % len(data)]
        chosen.zero_grad()
        CE(model(inputs), targets).backward()
        chosen.step()
    return model


# -- saturated -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_logits_too_large_to_learn_are_critical(seed: int, digits: Digits) -> None:
    """It fails: an accuracy of .11 with each of these seeds; with weights N(0, .3²) .77 to .85."""
    torch.manual_seed(seed)
    report = diagnosed(Unscaled(1.0), digits(8, 8))
    first = report.findings[0]
    assert (first.code, first.severity.value) == ("GC204", "critical"), str(report)
    assert "attends to next to one key" in str(report)
    assert sum(each.severity.value == "critical" for each in report.findings) == 1, str(report)


@pytest.mark.parametrize("optimizer", [SGD, ADAM])
@pytest.mark.parametrize("depth", [1, 2, 4])
def test_logits_times_100_are_a_warning_that_comes_first(
    depth: int, optimizer: Any, digits: Digits
) -> None:
    """It learns the digits, which need no attention, to .94."""
    report = diagnosed(Transformer(depth, 100), digits(8, 8), optimizer)
    assert report.healthy, str(report)
    found = report.findings[0]
    assert found.code == "GC204"
    every = {f"encoder.layers.{index}.self_attn" for index in range(depth)}
    assert set(found.layers) <= every
    assert 2 * len(found.layers) >= depth


@pytest.mark.parametrize("optimizer", [SGD, ADAM])
def test_looking_up_with_logits_times_100_comes_first(optimizer: Any) -> None:
    model = Transformer(6, 100, features=20, last=True)
    assert diagnosed(model, lookup(8), optimizer).findings[0].code == "GC204"


# -- sharp by right ------------------------------------------------------------------------------


def codes(report: gradcheckup.Report) -> set[str]:
    return {each.code for finding in report.findings for each in finding.walk()}


@pytest.mark.parametrize("sharpness", [1, 10])
@pytest.mark.parametrize("optimizer", [SGD, ADAM])
def test_usual_logits_are_not_mentioned(sharpness: float, optimizer: Any, digits: Digits) -> None:
    report = diagnosed(Transformer(3, sharpness), digits(8, 8), optimizer)
    assert report.healthy, str(report)
    assert "GC204" not in codes(report)


def test_a_layer_that_learnt_to_look_up_is_healthy() -> None:
    data = lookup(40)
    fast = functools.partial(torch.optim.Adam, lr=3e-3)
    model = trained(Transformer(1, features=20, last=True), data, fast, 150)
    inputs, targets = data[0]
    assert (model(inputs).argmax(1) == targets).float().mean() > 0.9
    for optimizer in (SGD, ADAM):
        assert diagnosed(model, data, optimizer).healthy


class Retrieval(nn.Module):
    """Looks up by keys that are equal, as sharply as can be, and learns what to do with it."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(25.0))
        self.key = nn.Linear(20, 10, bias=False)
        self.value = nn.Linear(20, 32)
        self.norm = nn.LayerNorm(32)
        self.norm.weight.data += 0.1 * torch.randn(32)
        self.head = nn.Linear(32, 10)
        nn.init.eye_(self.key.weight)

    def forward(self, x: Tensor) -> Tensor:
        known, asked = x[:, :-1], x[:, -1:]
        values = self.value(known)
        scores = self.scale * self.key(asked) @ self.key(known).transpose(1, 2)
        mixed = torch.softmax(scores, -1) @ values
        out: Tensor = self.head(self.norm(mixed[:, 0]))
        return out


@pytest.mark.parametrize("optimizer", [SGD, ADAM])
def test_retrieval_of_one_key_that_was_learnt_is_healthy(optimizer: Any) -> None:
    assert diagnosed(Retrieval(), lookup(8), optimizer).healthy


class Local(nn.Module):
    """Every token sees itself and its neighbours; one head of four only the one before."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.qkv, self.out = nn.Linear(8, 32), nn.Linear(32, 96), nn.Linear(32, 32)
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 10)
        apart = (torch.arange(8)[:, None] - torch.arange(8)).abs()
        bias = torch.zeros(4, 8, 8).masked_fill(apart > 1, -math.inf)
        bias[0] += 100 * (torch.arange(8)[:, None] - torch.arange(8) == 1)
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        q, k, v = heads(self.qkv(self.norm(x)))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias)
        scores: Tensor = self.head((x + self.out(mixed.transpose(1, 2).flatten(2))).mean(1))
        return scores


# -- no attention --------------------------------------------------------------------------------


class Probabilities(nn.Module):
    """A classifier that ends in a softmax, as sure as can be."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(64, 64), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return torch.log(torch.softmax(self.head(torch.relu(self.body(x))), -1) + 1e-4)


class Experts(nn.Module):
    """A dense mixture of experts with a sharp gate."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.gate = nn.Linear(64, 64), nn.Linear(64, 4)
        self.experts = nn.ModuleList(nn.Linear(64, 64) for _ in range(4))
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        gates = torch.softmax(100 * self.gate(x), dim=-1)
        made = torch.stack([torch.relu(expert(x)) for expert in self.experts], dim=1)
        out: Tensor = self.head(torch.einsum("be,bed->bd", gates, made))
        return out


class Excitation(nn.Module):
    """Softmax over channels in a squeeze-excite branch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 16, 3, padding=1)
        self.squeeze, self.head = nn.Linear(16, 16), nn.Linear(16 * 16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv(x))
        weights = torch.softmax(5 * self.squeeze(x.mean((2, 3))), dim=1)
        x = x * (1 + weights)[:, :, None, None]
        out: Tensor = self.head(F.max_pool2d(x, 2).flatten(1))
        return out


class SelectiveKernel(nn.Module):
    """Two receptive fields, mixed by a softmax over them."""

    def __init__(self) -> None:
        super().__init__()
        self.small, self.large = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(1, 16, 5, padding=2)
        self.choose, self.head = nn.Linear(16, 32), nn.Linear(16 * 16, 10)

    def forward(self, x: Tensor) -> Tensor:
        both = torch.relu(torch.stack([self.small(x), self.large(x)], dim=1))
        chosen = self.choose(both.sum(1).mean((2, 3))).unflatten(1, (2, 16))
        mixed = torch.einsum("bkc,bkchw->bchw", torch.softmax(50 * chosen, dim=1), both)
        out: Tensor = self.head(F.max_pool2d(mixed, 2).flatten(1))
        return out


class Codebook(nn.Module):
    """Gumbel-softmax over learnt codes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.choose = nn.Linear(64, 64), nn.Linear(64, 8 * 16)
        self.codes = nn.Parameter(torch.randn(16, 8))
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.choose(torch.relu(self.stem(x))).unflatten(1, (8, 16))
        weights = F.gumbel_softmax(logits, tau=0.2, dim=-1)
        out: Tensor = self.head((weights @ self.codes).flatten(1))
        return out


NO_ATTENTION: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "probabilities": (Probabilities, ()),
    "experts": (Experts, ()),
    "excitation": (Excitation, (1, 8, 8)),
    "selective kernel": (SelectiveKernel, (1, 8, 8)),
    "codebook": (Codebook, ()),
    "local attention": (Local, (8, 8)),
}


@pytest.mark.parametrize("optimizer", [SGD, ADAM])
@pytest.mark.parametrize("kind", list(NO_ATTENTION))
def test_is_not_mistaken(kind: str, optimizer: Any, digits: Digits) -> None:
    make, shape = NO_ATTENTION[kind]
    report = diagnosed(make(), digits(*shape), optimizer)
    assert report.healthy, str(report)
    assert "GC204" not in codes(report)


def test_a_pointer_is_not_mistaken() -> None:
    class Pointer(nn.Module):
        """Which of eight pairs has the key? Its softmax is the answer, and weighs nothing."""

        def __init__(self) -> None:
            super().__init__()
            self.query, self.key = nn.Linear(20, 32), nn.Linear(20, 32)

        def forward(self, x: Tensor) -> Tensor:
            scores = self.query(x[:, -1:]) @ self.key(x[:, :-1]).transpose(1, 2)
            return torch.log(torch.softmax(scores.squeeze(1), -1) + 1e-4)

    batches = [
        (inputs, (inputs[:, :-1, :10] * inputs[:, -1:, :10]).sum(-1).argmax(1))
        for inputs, _ in lookup(8)
    ]
    report = diagnosed(Pointer(), batches, ADAM)
    assert report.healthy, str(report)
    assert "GC204" not in codes(report)


def test_ctc_is_not_mistaken(digits: Digits) -> None:
    class Listener(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(8, 32), nn.Linear(32, 11)

        def forward(self, x: Tensor) -> Tensor:
            return torch.softmax(self.head(torch.relu(self.body(x))), -1)

    def loss(made: Tensor, targets: Tensor) -> Tensor:
        lengths = torch.full((len(targets),), 8), torch.ones(len(targets), dtype=torch.long)
        return F.ctc_loss(made.log().transpose(0, 1), targets[:, None] + 1, *lengths)

    report = gradcheckup.diagnose(Listener(), digits(8, 8), loss, optimizer=ADAM)
    assert report.healthy, str(report)
    assert "GC204" not in codes(report)
