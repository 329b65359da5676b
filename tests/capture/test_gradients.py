"""Gradient norms of every layer against autograd by hand.

The oracle runs a copy of the model in which every module's output is cloned, so that in-place
operations behind it cannot touch it, and differentiates the loss with respect to all of them at
once. It shares no code with gradcheckup.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest
import torch
from packaging.version import Version
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence
from torch.utils.checkpoint import checkpoint

import gradcheckup
from gradcheckup import LayerRecord, Report

Key = tuple[str, int]
ComputeLoss = Callable[[nn.Module, Any], Tensor]
RELATIVE = 1e-6


# -- the oracle ----------------------------------------------------------------------------------


def _mapped(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """The output with every tensor that requires grad replaced."""
    if isinstance(value, Tensor):
        return function(value) if value.requires_grad else value
    if isinstance(value, PackedSequence):
        return value._replace(data=function(value.data))
    if isinstance(value, dict):
        return type(value)((name, _mapped(function, each)) for name, each in value.items())
    if isinstance(value, (tuple, list)):
        return type(value)(_mapped(function, each) for each in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return dataclasses.replace(
            value, **{name: _mapped(function, getattr(value, name)) for name in names}
        )
    return value


def _length(tensors: list[Tensor | None]) -> float | None:
    """Norm of the concatenation, in float64, scaled so that no square leaves its range."""
    flat = [torch.view_as_real(t) if t.is_complex() else t for t in tensors if t is not None]
    if not flat:
        return None
    scale = max((float(t.abs().max()) for t in flat), default=0.0)
    if scale in {0.0, math.inf} or math.isnan(scale):
        return scale
    return scale * math.sqrt(sum(float((t.double() / scale).square().sum()) for t in flat))


def by_hand(
    model: nn.Module, batch: Any, compute_loss: ComputeLoss, seed: int = 0
) -> dict[Key, float | None]:
    """dL/dy of every call of every module, by one `autograd.grad`."""
    twin = copy.deepcopy(model)
    outputs: dict[Key, list[Tensor]] = {}
    calls: dict[str, int] = {}

    def attach(name: str, module: nn.Module) -> None:
        def keep(_: nn.Module, __: Any, output: Any) -> Any:
            key = name, calls.get(name, 0)
            calls[name] = key[1] + 1
            outputs[key] = []

            def clone(tensor: Tensor) -> Tensor:
                outputs[key].append(tensor)
                return tensor.clone()

            return _mapped(clone, output)

        module.register_forward_hook(keep)

    for name, module in twin.named_modules():
        attach(name or type(twin).__name__, module)
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    loss = compute_loss(twin, batch)
    torch.set_rng_state(state)
    flat = [tensor for each in outputs.values() for tensor in each]
    gradients = iter(torch.autograd.grad(loss, flat, allow_unused=True))
    return {key: _length([next(gradients) for _ in each]) for key, each in outputs.items()}


def _layers(model: nn.Module) -> set[str]:
    """Names of the modules that must be reported: own parameters, or an activation of torch."""
    return {
        name or type(model).__name__
        for name, module in model.named_modules()
        if any(True for _ in module.parameters(recurse=False))
        or type(module).__module__ == "torch.nn.modules.activation"
    }


def norms(report: Report, step: int = 0, *, functional: bool = False) -> dict[Key, float | None]:
    layers = report.step(step).layers
    found = {layer.key: layer.gradient_norm for layer in layers if layer.functional is functional}
    assert len(found) == sum(layer.functional is functional for layer in layers), "a key twice"
    return found


def same(found: Mapping[Key, float | None], expected: Mapping[Key, float | None]) -> None:
    assert list(found) == list(expected)
    for key, value in expected.items():
        if value is None:
            assert found[key] is None, key
        else:
            assert found[key] == pytest.approx(value, rel=RELATIVE, abs=0), key


def check(
    model: nn.Module, batch: Any, compute_loss: ComputeLoss | None = None, **settings: Any
) -> Report:
    """Diagnoses a model and compares every layer that is a module with the oracle."""
    loss = compute_loss or _cross_entropy
    expected = by_hand(model, batch, loss)
    wanted = _layers(model)
    report = gradcheckup.diagnose(model, batch, compute_loss=loss, steps=1, **settings)
    same(norms(report), {key: value for key, value in expected.items() if key[0] in wanted})
    return report


def _cross_entropy(model: nn.Module, batch: Any) -> Tensor:
    outputs = model(batch[0])
    return F.cross_entropy(outputs if isinstance(outputs, Tensor) else outputs[0], batch[1])


def _rows(count: int = 16, width: int = 12, classes: int = 4) -> tuple[Tensor, Tensor]:
    return torch.randn(count, width), torch.randint(0, classes, (count,))


def _images(count: int = 4, size: int = 16) -> tuple[Tensor, Tensor]:
    return torch.randn(count, 3, size, size), torch.randint(0, 4, (count,))


def _words(count: int = 6, length: int = 9) -> tuple[Tensor, Tensor]:
    return torch.randint(0, 20, (count, length)), torch.randint(0, 4, (count,))


def kinds(report: Report) -> list[str]:
    return [layer.kind for layer in report.layers]


# -- feed-forward and convolution ----------------------------------------------------------------


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.Sigmoid, nn.GELU, nn.SELU, nn.PReLU])
def test_multilayer_perceptron(activation: type[nn.Module]) -> None:
    layers = [nn.Linear(12, 20), activation(), nn.Linear(20, 20), activation(), nn.Linear(20, 4)]
    report = check(nn.Sequential(*layers), _rows())
    name = activation.__name__.lower()
    assert kinds(report) == ["linear", name, "linear", name, "linear"]


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_dropout_and_layer_norm(mode: str) -> None:
    model = nn.Sequential(
        nn.Linear(12, 20), nn.LayerNorm(20), nn.GELU(), nn.Dropout(0.5), nn.Linear(20, 4)
    )
    check(model.train(mode == "train") if mode == "train" else model, _rows())


class Block(nn.Module):
    """As in torchvision's ResNet: one in-place ReLU used twice, `out += identity`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x
        result: Tensor = self.relu(out)
        return result


