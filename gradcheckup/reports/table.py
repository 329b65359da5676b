"""The table of all layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from gradcheckup.records import LayerRecord
from gradcheckup.reports.names import shorten
from gradcheckup.reports.numbers import number, percent

if TYPE_CHECKING:
    from rich.table import Table

# Short headings leave the room to the names.
_FIGURES: dict[str, Callable[[LayerRecord], str]] = {
    "|grad|": lambda layer: number(layer.gradient_norm),
    "ratio": lambda layer: number(layer.gradient_ratio),
    "gain": lambda layer: number(layer.gain),
    "signal": lambda layer: number(layer.signal),
    "satur.": lambda layer: percent(layer.saturation),
    "dead": lambda layer: percent(layer.dead_fraction),
    "entropy": lambda layer: number(layer.attention_entropy),
    "update": lambda layer: number(layer.update_ratio),
}
_KIND = 11
_GAP = 2


def layer_table(
    layers: Sequence[LayerRecord], width: int, clean: Callable[[str], str] = str
) -> Table:
    """A table with one row a layer, in execution order, that fits into `width` columns.

    Args:
        layers: Those of one step.
        width: Columns there are; names give up their middle to fit.
        clean: Applied to every text that comes from the user's model.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    headings = _headings(layers)
    rows = [[_FIGURES[heading](layer) for heading in headings] for layer in layers]
    sizes = [
        max(len(cell) for cell in [heading, *column])
        for heading, *column in zip(headings, *rows, strict=True)
    ]
    kinds = [clean(layer.kind) for layer in layers]
    kind = min(max((len(text) for text in kinds), default=4), _KIND)
    room = max(width - sum(sizes) - len(sizes) - kind - 2, 5)
    table.add_column("layer", no_wrap=True, max_width=room)
    table.add_column("kind", no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for layer, text, figures in zip(layers, kinds, rows, strict=True):
        name = clean(layer.name)
        call = f"#{layer.call}" if layer.call else ""
        table.add_row(
            # Cleaned once more, because shortening adds an ellipsis.
            Text(clean(shorten(name, room - len(call)) + call)),
            Text(clean(shorten(text, kind))),
            *map(clean, figures),
        )
    return table


def grid(
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    width: int,
    clean: Callable[[str], str] = str,
) -> Table:
    """A table of texts that fits into `width` columns.

    Where there is too little room, names in the first column give up their middle, down to a
    quarter of the width, and the other columns wrap.

    Args:
        headings: One a column.
        rows: Each as long as the headings.
        width: Columns there are.
        clean: Applied to every text.
    """
    from rich.table import Table
    from rich.text import Text

    cells = [[clean(text) for text in row] for row in (headings, *rows)]
    first, *others = (max(map(len, column)) for column in zip(*cells, strict=True))
    gaps = _GAP * len(others)
    first = min(first, max(width - gaps - sum(others), width // 4))
    most = (width - gaps - first) // len(others)
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    table.add_column(cells[0][0], width=first, no_wrap=True)
    narrow = first + gaps + sum(others) > width
    for heading, size in zip(cells[0][1:], others, strict=True):
        table.add_column(heading, width=min(size, most) if narrow else size)
    for name, *figures in cells[1:]:
        # Cleaned once more, because shortening adds an ellipsis.
        table.add_row(Text(clean(shorten(name, first))), *map(Text, figures))
    return table


def _headings(layers: Sequence[LayerRecord]) -> list[str]:
    """All, but the entropy only where there is attention."""
    attends = any(layer.attention_entropy is not None for layer in layers)
    return [heading for heading in _FIGURES if attends or heading != "entropy"]
