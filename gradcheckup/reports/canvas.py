"""The sheet of a figure, what can be printed on it, and the file it is saved in."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from gradcheckup.errors import ReportError
from gradcheckup.files import reason, write_whole
from gradcheckup.reports.axes import PLAIN, SIZE
from gradcheckup.reports.names import shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("png", "svg", "pdf")
_DPI = 150
# Inches. The room on the right is for legends and the names of rules.
_WIDTH, _LEFT, _RIGHT, _GAP = 10.0, 0.85, 2.55, 0.16


def format_of(path: str | Path) -> str:
    """The format that a file's suffix stands for.

    Raises:
        ReportError: None that can be drawn.
    """
    suffix = Path(path).suffix
    if suffix.lower().removeprefix(".") not in FORMATS:
        raise ReportError(
            f"cannot draw {path}: expected a name that ends in .png, .svg or .pdf, "
            f"got {repr(suffix) if suffix else 'no ending'}"
        )
    return suffix.lower().removeprefix(".")


def panels(heights: list[float], *, above: float, below: float) -> tuple[Figure, list[Axes]]:
    """A figure of panels below each other that share their x axis; all sizes in inches."""
    from matplotlib.figure import Figure

    total = above + sum(heights) + _GAP * (len(heights) - 1) + below
    figure = Figure(figsize=(_WIDTH, total), dpi=_DPI, facecolor="white")
    grid = figure.subplots(
        len(heights),
        sharex=True,
        squeeze=False,
        gridspec_kw={
            "height_ratios": heights,
            "hspace": _GAP * len(heights) / sum(heights),
            "left": _LEFT / _WIDTH,
            "right": 1 - _RIGHT / _WIDTH,
            "top": 1 - above / total,
            "bottom": below / total,
        },
    )
    return figure, list(grid[:, 0])


def title(figure: Figure, text: str) -> None:
    """Put a line of text into the upper left corner."""
    style = {**PLAIN, "fontsize": SIZE + 2, "fontweight": "bold"}
    height = 1 - 0.12 / figure.get_figheight()
    figure.text(0.12 / _WIDTH, height, shorten(text, 110), va="top", **style)


def save(figure: Figure, path: str | Path, kind: str) -> None:
    """Write a figure in a format of `format_of`.

    Raises:
        ReportError: The file cannot be written.
    """
    content = io.BytesIO()
    figure.savefig(content, format=kind, dpi=_DPI, facecolor="white", transparent=False)
    try:
        write_whole(path, content.getvalue())
    except OSError as error:
        raise ReportError(f"cannot write figure {path}: {reason(error)}") from None


def cleaner() -> Callable[[str], str]:
    """What makes a text printable: no control codes, no signs that the font lacks."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    known = get_font(findfont(FontProperties())).get_charmap()

    def clean(text: str) -> str:
        return "".join(
            sign
            if sign.isprintable() and ord(sign) in known
            else sign.encode("unicode_escape").decode()
            for sign in text
        )

    return clean
