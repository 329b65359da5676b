"""Figures: what is drawn where, that names stay readable, and that nothing else is touched."""

from __future__ import annotations

import dataclasses
import io
import math
import subprocess
import sys
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

import gradcheckup
from gradcheckup import ReportError, UsageError
from gradcheckup.records import Finding, LayerRecord, ParameterRecord, Role, Severity
from gradcheckup.report import Report
from gradcheckup.reports.figure import draw, layer_figure
from gradcheckup.reports.overlay import profile_figure
from gradcheckup.rules import RULES
from gradcheckup.thresholds import Thresholds

MakeReport = Callable[..., Report]
VALUES = (0.0, None, math.nan, math.inf, 5e-324, 1e308, 0.5, 0.25)


def panel(figure: Figure, label: str) -> Axes:
    (axes,) = (each for each in figure.axes if each.get_ylabel() == label)
    return axes


def line(axes: Axes, label: str) -> Line2D:
    (found,) = (each for each in axes.get_lines() if each.get_label() == label)
    return found


def points(drawn: Line2D) -> list[float]:
    """x, y, x, y ..."""
    return [float(each) for pair in drawn.get_xydata() for each in pair]


def band(axes: Axes) -> tuple[float, float]:
    (patch,) = (each for each in axes.patches if each.get_label() == "healthy end to end")
    box = patch.get_extents().transformed(axes.transData.inverted())
    return box.y0, box.y1


def legend(axes: Axes) -> list[str]:
    box = axes.get_legend()
    return [text.get_text() for text in box.get_texts()] if box else []


def with_layers(report: Report, *layers: LayerRecord, **fields: Any) -> Report:
    """The same layers at every step."""
    steps = tuple(dataclasses.replace(each, layers=layers, **fields) for each in report.steps)
    recording = dataclasses.replace(report.recording, steps=steps)
    return dataclasses.replace(report, recording=recording)


def with_values(report: Report, values: Iterable[float | None], *names: str) -> Report:
    """One value a layer in each of the named fields."""
    layers = [
        dataclasses.replace(layer, **dict.fromkeys(names, value))
        for layer, value in zip(report.layers, values, strict=True)
    ]
    return with_layers(report, *layers)