class Convolutional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.blocks = nn.Sequential(Block(8), Block(8))
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.blocks(F.relu_(self.stem(x))).mean((2, 3)))
        return out


def test_convolutional_net_with_in_place_operations() -> None:
    report = check(Convolutional(), _images())
    calls = [layer.key for layer in report.layers if layer.name == "blocks.0.relu"]
    assert calls == [("blocks.0.relu", 0), ("blocks.0.relu", 1)]
    assert report.layers[1].key == ("relu", 0)
    assert report.layers[1].functional


def test_torchvision_resnet18() -> None:
    torchvision = pytest.importorskip("torchvision")
    model = torchvision.models.resnet18(weights=None, num_classes=4)
    report = check(model, _images(2, 32))
    assert len(report.layers) == 21 + 20 + 17  # convolutions and head, norms, ReLUs
    assert report.recording.never_called == ()


@pytest.mark.skipif(
    Version(torch.__version__) < Version("2.6"),
    reason="the output is a view there, whose hook is lost when it is rewritten in place",
)
def test_in_place_relu_on_a_sequence() -> None:
    """`nn.Linear` returns a view for 3-d inputs, which the in-place ReLU then rewrites."""
    layers = [nn.Linear(12, 20), nn.ReLU(inplace=True), nn.Linear(20, 4), nn.Flatten()]
    check(nn.Sequential(*layers), (torch.randn(8, 5, 12), torch.randint(0, 20, (8,))))


# -- recurrent -----------------------------------------------------------------------------------


class Recurrent(nn.Module):
    def __init__(self, kind: str, *, packed: bool, last: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.rnn = getattr(nn, kind)(8, 10, 2, batch_first=True)
        self.head = nn.Linear(10, 4)
        self.packed, self.last = packed, last

    def forward(self, words: Tensor) -> Tensor:
        given = self.embedding(words)
        if self.packed:
            lengths = torch.arange(words.shape[0], 0, -1)
            given = pack_padded_sequence(given, lengths, batch_first=True)
        sequence, hidden = self.rnn(given)
        hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        if self.packed and not self.last:
            sequence, _ = nn.utils.rnn.pad_packed_sequence(sequence, batch_first=True)
        out: Tensor = self.head(hidden[-1] if self.last else sequence.mean(1))
        return out


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_recurrent_net(kind: str, packed: bool, last: bool) -> None:
    report = check(Recurrent(kind, packed=packed, last=last), _words())
    assert kinds(report) == ["embedding", kind.lower(), "linear"]


def test_recurrent_cell_called_at_every_time_step() -> None:
    class Unrolled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.LSTMCell(12, 10)
            self.head = nn.Linear(10, 4)

        def forward(self, x: Tensor) -> Tensor:
            state = None
            for _ in range(5):
                state = self.cell(x, state)
            assert state is not None
            out: Tensor = self.head(state[0])
            return out

    report = check(Unrolled(), _rows())
    assert [layer.call for layer in report.layers] == [0, 1, 2, 3, 4, 0]


# -- attention -----------------------------------------------------------------------------------


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 4)

    def forward(self, words: Tensor) -> Tensor:
        x = self.embedding(words)
        mixed, _ = self.attention(x, x, x)
        out: Tensor = self.head(mixed.mean(1))
        return out


def test_multihead_attention() -> None:
    model = Attention()
    report = gradcheckup.diagnose(model, _words(), compute_loss=_cross_entropy, steps=1)
    assert [layer.name for layer in report.layers] == ["embedding", "attention", "head"]
    batch = _words()
    report = gradcheckup.diagnose(model, batch, compute_loss=_cross_entropy, steps=1)
    expected = by_hand(model, batch, _cross_entropy)
    same(norms(report), {key: expected[key] for key in norms(report)})


def test_projection_inside_attention_was_not_called_but_is_used() -> None:
    report = gradcheckup.diagnose(Attention(), _words(), compute_loss=_cross_entropy, steps=1)
    assert report.recording.never_called == ()


