"""The table of a failure, on a report whose numbers are written down here."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

import gradcheckup
from gradcheckup import Finding, LayerRecord, Recording, Report, Role, Severity, Step
from pytest_gradcheckup.failures import failure
from pytest_gradcheckup.majority import Case, Verdict


def layer(name: str, ratio: float | None, dead: float) -> LayerRecord:
    return LayerRecord(
        name=name,
        call=0,
        kind="linear",
        role=Role.WEIGHT,
        gradient_norm=ratio,
        gradient_ratio=ratio,
        dead_fraction=dead,
    )


def told(*findings: Finding, codes: set[str]) -> str:
    layers = (layer("a", 3e-4, 0.95), layer("bb", 2e-3, 0.91), layer("c", None, 1.0))
    layers = (*layers, layer("d", 3.5e-3, 0.99), layer("e", 1.0, 0.0))
    recording = Recording(
        model="Net",
        optimizer="SGD(lr=0.1)",
        steps=(Step(index=0, loss=1.0, layers=layers, parameters=()),),
    )
    report = Report(recording=recording, findings=findings)
    verdict = Verdict((Case(0, report, True), Case(1, report, False), Case(2, report, True)), True)
    return failure("claim", verdict, "do this", codes)


VANISHING = Finding(
    code="GC101",
    rule="vanishing-gradient",
    severity=Severity.CRITICAL,
    layers=("a", "bb", "d"),
    observed=3e-4,
    limit=4e-3,
    steps=(0,),
)
DEAD = Finding(
    code="GC202",
    rule="dead-units",
    severity=Severity.WARNING,
    layers=("a", "bb", "c", "d"),
    culprit="c",
    observed=1.0,
    limit=0.9,
    steps=(0,),
)


def test_the_worst_layers_stand_with_the_limit_that_they_broke() -> None:
    text = told(VANISHING, DEAD, codes={"GC101", "GC202"})
    assert (
        "\n\n  rule   layer  measured         value  limit\n"
        "  GC101  a      gradient ratio  0.0003  at least 0.004\n"
        "  GC101  bb     gradient ratio   0.002  at least 0.004\n"
        "  GC101  d      gradient ratio  0.0035  at least 0.004\n"
        # The three with most dead units; bb has fewest.
        "  GC202  a      dead fraction     0.95  at most 0.9\n"
        "  GC202  c      dead fraction        1  at most 0.9\n"
        "  GC202  d      dead fraction     0.99  at most 0.9\n\n"
    ) in text


def test_only_what_failed_is_tabled_and_seeds_are_named() -> None:
    text = told(VANISHING, DEAD, codes={"GC202"})
    assert "gradient ratio" not in text.partition("rule ")[2]
    assert text.startswith("claim\n\nUNHEALTHY  Net")
    assert text.endswith(
        "so with seeds 0, 2, not with seed 1; again: --gradcheckup-seed=0\nwanted so? do this"
    )


def test_a_gradient_that_never_arrived_is_not_a_number() -> None:
    severed = Finding(
        code="GC103", rule="severed-gradient", severity=Severity.CRITICAL, layers=("c",), steps=(0,)
    )
    assert "  GC103  c      gradient norm   none  above 0\n" in told(severed, codes={"GC103"})


def test_what_no_layer_shows_stands_with_what_was_observed() -> None:
    unchanged = Finding(
        code="GC403",
        rule="underflowing-gradient",
        severity=Severity.CRITICAL,
        layers=("a.weight",),
        observed=0.95,
        limit=0.9,
        steps=(0,),
    )
    assert "  GC403  a.weight             0.95  at most 0.9\n" in told(unchanged, codes={"GC403"})


def test_a_watched_loop_keeps_but_some_of_its_steps() -> None:
    """Of a finding whose steps are kept, the first of them is shown; else the first step."""
    steps = tuple(
        Step(index=index, loss=1.0, layers=(layer("a", ratio, 0.0),), parameters=())
        for index, ratio in ((63, 0.5), (95, 3e-4))
    )
    recording = Recording(model="Net", optimizer="SGD(lr=0.1)", steps=steps)
    spike = replace(VANISHING, code="GC106", rule="gradient-spike", layers=(), steps=(70,))
    late = replace(VANISHING, layers=("a",), steps=(95,))
    report = Report(recording=recording, findings=(late, spike))
    text = failure("claim", Verdict((Case(0, report, True),), True), "", {"GC101", "GC106"})
    assert (
        "  GC101  a          gradient ratio  0.0003  at least 0.004\n"
        "  GC106  the model                  0.0003  at least 0.004\n"
    ) in text


def test_lines_leave_room_for_what_pytest_puts_before_them() -> None:
    """Eight columns of 80, also where sentences are long; a claim is a line of its own."""
    torch.manual_seed(0)
    hidden = [each for _ in range(8) for each in (nn.Linear(16, 16), nn.Sigmoid())]
    batch = (torch.randn(32, 16), torch.randint(4, (32,)))
    net = nn.Sequential(*hidden, nn.Linear(16, 4))
    report = gradcheckup.diagnose(net, batch, nn.CrossEntropyLoss(), optimizer=torch.optim.AdamW)
    codes = {finding.code for finding in report.findings}
    assert codes
    text = failure("claim", Verdict((Case(0, report, True),), True), "do this", codes)
    assert max(map(len, str(report).splitlines())) > 72
    assert max(map(len, text.splitlines())) <= 72
