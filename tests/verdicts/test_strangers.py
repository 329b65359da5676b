"""Nets of kinds that no rule was made for: each was trained, learns, and has to come out healthy.

Outcomes stand above the nets: the mean loss of the first and the last 8 of 300 steps with the
optimizer and the batches that they are judged with, from seed 0.
"""

from __future__ import annotations

import copy
import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

import gradcheckup

Digits = Callable[..., list[tuple[Tensor, Tensor]]]
Build = Callable[[Digits], dict[str, Any]]

STRANGERS: dict[str, Build] = {}
SGD = functools.partial(torch.optim.SGD, lr=0.01, momentum=0.9)
ADAM = functools.partial(torch.optim.Adam, lr=1e-3)
FAST_ADAM = functools.partial(torch.optim.Adam, lr=3e-3)
CE = nn.CrossEntropyLoss()


def stranger(build: Build) -> Build:
    STRANGERS[build.__name__.strip("_")] = build
    return build


def case(
    model: nn.Module, data: Any, criterion: Any = CE, optimizer: Any = ADAM, **settings: Any
) -> dict[str, Any]:
    return {"model": model, "data": data, "criterion": criterion, "optimizer": optimizer} | settings


def with_loss(
    model: nn.Module, data: Any, loss: Callable[[Any, Any], Tensor], optimizer: Any = ADAM
) -> dict[str, Any]:
    return case(model, data, None, optimizer, compute_loss=loss)


def mlp(*widths: int, act: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    """Linear layers of these widths with an activation between them."""
    layers: list[nn.Module] = []
    for before, width in itertools.pairwise(widths):
        layers += [act(), nn.Linear(before, width)] if layers else [nn.Linear(before, width)]
    return nn.Sequential(*layers)


def conv(before: int, width: int, stride: int = 1) -> nn.Sequential:
    """A convolution, its normalisation and ReLU."""
    layers = [nn.Conv2d(before, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers)


# -- detection, segmentation --------------------------------------------------------------------


class Pyramid(nn.Module):
    """Two levels of a feature pyramid, with one head for both."""

    def __init__(self) -> None:
        super().__init__()
        self.c1, self.c2 = conv(1, 8), conv(8, 16, 2)
        self.lateral1, self.lateral2 = nn.Conv2d(8, 16, 1), nn.Conv2d(16, 16, 1)
        self.smooth = nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, x: Tensor) -> list[Tensor]:
        low = self.c1(x)
        high = self.c2(low)
        top = self.lateral2(high)
        bottom = self.lateral1(low) + F.interpolate(top, scale_factor=2)
        return [self.smooth(bottom), top]


class Detector(nn.Module):
    """SSD-like: classes and boxes of anchors at two scales; most anchors are background."""

    def __init__(self) -> None:
        super().__init__()
        self.body = Pyramid()
        self.classes = nn.Conv2d(16, 11, 3, padding=1)
        self.boxes = nn.Conv2d(16, 4, 3, padding=1)
        nn.init.constant_(self.classes.bias[0], 3.0)  # type: ignore[index]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        levels = self.body(x)
        classes = torch.cat([self.classes(level).flatten(2) for level in levels], dim=2)
        boxes = torch.cat([self.boxes(level).flatten(2) for level in levels], dim=2)
        return classes, boxes


def _anchored(model: nn.Module, batch: Any) -> Tensor:
    inputs, labels = batch
    classes, boxes = model(inputs)
    targets = torch.zeros(len(inputs), classes.shape[2], dtype=torch.long)
    targets[:, 27] = targets[:, 70] = labels + 1  # an anchor in the middle of either level
    ink = inputs.clamp(0).mean(dim=(1, 2, 3))
    wanted = torch.stack([ink, -ink, ink**2, ink / 2], dim=1)
    hit = boxes[:, :, 27]
    return F.cross_entropy(classes, targets) + F.smooth_l1_loss(hit, wanted)


# loss 0.48 -> 0.014
@stranger
def detector_with_anchors(digits: Digits) -> dict[str, Any]:
    return with_loss(Detector(), digits(1, 8, 8, batch=16), _anchored)


class AnchorFree(nn.Module):
    """FCOS-like: focal loss, distances through exp with a learnt scale, centre-ness."""

    def __init__(self) -> None:
        super().__init__()
        self.body = Pyramid()
        self.tower1 = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.ReLU())
        self.tower2 = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.ReLU())
        self.classes, self.distances = nn.Conv2d(16, 10, 1), nn.Conv2d(16, 4, 1)
        self.centre = nn.Conv2d(16, 1, 1)
        self.scales = nn.Parameter(torch.ones(2))
        nn.init.normal_(self.classes.weight, std=0.01)
        nn.init.constant_(self.classes.bias, -math.log(99))  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        found = []
        for scale, level in zip(self.scales, self.body(x), strict=True):
            one, two = self.tower1(level), self.tower2(level)
            found.append((self.classes(one), (scale * self.distances(two)).exp(), self.centre(two)))
        return found


