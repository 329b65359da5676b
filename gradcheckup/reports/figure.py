"""The figure of one report: what every layer receives, and where the findings are.

Drawn with matplotlib's objects and never with pyplot, so that neither the user's open figures nor
their settings change. matplotlib is imported when a figure is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from gradcheckup.records import Finding, LayerRecord, Severity, Step
from gradcheckup.report import Report
from gradcheckup.reports import axes as panel
from gradcheckup.reports.axes import Style
from gradcheckup.reports.canvas import cleaner, format_of, panels, save, title
from gradcheckup.reports.depth import Curve, Depth, weight_layers
from gradcheckup.reports.names import shorten
from gradcheckup.reports.text import headline
from gradcheckup.rules.exploding_gradient import upper_limit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The first step lies wide and light below the last, and shows also where the two are the same.
_FIRST = Style(panel.AMBER, width=4.0, size=8.5)
_LAST = Style(panel.BLUE)
_DEAD = Style(panel.VERMILION, marker="s", line=":")
_MARKS = {
    Severity.CRITICAL: (panel.VERMILION, "s", 5.5),
    Severity.WARNING: (panel.ORANGE, "D", 4.5),
    Severity.INFORMATION: (panel.GREY, "o", 3.5),
}


def draw(report: Report, path: str | Path) -> None:
    """Draw the layers of one report, with depth to the right, and write the figure to `path`.

    From top to bottom: the layers that findings concern; the gradient ratio with the band of
    healthy end-to-end ratios, as GC101 and GC102 judge them; the signal ratio; and the shares of
    saturated and dead units where there are any to count. The first and the last measured step are
    both drawn. Exact zeros, infinities and NaN stand at the edge of a panel; what was not measured
    leaves a gap.

    Args:
        report: What to draw.
        path: Its suffix says the format: .png, .svg or .pdf.

    Raises:
        ReportError: The format is none of these, or the file cannot be written.
    """
    kind = format_of(path)
    save(layer_figure(report), path, kind)


def layer_figure(report: Report) -> Figure:
    """The figure of `draw`, not yet written."""
    first, last = report.steps[0], report.steps[-1]
    depth = Depth.of(first)
    lanes = _lanes(report)
    shares = _has_shares(first) or _has_shares(last)
    heights = [0.27 * len(lanes)] if lanes else []
    heights += [3.0, 1.4, *([1.2] if shares else [])]
    clean = cleaner()
    ticks = panel.Ticks.of(depth.names, clean)
    figure, column = panels(heights, above=0.5, below=ticks.height + 0.35)
    rest = iter(column)
    if lanes:
        _draw_findings(next(rest), lanes, depth, first, clean)
    steps = [(last, _LAST)] if first is last else [(first, _FIRST), (last, _LAST)]
    _draw_gradient(next(rest), report, depth, steps)
    _draw_signal(next(rest), depth, steps)
    if shares:
        _draw_shares(next(rest), depth, steps)
    for axes in column[:-1]:
        axes.tick_params(labelbottom=False)
    ticks.put(column[-1])
    column[-1].set_xlim(*depth.span)
    column[-1].set_xlabel("layers in execution order", **panel.PLAIN)
    figure.align_ylabels(column)
    word, about = headline(report)
    title(figure, f"{word}  {clean(about)}")
    return figure


def _lanes(report: Report) -> dict[str, list[Finding]]:
    """Findings and their consequences by code, in the order of the report."""
    lanes: dict[str, list[Finding]] = {}
    for finding in report.findings:
        for each in finding.walk():
            lanes.setdefault(each.code, []).append(each)
    return lanes


def _draw_findings(
    axes: Axes,
    lanes: Mapping[str, list[Finding]],
    depth: Depth,
    step: Step,
    clean: Callable[[str], str],
) -> None:
    """A lane for each code, marked at the layers concerned."""
    panel.prepare(axes, "")
    axes.set_ylim(len(lanes) - 0.4, -0.6)
    axes.spines["left"].set_visible(False)
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(length=0)
    axes.set_yticks(range(len(lanes)), list(lanes), **panel.PLAIN)
    for row, findings in enumerate(lanes.values()):
        worst = max(findings, key=lambda finding: finding.severity.rank)
        said = f"{worst.rule}, {worst.severity.value}"
        axes.text(1.01, row, said, transform=axes.get_yaxis_transform(), va="center", **panel.PLAIN)
        found = False
        for finding in findings:
            color, marker, size = _MARKS[finding.severity]
            places = depth.find(finding, step)
            found = found or bool(places)
            axes.plot(
                places,
                [row] * len(places),
                linestyle="",
                marker=marker,
                color=color,
                markersize=size if len(depth.names) <= 60 else size * 0.7,
            )
        if not found:
            about = ", ".join(dict.fromkeys(worst.layers))
            axes.text(
                0.01,
                row,
                shorten(clean(about), 60) if about else "the whole model",
                transform=axes.get_yaxis_transform(),
                va="center",
                **{**panel.PLAIN, "color": panel.GREY},
            )


def _draw_gradient(
    axes: Axes, report: Report, depth: Depth, steps: list[tuple[Step, Style]]
) -> None:
    """Ratios in the healthy band; plain norms where there was no layer to refer to."""
    ratios = any(
        layer.gradient_ratio is not None for step, _ in steps for layer in weight_layers(step)
    )
    panel.prepare(axes, "gradient ratio" if ratios else "gradient norm")
    curves = [
        _curve(step, depth, lambda layer: layer.gradient_ratio if ratios else layer.gradient_norm)
        for step, _ in steps
    ]
    high = upper_limit(report.recording, report.thresholds)
    band = (report.thresholds.gradient_ratio_low, high) if ratios else None
    panel.log_panel(axes, curves, band)
    for curve, (step, style) in zip(curves, steps, strict=True):
        panel.draw_curve(axes, curve, style, f"step {step.index}")
    panel.explain_marks(axes, curves)
    panel.legend(axes)


def _draw_signal(axes: Axes, depth: Depth, steps: list[tuple[Step, Style]]) -> None:
    panel.prepare(axes, "signal ratio")
    curves = [_curve(step, depth, lambda layer: layer.signal_ratio) for step, _ in steps]
    panel.log_panel(axes, curves, None)
    for curve, (_, style) in zip(curves, steps, strict=True):
        panel.draw_curve(axes, curve, style, "_")  # the legend of the gradient holds here too
    panel.explain_marks(axes, curves)
    panel.legend(axes)


def _draw_shares(axes: Axes, depth: Depth, steps: list[tuple[Step, Style]]) -> None:
    """Saturated units at both steps; dead ones at the last, which has counted them the longest."""
    panel.prepare(axes, "share of units")
    panel.share_scale(axes)
    drawn: list[tuple[Step, Style, str, Callable[[LayerRecord], float | None]]]
    drawn = [(step, style, "saturated", lambda layer: layer.saturation) for step, style in steps]
    drawn.append((steps[-1][0], _DEAD, "dead", lambda layer: layer.dead_fraction))
    curves = []
    for step, style, what, value in drawn:
        points = [
            (depth.places[layer.key], value(layer))
            for layer in step.layers
            if layer.key in depth.places and value(layer) is not None
        ]
        if points:
            curves.append(Curve.of(points, log=False))
            panel.draw_curve(axes, curves[-1], style, f"{what}, step {step.index}")
    panel.explain_marks(axes, curves)
    panel.legend(axes)


def _has_shares(step: Step) -> bool:
    return any(
        layer.saturation is not None or layer.dead_fraction is not None for layer in step.layers
    )


def _curve(step: Step, depth: Depth, value: Callable[[LayerRecord], float | None]) -> Curve:
    """The values of the weight layers."""
    return Curve.of(
        (
            (depth.places[layer.key], value(layer))
            for layer in weight_layers(step)
            if layer.key in depth.places
        ),
        log=True,
    )
