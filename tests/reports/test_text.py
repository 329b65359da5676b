"""The text report: what is said first, what is said at all, and how wide it is."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable

import pytest

from gradcheckup.records import Finding, LayerRecord, Role, Severity
from gradcheckup.report import Report
from gradcheckup.reports.text import render

MakeReport = Callable[..., Report]

SICK = """\
UNHEALTHY  Net, 8 layers, 8 probe steps with SGD(lr=0.01)
assumed: CrossEntropyLoss; batch of 8

GC101 vanishing-gradient  critical  layer1 … layer5
  layer1 receives 1e6× less gradient than layer7 (a ratio of 1e-6, 0.1× per
  layer; healthy: 0.02 … 100), at all 8 steps. Its weights moved 2e-10 of their
  size a step, layer7's 2e-4: SGD(lr=0.01) needs 5e7 steps to change them by 1%.
  likely cause: 7 sigmoids (each passes 0.24 of the gradient) behind weights
  that pass 0.58× a layer
  also: GC203 collapsed-signal in layer3 … layer6
  likely to help: normalization, skip_connection

  gradient  ▁▂▃▄▅▆▇█  1e-6 in layer1 … 10 in layer8
  signal    █▇▆▅▄▃▂▁  1e-7 in layer8 … 1 in layer1
            layer1 → layer8, log scale, step 0