def _focal(logits: Tensor, targets: Tensor) -> Tensor:
    plain = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    right = torch.where(targets > 0, torch.sigmoid(logits), 1 - torch.sigmoid(logits))
    return ((1 - right) ** 2 * plain).sum()


def _anchor_free(model: nn.Module, batch: Any) -> Tensor:
    inputs, labels = batch
    total = inputs.new_zeros(())
    for classes, distances, centre in model(inputs):
        middle = classes.shape[-1] // 2
        targets = torch.zeros_like(classes)
        targets[torch.arange(len(labels)), labels, middle, middle] = 1
        total = total + _focal(classes, targets) / len(labels)
        ink = 1 + inputs.clamp(0).mean(dim=(1, 2, 3))[:, None]
        total = total + F.l1_loss(distances[:, :, middle, middle].log(), ink.expand(-1, 4).log())
        total = total + F.binary_cross_entropy_with_logits(
            centre[:, 0, middle, middle], torch.ones(len(labels))
        )
    return total


# loss 10 -> 0.7
@stranger
def detector_without_anchors(digits: Digits) -> dict[str, Any]:
    return with_loss(AnchorFree(), digits(1, 8, 8, batch=16), _anchor_free)


class Dilated(nn.Module):
    """Segmentation with parallel dilations and image pooling, and an auxiliary head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(1, 12)
        self.branches = nn.ModuleList(
            nn.Conv2d(12, 8, 3, padding=rate, dilation=rate) for rate in (1, 2, 4)
        )
        self.pooled = nn.Conv2d(12, 8, 1)
        self.head, self.auxiliary = nn.Conv2d(32, 2, 1), nn.Conv2d(12, 2, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.stem(x)
        image = self.pooled(x.mean(dim=(2, 3), keepdim=True)).expand(-1, -1, *x.shape[2:])
        parts = [F.relu(branch(x)) for branch in self.branches]
        return {"out": self.head(torch.cat([*parts, image], dim=1)), "aux": self.auxiliary(x)}


# loss 0.95 -> 0.2
@stranger
def segmentation_with_an_auxiliary_head(digits: Digits) -> dict[str, Any]:
    data = [(x + 0.5 * torch.randn_like(x), (x[:, 0] > 0).long()) for x, _ in digits(1, 8, 8)]

    def loss(outputs: dict[str, Tensor], masks: Tensor) -> Tensor:
        return CE(outputs["out"], masks) + 0.4 * CE(outputs["aux"], masks)

    return case(Dilated(), data, loss)


# -- generative ---------------------------------------------------------------------------------


class ConvDenoiser(nn.Module):
    """DDPM's U-Net in small: time in every block, second and last convolutions start at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.time = mlp(16, 32, 32, act=nn.SiLU)
        self.stem, self.down = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 16, 3, 2, 1)
        self.blocks = nn.ModuleList(TimeBlock(16) for _ in range(4))
        self.norm, self.head = nn.GroupNorm(4, 16), nn.Conv2d(16, 1, 3, padding=1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        angles = time[:, None] * torch.logspace(0, 1.3, 8)
        embedded = self.time(torch.cat([angles.sin(), angles.cos()], dim=-1))
        high = self.blocks[0](self.stem(x), embedded)
        low = self.blocks[2](self.blocks[1](self.down(high), embedded), embedded)
        x = self.blocks[3](high + F.interpolate(low, scale_factor=2), embedded)
        return self.head(F.silu(self.norm(x)))


class TimeBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(4, width), nn.GroupNorm(4, width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.time = nn.Linear(32, 2 * width)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, embedded: Tensor) -> Tensor:
        scale, shift = self.time(F.silu(embedded))[:, :, None, None].chunk(2, dim=1)
        hidden = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(hidden) * (1 + scale) + shift))


