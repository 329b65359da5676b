"""A zoo of small nets, one for each way in which layers and activations are written."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

INPUTS, WIDTH, CLASSES, BATCH = 12, 16, 4, 8


def _rows(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    return _labelled((BATCH, INPUTS), dtype)


def _images() -> tuple[Tensor, Tensor]:
    return _labelled((BATCH, 3, 8, 8))


def _sequences() -> tuple[Tensor, Tensor]:
    return _labelled((BATCH, 6, INPUTS))


def _labelled(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    values = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    return values, torch.arange(shape[0]) % CLASSES


def sequential() -> nn.Module:
    layers: list[nn.Module] = [nn.Linear(INPUTS, WIDTH), nn.Sigmoid()]
    for _ in range(3):
        layers += [nn.Linear(WIDTH, WIDTH), nn.Sigmoid()]
    return nn.Sequential(*layers, nn.Linear(WIDTH, CLASSES))


def named_sequential() -> nn.Module:
    return nn.Sequential(
        OrderedDict(
            body=nn.Sequential(
                OrderedDict(
                    first=nn.Linear(INPUTS, WIDTH),
                    act1=nn.Tanh(),
                    second=nn.Linear(WIDTH, WIDTH),
                    act2=nn.Tanh(),
                )
            ),
            head=nn.Linear(WIDTH, CLASSES),
        )
    )


class OnTheFly(nn.Module):
    """Layers by setattr, and a sigmoid module made anew in each call, as in the demo."""

    def __init__(self) -> None:
        super().__init__()
        widths = [INPUTS, WIDTH, WIDTH, WIDTH]
        for index in range(3):
            setattr(self, f"layer{index + 1}", nn.Linear(widths[index], widths[index + 1]))
        self.output = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        for index in range(3):
            x = nn.Sigmoid()(getattr(self, f"layer{index + 1}")(x))
        return self.output(x)


def _f_relu(x: Tensor) -> Tensor:
    return F.relu(x)


def _f_relu_in_place(x: Tensor) -> Tensor:
    return F.relu(x, inplace=True)


def _torch_tanh(x: Tensor) -> Tensor:
    return torch.tanh(x)


def _sigmoid_method(x: Tensor) -> Tensor:
    return x.sigmoid()


def _relu_method_in_place(x: Tensor) -> Tensor:
    return x.relu_()


class Functional(nn.Module):
    """Layers in a ModuleList, with a function between them."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.first = nn.Linear(INPUTS, WIDTH)
        self.middle = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))
        self.last = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.function(self.first(x))
        for layer in self.middle:
            x = self.function(layer(x))
        return self.last(x)


class ByKey(nn.Module):
    """Layers in a ModuleDict, and one registered activation for all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleDict(
            {"a": nn.Linear(INPUTS, WIDTH), "b": nn.Linear(WIDTH, WIDTH), "c": nn.Linear(WIDTH, 4)}
        )
        self.act = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.layers["a"](x))
        x = self.act(self.layers["b"](x))
        return self.layers["c"](x)


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, CLASSES),
    )


class Gated(nn.Module):
    """Convolutions with a squeeze-and-excitation gate, whose sigmoid has to stay."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.body = nn.Conv2d(8, 8, 3, padding=1)
        self.squeeze = nn.Linear(8, 4)
        self.excite = nn.Linear(4, 8)
        self.gate = nn.Sigmoid()
        self.act = nn.Tanh()
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.body(self.act(self.stem(x))))
        scale = self.gate(self.excite(F.relu(self.squeeze(x.mean((2, 3))))))
        return self.head((x * scale[:, :, None, None]).mean((2, 3)))


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.rnn = kind(INPUTS, WIDTH, batch_first=True)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])


class Scriptable(nn.Module):
    """Functions between layers, which TorchScript can compile."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(INPUTS, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.last = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.sigmoid(self.two(torch.sigmoid(self.one(x)))))


class Cell(nn.Module):
    """A recurrence written by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.Linear(INPUTS, WIDTH)
        self.state = nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(len(x), WIDTH)
        for step in range(x.shape[1]):
            state = torch.tanh(self.inside(x[:, step]) + self.state(state))
        return self.head(state)