def rendered(figure: Figure) -> Any:
    """A renderer that knows where everything stands."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return canvas.get_renderer()


# -- what is drawn -------------------------------------------------------------------------------


def test_both_ends_of_the_probe_and_the_healthy_band(make_report: MakeReport) -> None:
    report = make_report(depth=4, gain=0.1)
    late = [dataclasses.replace(each, gradient_ratio=1.0) for each in report.layers]
    steps = (*report.steps[:-1], dataclasses.replace(report.steps[-1], layers=tuple(late)))
    report = dataclasses.replace(
        report, recording=dataclasses.replace(report.recording, steps=steps)
    )
    figure = layer_figure(report)
    axes = panel(figure, "gradient ratio")
    assert points(line(axes, "step 0")) == pytest.approx([0, 0.01, 1, 0.1, 2, 1, 3, 10])
    assert list(line(axes, "step 7").get_ydata()) == [1, 1, 1, 1]
    assert axes.get_yscale() == "log"
    assert band(axes) == pytest.approx((0.02, 100))
    assert [text.get_text() for text in figure.axes[-1].get_xticklabels()] == [
        "layer1", "layer2", "layer3", "layer4",
    ]  # fmt: skip
    signal = panel(figure, "signal ratio").get_lines()
    assert list(signal[0].get_ydata()) == pytest.approx([1, 0.1, 0.01, 0.001])


def test_the_band_is_the_one_that_rules_judge_by(make_report: MakeReport) -> None:
    report = make_report(depth=3)
    limits = Thresholds(gradient_ratio_low=0.5, gradient_ratio_high=7.0)
    strict = dataclasses.replace(report, thresholds=limits)
    assert band(panel(layer_figure(strict), "gradient ratio")) == pytest.approx((0.5, 7))
    # 40 BatchNorms with ReLU grow by sqrt(pi / (pi - 1)) each, and learn: GC102 allows it.
    norm = LayerRecord(name="bn", call=0, kind="batchnorm1d", role=Role.NORM)
    norms = [dataclasses.replace(norm, name=f"bn{index}") for index in range(40)]
    normalised = with_layers(report, *report.layers[:1], *norms, *report.layers[1:])
    expected = (math.pi / (math.pi - 1)) ** 20
    assert band(panel(layer_figure(normalised), "gradient ratio"))[1] == pytest.approx(
        expected, rel=0.01
    )


def test_activations_stand_between_the_weights(make_report: MakeReport) -> None:
    report = make_report(depth=3)
    sigmoid = LayerRecord(
        name="sigmoid", call=0, kind="sigmoid", role=Role.ACTIVATION, saturation=0.25
    )
    relu = LayerRecord(name="relu", call=0, kind="relu", role=Role.ACTIVATION, dead_fraction=1.0)
    norm = LayerRecord(name="norm", call=0, kind="layernorm", role=Role.NORM)
    first, second, third = report.layers
    axes = panel(
        layer_figure(with_layers(report, first, sigmoid, second, norm, relu, third)),
        "share of units",
    )
    assert points(line(axes, "saturated, step 7")) == pytest.approx([0.5, 0.25])
    assert points(line(axes, "dead, step 7")) == pytest.approx([1 + 2 / 3, 1.0])
    assert "dead, step 0" not in legend(axes)


def test_without_activations_there_is_no_empty_panel(make_report: MakeReport) -> None:
    labels = [axes.get_ylabel() for axes in layer_figure(make_report()).axes]
    assert labels == ["gradient ratio", "signal ratio"]


def test_what_has_no_place_on_a_log_axis_stands_at_the_edge(make_report: MakeReport) -> None:
    report = with_values(make_report(depth=8), VALUES, "gradient_ratio", "signal_ratio")
    figure = layer_figure(report)
    rendered(figure)
    for axes in (panel(figure, "gradient ratio"), panel(figure, "signal ratio")):
        assert legend(axes)[-3:] == ["exactly 0", "infinite", "NaN"]
        lines = axes.get_lines()
        marks = {
            each.get_marker(): list(each.get_xdata())
            for each in lines
            if each.get_label() == "_" and len(each.get_xdata()) == 1
        }
        assert marks == {"v": [0], "^": [3], "x": [2]}
        drawn = [value for value in lines[0].get_ydata() if not math.isnan(value)]
        assert len(drawn) == 4
        low, high = axes.get_ylim()
        assert 0 < low < min(drawn) < max(drawn) < high < math.inf


@pytest.mark.parametrize("value", [0.0, None, math.nan, math.inf, -math.inf, 5e-324])
def test_nothing_but_awkward_values(make_report: MakeReport, value: float | None) -> None:
    fields = ("gradient_norm", "gradient_ratio", "signal_ratio", "saturation", "dead_fraction")
    report = with_values(make_report(depth=3), [value] * 3, *fields)
    rendered(layer_figure(report))
    rendered(profile_figure({"a": report}, 0))


def test_norms_are_drawn_where_there_is_no_reference(make_report: MakeReport) -> None:
    report = with_values(make_report(depth=3), [None] * 3, "gradient_ratio")
    axes = panel(layer_figure(report), "gradient norm")
    assert list(line(axes, "step 0").get_ydata()) == pytest.approx([1e-3] * 3)
    assert legend(axes) == ["step 0", "step 7"]


def test_nets_without_weights_and_repeated_calls(make_report: MakeReport) -> None:
    report = make_report(depth=1)
    scale = dataclasses.replace(report.layers[0], role=Role.SCALE)
    assert panel(layer_figure(with_layers(report, scale)), "gradient ratio")
    calls = [dataclasses.replace(report.layers[0], call=call) for call in range(3)]
    figure = layer_figure(with_layers(report, *calls))
    names = [text.get_text() for text in figure.axes[-1].get_xticklabels()]
    assert names == ["layer1", "layer1#1", "layer1#2"]


# -- findings ------------------------------------------------------------------------------------


def test_findings_are_marked_at_their_layers(make_report: MakeReport, vanishing: Finding) -> None:
    figure = layer_figure(make_report(vanishing))
    lanes = figure.axes[0]
    assert [text.get_text() for text in lanes.get_yticklabels()] == ["GC101", "GC203"]
    said = [text.get_text() for text in lanes.texts]
    assert said == ["vanishing-gradient, critical", "collapsed-signal, critical"]
    marked = [(set(each.get_ydata()), list(each.get_xdata())) for each in lanes.get_lines()]
    assert marked == [({0}, [0, 1, 2, 3, 4]), ({1}, [2, 3, 4, 5])]


def test_findings_about_parameters_and_about_the_model(make_report: MakeReport) -> None:
    weight = ParameterRecord(name="layer2.weight", layer="layer2", shape=(2, 2), trainable=True)
    of_parameter = Finding(
        code="GC303",
        rule="unchanged-parameters",
        severity=Severity.WARNING,
        layers=("layer2.weight",),
    )
    of_nothing = Finding(code="GC304", rule="accumulating-gradient", severity=Severity.CRITICAL)
    elsewhere = Finding(
        code="GC501", rule="unused-parameters", severity=Severity.INFORMATION, layers=("extra",)
    )
    report = make_report(of_parameter, of_nothing, elsewhere, depth=3)
    report = with_layers(report, *report.layers, parameters=(weight,))
    lanes = layer_figure(report).axes[0]
    assert [list(each.get_xdata()) for each in lanes.get_lines()] == [[1], [], []]
    said = [text.get_text() for text in lanes.texts]
    assert "the whole model" in said
    assert "extra" in said


# -- legibility ----------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, 8, 33, 150, 1001])
@pytest.mark.parametrize("name", ["{}", "layer{}", "encoder.layers.{}.self_attention.out_proj"])
def test_names_of_layers_do_not_overlap(make_report: MakeReport, depth: int, name: str) -> None:
    """By the boxes that they really take."""
    figure = layer_figure(make_report(depth=depth, name=name, gain=0.9))
    renderer = rendered(figure)
    labels = figure.axes[-1].get_xticklabels()
    shown = [text.get_text() for text in labels]
    assert len(shown) >= min(depth, 8)
    assert "1" in shown[0]
    assert str(depth) in shown[-1]
    boxes = [text.get_window_extent(renderer) for text in labels]
    for before, after in pairwise(boxes):
        if labels[0].get_rotation():
            # Rotated texts all end at the axis: what counts is the distance of their lines.
            height = labels[0].get_fontsize() * figure.dpi / 72
            assert (after.x1 - before.x1) * math.sin(math.radians(60)) > 0.7 * height
        else:
            assert before.x1 < after.x0
    for box in boxes:
        assert box.x0 >= 0
        assert box.y0 > figure.axes[-1].xaxis.label.get_window_extent(renderer).y1


@pytest.mark.parametrize("depth", [1, 8, 150])
def test_nothing_is_cut_off(make_report: MakeReport, vanishing: Finding, depth: int) -> None:
    rule = max(RULES, key=lambda each: len(each.name))
    long = Finding(code=rule.code, rule=rule.name, severity=Severity.INFORMATION)
    report = make_report(vanishing, long, depth=depth, name="a.very.long.name.of.block{}.layer")
    assert_inside(layer_figure(report))
    assert_inside(
        profile_figure({"skip_connection + normalization": report, "do nothing": report}, 0)
    )


def assert_inside(figure: Figure) -> None:
    box = figure.get_tightbbox(rendered(figure))
    width, height = figure.get_size_inches()
    assert box.x0 >= 0
    assert box.y0 >= 0
    assert box.x1 <= width
    assert box.y1 <= height


def luminance(color: Any) -> float:
    """Relative luminance of WCAG 2, for colours of sRGB."""
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
        for part in to_rgb(color)
    ]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_steps_can_be_told_apart_in_grey(make_report: MakeReport) -> None:
    axes = panel(layer_figure(make_report()), "gradient ratio")
    first, last = line(axes, "step 0"), line(axes, "step 7")
    light, dark = luminance(first.get_color()), luminance(last.get_color())
    assert (light + 0.05) / (dark + 0.05) > 3
    # The first lies below the last and is wider, so that both are seen where they are the same.
    assert first.get_linewidth() > 2 * last.get_linewidth()
    assert axes.get_lines().index(first) < axes.get_lines().index(last)


def test_profiles_differ_by_more_than_colour(make_report: MakeReport) -> None:
    report = make_report()
    figure = profile_figure({str(index): report for index in range(12)}, 0)
    lines = [each for each in figure.axes[0].get_lines() if each.get_label() != "_"]
    assert len(lines) == 12
    assert len({(each.get_linestyle(), each.get_marker()) for each in lines}) == 12
    assert len({(each.get_color(), each.get_linestyle()) for each in lines}) == 12


# -- several reports -----------------------------------------------------------------------------


def test_profiles_by_relative_depth(make_report: MakeReport) -> None:
    deep, flat = make_report(depth=5, gain=0.1), make_report(depth=1)
    figure = profile_figure({"deep": deep, "flat": flat}, -1)
    (axes,) = figure.axes
    assert points(line(axes, "deep")) == pytest.approx(
        [0, 0.001, 0.25, 0.01, 0.5, 0.1, 0.75, 1, 1, 10]
    )
    assert points(line(axes, "flat")) == pytest.approx([0, 1])
    assert legend(axes) == ["healthy end to end", "deep", "flat"]
    assert axes.get_ylabel() == "gradient ratio at step 7"
    short = profile_figure({"deep": deep, "short": make_report(steps=2)}, -1).axes[0]
    assert short.get_ylabel() == "gradient ratio at steps 1 to 7"


def test_the_band_of_several_is_healthy_for_all(make_report: MakeReport) -> None:
    strict = Thresholds(gradient_ratio_low=0.5)
    none = Thresholds(gradient_ratio_low=8.0)
    other = Thresholds(gradient_ratio_high=7.0)
    reports = {
        str(limits): dataclasses.replace(make_report(), thresholds=limits)
        for limits in (strict, other)
    }
    assert band(profile_figure(reports, 0).axes[0]) == pytest.approx((0.5, 7))
    reports["none"] = dataclasses.replace(make_report(), thresholds=none)
    assert legend(profile_figure(reports, 0).axes[0])[0] != "healthy end to end"


def test_profiles_are_public(make_report: MakeReport, tmp_path: Path) -> None:
    report = make_report()
    gradcheckup.plot_profiles({"before": report, "after": report}, tmp_path / "p.svg")
    text = (tmp_path / "p.svg").read_text("utf-8")
    assert "<svg" in text
    with pytest.raises(UsageError, match="got none"):
        gradcheckup.plot_profiles({}, tmp_path / "q.svg")
    with pytest.raises(UsageError, match="expected a step from 0 to 7, got 9"):
        gradcheckup.plot_profiles({"a": report}, tmp_path / "q.svg", step=9)
    assert [path.name for path in tmp_path.iterdir()] == ["p.svg"]


# -- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "magic"),
    [
        ("f.png", b"\x89PNG"), ("f.PNG", b"\x89PNG"), ("f.svg", b"<?xml"), ("f.pdf", b"%PDF"),
    ],
)  # fmt: skip
def test_the_suffix_says_the_format(
    make_report: MakeReport, tmp_path: Path, name: str, magic: bytes
) -> None:
    make_report().plot(tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(magic)
    make_report().plot(str(tmp_path / name))
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("f.jpg", "expected a name that ends in .png, .svg or .pdf, got '.jpg'"),
        ("f", "got no ending"),
        ("no/f.png", "cannot write figure .*no such file or directory"),
        ("folder.png", "is a directory"),
        ("file/f.png", "not a directory"),
    ],
)
def test_files_that_cannot_be_written(
    make_report: MakeReport, tmp_path: Path, name: str, said: str
) -> None:
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").write_text("")
    for write in (draw, lambda report, path: gradcheckup.plot_profiles({"a": report}, path)):
        with pytest.raises(ReportError, match=said) as caught:
            write(make_report(), tmp_path / name)
        assert "\n" not in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} == {"folder.png", "file"}


def test_a_failed_write_leaves_the_old_figure(
    make_report: MakeReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "f.png").write_bytes(b"old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(ReportError, match="no space left"):
        make_report().plot(tmp_path / "f.png")
    assert (tmp_path / "f.png").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["f.png"]


# -- the user's own things -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_names_are_data(make_report: MakeReport, tmp_path: Path, kind: str) -> None:
    """Neither mathtext nor TeX nor XML nor control codes; and no warning of missing signs."""
    names = ["块", "$a_1^2$", "100%_1", "\\frac{1}", "<&>", "a\x1b[31m\n", "\ud800"]
    findings = [
        Finding(code=f"GC50{index}", rule="unused", severity=Severity.WARNING, layers=(f"{name}x",))
        for index, name in enumerate(names)
    ]
    report = make_report(*findings, depth=len(names))
    layers = [
        dataclasses.replace(layer, name=name)
        for layer, name in zip(report.layers, names, strict=True)
    ]
    report = with_layers(report, *layers)
    shown = [text.get_text() for text in layer_figure(report).axes[-1].get_xticklabels()]
    assert len(shown) == len(names)
    report.plot(tmp_path / f"f.{kind}")
    gradcheckup.plot_profiles(dict.fromkeys(names, report), tmp_path / f"g.{kind}")


def test_the_style_of_the_user_is_left_alone_and_left_out(make_report: MakeReport) -> None:
    plain, styled = io.BytesIO(), io.BytesIO()
    layer_figure(make_report()).savefig(plain, format="png")
    mine = {
        "text.usetex": True,
        "text.color": "white",
        "axes.facecolor": "black",
        "axes.labelcolor": "white",
        "axes.grid": True,
        "grid.color": "red",
        "font.size": 30.0,
        "lines.linewidth": 9.0,
        "xtick.color": "white",
        "ytick.labelsize": 30.0,
        "axes.spines.top": True,
        "xtick.top": True,
        "xtick.minor.visible": True,
    }
    with mpl.rc_context(mine):
        before = dict(mpl.rcParams)
        layer_figure(make_report()).savefig(styled, format="png")
        assert dict(mpl.rcParams) == before
    assert styled.getvalue() == plain.getvalue()


def test_pyplot_and_torch_stay_out(make_report: MakeReport, tmp_path: Path) -> None:
    make_report().to_json(tmp_path / "r.json")
    code = (
        "import sys, matplotlib, gradcheckup\n"
        "gradcheckup.load_report('r.json').plot('f.png')\n"
        "assert not {'torch', 'matplotlib.pyplot'} & set(sys.modules)\n"
        "assert matplotlib.rcParams._get_backend_or_none() is None\n"
    )
    command = [sys.executable, "-c", code]
    subprocess.run(command, cwd=tmp_path, check=True)  # noqa: S603 - the code stands above