def _diffusion(model: nn.Module, batch: Any) -> Tensor:
    clean = batch[0]
    time, noise = torch.rand(len(clean)), torch.randn_like(clean)
    share = torch.cos(time * math.pi / 2)[:, None, None, None]
    return F.mse_loss(model(share * clean + (1 - share**2).sqrt() * noise, time), noise)


# loss 0.92 -> 0.24
@stranger
def diffusion_u_net(digits: Digits) -> dict[str, Any]:
    return with_loss(ConvDenoiser(), digits(1, 8, 8), _diffusion)


class Quantised(nn.Module):
    """VQ-VAE: nearest codes, a straight-through gradient, two detached terms in the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = mlp(64, 48, 32), mlp(32, 48, 64)
        self.codes = nn.Embedding(32, 8)
        nn.init.normal_(self.codes.weight, std=0.3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        latent = self.encoder(x).view(-1, 4, 8)
        nearest = torch.cdist(latent, self.codes.weight[None]).argmin(dim=-1)
        code = self.codes(nearest)
        commit = F.mse_loss(latent, code.detach()) + F.mse_loss(code, latent.detach())
        straight = latent + (code - latent).detach()
        return self.decoder(straight.flatten(1)), commit


# loss 1.1 -> 0.39
@stranger
def vector_quantised_autoencoder(digits: Digits) -> dict[str, Any]:
    def loss(model: nn.Module, batch: Any) -> Tensor:
        built, commit = model(batch[0])
        return F.mse_loss(built, batch[0]) + commit

    return with_loss(Quantised(), digits(), loss)


class Critic(nn.Module):
    """A WGAN's critic step: its own loss, and the penalty on its slope."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = mlp(16, 48, 64)
        self.critic = mlp(64, 48, 48, 1, act=functools.partial(nn.LeakyReLU, 0.2))

    def forward(self, x: Tensor) -> Tensor:
        return self.critic(x)


# loss 7.3 -> -6.7
@stranger
def critic_with_a_gradient_penalty(digits: Digits) -> dict[str, Any]:
    def loss(model: Any, batch: Any) -> Tensor:
        real = batch[0]
        made = model.generator(torch.randn(len(real), 16)).detach()
        mixed = torch.lerp(real, made, torch.rand(len(real), 1)).requires_grad_(True)
        (slope,) = torch.autograd.grad(model(mixed).sum(), mixed, create_graph=True)
        return (model(made) - model(real)).mean() + 10 * ((slope.norm(dim=1) - 1) ** 2).mean()

    return with_loss(
        Critic(),
        digits(),
        loss,
        lambda model: torch.optim.Adam(model.critic.parameters(), lr=1e-3, betas=(0.0, 0.9)),
    )


# -- representations ----------------------------------------------------------------------------


# loss 0.74 -> 0.043
@stranger
def triplets(digits: Digits) -> dict[str, Any]:
    data = []
    for x, y in digits(batch=64):
        order = [int((y == label).nonzero()[-1]) for label in y]
        data.append((x, x[order], x.roll(7, dims=0)))

    def loss(model: nn.Module, batch: Any) -> Tensor:
        return F.triplet_margin_loss(*(F.normalize(model(each), dim=-1) for each in batch))

    return with_loss(mlp(64, 64, 64, 16), data, loss)


class TwoTowers(nn.Module):
    """CLIP-like: two encoders, normalised, with a learnt temperature."""

    def __init__(self) -> None:
        super().__init__()
        self.image = mlp(64, 64, 24)
        self.text = nn.Sequential(nn.Embedding(10, 24), mlp(24, 24, 24))
        self.temperature = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(self, images: Tensor, words: Tensor) -> Tensor:
        one, two = F.normalize(self.image(images), dim=-1), F.normalize(self.text(words), dim=-1)
        return self.temperature.exp() * one @ two.T


