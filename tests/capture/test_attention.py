"""Attention entropy against sums over rows and keys, written out in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from packaging.version import Version
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import gradcheckup
from gradcheckup import LayerRecord
from gradcheckup.capture import attention, functions

SAMPLES, HEADS, LENGTH, WIDTH = 3, 2, 5, 4
CLOSE = 1e-4
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def by_hand(scores: Tensor, hidden: Tensor | None = None) -> float:
    """Mean of -sum(p ln p) / ln(n) over rows of (..., keys) that see n > 1 keys."""
    scores = scores.detach().double()
    hidden = torch.zeros_like(scores, dtype=torch.bool) if hidden is None else hidden
    found = []
    for row, masked in zip(
        scores.flatten(0, -2).tolist(),
        hidden.expand(scores.shape).flatten(0, -2).tolist(),
        strict=True,
    ):
        seen = [value for value, out in zip(row, masked, strict=True) if not out]
        if len(seen) > 1:
            powers = [math.exp(value - max(seen)) for value in seen]
            shares = [power / sum(powers) for power in powers]
            found.append(-sum(p * math.log(p) for p in shares if p) / math.log(len(seen)))
    return sum(found) / len(found)


class Block(nn.Module):
    """Queries, keys and values of heads, (batch, heads, length, width), as a function weighs them.

    Queries are large, so that rows are far from equal weights.
    """

    def __init__(self, attend: Attend, heads: int = HEADS, key_heads: int = HEADS) -> None:
        super().__init__()
        self.heads, self.key_heads = heads, key_heads
        self.q = nn.Linear(6, heads * WIDTH)
        self.k = nn.Linear(6, key_heads * WIDTH)
        self.v = nn.Linear(6, key_heads * WIDTH)
        self.head = nn.Linear(heads * WIDTH, 3)
        self.attend = attend
        with torch.no_grad():
            self.q.weight *= 6

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        counts = (self.heads, self.key_heads, self.key_heads)
        q, k, v = (
            layer(x).unflatten(-1, (count, WIDTH)).transpose(1, 2)
            for layer, count in zip((self.q, self.k, self.v), counts, strict=True)
        )
        return q, k, v

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.attend(*self.parts(x)).transpose(1, 2).flatten(2)
        out: Tensor = self.head(mixed.mean(1))
        return out

    def scores(self, x: Tensor) -> Tensor:
        q, k, _ = (part.detach().double() for part in self.parts(x))
        return q @ k.repeat_interleave(self.heads // self.key_heads, 1).transpose(-2, -1)


def batch(samples: int = SAMPLES, length: int = LENGTH) -> tuple[Tensor, Tensor]:
    return torch.randn(samples, length, 6), torch.randint(0, 3, (samples,))


def layers(model: nn.Module, data: tuple[Tensor, Tensor]) -> list[LayerRecord]:
    """Layers with an entropy, before the first update."""
    report = gradcheckup.diagnose(model, data, nn.CrossEntropyLoss(), steps=1)
    return [layer for layer in report.layers if layer.attention_entropy is not None]


def entropy_of(model: nn.Module, data: tuple[Tensor, Tensor], name: str) -> float:
    (layer,) = layers(model, data)
    assert layer.name == name
    assert layer.attention_entropy is not None
    return layer.attention_entropy


# -- written by hand -----------------------------------------------------------------------------

ROOT = math.sqrt(WIDTH)
CAUSAL = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)


def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(q @ k.transpose(-2, -1) / ROOT, dim=-1) @ v


def with_dropout(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = (torch.matmul(q, k.transpose(-2, -1)) / ROOT).softmax(-1)
    return torch.matmul(F.dropout(weights, 0.5), v)


def with_einsum(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = F.softmax(torch.einsum("bhqd,bhkd->bhqk", q, k) / ROOT, dim=-1)
    return torch.einsum("b h q k, b h k d -> b h q d", weights, v)


def with_ellipsis(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = F.softmax(torch.einsum("...qd,...kd->...qk", q, k) / ROOT, dim=-1)
    return torch.einsum("...qk,...kd->...qd", [weights, v])


def with_bmm(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (part.flatten(0, 1) for part in (q, k, v))
    weights = F.softmax(torch.bmm(q, k.transpose(1, 2)) * (1 / ROOT), dim=2)
    return torch.bmm(weights, v).unflatten(0, (SAMPLES, HEADS))


def with_baddbmm(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (part.flatten(0, 1) for part in (q, k, v))
    none = torch.zeros(1, 1, 1)
    scores = torch.baddbmm(none, q, k.transpose(1, 2), alpha=1 / ROOT)
    weights = F.softmax(scores.unflatten(0, (SAMPLES, HEADS)), dim=-1)
    return weights.flatten(0, 1).bmm(v).unflatten(0, (SAMPLES, HEADS))


def with_cast(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = F.softmax(q @ k.mT / ROOT, dim=-1, dtype=torch.float64)
    return weights.type_as(v) @ v


def keys_first(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Scores of (keys, queries), a softmax over keys: dimension -2."""
    weights = torch.softmax(k @ q.transpose(-2, -1) / ROOT, dim=-2)
    return weights.transpose(-2, -1) @ v


