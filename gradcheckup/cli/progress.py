"""A progress bar for probes that take long enough to wonder."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_DELAY = 1.0
"""Seconds before the bar appears: most probes are done by then."""

_LABEL = 34
"""Columns for what is being done."""


@contextmanager
def progress(total: int) -> Iterator[Callable[[int, int], None] | None]:
    """Yields the `on_step` for `diagnose`; None, and no bar, where stderr is no terminal."""
    with trial_progress(total) as on_trial:
        yield on_trial and (lambda done, total: on_trial("probing", done, total))


@contextmanager
def trial_progress(total: int = 0) -> Iterator[Callable[[str, int, int], None] | None]:
    """Yields the `on_trial` for `prescribe`; None, and no bar, where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.table import Column

    bar = Progress(
        TextColumn("{task.description}", table_column=Column(no_wrap=True, max_width=_LABEL)),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps"),
        console=Console(stderr=True),
        transient=True,
        # The model may print, and its output is not to land in stderr.
        redirect_stdout=False,
        redirect_stderr=False,
    )
    task = bar.add_task("probing", total=total)
    timer = threading.Timer(_DELAY, bar.start)
    timer.daemon = True
    timer.start()

    def on_trial(label: str, done: int, steps: int) -> None:
        bar.update(task, description=label, completed=done, total=steps)

    try:
        yield on_trial
    finally:
        timer.cancel()
        timer.join()
        bar.stop()
