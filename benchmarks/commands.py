"""What the commands of the benchmarks have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import click
from rich.console import Console

import gradcheckup

INTERRUPTED = 130
"""Exit code after Ctrl-C."""


def names(known: Iterable[str]) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """Reads a list of names, and refuses unknown ones; for the `callback` of an option."""

    def read(context: click.Context, parameter: click.Parameter, text: str) -> list[str]:
        del context, parameter
        chosen = [name.strip() for name in text.split(",") if name.strip()]
        unknown = sorted(set(chosen) - set(known))
        if unknown:
            raise click.BadParameter(f"{', '.join(unknown)}: choose from {', '.join(known)}")
        return chosen

    return read


@contextmanager
def reported(console: Console, name: str) -> Iterator[None]:
    """One net that gradcheckup cannot judge is to be known, and no end of the run."""
    try:
        yield
    except gradcheckup.GradcheckupError as error:
        console.print(f"{name} cannot be judged: {error}", markup=False)