def values_first(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = torch.softmax(k @ q.transpose(-2, -1) / ROOT, dim=2)
    return (v.transpose(-2, -1) @ weights).transpose(-2, -1)


def renormalised(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = torch.softmax(q @ k.transpose(-2, -1) / ROOT, dim=-1) + 1e-8
    return (weights / weights.sum(-1, keepdim=True)) @ v


def in_place(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.transpose(-2, -1)
    scores *= 1 / ROOT
    weights = scores.softmax(-1)
    scores.zero_()
    return weights @ v


BY_HAND = (
    plain,
    with_dropout,
    with_einsum,
    with_ellipsis,
    with_bmm,
    with_baddbmm,
    with_cast,
    keys_first,
    values_first,
    renormalised,
    in_place,
)


@pytest.mark.parametrize("attend", BY_HAND)
def test_softmax_between_products(attend: Attend) -> None:
    model, data = Block(attend), batch()
    expected = by_hand(model.scores(data[0]) / ROOT)
    assert 0.2 < expected < 0.9
    assert entropy_of(model, data, "softmax") == pytest.approx(expected, rel=CLOSE)


def masked(hide: Callable[[Tensor], Tensor]) -> Attend:
    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.softmax(hide(q @ k.transpose(-2, -1) / ROOT), dim=-1) @ v

    return attend


@pytest.mark.parametrize(
    "hide",
    [
        lambda scores: scores.masked_fill(CAUSAL, -math.inf),
        lambda scores: scores.masked_fill(CAUSAL, -1e9),
        lambda scores: scores.masked_fill(CAUSAL, torch.finfo(torch.float32).min),
        lambda scores: scores + CAUSAL * -1e4,
        lambda scores: torch.where(CAUSAL, torch.tensor(-1e30), scores),
        lambda scores: scores.clone().masked_fill_(CAUSAL, -math.inf),
    ],
)
def test_hidden_keys_do_not_count(hide: Callable[[Tensor], Tensor]) -> None:
    """Row i sees i + 1 keys; the first has no choice and is left out."""
    model, data = Block(masked(hide)), batch()
    expected = by_hand(model.scores(data[0]) / ROOT, CAUSAL)
    assert entropy_of(model, data, "softmax") == pytest.approx(expected, rel=CLOSE)


def test_fully_masked_rows_are_left_out() -> None:
    hidden = CAUSAL.clone()
    hidden[2] = True

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return masked(lambda scores: scores.masked_fill(hidden, -1e9))(q, k, v)

    model, data = Block(attend), batch()
    expected = by_hand(model.scores(data[0]) / ROOT, hidden)
    assert entropy_of(model, data, "softmax") == pytest.approx(expected, rel=CLOSE)


def test_saturated_rows_count_though_weights_underflow() -> None:
    """Scores a thousand apart: all weights but one are exactly 0, but no key is hidden."""
    model, data = (
        Block(lambda q, k, v: torch.softmax(1e3 * q @ k.transpose(-2, -1), -1) @ v),
        batch(),
    )
    assert entropy_of(model, data, "softmax") < 0.05


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("fused", [True, False])
def test_under_a_checkpoint(fused: bool, reentrant: bool) -> None:
    class Core(nn.Module):
        def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(q, k, v) if fused else plain(q, k, v)

    class Checkpointed(Block):
        def __init__(self) -> None:
            super().__init__(plain)
            self.core = Core()

        def forward(self, x: Tensor) -> Tensor:
            mixed: Any = checkpoint(self.core, *self.parts(x), use_reentrant=reentrant)
            out: Tensor = self.head(mixed.transpose(1, 2).flatten(2).mean(1))
            return out

    model, data = Checkpointed(), batch()
    expected = by_hand(model.scores(data[0]) / ROOT)
    name = "core.attention" if fused else "core.softmax"
    assert entropy_of(model, data, name) == pytest.approx(expected, rel=CLOSE)


# -- F.scaled_dot_product_attention --------------------------------------------------------------

HIDING = torch.tensor([[True, False, True, True, False]]).expand(LENGTH, LENGTH)
FUSED: dict[str, tuple[dict[str, Any], Tensor | None, Tensor | float]] = {
    # arguments; hidden keys; what is added to the scores
    "plain": ({}, None, 0.0),
    "dropout": ({"dropout_p": 0.5}, None, 0.0),
    "causal": ({"is_causal": True}, CAUSAL, 0.0),
    "bool mask": ({"attn_mask": ~HIDING}, HIDING, 0.0),
    "mask for all samples": ({"attn_mask": ~CAUSAL[None, None]}, CAUSAL, 0.0),
    "added": ({"attn_mask": torch.arange(25.0).reshape(5, 5) / 9}, None, torch.arange(25.0) / 9),
    "added -inf": ({"attn_mask": torch.zeros(5, 5).masked_fill(CAUSAL, -math.inf)}, CAUSAL, 0.0),
}


@pytest.mark.parametrize("form", list(FUSED))
def test_scaled_dot_product(form: str) -> None:
    arguments, hidden, added = FUSED[form]
    model = Block(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, **arguments))
    data = batch()
    bias = added.reshape(5, 5).double() if isinstance(added, Tensor) else added
    expected = by_hand(model.scores(data[0]) / ROOT + bias, hidden)
    assert entropy_of(model, data, "attention") == pytest.approx(expected, rel=CLOSE)


def test_scaled_dot_product_takes_its_scale() -> None:
    model = Block(lambda q, k, v: F.scaled_dot_product_attention(query=q, key=k, value=v, scale=2))
    data = batch()
    expected = by_hand(model.scores(data[0]) * 2)
    assert entropy_of(model, data, "attention") == pytest.approx(expected, rel=CLOSE)


@pytest.mark.skipif(Version(torch.__version__) < Version("2.5"), reason="has no enable_gqa")
def test_grouped_queries() -> None:
    model = Block(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True), 6, 2)
    data = batch()
    expected = by_hand(model.scores(data[0]) / ROOT)
    assert entropy_of(model, data, "attention") == pytest.approx(expected, rel=CLOSE)


def test_rows_without_keys_are_left_out_of_scaled_dot_product() -> None:
    hidden = torch.zeros(LENGTH, LENGTH, dtype=torch.bool)
    hidden[1] = True
    query, key = torch.randn(2, 1, 2, LENGTH, WIDTH)
    expected = by_hand(query @ key.mT / ROOT, hidden)
    found = attention.of_scaled_dot_product((query, key, key), {"attn_mask": ~hidden})
    assert found is not None
    assert float(found) == pytest.approx(expected, rel=CLOSE)


def test_layer_of_a_function_stands_where_it_is_called() -> None:
    model = nn.Sequential(nn.Linear(6, 6), Block(F.scaled_dot_product_attention))
    report = gradcheckup.diagnose(model, batch(), nn.CrossEntropyLoss(), steps=1)
    assert [layer.name for layer in report.layers] == [
        "0",
        "1.q",
        "1.k",
        "1.v",
        "1.attention",
        "1.head",
    ]
    layer = report.layers[4]
    assert (layer.kind, layer.role.value, layer.functional) == ("attention", "attention", True)
    assert layer.shape == (SAMPLES, HEADS, LENGTH, WIDTH)
    assert layer.gradient_norm


def test_no_choice_at_all_is_not_measured() -> None:
    model = Block(F.scaled_dot_product_attention)
    assert not layers(model, batch(length=1))
    hidden = ~torch.eye(LENGTH, dtype=torch.bool)
    each = Block(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=~hidden))
    assert not layers(each, batch())


