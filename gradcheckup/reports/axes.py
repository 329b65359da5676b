"""What the panels of a figure are made of, whatever style the user has set for their own figures.

Colours are those of Okabe & Ito (2008), which the colour-blind can tell apart; every line also has
a marker or dashes of its own, for print in grey.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gradcheckup.reports.depth import Curve
from gradcheckup.reports.names import shorten
from gradcheckup.reports.numbers import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLUE, SKY, GREEN, ORANGE = "#0072B2", "#56B4E9", "#009E73", "#E69F00"
VERMILION, PURPLE, INK, GREY = "#D55E00", "#CC79A7", "#222222", "#777777"
BAND, AMBER = "#DCEBE4", "#F6C667"
SIZE = 9.0
"""Points of all text but headings."""

# Names are the user's, and neither TeX nor mathtext.
PLAIN: dict[str, Any] = {"color": INK, "fontsize": SIZE, "usetex": False, "parse_math": False}

_CROWD = 40
"""Points from which on markers would hide the line."""
_LABELS = 6
_LONGEST = 20
_FEWEST = 10
"""With fewer names than this, it is hard to tell where a layer is."""
_STRIDES = [step * 10**power for power in range(9) for step in (1, 2, 5)]
_CHARACTERS = 90
"""How many characters fit side by side below the panels."""
_ROOM = 32
"""How many rotated names fit side by side there."""


@dataclass(frozen=True, slots=True)
class Style:
    """How a curve looks."""

    color: str
    marker: str = "o"
    line: str | tuple[int, tuple[int, ...]] = "-"
    width: float = 1.6
    size: float = 5.0


def prepare(axes: Axes, label: str) -> None:
    """A white panel with its y axis named and nothing but what is drawn in it."""
    axes.set_facecolor("white")
    axes.grid(visible=False, which="both")
    axes.grid(visible=True, axis="y", color="#E4E4E4", linewidth=0.6, linestyle="-")
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in {"left", "bottom"})
        spine.set_color(GREY)
    axes.tick_params(which="both", color=GREY, top=False, right=False)
    axes.set_ylabel(label, **PLAIN)


def log_scale(axes: Axes, values: Iterable[float]) -> None:
    """A log axis that has room for all values, at least two decades, labelled at powers of ten."""
    exponents = [math.log10(value) for value in values] or [0.0]
    low, high = min(exponents), max(exponents)
    missing = max(2 - (high - low), 0) / 2
    margin = 0.07 * max(high - low, 2)
    low, high = low - missing - margin, high + missing + margin
    axes.set_yscale("log")
    axes.set_ylim(10**low, 10**high)
    decades = range(math.ceil(low), math.floor(high) + 1)
    ticks = [10.0**power for power in decades[:: math.ceil(len(decades) / _LABELS)]]
    axes.set_yticks(ticks, [number(tick) for tick in ticks], **PLAIN)
    axes.minorticks_off()


def log_panel(axes: Axes, curves: list[Curve], band: tuple[float, float] | None) -> None:
    """A log axis with room for the curves and the band of healthy values."""
    log_scale(axes, [*(value for curve in curves for value in curve.drawable), *(band or ())])
    if band:
        axes.axhspan(*band, color=BAND, linewidth=0, zorder=0, label="healthy end to end")


def share_scale(axes: Axes) -> None:
    """From 0% to 100%."""
    axes.set_ylim(-0.07, 1.07)
    axes.set_yticks([0, 0.5, 1], ["0%", "50%", "100%"], **PLAIN)


def draw_curve(axes: Axes, curve: Curve, style: Style, label: str) -> None:
    """A line through what can be drawn to scale, and marks at the edge for the rest.

    Zeros of a log axis stand at the lower edge, infinities and NaN at the upper one.
    """
    from matplotlib.transforms import blended_transform_factory

    few = len(curve.places) <= _CROWD
    axes.plot(
        curve.places,
        curve.values,
        color=style.color,
        linestyle=style.line,
        linewidth=style.width,
        # A point between two gaps has no line, and shows only by its marker.
        marker=style.marker if few or len(curve.drawable) < 3 else ("." if _alone(curve) else ""),
        markersize=style.size,
        markeredgewidth=0,
        label=label,
    )
    edge = blended_transform_factory(axes.transData, axes.transAxes)
    for places, height, marker in (
        (curve.zeros, 0.025, "v"),
        (curve.infinite, 0.975, "^"),
        (curve.broken, 0.975, "x"),
    ):
        if not places:
            continue
        axes.plot(
            places,
            [height] * len(places),
            transform=edge,
            linestyle="",
            marker=marker,
            color=style.color,
            markersize=style.size + 1,
            clip_on=False,
            label="_",
        )


def _alone(curve: Curve) -> bool:
    values = [math.nan, *curve.values, math.nan]
    return any(
        math.isnan(before) and not math.isnan(value) and math.isnan(after)
        for before, value, after in zip(values, values[1:], values[2:], strict=False)
    )


def explain_marks(axes: Axes, curves: Iterable[Curve]) -> None:
    """Legend entries for the marks at the edges, where there are any."""
    drawn = list(curves)
    for marker, meaning, present in (
        ("v", "exactly 0", any(curve.zeros for curve in drawn)),
        ("^", "infinite", any(curve.infinite for curve in drawn)),
        ("x", "NaN", any(curve.broken for curve in drawn)),
    ):
        if present:
            axes.plot([], [], linestyle="", marker=marker, color=INK, markersize=6, label=meaning)


def legend(axes: Axes) -> None:
    """What is labelled, to the right of the panel, where it covers nothing."""
    if not axes.get_legend_handles_labels()[1]:
        return
    box = axes.legend(
        loc="upper left",
        bbox_to_anchor=(1.01, 1.03),
        frameon=False,
        fontsize=SIZE,
        labelcolor=INK,
        borderaxespad=0,
        handlelength=2.2,
    )
    for text in box.get_texts():
        text.set_usetex(False)
        text.set_parse_math(False)


@dataclass(frozen=True, slots=True)
class Ticks:
    """Layer names below the x axis: all where they fit, else every second, fifth, tenth ..."""

    names: Sequence[str]
    shown: Sequence[int]
    turned: bool

    @classmethod
    def of(cls, names: Sequence[str], clean: Callable[[str], str]) -> Ticks:
        """Choose which of the names to show."""
        texts = [shorten(clean(name), _LONGEST) for name in names]
        stride = next(each for each in _STRIDES if math.ceil(len(texts) / each) <= _ROOM)
        chosen = _thin(len(texts), stride)
        if stride > 1 and not _fit(texts, chosen):
            # Where names are left out anyway, fewer of them may stand upright.
            fewer = _thin(len(texts), _STRIDES[_STRIDES.index(stride) + 1])
            chosen = fewer if len(fewer) >= _FEWEST and _fit(texts, fewer) else chosen
        return cls(texts, chosen, turned=not _fit(texts, chosen))

    @property
    def height(self) -> float:
        """Inches that they need below the axis."""
        longest = max((len(self.names[index]) for index in self.shown), default=0)
        return 0.1 + (0.07 * longest + 0.1 if self.turned else 0.15)

    def put(self, axes: Axes) -> None:
        """Write them below a panel."""
        turned: dict[str, Any] = {"rotation": 60, "ha": "right", "rotation_mode": "anchor"}
        place = {**turned, "va": "top"} if self.turned else {}
        axes.set_xticks(self.shown, [self.names[at] for at in self.shown], **PLAIN, **place)


def _thin(total: int, stride: int) -> list[int]:
    """Every so many of them, and the last one, for which its neighbour makes room."""
    chosen = list(range(0, total, stride))
    if chosen and total - 1 - chosen[-1] <= stride / 2:
        chosen.pop()
    return [*chosen, total - 1] if total else []


def _fit(texts: Sequence[str], chosen: Sequence[int]) -> bool:
    """Whether these names fit side by side."""
    return sum(len(texts[index]) + 2 for index in chosen) <= _CHARACTERS
