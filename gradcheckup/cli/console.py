"""Where text goes: a terminal, a pipe, or a file that appears whole or not at all."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

import click

from gradcheckup.errors import UsageError
from gradcheckup.files import reason, write_whole
from gradcheckup.tracebacks import relative

WIDTH = 80
_WIDEST = 100

color_option = click.option(
    "--no-color", is_flag=True, help="No colours; NO_COLOR=1 does the same."
)


def color_wanted(stream: TextIO, *, refused: bool) -> bool:
    """Colour is for terminals, unless ``--no-color`` or NO_COLOR (no-color.org) refuses it."""
    if refused or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return stream.isatty()


def width_of(stream: TextIO) -> int:
    """Columns of the terminal, within reason; 80 for everything else."""
    if not stream.isatty():
        return WIDTH
    return min(shutil.get_terminal_size((WIDTH, 24)).columns, _WIDEST)


def stdout_form(*, no_color: bool) -> dict[str, Any]:
    """Width, colour and encoding of what goes to stdout, as every text report takes them."""
    return stream_form(sys.stdout, no_color=no_color)


def stream_form(stream: TextIO, *, no_color: bool) -> dict[str, Any]:
    """The same for another stream."""
    return {
        "width": width_of(stream),
        "color": color_wanted(stream, refused=no_color),
        "encoding": stream.encoding or "utf-8",
    }


def wrapped(text: str, width: int, *, first: str = "", other: str = "") -> str:
    """A paragraph whose first line begins with one margin and the others with another."""
    return textwrap.fill(
        text,
        width,
        initial_indent=first,
        subsequent_indent=other,
        break_on_hyphens=False,
        break_long_words=False,
    )


def print_out(text: str) -> None:
    """Write a line to stdout; a reader that has gone (``| head``) does not change the verdict."""
    try:
        write_line(text, sys.stdout)
    except BrokenPipeError:
        silence_stdout()


def write_line(text: str, stream: TextIO) -> None:
    """Write a line; what the stream cannot encode is escaped."""
    encoding = stream.encoding or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
    stream.flush()


def silence_stdout() -> None:
    """Send what is still buffered nowhere, so that Python does not complain when it exits."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def check_writable(path: Path) -> None:
    """Complain before the probe rather than after it.

    Raises:
        UsageError: The file cannot be written there.
    """
    folder = path.parent
    if path.is_dir():
        raise UsageError(f"cannot write {relative(path)}: it is a folder")
    if not folder.is_dir():
        raise UsageError(f"cannot write {relative(path)}: there is no folder {relative(folder)}")
    if path.suffix == ".py":
        raise UsageError(
            f"{relative(path)} would be overwritten by the report; expected a name as report.json"
        )
    place = path if path.exists() else folder
    if not os.access(place, os.W_OK):
        raise UsageError(f"cannot write {relative(path)}: permission denied")


def check_figure(path: Path) -> None:
    """The same for a figure, whose name also says its format.

    Raises:
        ReportError: The format is none that can be drawn.
        UsageError: The file cannot be written there.
    """
    from gradcheckup.reports.canvas import format_of

    format_of(path)
    check_writable(path)


def write_file(path: Path, text: str) -> None:
    """Write the whole file, or leave what was there.

    Raises:
        UsageError: It cannot be written.
    """
    try:
        write_whole(path, text + "\n")
    except OSError as error:
        raise UsageError(f"cannot write {relative(path)}: {reason(error)}") from None