def test_many_samples_heads_and_rows_are_thinned_alike() -> None:
    """The same for every head: half of them are sharp, so that the mean shows which were seen."""
    torch.manual_seed(0)
    sharp = torch.tensor([0.0, 1e6])
    query = torch.randn(30, 16, 200, WIDTH) * sharp.repeat(8)[:, None, None]
    key = torch.randn(30, 16, 200, WIDTH)
    found = attention.of_scaled_dot_product((query, key, key), {})
    assert found is not None
    assert float(found) == pytest.approx(0.5, abs=0.07)
    joined = attention.of_scaled_dot_product([each.flatten(0, 1) for each in (query, key, key)], {})
    assert joined is not None
    assert float(joined) == pytest.approx(0.5, abs=0.05)


# -- nn.MultiheadAttention -----------------------------------------------------------------------


class Multi(nn.Module):
    def __init__(self, settings: dict[str, Any], call: dict[str, Any]) -> None:
        super().__init__()
        self.mix = nn.MultiheadAttention(6, 2, **settings)
        self.head = nn.Linear(6, 3)
        self.call = call
        with torch.no_grad():
            for parameter in self.mix.parameters():
                parameter.copy_(torch.randn_like(parameter))

    def forward(self, x: Tensor) -> Tensor:
        first = self.mix.batch_first
        other = x.flip(1) if self.mix._qkv_same_embed_dim else x[..., :4]
        x, other = (x, other) if first else (x.transpose(0, 1), other.transpose(0, 1))
        out, _ = self.mix(x, other, other, **self.call)
        scores: Tensor = self.head(out.mean(1 if first else 0))
        return scores

    def expected(self, x: Tensor, hidden: Tensor | None, added: Tensor | float) -> float:
        """The projections as the documentation writes them."""
        mix, samples = self.mix, len(x)
        if mix._qkv_same_embed_dim:
            other = x.flip(1)
            weight_q, weight_k = mix.in_proj_weight[:6], mix.in_proj_weight[6:12]
        else:
            other, weight_q, weight_k = x[..., :4], mix.q_proj_weight, mix.k_proj_weight
        q, k = x @ weight_q.T, other @ weight_k.T
        if mix.in_proj_bias is not None:
            q, k = q + mix.in_proj_bias[:6], k + mix.in_proj_bias[6:12]
        if mix.bias_k is not None:
            k = torch.cat([k, mix.bias_k.transpose(0, 1).expand(samples, 1, 6)], 1)
        if mix.add_zero_attn:
            k = torch.cat([k, torch.zeros(samples, 1, 6)], 1)
        q, k = (each.unflatten(-1, (2, 3)).transpose(1, 2) for each in (q, k))
        return by_hand(q @ k.transpose(-2, -1) / math.sqrt(3) + added, hidden)


