"""Nets that learn, written as users write them: each has to come out healthy.

Every net here was trained on its batches for 300 steps with the optimizer that it is judged with,
and its loss fell (default_relu_6 takes 500). Most of them look sick to a naive check: something in
them is exactly zero, tiny, huge or missing.
"""

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

import gradcheckup

Digits = Callable[..., list[tuple[Tensor, Tensor]]]
Build = Callable[[Digits], dict[str, Any]]

HEALTHY: dict[str, Build] = {}
SGD = functools.partial(torch.optim.SGD, lr=0.01, momentum=0.9)
ADAM = functools.partial(torch.optim.Adam, lr=1e-3)
CE = nn.CrossEntropyLoss()
_he = functools.partial(nn.init.kaiming_normal_, nonlinearity="relu")
_lecun = functools.partial(nn.init.kaiming_normal_, nonlinearity="linear")


def healthy(build: Build) -> Build:
    HEALTHY[build.__name__.strip("_")] = build
    return build


def mlp(
    *widths: int,
    act: Callable[[], nn.Module] = nn.ReLU,
    init: Callable[[Tensor], Any] | None = None,
    norm: Callable[[int], nn.Module] | None = None,
) -> nn.Sequential:
    """Linear layers of these widths with an activation (and a normalisation) between them."""
    layers: list[nn.Module] = []
    for before, width in itertools.pairwise(widths):
        if layers:
            layers += [norm(before), act()] if norm else [act()]
        linear = nn.Linear(before, width)
        if init:
            init(linear.weight)
            nn.init.zeros_(linear.bias)
        layers.append(linear)
    return nn.Sequential(*layers)


def case(model: nn.Module, data: Any, criterion: Any = CE, **settings: Any) -> dict[str, Any]:
    return {"model": model, "data": data, "criterion": criterion, "optimizer": SGD} | settings


def trained(
    model: nn.Module, data: list[tuple[Tensor, Tensor]], lr: float, steps: int = 250
) -> nn.Module:
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    for step in range(steps):
        inputs, labels = data[step % len(data)]
        optimizer.zero_grad()
        CE(model(inputs), labels).backward()
        optimizer.step()
    return model


# -- structural zeros ---------------------------------------------------------------------------


class Residual(nn.Module):
    def __init__(self, channels: int, zero: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        if zero:
            nn.init.zeros_(self.bn2.weight)

    def forward(self, x: Tensor) -> Tensor:
        identity = x
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += identity
        return self.relu(out)


def resnet(blocks: int = 4, zero: bool = False) -> nn.Sequential:
    stem = [nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()]
    body = [Residual(8, zero) for _ in range(blocks)]
    return nn.Sequential(*stem, *body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))


@healthy
def zero_gamma_in_the_last_batchnorm(digits: Digits) -> dict[str, Any]:
    return case(resnet(zero=True), digits(1, 8, 8))


@healthy
def plain_resnet(digits: Digits) -> dict[str, Any]:
    return case(resnet(), digits(1, 8, 8))