# loss 4.3 -> 1.3
@stranger
def two_towers_with_a_learnt_temperature(digits: Digits) -> dict[str, Any]:
    def loss(model: nn.Module, batch: Any) -> Tensor:
        logits = model(*batch)
        same = (batch[1][:, None] == batch[1][None]).float()
        targets = same / same.sum(dim=1, keepdim=True)
        return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2

    return with_loss(TwoTowers(), digits(), loss)


class Teacher(nn.Module):
    """The student learns from a teacher that is its slow average, inside one model."""

    def __init__(self) -> None:
        super().__init__()
        self.student = mlp(64, 48, 48, 10)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            for slow, fast in zip(
                self.teacher.parameters(), self.student.parameters(), strict=True
            ):
                slow.lerp_(fast, 0.01)
            soft = torch.softmax(self.teacher(x), dim=-1)
        return self.student(x + 0.1 * torch.randn_like(x)), soft


# loss 2.3 -> 0.17
@stranger
def mean_teacher(digits: Digits) -> dict[str, Any]:
    def loss(model: nn.Module, batch: Any) -> Tensor:
        logits, soft = model(batch[0])
        return CE(logits, batch[1]) + 0.3 * F.kl_div(
            F.log_softmax(logits, dim=-1), soft, reduction="batchmean"
        )

    return with_loss(Teacher(), digits(), loss)


class Distilled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.teacher, self.student = mlp(64, 96, 10), mlp(64, 24, 10)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            soft = self.teacher(x)
        return self.student(x), soft


# loss 2.4 -> 1.1
@stranger
def distillation(digits: Digits) -> dict[str, Any]:
    def loss(model: nn.Module, batch: Any) -> Tensor:
        logits, soft = model(batch[0])
        return CE(logits, batch[1]) + 4 * F.kl_div(
            F.log_softmax(logits / 2, dim=-1), F.softmax(soft / 2, dim=-1), reduction="batchmean"
        )

    return with_loss(
        Distilled(),
        digits(),
        loss,
        lambda model: torch.optim.Adam(model.student.parameters(), lr=1e-3),
    )


# -- attention ----------------------------------------------------------------------------------