PADDED = torch.tensor([[False] * 5, [False] * 3 + [True] * 2, [False] + [True] * 4])
OWN = torch.rand(SAMPLES * 2, LENGTH, LENGTH, generator=torch.Generator().manual_seed(0)) < 0.4
BIAS = torch.linspace(-2, 2, 25).reshape(5, 5)
MULTI: dict[str, tuple[dict[str, Any], dict[str, Any], Tensor | None, Tensor | float]] = {
    # settings; arguments; hidden keys; what is added to the scores
    "plain": ({"batch_first": True}, {}, None, 0.0),
    "sequence first": ({}, {}, None, 0.0),
    "dropout": ({"dropout": 0.5}, {}, None, 0.0),
    "no bias": ({"bias": False}, {}, None, 0.0),
    "other keys": ({"kdim": 4, "vdim": 4}, {}, None, 0.0),
    "mask": ({"batch_first": True}, {"attn_mask": CAUSAL}, CAUSAL, 0.0),
    "causal": ({"batch_first": True}, {"attn_mask": CAUSAL, "is_causal": True}, CAUSAL, 0.0),
    "added": ({}, {"attn_mask": BIAS}, None, BIAS),
    "own masks": ({}, {"attn_mask": OWN}, OWN.unflatten(0, (SAMPLES, 2)), 0.0),
    "padding": ({}, {"key_padding_mask": PADDED}, PADDED[:, None, None, :], 0.0),
    "both": (
        {},
        {"key_padding_mask": PADDED, "attn_mask": CAUSAL},
        PADDED[:, None, None, :] | CAUSAL,
        0.0,
    ),
    "more keys": ({"add_bias_kv": True, "add_zero_attn": True}, {}, None, 0.0),
    "more keys, mask": (
        {"add_bias_kv": True, "add_zero_attn": True},
        {"attn_mask": CAUSAL},
        torch.cat([CAUSAL, torch.zeros(5, 2, dtype=torch.bool)], 1),
        0.0,
    ),
}


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("form", list(MULTI))
def test_multihead(form: str, need_weights: bool) -> None:
    settings, call, hidden, added = MULTI[form]
    model, data = Multi(settings, call | {"need_weights": need_weights}), batch()
    expected = model.expected(data[0], hidden, added)
    assert expected < 0.9
    assert entropy_of(model, data, "mix") == pytest.approx(expected, rel=CLOSE)