class LoRA(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.base = nn.Linear(inputs, outputs).requires_grad_(False)
        self.A = nn.Parameter(torch.randn(4, inputs) / inputs**0.5)
        self.B = nn.Parameter(torch.zeros(outputs, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + x @ self.A.T @ self.B.T


def _trainable(model: nn.Module) -> torch.optim.Optimizer:
    wanted = [each for each in model.parameters() if each.requires_grad]
    return torch.optim.AdamW(wanted, lr=1e-3)


@healthy
def lora_with_b_zero(digits: Digits) -> dict[str, Any]:
    model = nn.Sequential(LoRA(64, 64), nn.ReLU(), LoRA(64, 64), nn.ReLU(), LoRA(64, 10))
    return case(model, digits(), optimizer=_trainable)


class ReZero(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc = nn.Linear(width, width)
        self.alpha = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.alpha * F.relu(self.fc(x))


class LoRALinears(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.base = nn.Linear(inputs, outputs).requires_grad_(False)
        self.down = nn.Linear(inputs, 4, bias=False)
        self.up = nn.Linear(4, outputs, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


@healthy
def lora_of_two_linear_layers(digits: Digits) -> dict[str, Any]:
    layers = [LoRALinears(64, 64), nn.ReLU(), LoRALinears(64, 64), nn.ReLU()]
    return case(nn.Sequential(*layers, nn.Linear(64, 10)), digits(), optimizer=_trainable)


@healthy
def rezero(digits: Digits) -> dict[str, Any]:
    blocks = [ReZero(48) for _ in range(10)]
    return case(nn.Sequential(nn.Linear(64, 48), *blocks, nn.Linear(48, 10)), digits())


class LayerScaled(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        self.gamma = nn.Parameter(1e-6 * torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gamma * self.mlp(self.norm(x))


@healthy
def layerscale(digits: Digits) -> dict[str, Any]:
    blocks = [LayerScaled(32) for _ in range(5)]
    model = nn.Sequential(nn.Linear(64, 32), *blocks, nn.LayerNorm(32), nn.Linear(32, 10))
    return case(model, digits(), optimizer=ADAM)


@healthy
def zero_head(digits: Digits) -> dict[str, Any]:
    model = mlp(64, 64, 64, 10, init=_he)
    nn.init.zeros_(model[-1].weight)
    return case(model, digits())


class Attention(nn.Module):
    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.stem = nn.Linear(8, width)
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, width)  # its bias has no gradient: softmax is shift invariant
        self.v = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        weights = torch.softmax(self.q(x) @ self.k(x).transpose(1, 2) / 32**0.5, dim=-1)
        return self.head(self.norm(x + weights @ self.v(x)).mean(dim=1))


@healthy
def attention_key_bias(digits: Digits) -> dict[str, Any]:
    return case(Attention(), digits(8, 8))


@healthy
def bias_before_batchnorm(digits: Digits) -> dict[str, Any]:
    return case(mlp(64, 64, 64, 10, norm=nn.BatchNorm1d), digits())


class Bag(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20_000, 16)
        self.fc = nn.Linear(16, 32)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x + 17 * torch.arange(64)
        return self.head(F.relu(self.fc(self.embedding(tokens).mean(dim=1))))


@healthy
def embedding_rows_outside_the_batch(digits: Digits) -> dict[str, Any]:
    adam = functools.partial(torch.optim.Adam, lr=1e-2)
    return case(Bag(), digits(tokens=True), optimizer=adam)


class Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(64, 32)
        self.router = nn.Linear(32, 4)
        self.experts = nn.ModuleList(mlp(32, 32, 32) for _ in range(4))
        self.head = nn.Linear(32, 10)
        with torch.no_grad():
            self.router.bias[-1] = -50.0  # nothing is routed to the last one

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        weight, chosen = torch.softmax(self.router(x), dim=-1).max(dim=-1)
        mixed = torch.zeros_like(x)
        for index, expert in enumerate(self.experts):
            rows = (chosen == index).nonzero().flatten()
            if len(rows):
                mixed = mixed.index_add(0, rows, expert(x[rows]) * weight[rows, None])
        return self.head(x + mixed)


@healthy
def unrouted_experts(digits: Digits) -> dict[str, Any]:
    return case(Experts(), digits(), optimizer=ADAM)


# -- scales, freezing, schedules ----------------------------------------------------------------


@healthy
def loss_times_1000(digits: Digits) -> dict[str, Any]:
    sgd = functools.partial(torch.optim.SGD, lr=1e-5, momentum=0.9)
    return case(mlp(64, 64, 64, 10, init=_he), digits(), lambda o, t: 1e3 * CE(o, t), optimizer=sgd)


@healthy
def loss_summed_over_the_batch(digits: Digits) -> dict[str, Any]:
    summed = nn.CrossEntropyLoss(reduction="sum")
    return case(mlp(64, 64, 64, 10, init=_he), digits(), summed, optimizer=ADAM)


@healthy
def frozen_backbone(digits: Digits) -> dict[str, Any]:
    model = mlp(64, 64, 64, 64, 10, init=_he)
    model[:5].requires_grad_(False)
    return case(model, digits())


@healthy
def frozen_stem(digits: Digits) -> dict[str, Any]:
    model = mlp(64, 64, 64, 64, 10, init=_he)
    model[0].requires_grad_(False)
    return case(model, digits())


@healthy
def slow_backbone(digits: Digits) -> dict[str, Any]:
    def rates(model: nn.Module) -> torch.optim.Optimizer:
        *backbone, head = model.children()
        slow = [each for module in backbone for each in module.parameters()]
        groups = [{"params": slow, "lr": 1e-4}, {"params": list(head.parameters())}]
        return torch.optim.SGD(groups, lr=1e-2, momentum=0.9)

    return case(mlp(64, 64, 64, 10, init=_he), digits(), optimizer=rates)


@healthy
def warm_up_from_zero(digits: Digits) -> dict[str, Any]:
    model = mlp(64, 64, 64, 10, init=_he)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / 100))
    return case(model, digits(), optimizer=optimizer)


@healthy
def head_of_zeros_at_a_tiny_rate(digits: Digits) -> dict[str, Any]:
    """Its outputs are the same for every sample but for rounding, and yet updates see the input."""
    model = mlp(64, 64, 64, 10, init=_he)
    nn.init.zeros_(model[-1].weight)
    # Followed further, it is GC305's: nothing is learnt at this rate.
    return case(model, digits(), optimizer=torch.optim.SGD(model.parameters(), lr=1e-6), follow=0)


@healthy
def converged(digits: Digits) -> dict[str, Any]:
    data = digits(count=4)
    return case(trained(mlp(64, 64, 64, 10, init=_he), data, lr=0.1), data)


@healthy
def converged_with_batchnorm(digits: Digits) -> dict[str, Any]:
    data = digits(count=4)
    return case(trained(mlp(64, *[48] * 4, 10, norm=nn.BatchNorm1d), data, lr=0.05), data)


@healthy
def converged_and_on_to_new_batches(digits: Digits) -> dict[str, Any]:
    # Loss 1e-4 on the four batches it knows, 1.5 on the four it does not: no explosion.
    return case(trained(mlp(64, 64, 64, 10, init=_he), digits(count=4), lr=0.1), digits(count=8))


@healthy
def frozen_batchnorm_in_eval_mode(digits: Digits) -> dict[str, Any]:
    model = trained(resnet(2), digits(1, 8, 8, count=4), lr=0.05, steps=80)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    sgd = functools.partial(torch.optim.SGD, lr=1e-3)
    return case(model, digits(1, 8, 8, count=4), optimizer=sgd)


@healthy
def dropout(digits: Digits) -> dict[str, Any]:
    layers = [nn.Linear(64, 96), nn.ReLU(), nn.Dropout(0.5), nn.Linear(96, 96), nn.ReLU()]
    return case(nn.Sequential(*layers, nn.Dropout(0.5), nn.Linear(96, 10)), digits())


class Dropped(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.training and torch.rand(()) < 0.5:
            return x
        return x + self.body(x)


@healthy
def stochastic_depth(digits: Digits) -> dict[str, Any]:
    blocks = [Dropped(48) for _ in range(6)]
    return case(nn.Sequential(nn.Linear(64, 48), *blocks, nn.Linear(48, 10)), digits())


# -- depth with the right scale -----------------------------------------------------------------


def _deep(depth: int, width: int = 128, optimizer: Any = SGD, **how: Any) -> Build:
    return lambda digits: case(
        mlp(64, *[width] * depth, 10, **how), digits(batch=64), optimizer=optimizer
    )


# Adam trains what SGD cannot: the optimizer is part of the diagnosis. Ratios of .0024 and 2e-5 at
# initialisation, accuracy .99 after 560 steps both.
HEALTHY["default_relu_8_adam"] = _deep(8, optimizer=ADAM)
HEALTHY["default_gelu_10_adam"] = _deep(10, act=nn.GELU, optimizer=ADAM)
HEALTHY["default_sigmoid_4_adam"] = _deep(4, act=nn.Sigmoid, optimizer=ADAM)
HEALTHY["default_relu_6"] = _deep(6)  # accuracy .95 at a ratio of .014
HEALTHY["default_tanh_8"] = _deep(8, act=nn.Tanh)  # .98 at .017
for _depth in (3, 7, 14, 28):
    HEALTHY[f"he_relu_{_depth}"] = _deep(_depth, init=_he)
HEALTHY["xavier_tanh_20"] = _deep(20, act=nn.Tanh, init=nn.init.xavier_normal_)
HEALTHY["lecun_selu_16"] = _deep(16, act=nn.SELU, init=_lecun)
HEALTHY["batchnorm_relu_28"] = _deep(28, 64, norm=nn.BatchNorm1d)
HEALTHY["layernorm_tanh_10"] = _deep(10, act=nn.Tanh, norm=nn.LayerNorm)
HEALTHY["batchnorm_sigmoid_7"] = _deep(7, act=nn.Sigmoid, norm=nn.BatchNorm1d)
HEALTHY["default_relu_3"] = _deep(3)
HEALTHY["default_tanh_4"] = _deep(4, act=nn.Tanh)


class Shortcut(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + F.elu(self.linear(x))


@healthy
def residual_weights_of_normal_1_adam(digits: Digits) -> dict[str, Any]:
    """Signal and gradient grow alike, 3000 times: to Adam a scale (accuracy .85 by step 300)."""
    blocks = [nn.Linear(64, 512), nn.ELU(), Shortcut(512), Shortcut(512), nn.Linear(512, 10)]
    for module in (net := nn.Sequential(*blocks)).modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight)
    return case(net, digits(), optimizer=ADAM)


class Transformer(nn.Module):
    def __init__(self, layers: int, pre: bool, width: int = 24) -> None:
        super().__init__()
        self.stem = nn.Linear(8, width)
        self.position = nn.Parameter(0.02 * torch.randn(8, width))
        block = nn.TransformerEncoderLayer(
            width, 4, 2 * width, dropout=0.1, batch_first=True, norm_first=pre
        )
        self.encoder = nn.TransformerEncoder(block, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.stem(x) + self.position).mean(dim=1))


@healthy
def pre_ln_transformer_12(digits: Digits) -> dict[str, Any]:
    return case(Transformer(12, pre=True), digits(8, 8), optimizer=ADAM)


@healthy
def post_ln_transformer_12(digits: Digits) -> dict[str, Any]:
    return case(Transformer(12, pre=False), digits(8, 8), optimizer=ADAM)


# -- families of nets ---------------------------------------------------------------------------


def _cnn(act: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    layers = [nn.Conv2d(1, 8, 3, padding=1), act(), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(8, 16, 3, padding=1), act(), nn.MaxPool2d(2), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(64, 32), act(), nn.Linear(32, 10))


HEALTHY["cnn"] = lambda digits: case(_cnn(), digits(1, 8, 8))
HEALTHY["cnn_adam"] = lambda digits: case(_cnn(), digits(1, 8, 8), optimizer=ADAM)
HEALTHY["lenet_tanh"] = lambda digits: case(_cnn(nn.Tanh), digits(1, 8, 8))


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.rnn = kind(8, 32, batch_first=True)  # type: ignore[arg-type]
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])


for _kind in (nn.LSTM, nn.GRU, nn.RNN):
    HEALTHY[_kind.__name__.lower()] = lambda digits, kind=_kind: case(  # type: ignore[misc]
        Recurrent(kind), digits(8, 8), optimizer=ADAM
    )


class LanguageModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(17, 24)
        self.rnn = nn.GRU(24, 24, batch_first=True)
        self.head = nn.Linear(24, 17)
        self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(self.embedding(x))[0])


@healthy
def tied_weights(digits: Digits) -> dict[str, Any]:
    data = [(x[:, :15], x[:, 1:16]) for x, _ in digits(tokens=True)]
    return case(
        LanguageModel(), data, lambda o, t: CE(o.flatten(0, 1), t.flatten()), optimizer=ADAM
    )


@healthy
def autoencoder(digits: Digits) -> dict[str, Any]:
    data = [(x, x) for x, _ in digits()]
    return case(mlp(64, 48, 12, 48, 64, init=_he), data, nn.MSELoss(), optimizer=ADAM)


class Variational(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(64, 48)
        self.mean = nn.Linear(48, 6)
        self.log_variance = nn.Linear(48, 6)
        self.decoder = mlp(6, 48, 64)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hidden = F.relu(self.encoder(x))
        mean, log_variance = self.mean(hidden), self.log_variance(hidden)
        drawn = mean + torch.randn_like(mean) * torch.exp(0.5 * log_variance)
        return self.decoder(drawn), mean, log_variance


class TwoWay(nn.Module):
    """Of the backward direction, the last output has seen one step: its W_hh gets nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(8, 24, num_layers=2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])


@healthy
def last_output_of_a_bidirectional_gru(digits: Digits) -> dict[str, Any]:
    return case(TwoWay(), digits(8, 8), optimizer=ADAM)


class Cell(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.LSTMCell(8, 32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for time in range(x.shape[1]):
            state = self.cell(x[:, time], state)
        assert state is not None
        return self.head(state[0])


@healthy
def loop_over_an_lstm_cell(digits: Digits) -> dict[str, Any]:
    return case(Cell(), digits(8, 8), optimizer=ADAM)


class HandMade(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inputs, self.hidden = nn.Linear(8, 32), nn.Linear(32, 32)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(len(x), 32)
        for time in range(x.shape[1]):
            state = torch.tanh(self.inputs(x[:, time]) + self.hidden(state))
        return self.head(state)


@healthy
def handmade_recurrence(digits: Digits) -> dict[str, Any]:
    return case(HandMade(), digits(8, 8), optimizer=ADAM)


class Adversaries(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.generator = mlp(16, 48, 64)
        self.critic = mlp(64, 48, 1, act=functools.partial(nn.LeakyReLU, 0.2))

    def forward(self, noise: Tensor) -> Tensor:
        return self.critic(self.generator(noise))


@healthy
def generator_step_of_a_gan(digits: Digits) -> dict[str, Any]:
    return case(
        Adversaries(),
        digits(),
        None,
        compute_loss=lambda model, batch: F.softplus(-model(torch.randn(len(batch[0]), 16))).mean(),
        optimizer=lambda model: torch.optim.Adam(model.generator.parameters(), lr=1e-3),
    )


@healthy
def variational_autoencoder(digits: Digits) -> dict[str, Any]:
    def loss(model: nn.Module, batch: Any) -> Tensor:
        built, mean, log_variance = model(batch[0])
        divergence = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum()
        return (F.mse_loss(built, batch[0], reduction="sum") + divergence) / len(mean)

    return case(Variational(), digits(), None, compute_loss=loss, optimizer=ADAM)


class Siamese(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(64, 48, 48, 16, init=_he)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return F.cosine_similarity(self.net(left), self.net(right))


@healthy
def siamese(digits: Digits) -> dict[str, Any]:
    data = [(x[:16], x[16:], (y[:16] == y[16:]).float()) for x, y in digits()]
    return case(Siamese(), data, nn.MSELoss(), optimizer=ADAM)


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()

        def block(before: int, width: int) -> nn.Module:
            return nn.Sequential(
                nn.Conv2d(before, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()
            )

        self.down1, self.down2, self.middle = block(1, 6), block(6, 12), block(12, 12)
        self.up2, self.up1, self.head = block(24, 6), block(12, 6), nn.Conv2d(6, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.down1(x)
        second = self.down2(F.max_pool2d(first, 2))
        x = F.interpolate(self.middle(F.max_pool2d(second, 2)), scale_factor=2)
        x = F.interpolate(self.up2(torch.cat([x, second], dim=1)), scale_factor=2)
        return self.head(self.up1(torch.cat([x, first], dim=1)))


@healthy
def u_net(digits: Digits) -> dict[str, Any]:
    data = [(x + 0.5 * torch.randn_like(x), (x > 0).float()) for x, _ in digits(1, 8, 8)]
    return case(UNet(), data, nn.BCEWithLogitsLoss(), optimizer=ADAM)


class Denoiser(nn.Module):
    def __init__(self, zero: bool) -> None:
        super().__init__()
        self.time = mlp(16, 32, 48, act=nn.SiLU)
        self.stem = nn.Linear(64, 48)
        self.blocks = nn.ModuleList(nn.Linear(48, 48) for _ in range(3))
        self.norms = nn.ModuleList(nn.GroupNorm(6, 48) for _ in range(3))
        self.head = nn.Linear(48, 64)
        if zero:
            nn.init.zeros_(self.head.weight)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        angles = time[:, None] * torch.logspace(0, 1.3, 8)
        embedded = self.time(torch.cat([angles.sin(), angles.cos()], dim=-1))
        x = self.stem(x)
        for block, norm in zip(self.blocks, self.norms, strict=True):
            x = x + block(F.silu(norm(x) + embedded))
        return self.head(x)


def _denoising(zero: bool) -> Build:
    def loss(model: nn.Module, batch: Any) -> Tensor:
        clean = batch[0]
        time, noise = torch.rand(len(clean)), torch.randn_like(clean)
        mixed = torch.lerp(clean, noise, time[:, None])
        return F.mse_loss(model(mixed, time), noise)

    return lambda digits: case(Denoiser(zero), digits(), None, compute_loss=loss, optimizer=ADAM)


HEALTHY["denoiser"] = _denoising(zero=False)
HEALTHY["denoiser_with_a_zero_head"] = _denoising(zero=True)


class Messages(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(8, 24)
        self.message = nn.ModuleList(nn.Linear(24, 24) for _ in range(3))
        self.update = nn.ModuleList(nn.Linear(48, 24) for _ in range(3))
        self.head = nn.Linear(24, 10)
        band = torch.eye(8) + torch.ones(7).diag(1) + torch.ones(7).diag(-1)
        self.register_buffer("adjacency", band / band.sum(dim=1, keepdim=True))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        for message, update in zip(self.message, self.update, strict=True):
            x = F.relu(update(torch.cat([x, self.adjacency @ message(x)], dim=-1)))
        return self.head(x.amax(dim=1))


@healthy
def message_passing(digits: Digits) -> dict[str, Any]:
    adam = functools.partial(torch.optim.Adam, lr=3e-3)
    return case(Messages(), digits(8, 8), optimizer=adam)


class DenseNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(n), nn.ReLU(), nn.Conv2d(n, 6, 3, padding=1))
            for n in (8, 14, 20, 26)
        )
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = torch.cat([x, layer(x)], dim=1)
        return self.head(F.relu(x).mean(dim=(2, 3)))


@healthy
def dense_net(digits: Digits) -> dict[str, Any]:
    sgd = functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9)
    return case(DenseNet(), digits(1, 8, 8), optimizer=sgd)


class Gated(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body, self.gate = nn.Linear(width, width), nn.Linear(width, width)
        nn.init.constant_(self.gate.bias, -3.0)  # its sigmoid is 95% closed, on purpose

    def forward(self, x: Tensor) -> Tensor:
        open_ = torch.sigmoid(self.gate(x))
        return open_ * F.relu(self.body(x)) + (1 - open_) * x


@healthy
def highway(digits: Digits) -> dict[str, Any]:
    blocks = [Gated(48) for _ in range(8)]
    return case(
        nn.Sequential(nn.Linear(64, 48), *blocks, nn.Linear(48, 10)), digits(), optimizer=ADAM
    )


class Coupling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(32, 32, 64)
        nn.init.zeros_(self.net[-1].weight)  # starts as the identity
        nn.init.zeros_(self.net[-1].bias)

    def forward(self, x: Tensor, volume: Tensor) -> tuple[Tensor, Tensor]:
        kept, changed = x.chunk(2, dim=-1)
        shift, log_scale = self.net(kept).chunk(2, dim=-1)
        log_scale = torch.tanh(log_scale)
        out = torch.cat([changed * log_scale.exp() + shift, kept], dim=-1)
        return out, volume + log_scale.sum(dim=-1)


class Flow(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Coupling() for _ in range(4))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        volume = x.new_zeros(len(x))
        for layer in self.layers:
            x, volume = layer(x, volume)
        return x, volume


@healthy
def normalising_flow(digits: Digits) -> dict[str, Any]:
    def loss(model: nn.Module, batch: Any) -> Tensor:
        latent, volume = model(batch[0])
        return (0.5 * latent.pow(2).sum(dim=-1) - volume).mean()

    return case(Flow(), digits(), None, compute_loss=loss, optimizer=ADAM)


class Bootstrap(nn.Module):
    """BYOL: the target net is a copy without gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.online = mlp(64, 48, 24, norm=nn.BatchNorm1d)
        self.predictor = mlp(24, 48, 24, norm=nn.BatchNorm1d)
        self.target = copy.deepcopy(self.online).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        predicted = self.predictor(self.online(x + 0.3 * torch.randn_like(x)))
        with torch.no_grad():
            target = self.target(x + 0.3 * torch.randn_like(x))
        return 2 - 2 * F.cosine_similarity(predicted, target).mean()


@healthy
def target_net_without_gradient(digits: Digits) -> dict[str, Any]:
    return case(
        Bootstrap(),
        digits(),
        None,
        compute_loss=lambda model, batch: model(batch[0]),
        optimizer=ADAM,
    )


class Straight(nn.Module):
    """Binary activations with the gradient of tanh: a detach that cuts nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.head = nn.Linear(64, 48), nn.Linear(48, 48), nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.fc1, self.fc2):
            soft = torch.tanh(layer(x))
            x = soft + (torch.sign(soft) - soft).detach()
        return self.head(x)


@healthy
def straight_through(digits: Digits) -> dict[str, Any]:
    return case(Straight(), digits(), optimizer=ADAM)


@healthy
def physics_informed(digits: Digits) -> dict[str, Any]:
    del digits

    def loss(model: nn.Module, points: Any) -> Tensor:
        points = points.clone().requires_grad_(True)
        value = model(points)
        (slope,) = torch.autograd.grad(value.sum(), points, create_graph=True)
        (curve,) = torch.autograd.grad(slope.sum(), points, create_graph=True)
        start = (model(torch.zeros(1, 1)) - 1).pow(2).mean()
        return (curve + 9 * value).pow(2).mean() + start

    net = mlp(1, 24, 24, 24, 1, act=nn.Tanh, init=nn.init.xavier_normal_)
    return case(net, 2 * torch.rand(64, 1) - 1, None, compute_loss=loss, optimizer=ADAM)


HEALTHY["logistic_regression"] = lambda digits: case(nn.Linear(64, 10), digits())
HEALTHY["double_precision"] = lambda digits: case(
    mlp(64, 48, 10).double(), [(x.double(), y) for x, y in digits()]
)
HEALTHY["single_samples"] = lambda digits: case(
    mlp(64, 48, 48, 10, init=_he), digits(batch=1), optimizer=ADAM
)


@pytest.mark.parametrize("name", HEALTHY)
def test_a_net_that_learns_is_healthy(name: str, digits: Digits) -> None:
    report = gradcheckup.diagnose(**HEALTHY[name](digits))
    assert report.healthy, str(report)


CHANCE = ("he_relu_14", "xavier_tanh_20", "batchnorm_relu_28", "cnn", "plain_resnet", "gru")


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("name", CHANCE)
def test_a_seed_does_not_make_it_sick(name: str, seed: int, digits: Digits) -> None:
    torch.manual_seed(seed)
    report = gradcheckup.diagnose(**HEALTHY[name](digits), seed=seed)
    assert report.healthy, str(report)