class Encoder(nn.Module):
    def __init__(self, *, first: bool, activation: str = "relu") -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        layer = nn.TransformerEncoderLayer(
            8, 2, 16, dropout=0.1, activation=activation, batch_first=True, norm_first=first
        )
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, 4)

    def forward(self, words: Tensor) -> Tensor:
        out: Tensor = self.head(self.encoder(self.embedding(words)).mean(1))
        return out


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("first", [True, False])
def test_transformer_encoder(first: bool, activation: str) -> None:
    model, batch = Encoder(first=first, activation=activation), _words()
    report = gradcheckup.diagnose(model, batch, compute_loss=_cross_entropy, steps=1)
    expected = by_hand(model, batch, _cross_entropy)
    modules = norms(report)
    same(modules, {key: expected[key] for key in modules})
    names = ["self_attn", "linear1", "linear2", "norm1", "norm2"]
    wanted = {f"encoder.layers.{layer}.{name}" for layer in (0, 1) for name in names}
    assert wanted | {"embedding", "head"} == {name for name, _ in modules}
    assert set(norms(report, functional=True)) == {
        (f"encoder.layers.{layer}.{activation}", 0) for layer in (0, 1)
    }


# -- functional activations ----------------------------------------------------------------------

_NOTED: list[tuple[str, Tensor]] = []
"""Outputs of functional activations in the order in which a forward computed them."""


def noted(name: str, output: Tensor) -> Tensor:
    """Remembers an activation's output; what goes on is a copy, safe from in-place operations."""
    _NOTED.append((name, output))
    return output.clone()


def noted_by_hand(
    model: nn.Module, batch: Any, compute_loss: ComputeLoss = _cross_entropy
) -> dict[Key, float | None]:
    _NOTED.clear()
    loss = compute_loss(copy.deepcopy(model), batch)
    outputs = [output for _, output in _NOTED]
    gradients = torch.autograd.grad(loss, outputs, allow_unused=True)
    found: dict[Key, float | None] = {}
    for (name, _), gradient in zip(_NOTED, gradients, strict=True):
        call = sum(other == name for other, _ in found)
        found[name, call] = _length([gradient])
    _NOTED.clear()
    return found


FUNCTIONAL: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "F.relu": ("relu", F.relu),
    "F.relu in place": ("relu", lambda x: F.relu(x, inplace=True)),
    "torch.relu": ("relu", torch.relu),
    "torch.relu_": ("relu", torch.relu_),
    "Tensor.relu": ("relu", lambda x: x.relu()),
    "Tensor.relu_": ("relu", lambda x: x.relu_()),
    "torch.sigmoid": ("sigmoid", torch.sigmoid),
    "F.sigmoid": ("sigmoid", F.sigmoid),
    "Tensor.sigmoid": ("sigmoid", lambda x: x.sigmoid()),
    "Tensor.sigmoid_": ("sigmoid", lambda x: x.sigmoid_()),
    "torch.special.expit": ("sigmoid", torch.special.expit),
    # A module made on the fly is registered nowhere.
    "nn.Sigmoid()": ("sigmoid", lambda x: nn.Sigmoid()(x)),  # noqa: PLW0108 - made on the fly
    "nn.Tanh()": ("tanh", lambda x: nn.Tanh()(x)),  # noqa: PLW0108 - likewise
    "torch.tanh": ("tanh", torch.tanh),
    "F.tanh": ("tanh", F.tanh),
    "F.leaky_relu": ("leaky_relu", lambda x: F.leaky_relu(x, 0.2)),
    "F.elu": ("elu", lambda x: F.elu(x, 0.7)),
    "F.selu": ("selu", F.selu),
    "F.celu": ("celu", F.celu),
    "F.gelu": ("gelu", lambda x: F.gelu(x, approximate="tanh")),
    "F.silu": ("silu", F.silu),
    "F.mish": ("mish", F.mish),
    "F.softplus": ("softplus", F.softplus),
    "F.softsign": ("softsign", F.softsign),
    "F.hardtanh": ("hardtanh", F.hardtanh),
    "F.hardsigmoid": ("hardsigmoid", F.hardsigmoid),
    "F.hardswish": ("hardswish", F.hardswish),
    "F.relu6": ("relu6", F.relu6),
    "F.threshold": ("threshold", lambda x: F.threshold(x, 0.1, 0.0)),
    "F.logsigmoid": ("logsigmoid", F.logsigmoid),
    "F.softmax": ("softmax", lambda x: F.softmax(x, dim=-1)),
    "torch.softmax": ("softmax", lambda x: torch.softmax(x, -1)),
    "Tensor.softmax": ("softmax", lambda x: x.softmax(-1)),
}


class Functional(nn.Module):
    """Seven layers, the activation nowhere a registered module."""

    def __init__(self, name: str, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(12, 12) for _ in range(7))
        self.head = nn.Linear(12, 4)
        self.name, self.function = name, function

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = noted(self.name, self.function(layer(x)))
        out: Tensor = self.head(x)
        return out


@pytest.mark.parametrize("case", list(FUNCTIONAL))
def test_functional_activations(case: str) -> None:
    kind, function = FUNCTIONAL[case]
    model, batch = Functional(kind, function), _rows()
    expected = noted_by_hand(model, batch)
    report = check(model, batch)
    same(norms(report, functional=True), expected)
    assert list(expected) == [(kind, call) for call in range(7)]
    found = [(layer.kind, layer.role.value) for layer in report.layers if layer.functional]
    assert found == [(kind, "activation")] * 7
    # In execution order: a layer, its activation, the next layer.
    assert kinds(report) == ["linear", kind] * 7 + ["linear"]