def test_one_sequence_without_a_batch() -> None:
    class Single(Multi):
        def forward(self, x: Tensor) -> Tensor:
            out, _ = self.mix(x[0], x[0].flip(0), x[0].flip(0))
            return self.head(out.mean(0, keepdim=True))

    model, data = Single({}, {}), batch(samples=1)
    expected = model.expected(data[0], None, 0.0)
    assert entropy_of(model, data, "mix") == pytest.approx(expected, rel=CLOSE)


@pytest.mark.parametrize("train", [True, False])
def test_inside_an_encoder_layer(train: bool) -> None:
    layer = nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    model = nn.Sequential(encoder, nn.Flatten(), nn.Linear(30, 3))
    model.train(train)
    data = batch()
    first, second = layers(model, data)
    assert (first.name, second.name) == ("0.layers.0.self_attn", "0.layers.1.self_attn")
    inside = encoder.layers[0].self_attn
    q, k = (data[0] @ part.T for part in inside.in_proj_weight[:12].chunk(2))
    q, k = (each.unflatten(-1, (2, 3)).transpose(1, 2) for each in (q, k))
    expected = by_hand(q @ k.transpose(-2, -1) / math.sqrt(3))
    assert first.attention_entropy == pytest.approx(expected, rel=CLOSE)


def test_autocast_does_not_round_it() -> None:
    class Half(Multi):
        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return super().forward(x)

    model, data = Half({}, {}), batch()
    expected = model.expected(data[0], None, 0.0)
    assert entropy_of(model, data, "mix") == pytest.approx(expected, rel=CLOSE)


# -- the measurement changes nothing -------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: Block(with_dropout),
        lambda: Block(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, dropout_p=0.3)),
        lambda: Multi({"dropout": 0.3}, {"need_weights": True}),
        lambda: Multi({"dropout": 0.3}, {"need_weights": False}),
    ],
)
def test_losses_are_those_without_it(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(3)
    model, data = make(), batch()
    report = gradcheckup.diagnose(
        model, data, nn.CrossEntropyLoss(), optimizer=torch.optim.Adam, steps=4, seed=11
    )
    torch.manual_seed(11)
    optimizer = torch.optim.Adam(model.parameters())
    expected = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(data[0]), data[1])
        loss.backward()
        optimizer.step()
        expected.append(float(loss.detach()))
    assert [step.loss for step in report.steps] == expected


def test_kernels_are_called_as_without_it() -> None:
    """A fused call stays a fused call, and goes backward through the fused kernel."""
    model = Block(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True))
    with torch.autograd.profiler.profile() as profile:
        gradcheckup.diagnose(model, batch(), nn.CrossEntropyLoss(), steps=3, follow=0)
    counts = {each.key: each.count for each in profile.key_averages()}
    assert "aten::_scaled_dot_product_attention_math" not in counts
    assert counts["aten::_scaled_dot_product_flash_attention_for_cpu_backward"] == 3