class Masked(nn.Module):
    """BERT-like: masked tokens, tied weights, post-norm, a bias of its own on the output."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(18, 32), nn.Embedding(64, 32)
        nn.init.normal_(self.words.weight, std=0.02)
        nn.init.normal_(self.places.weight, std=0.02)
        self.norm = nn.LayerNorm(32)
        block = nn.TransformerEncoderLayer(32, 4, 64, 0.1, "gelu", batch_first=True)
        self.encoder = nn.TransformerEncoder(block, 3, enable_nested_tensor=False)
        self.transform = nn.Sequential(nn.Linear(32, 32), nn.GELU(), nn.LayerNorm(32))
        self.bias = nn.Parameter(torch.zeros(18))

    def forward(self, x: Tensor) -> Tensor:
        embedded = self.words(x) + self.places(torch.arange(x.shape[1]))
        hidden = self.encoder(self.norm(embedded))
        return self.transform(hidden) @ self.words.weight.T + self.bias


# loss 2.7 -> 1.1
@stranger
def masked_language_model(digits: Digits) -> dict[str, Any]:
    data = []
    for x, _ in digits(tokens=True, batch=8):
        hidden = torch.rand(x.shape) < 0.15
        data.append((x.masked_fill(hidden, 17), x.masked_fill(~hidden, -100)))
    return case(Masked(), data, lambda o, t: F.cross_entropy(o.flatten(0, 1), t.flatten()))


class RelativeAttention(nn.Module):
    """T5-like: no scaling, RMS norm, a learnt bias by distance, a gated feed-forward."""

    def __init__(self, width: int, bias: nn.Embedding) -> None:
        super().__init__()
        self.heads, self.bias = 4, bias
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.norm1, self.norm2 = RMSNorm(width), RMSNorm(width)
        self.gate, self.up = nn.Linear(width, 64, bias=False), nn.Linear(width, 64, bias=False)
        self.down = nn.Linear(64, width, bias=False)
        nn.init.normal_(self.qkv.weight, std=0.1)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        parts = self.qkv(self.norm1(x)).view(batch, length, 3, self.heads, -1)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        distance = torch.arange(length)[:, None] - torch.arange(length)[None] + length
        scores = query @ key.transpose(-1, -2) + self.bias(distance).permute(2, 0, 1)
        mixed = (torch.softmax(scores, dim=-1) @ value).transpose(1, 2).reshape(x.shape)
        x = x + self.out(mixed)
        normed = self.norm2(x)
        return x + self.down(F.silu(self.gate(normed)) * self.up(normed))


class RMSNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x * x.pow(2).mean(dim=-1, keepdim=True).add(1e-6).rsqrt()


class Relative(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bias = nn.Linear(8, 32), nn.Embedding(16, 4)
        self.blocks = nn.ModuleList(RelativeAttention(32, self.bias) for _ in range(3))
        self.norm, self.head = RMSNorm(32), nn.Linear(32, 10, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(dim=1))


# loss 2.3 -> 0.016
@stranger
def relative_positions_and_swiglu(digits: Digits) -> dict[str, Any]:
    return case(Relative(), digits(8, 8))


class Perceiver(nn.Module):
    """A few learnt queries look at all pixels, and at themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.latents = nn.Parameter(0.02 * torch.randn(4, 24))
        self.places = nn.Parameter(0.02 * torch.randn(64, 23))
        self.cross = nn.MultiheadAttention(24, 2, batch_first=True)
        self.inner = nn.TransformerEncoderLayer(24, 4, 48, 0.0, batch_first=True, norm_first=True)
        self.norm1, self.norm2 = nn.LayerNorm(24), nn.LayerNorm(24)
        self.head = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        pixels = torch.cat([x[:, :, None], self.places.expand(len(x), -1, -1)], dim=-1)
        latents = self.latents.expand(len(x), -1, -1)
        for _ in range(2):  # with shared weights
            seen, _ = self.cross(self.norm1(latents), self.norm2(pixels), pixels)
            latents = self.inner(latents + seen)
        return self.head(latents.mean(dim=1))


# loss 2.3 -> 0.053
@stranger
def learnt_queries(digits: Digits) -> dict[str, Any]:
    return case(Perceiver(), digits(), optimizer=FAST_ADAM)


class Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(8, 24)
        self.tokens = nn.ModuleList(mlp(8, 16, 8, act=nn.GELU) for _ in range(3))
        self.channels = nn.ModuleList(mlp(24, 48, 24, act=nn.GELU) for _ in range(3))
        self.norms = nn.ModuleList(nn.LayerNorm(24) for _ in range(7))
        self.head = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for k, (token, channel) in enumerate(zip(self.tokens, self.channels, strict=True)):
            x = x + token(self.norms[2 * k](x).transpose(1, 2)).transpose(1, 2)
            x = x + channel(self.norms[2 * k + 1](x))
        return self.head(self.norms[6](x).mean(dim=1))


# loss 2.3 -> 0.038
@stranger
def mlp_mixer(digits: Digits) -> dict[str, Any]:
    return case(Mixer(), digits(8, 8))


