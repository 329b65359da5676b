"""A progress bar for probes that take long enough to wonder."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_DELAY = 1.0
"""Seconds before the bar appears: most probes are done by then."""


@contextmanager
def progress(total: int) -> Iterator[Callable[[int, int], None] | None]:
    """Yields the `on_step` for `diagnose`; None, and no bar, where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    bar = Progress(
        TextColumn("probing"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps"),
        console=Console(stderr=True),
        transient=True,
        # The model may print, and its output is not to land in stderr.
        redirect_stdout=False,
        redirect_stderr=False,
    )
    task = bar.add_task("", total=total)
    timer = threading.Timer(_DELAY, bar.start)
    timer.daemon = True
    timer.start()

    def on_step(done: int, _total: int) -> None:
        bar.update(task, completed=done)

    try:
        yield on_step
    finally:
        timer.cancel()
        timer.join()
        bar.stop()
