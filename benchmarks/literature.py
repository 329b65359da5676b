"""Faults that papers on repairing training published, re-created; and healthy nets beside them.

From AUTOTRAINER (ICSE 2021) and DeepDiagnosis (ICSE 2022). What the papers call them is in the
name; whether a net learns is decided here by training it, seed by seed, like all others.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from benchmarks import networks, tasks
from benchmarks.cases import OPTIMIZERS, Case, Optimizer
from benchmarks.tasks import Task

_Layer = Callable[[], nn.Module]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A published case: what it is called, the net, the task and how it was trained."""

    name: str
    build: Callable[[], nn.Module]
    task: Callable[[], Task] = tasks.circle
    optimizer: str = "adam-0.001"
    make_optimizer: Optimizer = OPTIMIZERS["adam-0.001"]
    batch_size: int = 128


def _narrow(
    activation: _Layer, depth: int, init: str, *, outputs: int = 1, norm: str = "none"
) -> Callable[[], nn.Module]:
    """Hidden layers of five units behind two inputs, as the originals have."""
    widths = [2, *[5] * depth, outputs]
    return lambda: networks.initialise(networks.mlp(widths, activation, norm=norm), init)


def _lenet(activation: _Layer, dense: int) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        layers: list[nn.Module] = [
            *(nn.Conv2d(1, 6, 3, padding=1), activation(), nn.AvgPool2d(2)),
            *(nn.Conv2d(6, 16, 3, padding=1), activation(), nn.AvgPool2d(2)),
            *(nn.Flatten(), nn.Linear(64, 84), activation()),
        ]
        for _ in range(dense - 1):
            layers += [nn.Linear(84, 84), activation()]
        return networks.initialise(nn.Sequential(*layers, nn.Linear(84, 10)), "xavier-uniform")

    return build


def _softmax_over_one_unit() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 5), nn.ReLU(), nn.Linear(5, 1), nn.Softmax(dim=1))


def _linear_30() -> nn.Module:
    model = nn.Sequential(nn.Linear(64, 30), nn.Linear(30, 10))
    return networks.initialise(model, "normal-1")


def _circles() -> list[Fault]:
    sigmoids = [
        Fault(
            name=f"circle: {depth} sigmoid layers{norm and ', ' + norm + ' norm'}",
            build=_narrow(nn.Sigmoid, depth, "he-uniform", norm=norm or "none"),
        )
        for norm in ("", "batch")
        for depth in (3, 5, 8, 9, 11)
    ]
    others = [
        Fault(
            name=f"circle: {depth} {name} layers",
            build=_narrow(networks.ACTIVATIONS[name], depth, "he-uniform"),
        )
        for name, depth in (
            *(("tanh", 5), ("tanh", 8), ("selu", 8), ("selu", 11)),
            *(("relu", 5), ("relu", 8), ("relu", 15)),
        )
    ]
    return [
        *sigmoids,
        *others,
        Fault(
            name="circle: 8 relu layers, tiny weights",
            build=_narrow(nn.ReLU, 8, "uniform-0.05"),
        ),
        Fault(
            name="circle: 8 exponential layers",
            build=_narrow(networks.Exponential, 8, "he-uniform"),
        ),
        Fault(
            name="circle: softmax over one unit",
            build=_softmax_over_one_unit,
            task=functools.partial(tasks.circle, probability=True),
        ),
    ]


def _blobs() -> list[Fault]:
    return [
        Fault(
            name=f"blob: {depth} {name} layers, {init}",
            build=_narrow(networks.ACTIVATIONS[name], depth, init, outputs=3),
            task=tasks.blob,
        )
        for name, depth, init in (
            *(("relu", 3, "he-uniform"), ("relu", 15, "he-uniform")),
            *(("tanh", 5, "he-uniform"), ("sigmoid", 8, "he-uniform")),
            ("relu", 8, "uniform-0.05"),
        )
    ]


FAULTS: tuple[Fault, ...] = (
    *_circles(),
    *_blobs(),
    Fault(
        name="LeNet with sigmoid",
        build=_lenet(nn.Sigmoid, 1),
        task=functools.partial(tasks.digits, 1, 8, 8),
    ),
    Fault(
        name="LeNet with sigmoid and 7 dense layers",
        build=_lenet(nn.Sigmoid, 7),
        task=functools.partial(tasks.digits, 1, 8, 8),
    ),
    Fault(
        name="LeNet with tanh and 7 dense layers",
        build=_lenet(nn.Tanh, 7),
        task=functools.partial(tasks.digits, 1, 8, 8),
    ),
    Fault(
        name="two linear layers, N(0, 1), squared error",
        build=_linear_30,
        task=functools.partial(tasks.digits, one_hot=True),
        optimizer="sgd-3",
        make_optimizer=functools.partial(torch.optim.SGD, lr=3.0),
        batch_size=10,
    ),
    Fault(
        name="regression on targets of 2000",
        build=lambda: networks.mlp([1, 50, 30, 1], nn.ReLU),
        task=tasks.parabola,
        optimizer="sgd-0.1-plain",
        make_optimizer=functools.partial(torch.optim.SGD, lr=0.1),
        batch_size=64,
    ),
    Fault(
        name="blob: batches of one",
        build=_narrow(nn.ReLU, 2, "he-uniform", outputs=3),
        task=tasks.blob,
        optimizer="sgd-0.01",
        make_optimizer=OPTIMIZERS["sgd-0.01"],
        batch_size=1,
    ),
)


def case(index: int) -> Case:
    """The case at this place of the list."""
    fault = FAULTS[index]
    task = fault.task()
    return Case(
        family="literature",
        index=index,
        architecture={"name": fault.name, "task": task.name},
        optimizer=fault.optimizer,
        make_optimizer=fault.make_optimizer,
        task=task,
        build=fault.build,
        batch_size=fault.batch_size,
    )
