"""Two reports side by side: what is matched with what, and which figures are held together."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import gradcheckup
from gradcheckup import (
    Finding,
    LayerRecord,
    Recording,
    Report,
    ReportError,
    Role,
    Severity,
    Step,
    UsageError,
    compare,
)


def layer(name: str, kind: str = "linear", role: Role = Role.WEIGHT, **values: Any) -> LayerRecord:
    return LayerRecord(**{"name": name, "call": 0, "kind": kind, "role": role, **values})


def report(*layers: LayerRecord, findings: tuple[Finding, ...] = (), loss: float = 1.0) -> Report:
    steps = tuple(Step(index=index, loss=loss, layers=layers, parameters=()) for index in range(2))
    recording = Recording(model="Net", optimizer="SGD(lr=0.1)", steps=steps)
    return Report(recording=recording, findings=findings)


def finding(code: str, severity: Severity = Severity.CRITICAL, *folded: Finding) -> Finding:
    return Finding(code=code, rule=code.lower(), severity=severity, consequences=folded)


# -- the verdict and the findings ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "worse", "better"),
    [
        (None, None, False, False),
        (None, Severity.CRITICAL, True, False),
        (Severity.CRITICAL, None, False, True),
        (Severity.CRITICAL, Severity.CRITICAL, False, False),
        (None, Severity.WARNING, False, False),
        (Severity.WARNING, Severity.CRITICAL, True, False),
        (Severity.CRITICAL, Severity.WARNING, False, True),
    ],
)
def test_worse_and_better_are_about_the_verdict(
    before: Severity | None, after: Severity | None, worse: bool, better: bool
) -> None:
    found = [report(findings=(finding("GC101", each),) if each else ()) for each in (before, after)]
    comparison = compare(*found)
    assert (comparison.worse, comparison.better) == (worse, better)


def test_findings_are_gone_new_or_remaining() -> None:
    before = report(findings=(finding("GC101", Severity.CRITICAL, finding("GC203")),))
    after = report(findings=(finding("GC203", Severity.WARNING), finding("GC201")))
    comparison = compare(before, after)
    assert [each.code for each in comparison.gone] == ["GC101"]
    assert [each.code for each in comparison.new] == ["GC201"]
    # As it is now, though it stood under another one before.
    assert [(each.code, each.severity) for each in comparison.remaining] == [
        ("GC203", Severity.WARNING)
    ]


# -- layers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "factor"),
    [
        (1.0, 1.0, 1.0),
        (1.0, 4.0, 4.0),
        (4.0, 1.0, 4.0),
        (0.0, 0.0, 1.0),
        (0.0, 1e-9, math.inf),
        (1.0, math.nan, math.inf),
        (math.nan, math.nan, 1.0),
        (math.inf, 1.0, math.inf),
        (None, 1.0, 1.0),
        (1.0, None, 1.0),
        (None, None, 1.0),
        (5e-324, 1e308, math.exp(700)),
    ],
)
def test_by_how_much_a_layer_changed(
    before: float | None, after: float | None, factor: float
) -> None:
    for field in ("gradient_ratio", "signal_ratio", "update_ratio"):
        old, new = (report(layer("fc", **{field: value})) for value in (before, after))
        (change,) = compare(old, new).layers
        assert change.factor == pytest.approx(factor)
        held = getattr(change, field)
        assert held == (before, after) or math.isnan(held[1])


def test_layers_that_changed_most_come_first() -> None:
    before = report(*(layer(name, gradient_ratio=1.0) for name in "abc"))
    changed = {"a": 2.0, "b": 1.0, "c": 0.1}
    after = report(*(layer(name, gradient_ratio=value) for name, value in changed.items()))
    assert [change.name for change in compare(before, after).layers] == ["c", "a", "b"]


def test_layers_that_came_and_went() -> None:
    sigmoid = layer("act", "sigmoid", Role.ACTIVATION)
    before = report(layer("fc1"), sigmoid, layer("fc2"), layer("fc2", call=1))
    relu = layer("act", "relu", Role.ACTIVATION)
    after = report(layer("fc1"), layer("norm", "layernorm", Role.NORM), relu, layer("fc3"))
    comparison = compare(before, after)
    assert comparison.added == ("norm", "fc3")
    assert comparison.removed == ("fc2",)
    assert comparison.replaced == (("act", "sigmoid", "relu"),)


def test_a_layer_in_a_container_is_still_the_same() -> None:
    before = report(layer("fc1", gradient_ratio=1.0), layer("fc2", gradient_ratio=1.0))
    norm = layer("fc1.1", "layernorm", Role.NORM)
    wrapped = report(
        layer("fc1.0", gradient_ratio=8.0), norm, layer("fc2.0"), layer("fc2.1"), layer("fc10.0")
    )
    comparison = compare(before, wrapped)
    assert [(change.name, change.factor) for change in comparison.layers] == [
        ("fc1", pytest.approx(8))
    ]
    # Which of two would be the old one cannot be told.
    assert comparison.added == ("fc1.1", "fc2.0", "fc2.1", "fc10.0")
    assert comparison.removed == ("fc2",)


# -- figures -------------------------------------------------------------------------------------


def test_figures_are_those_of_the_reports() -> None:
    gate = layer("gate", "sigmoid", Role.ACTIVATION, saturation=1.0, gate=True)
    head = layer("head.act", "sigmoid", Role.ACTIVATION, saturation=0.9, output=True)
    held = report(
        layer("fc1", gradient_norm=1.0, gradient_ratio=0.5, update_ratio=1e-3),
        layer("act", "sigmoid", Role.ACTIVATION, saturation=0.25),
        gate,
        layer("norm", "layernorm", Role.NORM, update_ratio=1e-9),
        layer("fc2", update_ratio=1e-4),
        head,
        loss=2.5,
    )
    vitals = compare(held, held).after
    assert vitals.gradient_ratio == (0.5, 0.5)
    assert vitals.saturation == (0.25, 0.25)
    assert vitals.update_ratio == (1e-4, 1e-4)
    assert vitals.loss == (2.5, 2.5)
    assert vitals.healthy
    assert vitals.signal_ratio == (None, None)
    broken = report(layer("fc1", update_ratio=1.0), layer("fc2", update_ratio=math.nan))
    assert all(map(math.isnan, compare(held, broken).after.update_ratio))


def test_a_net_and_its_cure() -> None:
    """Default sigmoid layers vanish, and the same net with tanh does not: known from theory."""

    def net(activation: Callable[[], nn.Module]) -> nn.Module:
        torch.manual_seed(0)
        widths = [nn.Linear(32, 32) for _ in range(7)]
        for each in widths:
            nn.init.xavier_normal_(each.weight)
        return nn.Sequential(
            *(part for each in widths for part in (each, activation())), nn.Linear(32, 4)
        )

    data = (torch.randn(64, 32), torch.randint(4, (64,)))
    before, after = (
        gradcheckup.diagnose(net(each), data, nn.CrossEntropyLoss(), steps=4)
        for each in (nn.Sigmoid, nn.Tanh)
    )
    comparison = compare(before, after)
    assert comparison.better
    assert "GC101" in {each.code for each in comparison.gone}
    assert comparison.before.gradient_ratio[0] == before.end_to_end_ratio
    assert comparison.after.loss == (after.steps[0].loss, after.steps[-1].loss)
    assert comparison.layers[0].factor > 1000
    assert {(old, new) for _, old, new in comparison.replaced} == {("sigmoid", "tanh")}
    assert compare(after, before).worse


# -- doors ---------------------------------------------------------------------------------------


def test_json(tmp_path: Path) -> None:
    before = report(layer("fc", gradient_ratio=0.0))
    after = report(layer("fc", gradient_ratio=math.nan), findings=(finding("GC402"),))
    text = compare(before, after).to_json(tmp_path / "c.json")
    assert (tmp_path / "c.json").read_text() == text + "\n"
    document = json.loads(text)
    assert document["schema"] == "gradcheckup/comparison"
    assert (document["worse"], document["better"]) == (True, False)
    assert document["layers"][0]["gradient_ratio"] == [0.0, "NaN"]
    assert document["layers"][0]["factor"] == "Infinity"
    assert document["new"][0]["code"] == "GC402"
    assert document["before"]["loss"] == [1.0, 1.0]
    with pytest.raises(ReportError, match="cannot write comparison"):
        compare(before, after).to_json(tmp_path / "no" / "c.json")


def test_only_reports_can_be_compared() -> None:
    with pytest.raises(UsageError, match=r"expected two reports .*, got str"):
        compare(report(), "report.json")  # type: ignore[arg-type]


def test_a_comparison_is_frozen() -> None:
    comparison = compare(report(), report())
    with pytest.raises(dataclasses.FrozenInstanceError):
        comparison.gone = ()  # type: ignore[misc]
