"""Small recordings made by hand: what a rule sees, without a network behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from gradcheckup.records import (
    Finding,
    LayerRecord,
    ParameterRecord,
    Recording,
    Response,
    Role,
    Severity,
    Step,
)

Make = Callable[..., Any]


def _layer(name: str, **values: Any) -> LayerRecord:
    settings: dict[str, Any] = {
        "call": 0,
        "kind": "linear",
        "role": Role.WEIGHT,
        "shape": (32, 8),
        "bottleneck": True,
        "gradient_norm": 1.0,
        "gradient_ratio": 1.0,
        "signal": 1.0,
        "signal_ratio": 1.0,
        "finite": True,
    }
    return LayerRecord(name=name, **(settings | values))


def _parameter(name: str, **values: Any) -> ParameterRecord:
    settings: dict[str, Any] = {
        "layer": name.rpartition(".")[0],
        "shape": (8, 8),
        "trainable": True,
        "learning_rate": 0.01,
        "gradient_norm": 1.0,
        "weight_norm": 1.0,
        "update_norm": 0.01,
        "row_spread": 1.0,
    }
    return ParameterRecord(name=name, **(settings | values))


def _step(
    index: int = 0,
    layers: Iterable[LayerRecord] | None = None,
    parameters: Iterable[ParameterRecord] = (),
    loss: float = 1.0,
    reference: str = "late",
) -> Step:
    shown = [_layer("early"), _layer("late"), _layer("head", output=True)]
    return Step(
        index=index,
        loss=loss,
        layers=tuple(shown if layers is None else layers),
        parameters=tuple(parameters),
        reference=(reference, 0),
    )


def _recording(steps: Iterable[Step], **values: Any) -> Recording:
    return Recording(model="Net", optimizer="SGD(lr=0.01)", steps=tuple(steps), **values)


def _response(progress: float, **values: Any) -> Response:
    sizes = ("gradient_common", "gradient_distinct", "change_common", "change_distinct")
    return Response(**{**dict.fromkeys(sizes, 1.0), "resolution": 0.0, **values}, progress=progress)


def _finding(code: str, severity: str = "critical", **values: Any) -> Finding:
    return Finding(code=code, rule=code.lower(), severity=Severity(severity), **values)


@pytest.fixture
def layer() -> Make:
    """`layer(name, **fields)`: an unremarkable hidden linear layer unless told otherwise."""
    return _layer


@pytest.fixture
def parameter() -> Make:
    """`parameter("fc.weight", **fields)`: a weight matrix that trains."""
    return _parameter


@pytest.fixture
def step() -> Make:
    """`step(index, layers, parameters, loss)`: early, late and head unless told otherwise."""
    return _step


@pytest.fixture
def response() -> Make:
    """`response(progress, **fields)`: outputs that move together as much as apart."""
    return _response


@pytest.fixture
def recording() -> Make:
    """`recording(steps, **fields)`."""
    return _recording


@pytest.fixture
def finding() -> Make:
    """`finding(code, severity)`."""
    return _finding
