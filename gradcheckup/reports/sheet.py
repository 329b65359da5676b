"""Paragraphs, pictures and tables in a given width, for terminals of any encoding."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

# Signs of the report in terminals that have ASCII or Latin-1 alone. All but the arrow keep their
# width, so that columns stay aligned.
_ASCII = str.maketrans(dict(zip("▁▂▃▄▅▆▇█·×–…", "_.,-~+*#?x-~", strict=True)) | {"→": "->"})


class Page:
    """Lines of text in a given width; every string is data, never markup."""

    def __init__(self, width: int, *, color: bool, encoding: str) -> None:
        from rich.console import Console

        self.width = width
        self._encoding = encoding
        self._translation = {} if _can_encode("▁█–…×→·", encoding) else _ASCII
        self._file = io.StringIO()
        self._console = Console(
            file=self._file,
            width=width,
            height=1000,
            force_terminal=color,
            color_system="standard" if color else None,
            no_color=not color,
            legacy_windows=False,
        )

    def clean(self, text: str) -> str:
        """Make a text printable: no control codes, nothing that the encoding lacks."""
        text = text.translate(self._translation)
        text = text.encode(self._encoding, "backslashreplace").decode(self._encoding)
        return "".join(
            sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text
        )

    def write(self, text: str, *, lead: str = "", style: str = "", indent: int = 0) -> None:
        """A paragraph that opens with `lead` in `style`; a lead hangs over the lines below it."""
        from rich.text import Text

        hang = 2 if lead else 0
        paragraph = Text.assemble((self.clean(lead), style), self.clean(text))
        lines = paragraph.wrap(self._console, self.width - indent - hang)
        for number_of_line, line in enumerate(lines):
            line.rstrip()
            margin = indent + (hang if number_of_line else 0)
            self._console.print(Text(" " * margin) + line, soft_wrap=True)

    def gap(self) -> None:
        """An empty line."""
        self._console.print()

    def picture(self, lines: list[str]) -> None:
        """Lines whose columns belong together, set off by an empty one."""
        from rich.text import Text

        if lines:
            self.gap()
        for line in lines:
            text = Text("  " + self.clean(line))
            text.truncate(self.width)
            self._console.print(text, soft_wrap=True)

    def table(self, table: Table) -> None:
        """A table, set off by an empty line."""
        self.gap()
        self._console.print(table)

    def code(self, text: str) -> None:
        """Lines to be copied: indented, and never wrapped."""
        for line in text.splitlines():
            self._console.print(
                "    " + self.clean(line), soft_wrap=True, markup=False, highlight=False
            )

    def text(self) -> str:
        """Everything written so far."""
        return "\n".join(line.rstrip() for line in self._file.getvalue().splitlines())


def _can_encode(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True