all layers: --verbose     why: gradcheckup explain GC101"""

HEALTHY = """\
HEALTHY  Net, 8 layers, 8 probe steps with SGD(lr=0.01)
gradient 1 end to end, signal 1, updates 0.001 … 0.001, loss 2.3 → 1.6"""

TABLE = """\
layer  kind   |grad| ratio gain signal satur. dead update
layer1 linear   1e-5  0.01    –    0.5      –    –  0.001
layer2 linear   1e-4   0.1    –   0.05      –    –  0.001
layer3 linear  0.001     1    –  0.005      –    –  0.001
layer4 linear   0.01    10    – 5e-4        –    –  0.001"""


def test_a_sick_net(make_report: MakeReport, vanishing: Finding) -> None:
    report = make_report(vanishing, gain=0.1, assumptions=("CrossEntropyLoss", "batch of 8"))
    assert render(report) == SICK


def test_a_healthy_net_gets_two_lines(make_report: MakeReport) -> None:
    assert render(make_report()) == HEALTHY


def test_a_healthy_net_says_what_the_probe_changed(make_report: MakeReport) -> None:
    report = make_report()
    layers = tuple(
        dataclasses.replace(layer, gradient_ratio=2500.0 if layer.name == "layer1" else 1.0)
        for layer in report.layers
    )
    first = dataclasses.replace(report.steps[0], layers=layers)
    recording = dataclasses.replace(report.recording, steps=(first, *report.steps[1:]))
    changed = dataclasses.replace(report, recording=recording)
    rest = "signal 1, updates 0.001 … 0.001, loss 2.3 → 1.6"
    assert render(changed).splitlines()[1:] == [f"gradient 2,500 → 1 end to end, {rest}"]
    # No figure is left out where there is less room.
    assert render(changed, width=70).splitlines()[1:] == [f"gradient 2,500 → 1, {rest}"]


def test_without_next_steps(make_report: MakeReport, vanishing: Finding) -> None:
    report = make_report(vanishing, gain=0.1, assumptions=("CrossEntropyLoss", "batch of 8"))
    assert render(report, next_steps=False) == SICK.rpartition("\n\n")[0]


def test_in_python_the_next_step_is_an_attribute(
    make_report: MakeReport, vanishing: Finding
) -> None:
    last = render(make_report(vanishing, subject="")).splitlines()[-1]
    assert last == "all layers: report.layers     why: gradcheckup explain GC101"


def test_verbose_adds_the_table(make_report: MakeReport) -> None:
    text = render(make_report(depth=4, gain=0.1), verbose=True)
    rows = [line.split() for line in text.splitlines()]
    for expected in TABLE.splitlines():
        assert expected.split() in rows


def test_what_was_not_measured_is_a_dash_and_never_zero(make_report: MakeReport) -> None:
    report = make_report(depth=1)
    bare = LayerRecord(name="relu", call=2, kind="relu", role=Role.ACTIVATION)
    step = dataclasses.replace(report.steps[0], layers=(bare,), reference=None)
    recording = dataclasses.replace(report.recording, steps=(step,))
    text = render(dataclasses.replace(report, recording=recording), verbose=True)
    assert text.splitlines()[-1].split() == ["relu#2", "relu", *"–––––––"]


def test_entropy_has_a_column_where_there_is_attention(make_report: MakeReport) -> None:
    report = make_report(depth=1)
    bare = LayerRecord(name="relu", call=0, kind="relu", role=Role.ACTIVATION)
    attends = LayerRecord(
        name="mix", call=0, kind="attention", role=Role.ATTENTION, attention_entropy=0.25
    )
    step = dataclasses.replace(report.steps[0], layers=(bare, attends), reference=None)
    recording = dataclasses.replace(report.recording, steps=(step,))
    text = render(dataclasses.replace(report, recording=recording), verbose=True)
    heading, *rows = (line.split() for line in text.splitlines()[-3:])
    place = heading.index("entropy")
    assert [row[place] for row in rows] == ["–", "0.25"]


@pytest.mark.parametrize("depth", [1, 8, 150])
@pytest.mark.parametrize("name", ["layer{}", "encoder.layers.{}.self_attention.out_proj"])
@pytest.mark.parametrize("width", [None, 40, 60, 100])
@pytest.mark.parametrize("verbose", [False, True])
def test_no_line_is_wider_than_asked(
    make_report: MakeReport,
    vanishing: Finding,
    depth: int,
    name: str,
    width: int | None,
    verbose: bool,
) -> None:
    names = tuple(name.format(index) for index in range(1, depth + 1))
    finding = dataclasses.replace(vanishing, layers=names, culprit=names[0])
    report = make_report(finding, depth=depth, gain=0.7, name=name)
    lines = render(report, width=width, verbose=verbose).splitlines()
    # Seven figures a row have a width of their own.
    least = 60 if verbose else 0
    assert max(map(len, lines)) <= max(width or 80, least)


def test_names_are_data_and_neither_markup_nor_control_codes(
    make_report: MakeReport, vanishing: Finding
) -> None:
    name = "[red]a\x1b[31m\n[/]{}"
    finding = dataclasses.replace(vanishing, layers=(name.format(1),), culprit=name.format(1))
    text = render(make_report(finding, name=name), verbose=True)
    assert "\x1b" not in text
    assert r"[red]a\x1b[31m\n[/]1 receives" in text
    assert any(line.startswith(r"[red]a\x1b") for line in text.splitlines())


def test_colour_is_added_and_nothing_else(make_report: MakeReport, vanishing: Finding) -> None:
    report = make_report(vanishing, gain=0.1)
    colored = render(report, color=True, verbose=True)
    assert colored.startswith("\x1b[1;31mUNHEALTHY\x1b[0m")
    assert "\x1b" not in render(report)
    bare = [line.rstrip() for line in re.sub(r"\x1b\[[0-9;]*m", "", colored).splitlines()]
    assert bare == render(report, verbose=True).splitlines()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_terminals_without_unicode_get_signs_that_they_have(
    make_report: MakeReport, vanishing: Finding, encoding: str
) -> None:
    finding = dataclasses.replace(vanishing, layers=("块1", "layer2"))
    text = render(make_report(finding, gain=0.1), encoding=encoding, verbose=True)
    text.encode(encoding)
    assert "_.,-~+*#" in text
    assert "1e6x less" in text
    assert r"\u57571" in text


def test_lone_surrogates_can_be_written(make_report: MakeReport) -> None:
    report = make_report(assumptions=("data from \udcff.py",))
    assert r"\udcff" in render(report)
    render(report).encode("utf-8")


def test_a_net_that_died_shows_where(make_report: MakeReport, vanishing: Finding) -> None:
    report = make_report(vanishing, depth=4)
    values = (0.0, math.nan, None, 1.0)
    layers = tuple(
        dataclasses.replace(layer, gradient_ratio=value, signal_ratio=value)
        for layer, value in zip(report.layers, values, strict=True)
    )
    step = dataclasses.replace(report.steps[0], layers=layers)
    recording = dataclasses.replace(report.recording, steps=(step,))
    text = render(dataclasses.replace(report, recording=recording))
    assert "gradient  0!·█  0 in layer1 … 1 in layer4" in text
    assert "0 exactly 0, ! NaN or infinite, · not measured" in text


def test_the_profile_is_of_the_step_at_which_it_went_wrong(
    make_report: MakeReport, vanishing: Finding
) -> None:
    late = dataclasses.replace(vanishing, steps=(5, 6, 7))
    assert "log scale, step 5" in render(make_report(late))


def test_layers_called_often_are_counted_once(make_report: MakeReport) -> None:
    report = make_report(depth=2)
    layers = tuple(dataclasses.replace(report.layers[0], call=call) for call in range(30))
    step = dataclasses.replace(report.steps[0], layers=layers)
    recording = dataclasses.replace(report.recording, steps=(step,))
    text = render(dataclasses.replace(report, recording=recording))
    assert text.startswith("HEALTHY  Net, 1 layer in 30 calls, 1 probe step with")


def test_warnings_and_information_are_short(make_report: MakeReport) -> None:
    warning = Finding(
        code="GC202",
        rule="dead-units",
        severity=Severity.WARNING,
        layers=("layer3",),
        observed=0.6,
        limit=0.5,
    )
    frozen = Finding(
        code="GC502",
        rule="frozen-parameters",
        severity=Severity.INFORMATION,
        layers=("layer1", "layer2"),
    )
    text = render(make_report(warning, frozen))
    assert text.splitlines()[2:] == [
        "",
        "GC202 dead-units  warning  layer3",
        "  60% of the units of layer3 never fired (limit 50%).",
        "GC502 frozen-parameters  information  layer1, layer2",
        "",
        "why: gradcheckup explain GC202",
    ]


def test_printing_a_report_is_the_short_text(make_report: MakeReport) -> None:
    report = make_report()
    assert str(report) == repr(report) == render(report)


@pytest.mark.parametrize("width", [40, 80])
def test_the_course_through_time_is_drawn(make_report: MakeReport, width: int) -> None:
    found = Finding(
        code="GC105", rule="vanishing-through-time", severity=Severity.CRITICAL,
        layers=("layer1",), culprit="layer1", observed=0.0,
    )  # fmt: skip
    report = make_report(found, depth=2)
    (step, *_) = report.steps
    profile = (0.0, *(10.0**power for power in range(-7, 1)))
    rnn = dataclasses.replace(step.layers[0], time_profile=profile, time_steps=90)
    steps = (dataclasses.replace(step, layers=(rnn, step.layers[1])),)
    report = dataclasses.replace(
        report, recording=dataclasses.replace(report.recording, steps=steps)
    )
    text = render(report, width=width)
    assert "time      0▁▂▃▄▅▆▇█" in text
    assert "0 at time step 0 … 1 at 89" in text
    assert "0 exactly 0" in text.replace("\n", " ")
    assert all(len(line) <= width for line in text.splitlines())
    # A healthy report has room for it only where it is asked about.
    assert "at time step" not in render(dataclasses.replace(report, findings=()), verbose=True)