def test_all_products_are_watched() -> None:
    """A product that is a layer's is also one that attention may consist of."""
    assert {torch.matmul, torch.bmm, torch.mm, torch.einsum} <= set(functions.PRODUCTS)
    assert {Tensor.matmul, Tensor.__matmul__, Tensor.mm} <= set(functions.PRODUCTS)


# -- what is no attention ------------------------------------------------------------------------


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.log(torch.softmax(self.head(torch.relu(self.body(x.mean(1)))), -1) + 1e-6)


class Experts(nn.Module):
    """A dense mixture: the gate's weights multiply what the experts computed."""

    def __init__(self, router: str) -> None:
        super().__init__()
        self.router = router
        self.stem = nn.Linear(6, 8)
        self.gate = nn.Linear(8, 4)
        self.keys = nn.Parameter(torch.randn(4, 8))
        self.experts = nn.ModuleList(nn.Linear(8, 3) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x.mean(1)))
        if self.router == "linear":
            logits = self.gate(x)
        elif self.router == "product":
            logits = x @ self.keys.T
        else:
            logits = F.normalize(x, dim=-1) @ F.normalize(self.keys, dim=-1).T * 10
        gates = F.softmax(logits, dim=-1)
        made = torch.stack([expert(x) for expert in self.experts], 1)
        if self.router == "linear":
            return torch.einsum("be,bed->bd", gates, made)
        return (gates.unsqueeze(1) @ made).squeeze(1)


class Squeeze(nn.Module):
    """Softmax over channels, which only scales them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.squeeze, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        out: Tensor = self.head(
            (x * torch.softmax(self.squeeze(x.mean(1, keepdim=True)), -1)).sum(1)
        )
        return out


class SelectiveKernel(nn.Module):
    """Two branches, mixed per channel by a softmax over the branches."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Conv1d(6, 8, size, padding=size // 2) for size in (1, 3))
        self.choose = nn.Linear(8, 16)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        made = torch.stack([branch(x.transpose(1, 2)) for branch in self.branches], 1)
        weights = torch.softmax(self.choose(made.sum(1).mean(-1)).unflatten(1, (2, 8)), 1)
        mixed = torch.einsum("bmc,bmct->bct", weights, made)
        out: Tensor = self.head(mixed.mean(-1))
        return out


class Codebook(nn.Module):
    """Gumbel-softmax over the rows of a codebook."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(6, 8), nn.Linear(8, 3)
        self.codes = nn.Parameter(torch.randn(5, 8))

    def forward(self, x: Tensor) -> Tensor:
        weights = F.gumbel_softmax(self.stem(x) @ self.codes.T, dim=-1)
        out: Tensor = self.head((weights @ self.codes).mean(1))
        return out


class Pointer(nn.Module):
    """Query and keys, and the answer is the key: there are no values."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(6, 8), nn.Linear(6, 8)

    def forward(self, x: Tensor) -> Tensor:
        scores = torch.einsum("bd,bkd->bk", self.query(x[:, -1]), self.key(x))
        return torch.log(torch.softmax(scores, -1)[:, :3] + 1e-6)


class Slots(nn.Module):
    """Slot attention: slots compete for inputs, by a softmax over queries."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(6, 8) for _ in range(3))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        shares = torch.softmax(self.query(x) @ self.key(x).transpose(1, 2), 1)
        shares = shares / shares.sum(-1, keepdim=True)
        out: Tensor = self.head((shares @ self.value(x)).mean(1))
        return out


@pytest.mark.parametrize(
    "make",
    [
        Classifier,
        lambda: Experts("linear"),
        lambda: Experts("product"),
        lambda: Experts("cosine"),
        Squeeze,
        SelectiveKernel,
        Codebook,
        Pointer,
        Slots,
    ],
)
def test_other_softmaxes_have_no_entropy(make: Callable[[], nn.Module]) -> None:
    assert not layers(make(), batch())
