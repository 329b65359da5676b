"""Bottlenecks, output layers, gates and the reference layer, on graphs drawn by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gradcheckup
from gradcheckup import Report


def _report(model: nn.Module, *inputs: Tensor, **settings: Any) -> Report:
    def loss(net: nn.Module, batch: Any) -> Tensor:
        outputs = net(*batch)
        parts = outputs if isinstance(outputs, tuple) else (outputs,)
        return sum((part.square().mean() for part in parts), torch.zeros(()))

    return gradcheckup.diagnose(model, inputs, compute_loss=loss, **{"steps": 1} | settings)


def _named(report: Report, flag: str) -> list[str]:
    """Layers for which a flag is set; a call behind the first is marked."""
    return [
        layer.name + (f"#{layer.call}" if layer.call else "")
        for layer in report.layers
        if getattr(layer, flag)
    ]


def _reference(report: Report) -> str | None:
    reference = report.steps[0].reference
    return reference[0] if reference else None


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(6, 6) for _ in range(3))
        self.norm = nn.LayerNorm(6)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.c(torch.relu(self.norm(self.b(torch.tanh(self.a(x))))))
        return out


def test_plain_net() -> None:
    report = _report(Plain(), torch.randn(4, 6))
    assert _named(report, "bottleneck") == ["a", "tanh", "b", "norm", "relu", "c"]
    assert _named(report, "output") == ["c"]
    assert _named(report, "gate") == []
    assert _reference(report) == "b"
    assert report.steps[0].first == report.layers[0]
    assert report.steps[0].signal_reference == report.step(0).layer(("b", 0))


def test_what_follows_the_last_weight_layer_is_output_too() -> None:
    model = nn.Sequential(
        nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6), nn.LayerNorm(6), nn.Sigmoid()
    )
    report = _report(model, torch.randn(4, 6))
    assert _named(report, "output") == ["2", "3", "4"]
    assert _reference(report) == "0"


class Residual(nn.Module):
    """stem, two blocks x + v(relu(w(x))), a last norm, head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(6, 6), nn.Linear(6, 2)
        self.w = nn.ModuleList(nn.Linear(6, 6) for _ in range(2))
        self.v = nn.ModuleList(nn.Linear(6, 6) for _ in range(2))
        self.norm = nn.LayerNorm(6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for w, v in zip(self.w, self.v, strict=True):
            x = x + v(torch.relu(w(x)))
        out: Tensor = self.head(self.norm(x))
        return out


def test_residual_net() -> None:
    report = _report(Residual(), torch.randn(4, 6))
    assert _named(report, "bottleneck") == ["stem", "norm", "head"]
    branch = [layer.bottleneck for layer in report.layers if layer.name[0] in "wvr"]
    assert branch == [False] * 6
    assert _named(report, "output") == ["head"]
    # A path leads around the last hidden weight layer, so the head stands in.
    assert _reference(report) == "head"


def test_long_residual_net_has_more_paths_than_a_float_can_count() -> None:
    class Long(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Linear(3, 3), nn.Linear(3, 1)
            self.blocks = nn.ModuleList(nn.Linear(3, 3) for _ in range(260))

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            for block in self.blocks:
                x = x + 1e-3 * block(x)
                for _ in range(3):
                    x = x + 1e-3 * x.sin()
            out: Tensor = self.head(x)
            return out

    # 2^1040 of them; float64 ends at 2^1024.
    assert _named(_report(Long(), torch.randn(2, 3)), "bottleneck") == ["stem", "head"]


@pytest.mark.parametrize("first", [True, False])
def test_transformer(first: bool) -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(9, 8)
            layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=first)
            norm = nn.LayerNorm(8) if first else None
            self.encoder = nn.TransformerEncoder(layer, 2, norm, enable_nested_tensor=False)
            self.head = nn.Linear(8, 2)

        def forward(self, words: Tensor) -> Tensor:
            out: Tensor = self.head(self.encoder(self.embedding(words)).mean(1))
            return out

    report = _report(Encoder(), torch.randint(0, 9, (4, 5)))
    norms = [f"encoder.layers.{layer}.norm{norm}" for layer in (0, 1) for norm in (1, 2)]
    shared = ["encoder.norm"] if first else norms  # post-LN norms stand on the residual stream
    assert _named(report, "bottleneck") == ["embedding", *shared, "head"]
    assert _named(report, "output") == ["head"]
    assert _named(report, "gate") == []
    assert _reference(report) == "head"
    first_layer = report.steps[0].first
    assert first_layer is not None
    assert first_layer.name == "encoder.layers.0.self_attn"  # an embedding only looks up


BROADCASTS: dict[str, Callable[[Tensor], Tensor]] = {
    "index": lambda s: s[:, :, None, None],
    "view": lambda s: s.view(*s.shape, 1, 1),
    "reshape": lambda s: s.reshape(*s.shape, 1, 1),
    "unsqueeze": lambda s: s.unsqueeze(-1).unsqueeze(-1),
    "unflatten": lambda s: s.unflatten(1, (-1, 1, 1)),
    "expand": lambda s: s[:, :, None, None].expand(-1, -1, 6, 6),
    "dots": lambda s: s[..., None, None],
}


@pytest.mark.parametrize("way", list(BROADCASTS))
@pytest.mark.parametrize("squash", [torch.sigmoid, F.hardsigmoid, F.sigmoid])
def test_squeeze_and_excite_gate(squash: Callable[[Tensor], Tensor], way: str) -> None:
    class Squeezed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)
            self.down, self.up = nn.Linear(8, 4), nn.Linear(4, 8)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.conv(x))
            gate = squash(self.up(F.silu(self.down(x.mean((2, 3))))))
            out: Tensor = self.last(torch.tanh(x * BROADCASTS[way](gate)))
            return out

    report = _report(Squeezed(), torch.randn(4, 3, 8, 8))
    (gate,) = [layer for layer in report.layers if layer.gate]
    assert gate.kind.endswith("sigmoid")
    assert _named(report, "bottleneck") == ["conv", "relu", "tanh", "last"]