def test_functional_activations_are_named_after_the_module_they_are_called_in() -> None:
    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(12, 12)

        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(self.fc(x)) * nn.Sigmoid()(x)

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stage = nn.Sequential(Inner(), Inner())
            self.head = nn.Linear(12, 4)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = F.log_softmax(self.head(F.relu(self.stage(x))), -1)
            return out

    report = check(Outer(), _rows())
    assert [layer.name for layer in report.layers] == [
        *("stage.0.fc", "stage.0.tanh", "stage.0.sigmoid"),
        *("stage.1.fc", "stage.1.tanh", "stage.1.sigmoid"),
        *("relu", "head", "log_softmax"),
    ]


# -- reuse ---------------------------------------------------------------------------------------


class Shared(nn.Module):
    """One layer used four times; each use optionally inside a checkpoint of its own."""

    def __init__(self, reentrant: bool | None = None) -> None:
        super().__init__()
        self.stem = nn.Linear(12, 12)
        self.layer = nn.Linear(12, 12)
        self.act = nn.Tanh()
        self.head = nn.Linear(12, 4)
        self.reentrant = reentrant

    def once(self, x: Tensor) -> Tensor:
        out: Tensor = self.act(self.layer(x))
        return out

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for _ in range(4):
            if self.reentrant is None:
                x = self.once(x)
            else:
                x = checkpoint(self.once, x, use_reentrant=self.reentrant)
        out: Tensor = self.head(x)
        return out


def test_module_used_several_times() -> None:
    report = check(Shared(), _rows())
    assert [layer.call for layer in report.layers if layer.name == "layer"] == [0, 1, 2, 3]


@pytest.mark.parametrize("reentrant", [False, True])
def test_module_used_in_several_checkpoints(reentrant: bool) -> None:
    batch = _rows()
    model = Shared(reentrant)
    plain = Shared()
    plain.load_state_dict(model.state_dict())
    report = gradcheckup.diagnose(model, batch, compute_loss=_cross_entropy, steps=1)
    same(norms(report), norms(check(plain, batch)))


class Checkpointed(nn.Module):
    """Two blocks and a functional activation, each in a checkpoint, with dropout."""

    def __init__(self, reentrant: bool | None) -> None:
        super().__init__()
        self.stem = nn.Linear(12, 12)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(12, 12), nn.Sigmoid(), nn.Dropout(0.3), nn.LayerNorm(12))
            for _ in range(3)
        )
        self.last = nn.Linear(12, 12)
        self.head = nn.Linear(12, 4)
        self.reentrant = reentrant

    def end(self, x: Tensor) -> Tensor:
        return torch.tanh(self.last(x))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for part in (*self.blocks, self.end):
            if self.reentrant is None:
                x = part(x)
            else:
                x = checkpoint(part, x, use_reentrant=self.reentrant)
        out: Tensor = self.head(x)
        return out


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints_change_no_gradient(reentrant: bool) -> None:
    batch, model, plain = _rows(), Checkpointed(reentrant), Checkpointed(None)
    plain.load_state_dict(model.state_dict())
    report = gradcheckup.diagnose(model, batch, compute_loss=_cross_entropy, steps=2)
    for step in (0, 1):
        expected = gradcheckup.diagnose(plain, batch, compute_loss=_cross_entropy, steps=2)
        same(norms(report, step), norms(expected, step))
        same(norms(report, step, functional=True), norms(expected, step, functional=True))
    same(norms(check(plain, batch)), norms(report))


def test_tied_weights() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(20, 8)
            self.body = nn.Linear(8, 8)
            self.decoder = nn.Linear(8, 20, bias=False)
            self.decoder.weight = self.embedding.weight

        def forward(self, words: Tensor) -> Tensor:
            out: Tensor = self.decoder(torch.tanh(self.body(self.embedding(words))))
            return out.flatten(0, 1)

    words, _ = _words()
    model, batch = Tied(), (words, words.flatten())
    report = check(model, batch)
    names = [parameter.name for parameter in report.steps[0].parameters]
    assert names == ["embedding.weight", "body.weight", "body.bias"]
    twin = copy.deepcopy(model)
    _cross_entropy(twin, batch).backward()
    expected = _length([twin.embedding.weight.grad])
    assert report.steps[0].parameters[0].gradient_norm == pytest.approx(expected, rel=RELATIVE)


def test_module_registered_twice_keeps_its_first_name() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(12, 12)
            self.second = self.first
            self.head = nn.Linear(12, 4)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(torch.tanh(self.second(torch.tanh(self.first(x)))))
            return out

    report = check(Twice(), _rows())
    keys = [layer.key for layer in report.layers if layer.kind == "linear"]
    assert keys == [("first", 0), ("first", 1), ("head", 0)]


# -- kinds of output -----------------------------------------------------------------------------


@dataclasses.dataclass
class Prediction:
    logits: Tensor
    hidden: Tensor
    note: str = "none"


