"""Inserted norms against statistics that are worked out here."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import gradcheckup
from gradcheckup import treat


def batch(*shape: int) -> Tensor:
    return 3 * torch.randn(shape, generator=torch.Generator().manual_seed(1)) + 2


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(12, 16), nn.Sigmoid(), nn.Linear(16, 16), nn.Sigmoid(),
                         nn.Linear(16, 4))  # fmt: skip


def cnn() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(inplace=True), nn.Conv2d(16, 6, 3), nn.Tanh(),
                         nn.Flatten(), nn.Linear(96, 4))  # fmt: skip


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose1d(3, 16, 2, stride=2)
        self.last = nn.Conv1d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.sigmoid(self.up(x)))


class Tokens(nn.Module):
    """A layer that is applied to each step of a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.up, self.head = nn.Embedding(9, 8), nn.Linear(8, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.up(self.embed(x))).mean(1))


class Loop(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inside, self.state = nn.Linear(5, 8), nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(len(x), 8)
        for step in range(x.shape[1]):
            state = torch.tanh(self.inside(x[:, step]) + self.state(state))
        return self.head(state)


def whitened(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Mean 0 and variance 1 over some dimensions."""
    mean = x.mean(dims, keepdim=True)
    variance = (x - mean).square().mean(dims, keepdim=True)
    return (x - mean) / torch.sqrt(variance + 1e-5)


def grouped(x: Tensor, groups: int) -> Tensor:
    split = x.unflatten(1, (groups, -1))
    return whitened(split, tuple(range(2, split.dim()))).flatten(1, 2)


CASES: list[tuple[str, Callable[[], nn.Module], tuple[int, ...], dict[str, Callable[..., Tensor]]]]
CASES = [
    ("auto", mlp, (32, 12), {"0": lambda x: whitened(x, (0,)), "2": lambda x: whitened(x, (0,))}),
    ("auto", mlp, (1, 12), {"0": lambda x: whitened(x, (1,)), "2": lambda x: whitened(x, (1,))}),
    ("batch", mlp, (32, 12), {"0": lambda x: whitened(x, (0,)), "2": lambda x: whitened(x, (0,))}),
    ("layer", mlp, (32, 12), {"0": lambda x: whitened(x, (1,)), "2": lambda x: whitened(x, (1,))}),
    ("group", mlp, (32, 12), {"0": lambda x: whitened(x, (1,)), "2": lambda x: whitened(x, (1,))}),
    ("tensor", mlp, (32, 12), {"0": lambda x: whitened(x, (0, 1)),
                               "2": lambda x: whitened(x, (0, 1))}),
    ("auto", cnn, (8, 3, 8, 8), {"0": lambda x: whitened(x, (0, 2, 3)),
                                 "2": lambda x: whitened(x, (0, 2, 3))}),
    # 16 channels in groups of 4; 6 cannot be divided so: one group.
    ("group", cnn, (8, 3, 8, 8), {"0": lambda x: grouped(x, 4), "2": lambda x: grouped(x, 1)}),
    ("layer", cnn, (8, 3, 8, 8), {"0": lambda x: whitened(x, (1, 2, 3)),
                                  "2": lambda x: whitened(x, (1, 2, 3))}),
    ("auto", cnn, (1, 3, 8, 8), {"0": lambda x: grouped(x, 4), "2": lambda x: grouped(x, 1)}),
    ("tensor", cnn, (8, 3, 8, 8), {"0": lambda x: whitened(x, (0, 1, 2, 3)),
                                   "2": lambda x: whitened(x, (0, 1, 2, 3))}),
    ("auto", Decoder, (8, 3, 6), {"up": lambda x: whitened(x, (0, 2))}),
    ("auto", Tokens, (8, 5), {"up": lambda x: whitened(x, (2,))}),
    ("auto", Loop, (8, 6, 5), {"inside": lambda x: whitened(x, (1,)),
                               "state": lambda x: whitened(x, (1,))}),
    ("layer", Loop, (8, 6, 5), {"inside": lambda x: whitened(x, (1,)),
                                "state": lambda x: whitened(x, (1,))}),
]  # fmt: skip


@pytest.mark.parametrize(("variant", "build", "shape", "norms"), CASES)
def test_what_a_layer_hands_on_is_normalised(
    variant: str,
    build: Callable[[], nn.Module],
    shape: tuple[int, ...],
    norms: dict[str, Callable[..., Tensor]],
) -> None:
    torch.manual_seed(0)
    model = build()
    x = torch.arange(40).reshape(shape) % 9 if build is Tokens else batch(*shape)
    treated = treat(model, f"normalization:{variant}", x).model.train()
    seen = dict.fromkeys(norms, 0)

    def check(name: str) -> Callable[..., None]:
        def compare(_: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
            # The layer itself has the weights that it had.
            expected = norms[name](model.get_submodule(name)(args[0]))
            torch.testing.assert_close(out, expected, atol=2e-4, rtol=1e-3)
            seen[name] += 1

        return compare

    for name in norms:
        treated.get_submodule(name).register_forward_hook(check(name))
    treated(x)
    assert all(seen.values())
    added = [each for each in treated.modules() if "Norm" in type(each).__name__]
    assert len(added) == len(norms)  # and none behind the output layer or an embedding


def test_norms_follow_what_the_layers_were_made_of() -> None:
    model = mlp().double().eval()
    treated = treat(model, "normalization", batch(8, 12).double()).model
    assert {each.dtype for each in treated.parameters()} == {torch.float64}
    assert not any(each.training for each in treated.modules())


def test_layers_with_a_norm_are_left_alone() -> None:
    model = nn.Sequential(nn.Linear(12, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 8),
                          nn.Tanh(), nn.Linear(8, 3))  # fmt: skip
    result = treat(model, "normalization", batch(8, 12))
    assert result.changes[0].layers == ("3",)


def test_layers_whose_weight_is_computed_get_a_norm_as_well() -> None:
    model = mlp()
    torch.nn.utils.parametrizations.weight_norm(model[0])
    result = treat(model, "normalization", batch(8, 12))
    assert result.changes[0].layers == ("0", "2")


@pytest.mark.parametrize(
    ("model", "variant", "shape", "said"),
    [
        (nn.Linear(12, 4), "auto", (8, 12), "there is no hidden weight layer to normalise"),
        (mlp(), "batch", (8, 5, 12), "BatchNorm wants features in dimension 1"),
        (mlp(), "batch", (1, 12), "Expected more than 1 value per channel"),
        (nn.Sequential(*cnn()[:3]), "auto", (3, 8, 8), "expected a batch of samples, but 0 is"),
        (
            nn.Sequential(nn.Linear(12, 4), nn.LayerNorm(4), nn.ReLU(), nn.Linear(4, 2)),
            "auto",
            (8, 12),
            "every hidden weight layer is followed by a norm already",
        ),
    ],
)
def test_where_it_does_not_apply_it_says_why(
    model: nn.Module, variant: str, shape: tuple[int, ...], said: str
) -> None:
    with pytest.raises(gradcheckup.TreatmentError) as caught:
        treat(model, f"normalization:{variant}", batch(*shape))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
