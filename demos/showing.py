"""How the demos are run and shown: options, progress, text and figures."""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import torch
from experiment import BATCH_SIZE, EPOCHS, Case, Course, Measure, Reading, follow, number

import gradcheckup

WIDTH = 80
LAGS = 0.85
"""Held-out accuracy below which a net whose gradient flows has still not learnt its task."""


def run(
    text: str | None, apply: Callable[[Case], gradcheckup.Treated], measure: Measure, remark: str
) -> None:
    """Shows one mitigation, as a script; exits with 0 where it is healthy in its own measure."""
    with failures():
        options = parser(text).parse_args()
        case = Case.build(options, options.seed)
        treated = apply(case)
        name = " + ".join(treated.treatments)
        print(f"{text}\nBEFORE\n\n{case.diagnose(case.model, case.optimizer)}\n\nTREATMENT\n")
        for change in treated.changes:
            print(filled(f"{name}: {change.what} {', '.join(change.layers)}".rstrip()))
        print(f"\nin your own code:\n\n{textwrap.indent(treated.snippet.strip(), '    ')}\n")
        with progress(2 * case.epochs) as tick:
            before, after = follow(case, None, tick), follow(case, treated, tick)
        print(f"AFTER\n\n{gradcheckup.compare(before.report, after.report)}\n")
        reading = measure(after)
        tell(case, name, before, after, reading)
        print(f"{filled(remark)}\n\nAFTER THE TRAINING\n\n{after.trained}")
        if options.plot:
            plot(options.plot, name, before, after)
    sys.exit(0 if reading.is_healthy else 1)


def tell(case: Case, name: str, before: Course, after: Course, reading: Reading) -> None:
    """The measure of the mitigation, and what both nets have learnt."""
    low, high = map(number, reading.healthy)
    word = "healthy" if reading.is_healthy else "UNHEALTHY"
    print(f"{reading.measure}: {reading}, {word} ({low} … {high})\n")
    optimizers = dict.fromkeys(each.report.recording.optimizer for each in (before, after))
    epochs = "1 epoch" if case.epochs == 1 else f"{case.epochs} epochs"
    how = f"{epochs} of batches of {BATCH_SIZE}, {' and '.join(optimizers)}"
    print(filled(f"TRAINED  {how}, seed {case.seed}") + "\n")
    wide = max(len(name), len("untreated"))
    print(f"{'right answers, held out':{wide}}  at first  after")
    for label, course in (("untreated", before), (name, after)):
        first, last = course.accuracy
        print(f"{label:{max(wide, 23)}}  {first:8.2f}  {last:5.2f}")
    if reading.is_healthy and after.accuracy[1] < LAGS:
        print("\nhealthy in its own measure, but accuracy lags")
    print()


def plot(path: Path, name: str, before: Course, after: Course) -> None:
    """Writes the profiles side by side to `path`, and the layers of both nets beside it."""
    gradcheckup.plot_profiles(
        {"untreated": before.report, name: after.report, f"{name}, trained": after.trained}, path
    )
    parts = {"before": before.report, "after": after.report, "trained": after.trained}
    for part, report in parts.items():
        report.plot(path.with_stem(f"{path.stem}-{part}"))
    print(f"\ndrawn: {path}, and {', '.join(parts)} each as {path.stem}-…{path.suffix}")


class Parser(argparse.ArgumentParser):
    """Says what is wrong with an option in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; see --help\n")


def parser(text: str | None) -> argparse.ArgumentParser:
    """The options that all demos have."""
    made = Parser(
        description=text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("--data", choices=list(EPOCHS), default="digits")
    made.add_argument("--data-root", default="data", help="where FashionMNIST is or goes")
    epochs = ", ".join(f"{count} for {data}" for data, count in EPOCHS.items())
    made.add_argument("--epochs", type=positive, help=f"of each training ({epochs})")
    made.add_argument("--seed", type=whole, default=0, help="of weights and data (0)")
    made.add_argument("--plot", type=figure, metavar="FILE", help="a .png, .svg or .pdf to draw")
    return made


def whole(text: str) -> int:
    """A number from 0 on."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 on, got {text!r}")
    return int(text)


def positive(text: str) -> int:
    """A number from 1 on."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, got {text!r}")
    return int(text)


def figure(text: str) -> Path:
    """A file that can be drawn, looked at before the work rather than after it."""
    path = Path(text)
    if path.suffix.lower() not in {".png", ".svg", ".pdf"}:
        raise argparse.ArgumentTypeError(f"expected a .png, .svg or .pdf, got {text!r}")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {str(path.parent)!r}")
    return path


@contextmanager
def failures() -> Iterator[None]:
    """One line for what goes wrong; 2 for a mistake, 130 for Ctrl-C."""
    # Nets this small are fastest on one thread, and give the same figures on every machine.
    torch.set_num_threads(1)
    try:
        yield
    except gradcheckup.GradcheckupError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader has gone, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


@contextmanager
def progress(epochs: int) -> Iterator[Callable[[], None]]:
    """A bar on stderr, where that is a terminal; yields what is called after each epoch."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("training", total=epochs)
        yield lambda: bar.advance(task)


def filled(text: str) -> str:
    """A paragraph of the width of a terminal."""
    return textwrap.fill(text, WIDTH, break_on_hyphens=False)