class ModelOutput(dict):  # type: ignore[type-arg]
    """Like that of a well-known library: a dict whose entries are attributes."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class Own(nn.Module):
    """A layer of the user's own, with parameters, that returns something structured."""

    def __init__(self, pack: Callable[[Tensor, Tensor], Any], classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(12, classes) / 4)
        self.pack = pack

    def forward(self, x: Tensor) -> Any:
        hidden = x @ self.weight
        return self.pack(hidden, hidden.sin())


PACKS: dict[str, tuple[Callable[[Tensor, Tensor], Any], Callable[[Any], tuple[Tensor, Tensor]]]] = {
    "tuple": (lambda a, b: (a, b), lambda out: (out[0], out[1])),
    "list": (lambda a, b: [a, b], lambda out: (out[0], out[1])),
    "dict": (lambda a, b: {"a": a, "b": b}, lambda out: (out["a"], out["b"])),
    "nested": (lambda a, b: {"a": (a, [b])}, lambda out: (out["a"][0], out["a"][1][0])),
    "dataclass": (Prediction, lambda out: (out.logits, out.hidden)),
    "mapping with attributes": (
        lambda a, b: ModelOutput(logits=a, hidden=b),
        lambda out: (out.logits, out.hidden),
    ),
}


@pytest.mark.parametrize("kind", list(PACKS))
def test_structured_outputs(kind: str) -> None:
    pack, unpack = PACKS[kind]

    class Structured(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Linear(12, 12)
            self.own = Own(pack, 12)
            self.end = Own(pack, 4)

        def forward(self, x: Tensor) -> Any:
            a, b = unpack(self.own(self.stem(x)))
            return self.end(a + b)

    def loss(model: nn.Module, batch: Any) -> Tensor:
        logits, hidden = unpack(model(batch[0]))
        return F.cross_entropy(logits, batch[1]) + hidden.square().mean()

    report = check(Structured(), _rows(), loss)
    assert [layer.name for layer in report.layers] == ["stem", "own", "end"]


@pytest.mark.parametrize("output", [Prediction, lambda a, b: ModelOutput(logits=a, hidden=b)])
def test_criterion_finds_the_logits(output: Callable[[Tensor, Tensor], Any]) -> None:
    model, (x, y) = Own(output, 4), _rows()
    report = gradcheckup.diagnose(model, (x, y), nn.CrossEntropyLoss(), steps=1)
    logits = (x @ model.weight).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(logits, y), logits)
    # `hidden` is computed from the logits but reaches no loss.
    assert report.layers[0].gradient_norm == pytest.approx(_length([gradient]), rel=RELATIVE)


def test_tensor_returned_twice_counts_once() -> None:
    def loss(model: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(model(batch[0])["last"], batch[1])

    model, (x, y) = Own(lambda a, _: {"last": a, "all": (a,)}, 4), _rows()
    report = gradcheckup.diagnose(model, (x, y), compute_loss=loss, steps=1)
    logits = (x @ model.weight).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(logits, y), logits)
    assert report.layers[0].gradient_norm == pytest.approx(_length([gradient]), rel=RELATIVE)


# -- number formats ------------------------------------------------------------------------------


def _small(dtype: torch.dtype = torch.float32) -> nn.Module:
    layers = [nn.Linear(12, 20), nn.Tanh(), nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 4)]
    return nn.Sequential(*layers).to(dtype)


@pytest.mark.parametrize(
    "dtype",
    [
        torch.bfloat16,
        pytest.param(
            torch.float16,
            marks=pytest.mark.skipif(
                Version(torch.__version__) < Version("2.6"),
                reason="has no cross-entropy in float16 on the CPU",
            ),
        ),
        torch.float64,
    ],
)
def test_parameters_of_other_precision(dtype: torch.dtype) -> None:
    x, y = _rows()
    report = check(_small(dtype), (x.to(dtype), y))
    assert all(layer.finite for layer in report.layers)


def test_autocast() -> None:
    def loss(model: nn.Module, batch: Any) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return F.cross_entropy(model(batch[0]), batch[1])

    check(_small(), _rows(), loss)


