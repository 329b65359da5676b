"""Nets that are written as few are: each treatment works on them, or says why it does not."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import gradcheckup
from gradcheckup import treat
from gradcheckup.treatments.course import Treated

KEYS = (
    "weight_scale",
    "weight_scale:lsuv",
    "activation:gelu",
    "optimizer",
    "normalization",
    "normalization:batch",
    "skip_connection",
    "skip_connection:dense",
    "layerwise_training",
    "gradient_normalization",
    "gradient_clipping:value",
)


@dataclass(frozen=True)
class Net:
    """A net and what it is given.

    Attributes:
        build: Makes it.
        given: Its inputs.
        reasons: By treatment, with or without the variant, what is said where it does not apply.
    """

    build: Callable[[], nn.Module]
    given: Tensor
    reasons: dict[str, str] = field(default_factory=dict)

    def reason(self, key: str) -> str | None:
        return self.reasons.get(key, self.reasons.get(key.partition(":")[0]))


class Forward(nn.Module):
    """Parts by name and a forward that is a function of them."""

    def __init__(self, forward: Callable[[Any, Tensor], Tensor], **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        self.function = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def linears(count: int = 4) -> dict[str, nn.Module]:
    return {name: nn.Linear(8, 8) for name in "abcd"[:count]} | {"last": nn.Linear(8, 3)}


def rows(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(shape or (6, 8), generator=generator).to(dtype)


def sigmoids(**settings: Any) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(3):
        layers += [nn.Linear(8, 8, **settings), nn.Sigmoid()]
    return nn.Sequential(*layers, nn.Linear(8, 3, **settings))


def of_parameters() -> nn.Module:
    model = Forward(lambda self, x: _through(self.weights, x))
    model.weights = nn.ParameterList(nn.Parameter(torch.randn(8, 8) / 3) for _ in range(4))
    return model


def _through(weights: nn.ParameterList, x: Tensor) -> Tensor:
    for weight in weights:
        x = torch.sigmoid(x @ weight)
    return x


def reading_weights() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Tensor:
        x = torch.tanh(F.linear(torch.tanh(self.a(x)), self.b.weight, self.b.bias))
        return self.last(torch.tanh(self.c(x)))

    return Forward(forward, **linears(3))


def by_name() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Tensor:
        x = torch.sigmoid(input=self.b(input=torch.sigmoid(input=self.a(input=x))))
        return self.last(input=torch.sigmoid(self.c(input=x)))

    return Forward(forward, **linears(3))


def odd_keys() -> nn.Module:
    keys = ("1-a", "b b", "2", "d'e")
    names = nn.ModuleDict({key: nn.Linear(8, 8) for key in keys})

    def forward(self: Any, x: Tensor) -> Tensor:
        for key in keys:
            x = self.parts[key](x).sigmoid()
        return self.last(x)

    return Forward(forward, parts=names, last=nn.Linear(8, 3))


def normed(norm: Callable[[nn.Module], nn.Module]) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        model = sigmoids()
        for index in (0, 2, 4):
            norm(model[index])
        return model

    return build


def with_a_checkpoint() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Tensor:
        x = torch.sigmoid(self.a(x))
        x = checkpoint(lambda y: torch.sigmoid(self.b(y)), x, use_reentrant=False)
        return self.last(torch.sigmoid(self.c(x)))

    return Forward(forward, **linears(3))


def complex_valued() -> nn.Module:
    parts = {name: nn.Linear(8, 8, dtype=torch.complex64) for name in "ab"}

    def forward(self: Any, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.b(torch.tanh(self.a(x)))).abs())

    return Forward(forward, **parts, last=nn.Linear(8, 3))


def bilinear() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Tensor:
        return self.body(torch.sigmoid(self.both(x, x.flip(0))))

    return Forward(forward, both=nn.Bilinear(8, 8, 8), body=sigmoids())


def gru_cell() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Tensor:
        state = None
        for step in x.unbind(1):
            state = self.cell(step, state)
        return self.last(state)

    return Forward(forward, cell=nn.GRUCell(8, 8), last=nn.Linear(8, 3))


def both_ways() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Tensor:
        return self.last(torch.sigmoid(self.hidden(self.rnn(x)[0][:, -1])))

    lstm = nn.LSTM(8, 8, 2, bidirectional=True, batch_first=True, dropout=0.1)
    return Forward(forward, rnn=lstm, hidden=nn.Linear(16, 16), last=nn.Linear(16, 3))


def convolutions(kind: Callable[..., nn.Module]) -> nn.Module:
    return nn.Sequential(
        kind(3, 6, 3, padding=1), nn.Tanh(), kind(6, 6, 3, padding=1), nn.Tanh(),
        kind(6, 6, 3, padding=1, groups=3), nn.Tanh(), kind(6, 2, 1),
    )  # fmt: skip


def autoencoder() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, 2, 1), nn.Sigmoid(), nn.Conv2d(6, 6, 3, 2, 1), nn.Sigmoid(),
        nn.ConvTranspose2d(6, 6, 2, 2), nn.Sigmoid(), nn.ConvTranspose2d(6, 3, 2, 2, groups=3),
    )  # fmt: skip


def embedded() -> nn.Module:
    return nn.Sequential(nn.Embedding(9, 8), nn.Sigmoid(), sigmoids(), nn.Flatten())


def lazy() -> nn.Module:
    model = nn.Sequential(*(x for _ in range(3) for x in (nn.LazyLinear(8), nn.Sigmoid())),
                          nn.LazyLinear(3))  # fmt: skip
    model(rows())
    return model


def partly_frozen() -> nn.Module:
    model = sigmoids()
    model[0].requires_grad_(requires_grad=False)
    model[2].weight.requires_grad_(requires_grad=False)
    return model


def repeated() -> nn.Module:
    layer, act = nn.Linear(8, 8), nn.Sigmoid()
    return nn.Sequential(nn.Linear(8, 8), act, layer, act, layer, act, nn.Linear(8, 3))


def with_integers() -> nn.Module:
    model = sigmoids()
    model.register_parameter(
        "steps", nn.Parameter(torch.zeros(3, dtype=torch.int8), requires_grad=False)
    )
    return model


NO_LAYERS = {
    "weight_scale": "there is no hidden layer",
    "normalization": "there is no hidden weight layer to normalise",
    "skip_connection": "there are no two weight layers in a row",
    "layerwise_training": "expected at least 3 hidden layers",
    "gradient_normalization": "there is no hidden weight layer",
}
NONE_TO_DRAW = {"weight_scale": "got none whose weights are real numbers, not frozen, and"}
GATED = {
    "activation": "has its activations built in",
    "normalization": "not inside",
    "skip_connection": "called again",
    "layerwise_training": "expected at least 3 hidden layers",
}
NOT_WIDE = {"skip_connection:dense": "no two layers in a row with trainable weights of their own"}
SHORT = {"layerwise_training": "expected at least 3 hidden layers"}
ONE = {"gradient_normalization": "is the only hidden layer"}
NO_SHAPE = {"skip_connection": "keeps the shape of its input"}

NETS = {
    "a list of parameters": Net(of_parameters, rows(), NO_LAYERS),
    "a forward that reads a weight": Net(reading_weights, rows(), SHORT),
    "arguments by name": Net(by_name, rows()),
    "odd keys": Net(odd_keys, rows()),
    "weight_norm": Net(
        normed(nn.utils.parametrizations.weight_norm), rows(), NONE_TO_DRAW | NOT_WIDE
    ),
    "spectral_norm": Net(normed(nn.utils.spectral_norm), rows(), NONE_TO_DRAW | NOT_WIDE),
    "a checkpoint": Net(
        with_a_checkpoint, rows(), {"skip_connection": "a checkpoint runs the end"}
    ),
    "complex numbers": Net(
        complex_valued,
        rows(dtype=torch.complex64),
        {
            **NONE_TO_DRAW,
            **NOT_WIDE,
            **SHORT,
            "activation": "there is no activation between two weight layers",
            "normalization": "behind real linear layers and convolutions",
            "skip_connection": "the model does not run with it",
            "gradient_clipping:value": "complex gradients have no order to clip by: take norm",
        },
    ),
    "two inputs": Net(bilinear, rows()),
    "no activations": Net(
        lambda: nn.Sequential(*(nn.Linear(8, 8) for _ in range(4))),
        rows(),
        {"activation": "there is no activation between two weight layers"},
    ),
    "one layer": Net(
        lambda: nn.Linear(8, 3), rows(), NO_LAYERS | {"activation": "there is no activation"}
    ),
    "a GRUCell in a loop": Net(gru_cell, rows(4, 5, 8), GATED),
    "an LSTM both ways": Net(both_ways, rows(4, 5, 8), SHORT | ONE),
    "1d": Net(lambda: convolutions(nn.Conv1d), rows(4, 3, 9)),
    "3d": Net(lambda: convolutions(nn.Conv3d), rows(4, 3, 4, 4, 4)),
    "transposed": Net(autoencoder, rows(4, 3, 8, 8), NO_SHAPE | NOT_WIDE),
    "an embedding": Net(
        embedded,
        torch.arange(15).reshape(3, 5) % 9,
        {"normalization:batch": "take normalization:layer"},
    ),
    "lazy layers": Net(lazy, rows()),
    "float64": Net(lambda: sigmoids().double(), rows(dtype=torch.float64)),
    "bfloat16": Net(lambda: sigmoids().bfloat16(), rows(dtype=torch.bfloat16)),
    "frozen parts": Net(partly_frozen, rows()),
    "a layer twice": Net(
        repeated, rows(), SHORT | {"skip_connection": "a layer is called again on what it made"}
    ),
    "integers": Net(with_integers, rows()),
    "no biases": Net(lambda: sigmoids(bias=False), rows()),
    "one sample": Net(
        sigmoids,
        rows(8),
        {"normalization:batch": "take normalization:layer"},
    ),
    "one picture": Net(
        lambda: convolutions(nn.Conv2d),
        rows(3, 8, 8),
        {"normalization": "expected a batch of samples, but 0 is given a single one"},
    ),
}


def state(model: nn.Module) -> list[Any]:
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return [
        [
            (name, each.detach().contiguous().view(torch.uint8).numpy().tobytes())
            for name, each in tensors
        ],
        [each.grad for each in model.parameters()],
        [each.requires_grad for each in model.parameters()],
        [(type(each), each.training, sorted(vars(each))) for each in model.modules()],
        [
            len(held)
            for each in model.modules()
            for key, held in vars(each).items()
            if "hooks" in key
        ],
        torch.get_rng_state().numpy().tobytes(),
    ]


def size(outputs: Tensor) -> Tensor:
    return outputs.double().square().mean()


# torch says so whenever one is made.
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature", "ignore:Complex modules are")
@pytest.mark.parametrize("name", NETS)
def test_a_treatment_works_or_says_why(name: str) -> None:
    net = NETS[name]
    torch.manual_seed(0)
    model = net.build()
    for key in KEYS:
        before = state(model)
        reason = net.reason(key)
        if reason is not None:
            with pytest.raises(gradcheckup.TreatmentError) as caught:
                treat(model, key, net.given)
            assert reason in str(caught.value), key
            assert "\n" not in str(caught.value), key
            assert state(model) == before, key
            continue
        result = treat(model, key, net.given)
        assert state(model) == before, key
        _check(result, net.given)
        assert state(model)[:-1] == before[:-1], key  # dropout drew random numbers


def _check(result: Treated, given: Tensor) -> None:
    """What can be done with the original can be done with the copy."""
    key, treated = result.treatments[0], result.model
    twin = copy.deepcopy(treated)
    twin.load_state_dict(treated.state_dict())
    assert torch.equal(twin.eval()(given), copy.deepcopy(treated).eval()(given)), key
    stage = result.plan.stages[0] if result.plan else None
    if stage:
        stage.begin()
    trained = [each for each in treated.parameters() if each.requires_grad]
    optimizer = stage.optimizer if stage else result.optimizer or torch.optim.SGD(trained, lr=0.1)
    start = [each.detach().clone() for each in trained]
    for _ in range(2):
        optimizer.zero_grad()
        size(treated(given)).backward()
        optimizer.step()
    assert not all(map(torch.equal, start, trained)), key
    assert all(each.isfinite().all() for each in treated.parameters()), key


@pytest.mark.parametrize(
    "key",
    ["weight_scale", "weight_scale:he", "weight_scale:lsuv", "activation", "skip_connection:dense"],
)
def test_frozen_parameters_keep_their_values(key: str) -> None:
    """They may be those of a net that was trained long on something else."""
    torch.manual_seed(0)
    model = partly_frozen()
    for each in model.parameters():
        nn.init.normal_(each)
    treated = treat(model, key, rows()).model
    kept = {name: each for name, each in model.named_parameters() if not each.requires_grad}
    assert set(kept) == {"0.weight", "0.bias", "2.weight"}
    for name, before in kept.items():
        after = treated.get_parameter(name)
        assert torch.equal(after, before), name
        assert not after.requires_grad


def test_recurrent_layers_that_are_frozen_keep_their_values() -> None:
    model = both_ways()
    model.rnn.requires_grad_(requires_grad=False)
    treated = treat(model, "weight_scale", rows(4, 5, 8)).model
    for after, before in zip(treated.rnn.parameters(), model.rnn.parameters(), strict=True):
        assert torch.equal(after, before)
    assert not torch.equal(treated.hidden.weight, model.hidden.weight)


# torch says so whenever one is made.
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("weight_scale", "a norm follows every hidden layer, which undoes any scale of weights"),
        ("activation:gelu", None),
        ("normalization", "every hidden weight layer is followed by a norm already"),
        ("skip_connection", None),
    ],
)
def test_a_resnet(key: str, reason: str | None) -> None:
    resnet = pytest.importorskip("torchvision.models.resnet")
    torch.manual_seed(0)
    model, given = resnet.ResNet(resnet.BasicBlock, [1] * 4, num_classes=4), rows(2, 3, 32, 32)
    before = [each.detach().clone() for each in (*model.parameters(), *model.buffers())]
    if reason:
        with pytest.raises(gradcheckup.TreatmentError, match=reason):
            treat(model, key, given)
    else:
        treated = treat(model, key, given).model
        size(treated(given)).backward()
        assert all(each.grad is not None for each in treated.parameters())
    assert all(map(torch.equal, before, (*model.parameters(), *model.buffers())))


def test_a_whole_model_with_a_computed_weight_is_told_apart_like_any_other() -> None:
    model = nn.utils.parametrizations.weight_norm(nn.Linear(8, 3))
    data = (torch.randn(16, 8), torch.randint(3, (16,)))
    with pytest.raises(gradcheckup.TreatmentError, match="there is no hidden layer"):
        treat(model, "weight_scale", data, nn.CrossEntropyLoss())