class Block(nn.Module):
    """A pre-LN transformer block."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(INPUTS, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


class Tied(nn.Module):
    """Two layers that share their weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(INPUTS, WIDTH)
        self.one, self.two = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.two.weight = self.one.weight
        self.last = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.sigmoid(self.first(x))
        return self.last(torch.sigmoid(self.two(torch.sigmoid(self.one(x)))))


class Twice(nn.Module):
    """One layer that is called two times."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again = nn.Linear(INPUTS, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.middle, self.last = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x))
        x = torch.tanh(self.again(torch.tanh(self.again(x))))
        return self.last(torch.tanh(self.middle(x)))


class Several(nn.Module):
    """An output of several tensors."""

    def __init__(self, kind: type) -> None:
        super().__init__()
        self.kind = kind
        self.body = sequential()

    def forward(self, x: Tensor) -> Any:
        scores = self.body(x)
        extra = scores.softmax(-1)
        return {"logits": scores, "shares": extra} if self.kind is dict else (scores, extra)


class Probability(nn.Module):
    """A sigmoid at the loss, which has to stay."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden1, self.hidden2 = nn.Linear(INPUTS, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.last = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.sigmoid(self.hidden2(torch.sigmoid(self.hidden1(x))))
        return torch.sigmoid(self.last(x))


def frozen() -> nn.Module:
    model = sequential()
    for parameter in model[2].parameters():  # type: ignore[index]
        parameter.requires_grad_(False)
    return model


def compiled() -> nn.Module:
    return torch.compile(sequential(), backend="eager")  # type: ignore[return-value]


def in_eval() -> nn.Module:
    return OnTheFly().eval()


@dataclass(frozen=True)
class Animal:
    """One net of the zoo and a batch for it.

    Attributes:
        name: Of the net.
        build: Makes it, with the same weights each time.
        batch: Inputs and targets.
        scripts: Whether TorchScript takes the original.
    """

    name: str
    make: Callable[[], nn.Module]
    batch: tuple[Tensor, Tensor]
    scripts: bool = False

    def build(self) -> nn.Module:
        torch.manual_seed(3)
        return self.make()


ZOO = {
    each.name: each
    for each in (
        Animal("sequential", sequential, _rows(), scripts=True),
        Animal("named_sequential", named_sequential, _rows(), scripts=True),
        Animal("on_the_fly", OnTheFly, _rows()),
        Animal("f_relu", lambda: Functional(_f_relu), _rows()),
        Animal("f_relu_in_place", lambda: Functional(_f_relu_in_place), _rows()),
        Animal("torch_tanh", lambda: Functional(_torch_tanh), _rows()),
        Animal("sigmoid_method", lambda: Functional(_sigmoid_method), _rows()),
        Animal("relu_method_in_place", lambda: Functional(_relu_method_in_place), _rows()),
        Animal("by_key", ByKey, _rows()),
        Animal("cnn", cnn, _images(), scripts=True),
        Animal("gated", Gated, _images()),
        Animal("rnn", lambda: Recurrent(nn.RNN), _sequences()),
        Animal("lstm", lambda: Recurrent(nn.LSTM), _sequences()),
        Animal("gru", lambda: Recurrent(nn.GRU), _sequences()),
        Animal("cell", Cell, _sequences()),
        Animal("transformer", Transformer, _sequences()),
        Animal("scriptable", Scriptable, _rows(), scripts=True),
        Animal("tied", Tied, _rows()),
        Animal("twice", Twice, _rows()),
        Animal("dict", lambda: Several(dict), _rows()),
        Animal("tuple", lambda: Several(tuple), _rows()),
        Animal("probability", Probability, _rows()),
        Animal("frozen", frozen, _rows()),
        Animal("eval", in_eval, _rows()),
        Animal("float64", lambda: sequential().double(), _rows(torch.float64)),
        Animal("data_parallel", lambda: nn.DataParallel(sequential()), _rows()),
        Animal("compiled", compiled, _rows()),
    )
}


def scores(outputs: Any) -> Tensor:
    if isinstance(outputs, dict):
        return outputs["logits"]
    return outputs[0] if isinstance(outputs, tuple) else outputs


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(scores(model(batch[0].clone())), batch[1])


@pytest.fixture(scope="session")
def zoo() -> dict[str, Animal]:
    """All nets by name."""
    return ZOO


@pytest.fixture(params=list(ZOO))
def animal(request: pytest.FixtureRequest) -> Animal:
    """Each net in turn."""
    return ZOO[request.param]