def test_complex_parameters() -> None:
    class Complex(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(12, 12, dtype=torch.complex64)
            self.second = nn.Linear(12, 4, dtype=torch.complex64)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.second(torch.tanh(self.first(x))).abs()
            return out

    x, y = _rows()
    batch = torch.complex(x, x.flip(0)), y
    model = Complex()
    report = check(model, batch)
    twin = copy.deepcopy(model)
    _cross_entropy(twin, batch).backward()
    for found, parameter in zip(report.steps[0].parameters, twin.parameters(), strict=True):
        assert found.gradient_norm == pytest.approx(_length([parameter.grad]), rel=RELATIVE)
        assert found.weight_norm == pytest.approx(_length([parameter.detach()]), rel=RELATIVE)


@pytest.mark.parametrize("bag", [False, True])
def test_sparse_embedding_gradients(bag: bool) -> None:
    class Sparse(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = (
                nn.EmbeddingBag(20, 8, sparse=True) if bag else nn.Embedding(20, 8, sparse=True)
            )
            self.head = nn.Linear(8, 4)

        def forward(self, words: Tensor) -> Tensor:
            x = self.embedding(words)
            out: Tensor = self.head(x if bag else x.mean(1))
            return out

    model, batch = Sparse(), _words()
    report = check(model, batch, optimizer=partial(torch.optim.SGD, lr=0.1))
    twin = copy.deepcopy(model)
    _cross_entropy(twin, batch).backward()
    gradient = twin.embedding.weight.grad
    assert gradient is not None
    assert gradient.is_sparse
    record = report.steps[0].parameters[0]
    assert record.gradient_norm == pytest.approx(_length([gradient.to_dense()]), rel=RELATIVE)
    before = twin.embedding.weight.detach().clone()
    torch.optim.SGD(twin.parameters(), lr=0.1).step()
    change = _length([twin.embedding.weight.detach() - before])
    assert record.update_norm == pytest.approx(change, rel=RELATIVE)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_loss_scale_multiplies_norms_and_changes_no_ratio(scale: float) -> None:
    """Squares of the scaled gradients lie outside float32."""
    model, batch = _small(), _rows()
    plain = check(model, batch)
    report = gradcheckup.diagnose(
        model, batch, compute_loss=lambda net, b: _cross_entropy(net, b) * scale, steps=1
    )
    for before, after in zip(plain.layers, report.layers, strict=True):
        assert before.gradient_norm is not None
        assert after.gradient_norm == pytest.approx(before.gradient_norm * scale, rel=1e-5)
        assert after.gradient_ratio == pytest.approx(before.gradient_ratio, rel=1e-5)
        assert (after.gain is None) == (before.gain is None)
        assert after.gain is None or after.gain == pytest.approx(before.gain, rel=1e-5)


def test_norms_of_a_very_deep_sigmoid_net() -> None:
    torch.manual_seed(3)
    layers: list[nn.Module] = []
    for _ in range(38):
        layers += [nn.Linear(64, 64), nn.Sigmoid()]
    model = nn.Sequential(*layers, nn.Linear(64, 4))
    batch = _rows(8, 64)
    report = check(model, batch)
    wide = (batch[0].double(), batch[1])
    truth = by_hand(copy.deepcopy(model).double(), wide, _cross_entropy)
    norms_ = norms(report)
    for key, value in norms_.items():
        assert value == pytest.approx(truth[key], rel=1e-3), key
    first = norms_["0", 0]
    assert first is not None
    assert 0 < first < 1e-29
    assert report.end_to_end_ratio == pytest.approx(first / (norms_["74", 0] or 0), rel=1e-9)


def test_norm_of_a_large_tensor_is_exact() -> None:
    """Float32 sums of millions of squares lose digits; norms must not."""
    model = nn.Sequential(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 1, 1))
    batch = (torch.randn(4, 1, 200, 200),)
    check(model, batch, lambda net, b: (net(b[0]) * b[0]).sum())


def test_zero_is_zero_and_none_is_none() -> None:
    class Severed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cut = nn.Linear(12, 12)
            self.zeroed = nn.Linear(12, 12)
            self.unused = nn.Linear(12, 12)
            self.head = nn.Linear(12, 4)

        def forward(self, x: Tensor) -> Tensor:
            a = self.cut(x).detach()
            b = self.zeroed(x) * 0.0
            self.unused(x)
            out: Tensor = self.head(a + b)
            return out

    report = check(Severed(), _rows())
    found = norms(report)
    assert found["cut", 0] is None
    assert found["zeroed", 0] == 0.0
    assert found["unused", 0] is None
    assert found["head", 0]
    gradients = {each.name: each.gradient_norm for each in report.steps[0].parameters}
    assert gradients["cut.weight"] is None
    assert gradients["zeroed.weight"] == 0.0
    assert gradients["unused.bias"] is None


def test_non_finite_gradients_come_through() -> None:
    x, y = _rows()
    report = gradcheckup.diagnose(
        _small(), (x, y), compute_loss=lambda m, b: (_cross_entropy(m, b) - 10).sqrt(), steps=3
    )
    assert len(report.steps) == 1  # the loss is NaN: the probe ends
    assert all(math.isnan(layer.gradient_norm or 0) for layer in report.layers)


# -- which parts train, and how they are wrapped -------------------------------------------------


def test_frozen_layers() -> None:
    model = _small()
    assert isinstance(model, nn.Sequential)
    model[0].requires_grad_(requires_grad=False)
    report = check(model, _rows())
    assert [layer.gradient_norm is None for layer in report.layers] == [True, True] + [False] * 3
    frozen, trained = report.steps[0].parameters[0], report.steps[0].parameters[2]
    assert (frozen.trainable, frozen.gradient_norm, frozen.update_norm) == (False, None, None)
    assert trained.trainable
    assert trained.update_norm


def test_frozen_layers_in_the_middle_still_pass_gradients_on() -> None:
    model = _small()
    assert isinstance(model, nn.Sequential)
    model[2].requires_grad_(requires_grad=False)
    assert all(layer.gradient_norm for layer in check(model, _rows()).layers)


def test_modules_that_never_ran() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used = nn.Linear(12, 4)
            self.idle = nn.Sequential(nn.Linear(12, 4), nn.ReLU(), nn.BatchNorm1d(4))

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.used(x)
            return out

    report = check(Idle(), _rows())
    assert report.recording.never_called == ("idle.0", "idle.2")


def test_module_that_runs_in_a_later_step_only_was_called() -> None:
    class Late(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.late, self.steps = nn.Linear(12, 4), nn.Linear(4, 4), 0

        def forward(self, x: Tensor) -> Tensor:
            self.steps += 1
            out: Tensor = self.used(x)
            return self.late(out) if self.steps > 1 else out

    report = gradcheckup.diagnose(Late(), _rows(), steps=2)
    assert report.recording.never_called == ()
    assert [len(step.layers) for step in report.steps] == [1, 2]


def test_data_parallel() -> None:
    model, batch = _small(), _rows()
    expected = norms(check(model, batch))
    wrapped = nn.DataParallel(model)
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.1)
    report = gradcheckup.diagnose(
        wrapped, batch, compute_loss=_cross_entropy, optimizer=optimizer, steps=1
    )
    same(norms(report), expected)
    assert report.steps[0].parameters[0].name == "0.weight"


@pytest.mark.parametrize("warm", [False, True])
def test_compiled_model(warm: bool) -> None:
    model, batch = _small(), _rows()
    expected = norms(check(model, batch))
    compiled = torch.compile(model, backend="eager")
    if warm:  # hooks that are attached after the first compiled call are ignored by torch
        compiled(batch[0])
    report = gradcheckup.diagnose(compiled, batch, compute_loss=_cross_entropy, steps=1)
    same(norms(report), expected)
    assert report.recording.model == "Sequential"
    calls: list[int] = []
    model[0].register_forward_hook(lambda *_: calls.append(1))  # type: ignore[index]
    assert torch.equal(compiled(batch[0]), model(batch[0]))


# torch's own tracing looks at .grad of what comes from the layer before
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
@pytest.mark.parametrize("style", ["wrapped", "method"])
def test_compiled_part_of_a_model(style: str) -> None:
    plain, batch = nn.Sequential(nn.Linear(12, 12), nn.Tanh(), _small()), _rows()
    expected = norms(check(plain, batch))
    model = copy.deepcopy(plain)
    if style == "wrapped":
        model[2] = torch.compile(model[2], backend="eager")
    else:
        model[2].compile(backend="eager")
    model(batch[0])
    report = gradcheckup.diagnose(model, batch, compute_loss=_cross_entropy, steps=1)
    same(norms(report), expected)
    names = [parameter.name for parameter in report.steps[0].parameters]
    assert names == [name for name, _ in plain.named_parameters()]


# -- how the loss is computed --------------------------------------------------------------------


def test_gradient_penalty() -> None:
    """The inner gradient runs through the same tensors; only the outer one is dL/dy."""

    def loss(model: nn.Module, batch: Any) -> Tensor:
        x = batch[0].clone().requires_grad_()
        scores = model(x)
        (inner,) = torch.autograd.grad(scores.square().sum(), x, create_graph=True)
        return F.cross_entropy(scores, batch[1]) + (inner.norm(dim=1) - 1).square().mean()

    check(nn.Sequential(nn.Linear(12, 20), nn.Tanh(), nn.Linear(20, 4)), _rows(), loss)


def test_per_sample_gradients_with_torch_func() -> None:
    def loss(model: nn.Module, batch: Any) -> Tensor:
        parameters = dict(model.named_parameters())

        def energy(x: Tensor) -> Tensor:
            out: Tensor = torch.func.functional_call(model, parameters, (x[None],))
            return out.square().sum()

        inner = torch.func.vmap(torch.func.grad(energy))(batch[0])
        return F.cross_entropy(model(batch[0]), batch[1]) + inner.square().mean()

    model, batch = nn.Sequential(nn.Linear(12, 20), nn.Tanh(), nn.Linear(20, 4)), _rows()
    report = gradcheckup.diagnose(model, batch, compute_loss=loss, steps=1)
    # Calls inside the transform are not seen; the plain one is, with its own gradient.
    expected = by_hand(model, batch, _cross_entropy)
    same(norms(report), {key: expected[key] for key in norms(report)})
    assert len(report.layers) == 3


class Adversarial(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.generator = nn.Sequential(nn.Linear(5, 12), nn.ReLU(), nn.Linear(12, 12))
        self.critic = nn.Sequential(nn.Linear(12, 10), nn.LeakyReLU(0.2), nn.Linear(10, 1))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.critic(x)
        return out


def _adversarial_loss(model: nn.Module, batch: Any) -> Tensor:
    """Calls the whole model twice, and once a part of it without the rest."""
    assert isinstance(model, Adversarial)
    fake = model.generator(batch[0][:, :5])
    return F.softplus(-model(batch[0])).mean() + F.softplus(model(fake)).mean()


def test_loss_that_calls_the_model_twice() -> None:
    report = check(Adversarial(), _rows(), _adversarial_loss)
    keys = [layer.key for layer in report.layers if layer.name == "critic.0"]
    assert keys == [("critic.0", 0), ("critic.0", 1)]


def test_lbfgs_measures_where_the_step_begins() -> None:
    model, batch = nn.Sequential(nn.Linear(12, 20), nn.Tanh(), nn.Linear(20, 4)), _rows()
    make = partial(torch.optim.LBFGS, lr=0.5, max_iter=4)
    report = gradcheckup.diagnose(
        model, batch, compute_loss=_cross_entropy, optimizer=make, steps=3
    )
    twin = copy.deepcopy(model)
    optimizer = make(twin.parameters())

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = _cross_entropy(twin, batch)
        loss.backward()
        return loss

    for step in range(3):
        expected = by_hand(twin, batch, _cross_entropy)
        same(norms(report, step), {key: expected[key] for key in norms(report, step)})
        before = [each.detach().clone() for each in twin.parameters()]
        loss = optimizer.step(closure)
        assert float(loss.detach()) == report.step(step).loss
        for record, old, new in zip(
            report.step(step).parameters, before, twin.parameters(), strict=True
        ):
            change = _length([new.detach() - old])
            assert record.update_norm == pytest.approx(change, rel=RELATIVE)


def test_ratio_of_a_layer_used_at_every_step_counts_all_its_calls() -> None:
    class Unrolled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.body = nn.RNNCell(12, 10), nn.Linear(10, 10)
            self.head = nn.Linear(10, 4)

        def forward(self, x: Tensor) -> Tensor:
            state = torch.zeros(x.shape[0], 10)
            for _ in range(4):
                state = self.cell(x, state)
            out: Tensor = self.head(torch.tanh(self.body(state)))
            return out

    report = check(Unrolled(), _rows())
    found = norms(report)
    calls = [found["cell", call] or 0.0 for call in range(4)]
    body = found["body", 0]
    assert body is not None
    assert report.end_to_end_ratio == pytest.approx(math.hypot(*calls) / body, rel=1e-12)
    ratios = [layer.gradient_ratio for layer in report.layers if layer.name == "cell"]
    assert ratios == pytest.approx([norm / body for norm in calls], rel=1e-12)


def test_ratios_are_those_of_the_norms() -> None:
    report = check(_small(), _rows())
    values = {layer.name: layer for layer in report.layers}
    assert report.steps[0].reference == ("2", 0)  # the last hidden weight layer

    def ratio(above: LayerRecord, below: LayerRecord) -> float:
        assert above.gradient_norm
        assert below.gradient_norm
        return above.gradient_norm / below.gradient_norm

    for layer in report.layers:
        assert layer.gradient_ratio == pytest.approx(ratio(layer, values["2"]), rel=1e-12)
    assert values["0"].gain == pytest.approx(ratio(values["0"], values["2"]), rel=1e-12)
    assert values["1"].gain == pytest.approx(ratio(values["1"], values["3"]), rel=1e-12)
    assert values["2"].gain == pytest.approx(ratio(values["2"], values["4"]), rel=1e-12)
    assert values["3"].gain is None
    assert values["4"].gain is None


# torch compiles its own forward-mode rules with what it deprecates
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@pytest.mark.parametrize("way", ["reverse", "forward"])
def test_loss_that_calls_the_model_inside_a_transform_only(way: str) -> None:
    def loss(model: nn.Module, batch: Any) -> Tensor:
        if way == "forward":
            _, slopes = torch.func.jvp(model, (batch[0],), (torch.ones_like(batch[0]),))
        else:
            slopes = torch.func.vmap(torch.func.jacrev(model))(batch[0])
        return slopes.square().mean()

    model = nn.Sequential(nn.Linear(12, 20), nn.Tanh(), nn.Linear(20, 4))
    batch = _rows()
    report = gradcheckup.diagnose(model, batch, compute_loss=loss, steps=1)
    gradients = torch.autograd.grad(loss(model, batch), list(model.parameters()), allow_unused=True)
    for record, gradient in zip(report.steps[0].parameters, gradients, strict=True):
        assert (record.gradient_norm or 0.0) == pytest.approx(
            _length([gradient]) or 0.0, rel=RELATIVE
        )


@pytest.mark.parametrize("way", ["parameters", "weights of modules"])
def test_layers_without_modules_are_not_taken_for_healthy(way: str) -> None:
    """Ten sigmoid layers pass on 1e-8 of a gradient, however their products are written."""

    class Raw(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layers = [nn.Linear(64, 64) for _ in range(10)]
            self.head = nn.Linear(64, 4)
            if way == "parameters":
                self.weights = nn.ParameterList(
                    nn.Parameter(each.weight.detach()) for each in layers
                )
            else:
                self.layers = nn.ModuleList(layers)

        def forward(self, x: Tensor) -> Tensor:
            if way == "parameters":
                for weight in self.weights:
                    x = torch.sigmoid(x @ weight)
            else:
                for layer in self.layers:
                    x = torch.sigmoid(F.linear(x, layer.weight, layer.bias))
            out: Tensor = self.head(x)
            return out

    report = gradcheckup.diagnose(Raw(), _rows(64, 64), nn.CrossEntropyLoss(), steps=8)
    assert not report.healthy
    assert report.end_to_end_ratio is not None
    assert report.end_to_end_ratio < 1e-5