@pytest.mark.parametrize(
    ("use", "gate"),
    [
        (lambda s, x: s * x, True),
        (lambda s, x: x * s, True),
        (lambda s, x: x.mul(s), True),
        (lambda s, x: s * x + x, True),
        (lambda s, x: s + x, False),
        (lambda s, x: s * x + s, False),  # goes on by itself as well
        (lambda s, x: F.dropout(s, 0.5) + x, False),  # a product with a constant
        (lambda s, x: s * 2 + x, False),
        (lambda s, x: s * 2.0 * x, False),  # reaches the product through another one
        (lambda s, _: s, False),
    ],
)
def test_a_gate_only_multiplies(use: Callable[[Tensor, Tensor], Tensor], gate: bool) -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = (nn.Linear(6, 6) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.c(use(torch.sigmoid(self.a(x)), self.b(x)))
            return out

    assert _named(_report(Gated(), torch.randn(4, 6)), "gate") == ["sigmoid"] * gate


def test_two_heads() -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.body = nn.Linear(6, 6), nn.Linear(6, 6)
            self.policy, self.value = nn.Linear(6, 3), nn.Linear(6, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            x = torch.relu(self.body(torch.relu(self.stem(x))))
            return self.policy(x), torch.tanh(self.value(x))

    report = _report(Heads(), torch.randn(4, 6))
    assert _named(report, "output") == ["policy", "value", "tanh"]
    assert _named(report, "bottleneck") == ["stem", "relu", "body", "relu#1"]
    assert _reference(report) == "body"


def test_auxiliary_head_on_an_early_layer() -> None:
    class Auxiliary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.body, self.deep = (nn.Linear(6, 6) for _ in range(3))
            self.early, self.head = nn.Linear(6, 2), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            x = torch.relu(self.stem(x))
            early = self.early(x)
            return self.head(torch.relu(self.deep(torch.relu(self.body(x))))), early

    report = _report(Auxiliary(), torch.randn(4, 6))
    assert _named(report, "output") == ["early", "head"]
    assert _named(report, "bottleneck") == ["stem", "relu"]


def test_layer_that_returns_two_results_of_one_path_is_no_detour() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(6, 6))

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            x = x @ self.weight
            return x, torch.relu(x)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.pair, self.head = nn.Linear(6, 6), Pair(), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.pair(self.stem(x))[1])
            return out

    report = _report(Net(), torch.randn(4, 6))
    assert set(_named(report, "bottleneck")) == {"stem", "pair", "pair.relu", "head"}


