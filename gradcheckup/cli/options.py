"""The options by which a command says what to diagnose and how to judge."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from gradcheckup.errors import UsageError
from gradcheckup.rules import choose_rules
from gradcheckup.settings import Settings, check_threshold
from gradcheckup.thresholds import Thresholds

Function = TypeVar("Function", bound=Callable[..., Any])


class _Finite(click.FloatRange):
    """A number that is neither NaN nor infinite."""

    name = "number"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """The number, or click's error."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


_OPTIONS = (
    click.option("--model", metavar="NAME", help="Name of the model in the file."),
    click.option("--data", metavar="NAME", help="Name of the data in the file."),
    click.option(
        "--input",
        "shapes",
        multiple=True,
        metavar="SHAPE",
        help="Random inputs of this shape, batch first: 8,3,64,64, or 8,128:1000 for integers "
        "below 1000. Repeat it for several inputs.",
    ),
    click.option(
        "--criterion", metavar="NAME", help="Name of the loss in the file or in torch.nn."
    ),
    click.option(
        "--optimizer", metavar="NAME", help="Name of the optimizer in the file or in torch.optim."
    ),
    click.option("--lr", type=_Finite(min=0), help="Learning rate."),
    click.option("--momentum", type=_Finite(min=0), help="Momentum, where it has one."),
    click.option("--weight-decay", type=_Finite(min=0), help="Weight decay."),
    click.option(
        "--steps",
        type=click.IntRange(min=1),
        help="Steps of the probe; as many again where the signal fades.  [default: 8]",
    ),
    click.option(
        "--batches",
        type=click.IntRange(min=1),
        help="Batches of the data that the steps go through in turn.  [default: one a step]",
    ),
    click.option(
        "--follow",
        type=click.IntRange(min=0),
        metavar="STEP",
        help="Follow the loss to this step: look again where it gets nowhere, acquit what learns "
        "all the same, train light nets on; 0: do not.  "
        "[default: 64 for small nets]",
    ),
    click.option(
        "--seed",
        type=click.IntRange(min=0, max=2**32 - 1),
        help="For weights, data and probe.  [default: 0]",
    ),
    click.option("--select", multiple=True, metavar="CODES", help="Only these rules: GC101,GC2."),
    click.option("--ignore", multiple=True, metavar="CODES", help="Not these rules."),
    click.option(
        "--threshold", "limits", multiple=True, metavar="NAME=VALUE", help="Judge by another limit."
    ),
)


def checkup_options(function: Function) -> Function:
    """Everything that `checkup` reads, in the order of the help text."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkup:
    """Options over settings over defaults.

    Attributes:
        target: Arguments of `TargetOptions`.
        steps: Steps of the probe.
        batches: Batches that they go through; one a step where None.
        follow: To which step the loss is followed; None to leave it to the size of the net.
        seed: Of weights, data and probe.
        select: Rules to apply; all when empty.
        ignore: Rules to leave out.
        thresholds: Limits to judge by.
    """

    target: dict[str, Any]
    steps: int
    batches: int | None
    follow: int | None
    seed: int
    select: tuple[str, ...]
    ignore: tuple[str, ...]
    thresholds: Thresholds

    @property
    def judging(self) -> dict[str, Any]:
        """As keyword arguments of `gradcheckup.diagnose`."""
        return {
            "steps": self.steps,
            "batches": self.batches,
            "follow": self.follow,
            "seed": self.seed,
            "thresholds": self.thresholds,
            "select": self.select or None,
            "ignore": self.ignore or None,
        }


def checkup(given: dict[str, Any], settings: Settings) -> Checkup:
    """What the options and the settings ask for.

    Raises:
        UsageError: They make no sense.
    """
    seed = first(given["seed"], settings.seed, 0)
    select = split(given["select"]) or settings.select
    ignore = split(given["ignore"]) or settings.ignore
    choose_rules(select, ignore)
    hyperparameters = {
        name: given[name] for name in ("lr", "momentum", "weight_decay") if given[name] is not None
    }
    return Checkup(
        target={
            "model": given["model"],
            "data": given["data"],
            "input": given["shapes"],
            "criterion": given["criterion"],
            "optimizer": given["optimizer"],
            "hyperparameters": hyperparameters,
            "default_input": settings.input,
            "default_optimizer": settings.optimizer,
            "default_lr": settings.lr,
            "seed": seed,
        },
        steps=first(given["steps"], settings.steps, 8),
        batches=first(given["batches"], settings.batches),
        follow=first(given["follow"], settings.follow),
        seed=seed,
        select=select,
        ignore=ignore,
        thresholds=Thresholds(**{**settings.thresholds, **limits_given(given["limits"])}),
    )


def place(path: Path | None) -> Path | None:
    """An absolute path: the model's code may change the working directory."""
    return Path.cwd() / path if path else None


def split(values: Sequence[str]) -> tuple[str, ...]:
    """``("GC1,GC2", "GC301")`` as three codes."""
    return tuple(part.strip() for value in values for part in value.split(",") if part.strip())


def limits_given(pairs: Sequence[str]) -> dict[str, float]:
    """``NAME=VALUE`` of each ``--threshold``.

    Raises:
        UsageError: One is no limit, or no number.
    """
    limits = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(f"--threshold {pair!r}: expected NAME=VALUE, as dead_warning=0.3")
        try:
            limits[check_threshold(name, "--threshold")] = float(value)
        except ValueError:
            raise UsageError(f"--threshold {pair!r}: {value!r} is no number") from None
    return limits


def form_of(output: Path | None) -> str | None:
    """A file called .json is to hold JSON."""
    return "json" if output and output.suffix == ".json" else None


def first(*values: Any) -> Any:
    """The first that is not None, or None."""
    return next((value for value in values if value is not None), None)
