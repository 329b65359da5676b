"""What is said of findings, with and without the facts that a rule may give."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gradcheckup.records import Finding, Severity
from gradcheckup.report import Report
from gradcheckup.reports.causes import describe_cause
from gradcheckup.reports.sentences import describe

MakeReport = Callable[..., Report]
CODES = [
    *("GC101", "GC102", "GC103", "GC104", "GC105", "GC106", "GC201", "GC202", "GC203", "GC204"),
    *("GC301", "GC302", "GC303", "GC304", "GC305", "GC306", "GC401", "GC402", "GC403"),
    *("GC501", "GC502", "GC503", "GC504", "GC999"),
]


def finding(code: str, **facts: object) -> Finding:
    """A finding about layer1 of eight, at all eight steps."""
    fields = {
        "rule": "some-rule",
        "layers": ("layer1",),
        "steps": tuple(range(8)),
        "culprit": "layer1",
    }
    return Finding(code=code, severity=Severity.CRITICAL, **(fields | facts))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (
            finding("GC101", observed=0.01, limit=0.02),
            (
                "layer1 receives 100× less gradient than layer7 (a ratio of 0.01; healthy: "
                "0.02 … 100), at all 8 steps."
            ),
        ),
        (
            finding("GC101", observed=1e-4, limit=0.02, evidence=(("signal_ratio", 1e-5),)),
            (
                "layer1 receives 10,000× less gradient than layer7 (a ratio of 1e-4; healthy: "
                "0.02 … 100), at all 8 steps. Only 1e-5 of the differences between samples is left "
                "at layer7."
            ),
        ),
        (
            finding("GC102", observed=1000.0, limit=150.0, evidence=(("per_layer", 3.2),)),
            (
                "layer1 receives 1,000× more gradient than layer7 (a ratio of 1,000, 3.2× per "
                "layer; healthy: 0.02 … 150), at all 8 steps."
            ),
        ),
        (
            finding("GC103", layers=("layer1", "layer2", "layer3")),
            "No gradient arrives at layer1 … layer3 (grad is None), at all 8 steps.",
        ),
        (
            finding(
                "GC105",
                rule="vanishing-through-time",
                observed=5e-20,
                limit=1e-7,
                evidence=(("time_steps", 100), ("blind_steps", 65), ("per_step", 0.63)),
            ),
            (
                "layer1 cannot learn from the first 65 of its 100 time steps: the very first "
                "receives 5e-20 of the largest gradient along the sequence (limit 1e-7; 0.63× per "
                "step), at all 8 steps."
            ),
        ),
        (
            finding("GC105", observed=0.0, evidence=(("bearing", "some"),)),
            (
                "layer1 cannot learn from its first time steps: the very first receives nothing "
                "of the largest gradient along the sequence, at all 8 steps. What it hands on "
                "from the others does bear on the targets."
            ),
        ),
        (
            finding(
                "GC105",
                rule="exploding-through-time",
                observed=5e5,
                limit=100.0,
                evidence=(("time_steps", 50),),
            ),
            (
                "The first of the 50 time steps of layer1 receives 500,000× the gradient of the "
                "last (limit 100), at all 8 steps."
            ),
        ),
        (finding("GC104"), "The gradient of layer1 is exactly 0, at all 8 steps."),
        (
            finding("GC201", observed=0.96, limit=0.9),
            (
                "96% of what enters layer1 lies where its slope is below 10% of the steepest "
                "(limit 90%), at all 8 steps."
            ),
        ),
        (
            finding("GC202", observed=1.0, limit=0.9),
            "100% of the units of layer1 never fired (limit 90%), at all 8 steps.",
        ),
        (
            finding(
                "GC204",
                observed=0.04,
                limit=0.1,
                evidence=(("saturated", 3), ("attention", 4)),
            ),
            (
                "layer1 attends to next to one key a row: its weights have 0.04 of the entropy of "
                "equal weights (limit 0.1), at all 8 steps. So it is in 3 of 4 layers with "
                "attention. Such a softmax hardly passes on what to attend to instead."
            ),
        ),
        (
            finding(
                "GC306",
                observed=0.994,
                limit=0.9,
                evidence=(("schooled", 2048), ("batches", 30), ("regression", 0.06)),
            ),
            (
                "After 2048 steps on 30 batches the net knows nothing of others: 99% of the loss "
                "is left (limit 90%). Kernel regression on the same batches explains 94% of what "
                "the others ask for: there is something to learn."
            ),
        ),
        (
            finding(
                "GC306",
                observed=0.57,
                evidence=(("schooled", 2048), ("regression", 0.09), ("readout", 0.88)),
            ),
            (
                "After 2048 steps the net knows little of others: its outputs explain 12% of what "
                "these ask for, and 57% of the loss is left. Kernel regression on the same batches "
                "explains 91% of what the others ask for: there is something to learn."
            ),
        ),
        (
            finding(
                "GC104",
                consequences=(
                    finding("GC306", evidence=(("schooled", 2048), ("regression", 0.06))),
                ),
            ),
            (
                "The gradient of layer1 is exactly 0, at all 8 steps. The net does not get over "
                "it: after 2048 steps it knows little of new batches, of which kernel regression "
                "explains 94%."
            ),
        ),
        (
            finding("GC104", evidence=(("unlearnt", 0.2), ("followed", 256), ("new", "yes"))),
            (
                "The gradient of layer1 is exactly 0, at all 8 steps. The net learns all the "
                "same: by step 256 it knows 80% of what new batches ask for."
            ),
        ),
        (
            finding(
                "GC302",
                observed=2.5,
                limit=1.0,
                evidence=(("loss_first", 2.3), ("loss_last", 410.0)),
            ),
            (
                "Each step changes the weights of layer1 by 2.5× their size (limit 1), at all 8 "
                "steps. The loss went from 2.3 to 410. Usual updates are 0.001 of the weights: "
                "SGD(lr=0.01) moves them 2,500× as far."
            ),
        ),
        (
            finding(
                "GC403",
                observed=0.97,
                limit=0.9,
                evidence=(("parameters", 6), ("total", 8)),
            ),
            (
                "float16 rounds away the gradient of layer1: 97% of it at layer1 (limit 90%), at "
                "all 8 steps. This holds for 6 of 8 weights; with a scaled loss they get their "
                "gradient."
            ),
        ),
        (
            finding("GC303", layers=("fc.weight", "fc.bias"), evidence=(("total", 16),)),
            (
                "2 of 16 parameters got a gradient and did not change, at all 8 steps: fc.weight, "
                "fc.bias."
            ),
        ),
        (
            finding("GC102", observed=5000.0, limit=1000.0, steps=(6,), cause="learning-rate"),
            "The gradient has grown to 5,000× that of step 0 (limit 1,000), at step 6.",
        ),
        (
            finding("GC103", culprit="layer3", evidence=(("behind", "layer4"),)),
            (
                "No gradient arrives at layer1 (grad is None), at all 8 steps. The cut lies "
                "between layer3 and layer4."
            ),
        ),
        (
            finding("GC203", observed=1e-5, limit=0.02, culprit="layer4"),
            (
                "Only 1e-5 of the differences between samples is left at layer7 (limit 0.02), at "
                "all 8 steps."
            ),
        ),
        (
            finding("GC301", observed=2e-10, limit=1e-8, evidence=(("median", 1e-4),)),
            (
                "The weights of layer1 move 2e-10 of their size a step, the median layer's 1e-4 "
                "(limit 1e-8), at all 8 steps: SGD(lr=0.01) needs 5e7 steps to change them by 1%."
            ),
        ),
        (
            finding("GC401", steps=(0,), culprit="loss", evidence=(("before", "fc"),)),
            "The first NaN or Inf arose in the loss, or on the way to it from fc at step 0.",
        ),
        (
            finding("GC401", steps=(3, 4), culprit="layer2"),
            "The first NaN or Inf arose in the output of layer2 at step 3.",
        ),
        (
            finding("GC402", steps=(3,)),
            "The first NaN or Inf arose in the gradient of layer1 at step 3.",
        ),
        (
            finding("GC502", evidence=(("total", 4),)),
            "1 of 4 parameters do not train (requires_grad=False): layer1.",
        ),
        (
            finding("GC999", observed=3.0, limit=1.0, steps=(2,)),
            "some rule in layer1: 3 (limit 1), at step 2.",
        ),
    ],
)
def test_sentences(make_report: MakeReport, found: Finding, said: str) -> None:
    assert " ".join(describe(found, make_report())) == said


@pytest.mark.parametrize("code", CODES)
def test_findings_without_any_fact_still_make_sentences(make_report: MakeReport, code: str) -> None:
    bare = Finding(code=code, rule="some-rule", severity=Severity.CRITICAL)
    for depth in (1, 8):
        text = " ".join(describe(bare, make_report(depth=depth)))
        assert text.endswith((".", "?"))
        assert "None" not in text.replace("grad is None", "")
        assert "  " not in text
        assert ",." not in text
        assert text[0] != " "


@pytest.mark.parametrize("observed", [0.0, None, float("nan"), float("inf")])
@pytest.mark.parametrize("code", CODES)
def test_extreme_values_make_sentences(
    make_report: MakeReport, code: str, observed: float | None
) -> None:
    assert describe(finding(code, observed=observed, limit=0.5), make_report())


def test_numbered_layers_can_be_told_from_numbers(make_report: MakeReport) -> None:
    report = make_report(name="{}")
    found = finding("GC101", layers=("1", "2", "3"), culprit="1", observed=0.01, limit=0.02)
    assert describe(found, report)[0].startswith(
        "layer 1 receives 100× less gradient than layer 7 "
    )
    severed = finding("GC103", layers=("1", "2", "3"))
    assert describe(severed, report)[0].startswith("No gradient arrives at layers 1 … 3 ")


def test_exactly_no_gradient_is_not_a_division(make_report: MakeReport) -> None:
    (said,) = describe(finding("GC101", observed=0.0, limit=0.02), make_report())
    assert said.startswith("layer1 receives next to no gradient (healthy: 0.02 … 100)")


@pytest.mark.parametrize(
    ("cause", "evidence", "said"),
    [
        (None, (), ""),
        ("squashing-activation", (), "activations that squash the gradient"),
        (
            "squashing-activation",
            (("activation", "sigmoid"), ("activations", 7)),
            "7 sigmoids (each passes at most 0.25 of the gradient)",
        ),
        (
            "squashing-activation",
            (("activation", "tanh"), ("slope_share", 0.5), ("weight_share", 1.2)),
            "tanh activations (each passes 0.5 of the gradient)",
        ),
        (
            "small-weights",
            (("weight_share", 0.4),),
            "initial weights that are too small for this depth (they pass 0.4× a layer)",
        ),
        ("zero-learning-rate", (), "the learning rate of their parameter group is 0"),
        ("cosmic-rays", (), "cosmic rays"),
    ],
)
def test_causes(
    cause: str | None, evidence: tuple[tuple[str, float | int | str], ...], said: str
) -> None:
    assert describe_cause(finding("GC101", cause=cause, evidence=evidence)) == said
