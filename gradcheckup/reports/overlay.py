"""The gradient of several reports side by side, against relative depth."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from gradcheckup.errors import UsageError
from gradcheckup.records import Step
from gradcheckup.report import Report
from gradcheckup.reports import axes as panel
from gradcheckup.reports.axes import Style
from gradcheckup.reports.canvas import cleaner, format_of, panels, save
from gradcheckup.reports.depth import Curve, weight_layers
from gradcheckup.reports.names import shorten
from gradcheckup.rules.exploding_gradient import upper_limit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LABEL = 26
"""Characters of a label that have room beside the panel."""
_LINES = ("-", "--", "-.", ":")
_COLORS = (
    panel.INK, panel.BLUE, panel.VERMILION, panel.GREEN, panel.PURPLE, panel.ORANGE, panel.SKY,
)  # fmt: skip
_MARKERS = "osD^vPX*<>"


def plot_profiles(reports: Mapping[str, Report], path: str | Path, *, step: int = 0) -> None:
    """Draw the gradient ratio against depth, a line for each report, and write it to `path`.

    Depth is relative, from the first weight layer to the last one, so that nets of different
    depth can be compared. The band holds the end-to-end ratios that are healthy for all of them.

    Args:
        reports: What to draw, by the label of its line.
        path: Its suffix says the format: .png, .svg or .pdf.
        step: Which of the measured steps; -1 for the last.

    Raises:
        UsageError: There are no reports, or one of them has no such step.
        ReportError: The format is none of these, or the file cannot be written.
    """
    kind = format_of(path)
    if not reports:
        raise UsageError('expected reports by label, as {"before": report}, got none')
    save(profile_figure(reports, step), path, kind)


def profile_figure(reports: Mapping[str, Report], step: int) -> Figure:
    """The figure of `plot_profiles`, not yet written."""
    figure, (axes,) = panels([4.0], above=0.15, below=0.6)
    steps = [report.step(step) for report in reports.values()]
    earliest, latest = (pick(each.index for each in steps) for pick in (min, max))
    when = f"step {latest}" if earliest == latest else f"steps {earliest} to {latest}"
    panel.prepare(axes, f"gradient ratio at {when}")
    low = max(report.thresholds.gradient_ratio_low for report in reports.values())
    high = min(upper_limit(each.recording, each.thresholds) for each in reports.values())
    profiles = [_relative(each) for each in steps]
    # Limits that the user has set may leave nothing that is healthy for all.
    panel.log_panel(axes, profiles, (low, high) if low < high else None)
    clean = cleaner()
    for index, (label, profile) in enumerate(zip(reports, profiles, strict=True)):
        style = Style(
            _COLORS[index % len(_COLORS)],
            marker=_MARKERS[index % len(_MARKERS)],
            line=_LINES[index % len(_LINES)],
        )
        panel.draw_curve(axes, profile, style, shorten(clean(str(label)), _LABEL))
    panel.explain_marks(axes, profiles)
    panel.legend(axes)
    axes.set_xlim(-0.03, 1.03)
    axes.set_xticks([0, 0.5, 1], ["first layer", "half way", "last layer"], **panel.PLAIN)
    axes.set_xlabel("relative depth", **panel.PLAIN)
    return figure


def _relative(step: Step) -> Curve:
    """Gradient ratios from the first weight layer, at 0, to the last, at 1."""
    layers = weight_layers(step)
    last = max(len(layers) - 1, 1)
    return Curve.of(
        ((index / last, layer.gradient_ratio) for index, layer in enumerate(layers)), log=True
    )