def test_recurrent_net_where_state_and_sequence_are_used() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Linear(6, 6), nn.Linear(6, 2)
            self.lstm = nn.LSTM(6, 6, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            sequence, (hidden, cell) = self.lstm(self.stem(x))
            out: Tensor = self.head(sequence.mean(1) + hidden[-1] + cell[-1])
            return out

    report = _report(Both(), torch.randn(4, 5, 6))
    assert _named(report, "bottleneck") == ["stem", "lstm", "head"]
    assert _named(report, "output") == ["head"]


def test_layers_that_the_loss_does_not_reach() -> None:
    class Aside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.aside = (nn.Linear(6, 6) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            self.aside(x)
            with torch.no_grad():
                self.aside(x)
            out: Tensor = self.b(torch.relu(x))
            return out

    report = _report(Aside(), torch.randn(4, 6))
    aside = [layer for layer in report.layers if layer.name == "aside"]
    assert [(each.bottleneck, each.output, each.gradient_norm) for each in aside] == [
        (None, False, None),
        (None, False, None),
    ]
    assert _named(report, "bottleneck") == ["a", "relu", "b"]


def test_frozen_first_layers_do_not_count_as_the_beginning() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2))
    model[0].requires_grad_(requires_grad=False)
    report = _report(model, torch.randn(4, 6))
    assert _named(report, "bottleneck") == ["2", "3", "4"]
    first = report.steps[0].first
    assert first is not None
    assert first.name == "2"


def test_single_layer() -> None:
    report = _report(nn.Linear(6, 2), torch.randn(4, 6))
    assert _named(report, "output") == ["Linear"]
    assert _reference(report) == "Linear"
    assert report.end_to_end_ratio == 1.0


def test_roles_and_kinds() -> None:
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gamma = nn.Parameter(torch.ones(6))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.gamma

    class Mixer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(6, 6))

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.weight

    class MyRMSNorm(Scale):
        pass

    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token = nn.Parameter(torch.randn(1, 6))
            self.inner = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.inner(x) + self.token
            return out

    model = nn.Sequential(
        Mixer(), nn.LayerNorm(6), nn.PReLU(), Scale(), MyRMSNorm(), Holder(), nn.Softsign()
    )
    found = [
        (layer.name, layer.kind, layer.role.value)
        for layer in _report(model, torch.randn(4, 6)).layers
    ]
    assert found == [
        ("0", "mixer", "weight"),
        ("1", "layernorm", "norm"),
        ("2", "prelu", "activation"),
        ("3", "scale", "scale"),
        ("4", "myrmsnorm", "norm"),
        ("5.inner", "linear", "weight"),
        ("5", "holder", "container"),
        ("6", "softsign", "activation"),
    ]


def test_signal_of_a_residual_net_is_read_before_the_head() -> None:
    """A small initialisation of the head must not look like a collapsed signal."""
    model = Residual()
    nn.init.normal_(model.head.weight, std=1e-4)
    report = _report(model, torch.randn(4, 6))
    reference = report.steps[0].signal_reference
    assert reference is not None
    assert reference.name == "norm"
    assert report.steps[0].end_to_end_signal == reference.signal_ratio
