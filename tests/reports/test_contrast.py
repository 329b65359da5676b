"""A comparison as text: what is said first, what is left out, and how wide it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from gradcheckup.comparison import compare
from gradcheckup.records import Finding, Role
from gradcheckup.report import Report
from gradcheckup.reports.contrast import render

MakeReport = Callable[..., Report]

CURED = """\
BETTER  unhealthy before, healthy after

                      before     after
verdict               unhealthy  healthy
gradient, end to end  1e-6       1
signal, end to end    1e-6       1
worst saturation      –          –
smallest update       0.001      0.001
loss                  2.3 → 1.6  2.3 → 1.6

gone       GC101 vanishing-gradient (critical), GC203 collapsed-signal
  (critical)
new        none
remaining  none

at the last step  gradient  signal    update
layer8            10 → 1    1e-7 → 1  0.001
layer1            1e-6 → 1  1         0.001
layer7            1         1e-6 → 1  0.001
layer2            1e-5 → 1  0.1 → 1   0.001
layer6            0.1 → 1   1e-5 → 1  0.001
and 3 more layers: comparison.layers"""


def test_a_cure(make_report: MakeReport, vanishing: Finding) -> None:
    sick, cured = make_report(vanishing, gain=0.1), make_report()
    comparison = compare(sick, cured)
    assert str(comparison) == CURED
    assert len(render(comparison, verbose=True).splitlines()) == len(CURED.splitlines()) + 2
    assert str(compare(cured, sick)).startswith("WORSE  healthy before, unhealthy after\n")
    assert str(compare(sick, sick)).startswith("SAME  unhealthy before and after\n")


def test_nothing_changed(make_report: MakeReport) -> None:
    lines = str(compare(make_report(), make_report())).splitlines()
    assert lines[0] == "SAME  healthy before and after"
    assert lines[-2:] == ["", "no layer changed by a factor of 2"]


def test_what_the_nets_were_is_said_where_it_differs(make_report: MakeReport) -> None:
    before = make_report(steps=1)
    recording = dataclasses.replace(make_report().recording, model="Other", optimizer="Adam(lr=1)")
    text = str(compare(before, dataclasses.replace(before, recording=recording)))
    rows = [line.split() for line in text.splitlines()]
    assert ["model", "Net", "Other"] in rows
    assert ["optimizer", "SGD(lr=0.01)", "Adam(lr=1)"] in rows
    assert ["steps", "1", "8"] in rows


def test_layers_that_came_and_went(make_report: MakeReport) -> None:
    before, after = make_report(depth=8), make_report(depth=8, name="block{}")
    lines = str(compare(before, after)).splitlines()
    assert lines[-3:] == [
        "no weight layer in common",
        "added      block1 … block8",
        "removed    layer1 … layer8",
    ]
    relu = dataclasses.replace(before.layers[0], role=Role.ACTIVATION, kind="relu", name="act")
    steps = [
        tuple(dataclasses.replace(step, layers=(layer,)) for step in before.steps)
        for layer in (relu, dataclasses.replace(relu, kind="gelu"))
    ]
    one, other = (
        dataclasses.replace(before, recording=dataclasses.replace(before.recording, steps=each))
        for each in steps
    )
    assert str(compare(one, other)).splitlines()[-1] == "replaced   relu → gelu in act"


@pytest.mark.parametrize("depth", [1, 8, 150])
@pytest.mark.parametrize("name", ["layer{}", "encoder.layers.{}.self_attention.out_proj"])
@pytest.mark.parametrize("width", [None, 60, 100])
@pytest.mark.parametrize("verbose", [False, True])
def test_no_line_is_wider_than_asked(
    make_report: MakeReport,
    vanishing: Finding,
    depth: int,
    name: str,
    width: int | None,
    verbose: bool,
) -> None:
    before = make_report(vanishing, depth=depth, gain=0.7123, name=name)
    after = make_report(depth=depth, name=name)
    optimizer = "AdamW(lr=0.001, betas=(0.9, 0.95), weight_decay=0.1, amsgrad=True)"
    recording = dataclasses.replace(after.recording, optimizer=optimizer)
    after = dataclasses.replace(after, recording=recording)
    lines = render(compare(before, after), width=width, verbose=verbose).splitlines()
    assert max(map(len, lines)) <= (width or 80)
    # What does not fit beside each other stands below each other, and is not cut off.
    assert "amsgrad=True)" in " ".join(" ".join(lines).split())


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_terminals_without_unicode(
    make_report: MakeReport, vanishing: Finding, encoding: str
) -> None:
    comparison = compare(make_report(vanishing, gain=0.1, name="块\x1b{}"), make_report())
    text = render(comparison, encoding=encoding)
    text.encode(encoding)
    assert "\x1b" not in text
    assert "2.3 -> 1.6" in text


def test_colour_is_added_and_nothing_else(make_report: MakeReport, vanishing: Finding) -> None:
    comparison = compare(make_report(vanishing), make_report())
    assert "\x1b[1;32mBETTER\x1b[0m" in render(comparison, color=True)
    assert "\x1b" not in render(comparison)