class Adapted(nn.Module):
    """LoRA on the queries and values of a frozen attention; the head trains."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.key = nn.Linear(8, 32), nn.Linear(32, 32)
        self.query, self.value, self.out = (nn.Linear(32, 32) for _ in range(3))
        self.requires_grad_(False)
        self.down = nn.ParameterList(nn.Parameter(torch.randn(4, 32) / 32**0.5) for _ in range(2))
        self.up = nn.ParameterList(nn.Parameter(torch.zeros(32, 4)) for _ in range(2))
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        query = self.query(x) + x @ self.down[0].T @ self.up[0].T
        value = self.value(x) + x @ self.down[1].T @ self.up[1].T
        mixed = F.scaled_dot_product_attention(query, self.key(x), value)
        return self.head((x + self.out(mixed)).flatten(1)[:, :32] + mixed.mean(dim=1))


# loss 2.3 -> 0.71
@stranger
def lora_on_attention(digits: Digits) -> dict[str, Any]:
    def trainable(model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)

    return case(Adapted(), digits(8, 8), optimizer=trainable)


# -- layers of other kinds ----------------------------------------------------------------------


class Generated(nn.Module):
    """A hypernetwork: the weights of the classifier come from a net, by a code."""

    def __init__(self) -> None:
        super().__init__()
        self.code = nn.Parameter(torch.randn(2, 8))
        self.make = mlp(8, 32, 64 * 16)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.make(self.code).view(2, 16, 64)
        return self.head(F.relu(F.linear(x, first)) + torch.tanh(F.linear(x, second)))


# loss 2.3 -> 0.012
@stranger
def hypernetwork(digits: Digits) -> dict[str, Any]:
    return case(Generated(), digits())


# loss 2.3 -> 0.019
@stranger
def weight_normalisation(digits: Digits) -> dict[str, Any]:
    layers = [parametrizations.weight_norm(nn.Linear(64, 64)) for _ in range(3)]
    body = [each for layer in layers for each in (layer, nn.ReLU())]
    return case(nn.Sequential(*body, nn.Linear(64, 10)), digits())


# loss 2.3 -> 0.38
@stranger
def spectral_normalisation(digits: Digits) -> dict[str, Any]:
    layers = [parametrizations.spectral_norm(nn.Linear(64, 64)) for _ in range(3)]
    body = [each for layer in layers for each in (layer, nn.ReLU())]
    return case(nn.Sequential(*body, nn.Linear(64, 10)), digits())


class Equilibrium(nn.Module):
    """A fixed point, found without gradient; one more step carries it."""

    def __init__(self) -> None:
        super().__init__()
        self.inject, self.inner = nn.Linear(64, 48), nn.Linear(48, 48)
        nn.init.orthogonal_(self.inner.weight, 0.7)
        self.norm, self.head = nn.LayerNorm(48), nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        given = self.inject(x)
        state = torch.zeros_like(given)
        with torch.no_grad():
            for _ in range(12):
                state = torch.tanh(self.inner(state) + given)
        return self.head(self.norm(torch.tanh(self.inner(state) + given)))


# loss 2.1 -> 0.046
@stranger
def equilibrium(digits: Digits) -> dict[str, Any]:
    return case(Equilibrium(), digits())


class Sine(nn.Module):
    def __init__(self, before: int, width: int, first: bool = False) -> None:
        super().__init__()
        self.fc = nn.Linear(before, width)
        bound = 1 / before if first else math.sqrt(6 / before) / 30
        nn.init.uniform_(self.fc.weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(30 * self.fc(x))


# loss 0.26 -> 1.1e-13
@stranger
def siren(digits: Digits) -> dict[str, Any]:
    axis = torch.linspace(-1, 1, 8)
    places = torch.cartesian_prod(axis, axis)
    data = [(places, image.view(-1, 1)) for image in digits(batch=1, count=1)[0][0]]
    net = nn.Sequential(Sine(2, 48, first=True), Sine(48, 48), Sine(48, 48), nn.Linear(48, 1))
    return case(net, data * 8, nn.MSELoss(), torch.optim.Adam)


class Radial(nn.Module):
    """Gaussian bumps around learnt centres."""

    def __init__(self, before: int, bumps: int) -> None:
        super().__init__()
        self.centres = nn.Parameter(0.7 * torch.randn(bumps, before))
        self.width = nn.Parameter(torch.full((bumps,), before**-0.5))

    def forward(self, x: Tensor) -> Tensor:
        return torch.exp(-0.5 * (torch.cdist(x, self.centres) * self.width) ** 2)


# loss 2.3 -> 1.6
@stranger
def radial_basis(digits: Digits) -> dict[str, Any]:
    return case(nn.Sequential(Radial(64, 64), nn.Linear(64, 10)), digits(), optimizer=FAST_ADAM)


class Splines(nn.Module):
    """KAN-like: on every edge a sum of hats, beside a SiLU."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.base = nn.Linear(before, width)
        self.coefficients = nn.Parameter(0.1 * torch.randn(width, before, 7) / before**0.5)
        self.register_buffer("knots", torch.linspace(-2, 2, 7))

    def forward(self, x: Tensor) -> Tensor:
        hats = F.relu(1 - 1.5 * (x[..., None] - self.knots).abs())
        return self.base(F.silu(x)) + torch.einsum("bik,oik->bo", hats, self.coefficients)


# loss 2.2 -> 0.05
@stranger
def splines_on_edges(digits: Digits) -> dict[str, Any]:
    return case(nn.Sequential(Splines(64, 24), Splines(24, 10)), digits())


class FakeQuantised(nn.Linear):
    """Quantisation-aware training: 4-bit weights, with the gradient of the identity."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name for it
        step = self.weight.detach().abs().max() / 7
        rounded = (self.weight / step).round() * step
        return F.linear(input, self.weight + (rounded - self.weight).detach(), self.bias)


# loss 2.3 -> 0.035
@stranger
def quantised_weights(digits: Digits) -> dict[str, Any]:
    layers = [FakeQuantised(64, 64), nn.ReLU(), FakeQuantised(64, 64), nn.ReLU()]
    return case(nn.Sequential(*layers, FakeQuantised(64, 10)), digits())


# -- losses of other kinds ----------------------------------------------------------------------


class Policy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.actor, self.value = mlp(64, 48), nn.Linear(48, 10), nn.Linear(48, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.tanh(self.body(x))
        return self.actor(x), self.value(x)[:, 0]


# loss -0.0058 -> -0.099
@stranger
def policy_gradient(digits: Digits) -> dict[str, Any]:
    """REINFORCE with a baseline: the reward of the right digit is 1."""

    def loss(model: nn.Module, batch: Any) -> Tensor:
        logits, value = model(batch[0])
        policy = torch.distributions.Categorical(logits=logits)
        action = policy.sample()
        reward = (action == batch[1]).float()
        gain = policy.log_prob(action) * (reward - value.detach())
        return (0.5 * (reward - value) ** 2 - gain - 0.01 * policy.entropy()).mean()

    return with_loss(Policy(), digits(), loss, FAST_ADAM)


class Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ARG004 - torch passes it
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ARG004 - as above
        return -0.1 * gradient


class Domains(nn.Module):
    """A domain classifier behind a reversed gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = mlp(64, 64, 32), nn.Linear(32, 10)
        self.domain = mlp(32, 16, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu(self.body(x))
        return self.head(x), self.domain(Reversed.apply(x))  # type: ignore[no-untyped-call]


# loss 3 -> 0.69
@stranger
def reversed_gradient(digits: Digits) -> dict[str, Any]:
    def loss(model: nn.Module, batch: Any) -> Tensor:
        inputs, labels = batch
        half = len(inputs) // 2
        shifted = torch.cat([inputs[:half], inputs[half:] + 0.5])
        logits, domain = model(shifted)
        where = (torch.arange(len(inputs)) >= half).long()
        return CE(logits[:half], labels[:half]) + CE(domain, where)

    return with_loss(Domains(), digits(batch=64), loss)


class Tasks(nn.Module):
    """Two heads, of which every batch trains one."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp(64, 64, 48)
        self.digit, self.parity = nn.Linear(48, 10), nn.Linear(48, 2)

    def forward(self, x: Tensor, task: str) -> Tensor:
        return getattr(self, task)(F.relu(self.body(x)))


# loss 1.5 -> 0.055
@stranger
def one_head_a_batch(digits: Digits) -> dict[str, Any]:
    data = [(x, y, "digit") if k % 2 else (x, y % 2, "parity") for k, (x, y) in enumerate(digits())]
    return with_loss(Tasks(), data, lambda model, b: CE(model(b[0], b[2]), b[1]))


class Pooled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.EmbeddingBag(17 * 64, 24, mode="mean"), nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.words(x + 17 * torch.arange(64)))


# loss 2.3 -> 0.027
@stranger
def pooled_embeddings(digits: Digits) -> dict[str, Any]:
    data = digits(tokens=True)
    return case(Pooled(), data, optimizer=functools.partial(torch.optim.Adam, lr=1e-2))


@pytest.mark.parametrize("name", STRANGERS)
def test_a_stranger_that_learns_is_healthy(name: str, digits: Digits) -> None:
    report = gradcheckup.diagnose(**STRANGERS[name](digits))
    assert report.healthy, str(report)
