"""Reports to judge: of probes with one seed after the other, of a watched loop, or a given one."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping
from itertools import islice, tee
from typing import Any

import pytest
import torch

import gradcheckup
from gradcheckup import Monitor, Report
from pytest_gradcheckup.loops import watched
from pytest_gradcheckup.majority import Case, Verdict, decide
from pytest_gradcheckup.settings import CheckSettings
from pytest_gradcheckup.tracebacks import HIDDEN

__tracebackhide__ = HIDDEN

MEASURED = (Report, Monitor)
"""What stands for a model and its data, and was judged already."""


class Probing:
    """What is to be judged: a model with its data, which is measured first, or what is `MEASURED`.

    Raises:
        UsageError: An option makes no sense, or a monitor has nothing to report.
    """

    def __init__(
        self,
        model: Any,
        data: Any,
        criterion: Any,
        settings: CheckSettings,
        options: Mapping[str, Any],
    ) -> None:
        options = dict(options)
        self._model, self._criterion = model, criterion
        self._given = {name: options.pop(name, None) for name in ("optimizer", "compute_loss")}
        self._measured: tuple[int | None, Report] | None = None
        if isinstance(model, MEASURED):
            _check_alone(data, criterion, {**self._given, **options})
            self._measured = watched(model) if isinstance(model, Monitor) else (None, model)
        try:
            self.settings = settings.changed(options, "gradcheckup")
        except pytest.UsageError as error:
            raise gradcheckup.UsageError(str(error)) from None
        most = self.settings.batches or self.settings.steps
        self._data = _kept(data, most) if isinstance(data, Iterator) else data

    def decide(self, breaks: Callable[[Report], bool]) -> Verdict:
        """What most seeds say; what was measured already speaks for itself."""
        if self._measured is not None:
            seed, report = self._measured
            broken = breaks(report)
            return Verdict((Case(seed, report, broken),), broken)
        return decide(self.run, self.settings.all_seeds, breaks)

    def cases(self) -> tuple[Case, ...]:
        """One for each seed, or what was measured; nothing is asserted of them yet."""
        if self._measured is not None:
            return (Case(*self._measured, broken=False),)
        return tuple(Case(seed, self.run(seed), broken=False) for seed in self.settings.all_seeds)

    def run(self, seed: int | None = None) -> Report:
        """The report of one probe; with the first seed where none is given."""
        settings = self.settings
        seed = settings.seed if seed is None else seed
        model = self._built(seed)
        try:
            return gradcheckup.diagnose(
                model,
                self._data,
                self._criterion,
                steps=settings.steps,
                batches=settings.batches,
                follow=settings.follow,
                seed=seed,
                select=settings.select or None,
                ignore=settings.ignore or None,
                thresholds=settings.thresholds,
                **self._given,
            )
        except SystemExit as error:
            raise gradcheckup.ModelError(_exit(error, "the model, its data or the loss")) from None
        except gradcheckup.GradcheckupError as error:
            text = f"{error}\n{error.traceback_text}" if error.traceback_text else str(error)
            raise type(error)(text) from None

    def _built(self, seed: int) -> Any:
        """The model; a function that builds one is called with seeded random numbers."""
        model = self._model
        if isinstance(model, (torch.nn.Module, type)) or not callable(model):
            return model
        with gradcheckup.random_state(seed):
            try:
                return model()
            except SystemExit as error:
                what = "the function that builds the model"
                raise gradcheckup.ModelError(_exit(error, what)) from None
            except Exception as error:
                # Its traceback begins in the user's function, not in this one.
                error.__traceback__ = error.__traceback__ and error.__traceback__.tb_next
                raise gradcheckup.ModelError(
                    f"the function that builds the model failed: {type(error).__name__}: {error}"
                ) from error


def _exit(error: SystemExit, what: str) -> str:
    """Where somebody ended the process, which would end a run of tests."""
    *_, last = traceback.extract_tb(error.__traceback__)
    return (
        f"{what} ended the process: SystemExit: {error.code}, at {last.filename}:{last.lineno} "
        f"in {last.name}"
    )


class _Kept:
    """The first batches of an iterator, to be read as often as there are seeds.

    What the iterator raises is raised while batches are read, where it is said to be the data's.
    """

    def __init__(self, batches: Iterator[Any], most: int) -> None:
        self._batches: Iterator[Any] = islice(batches, most)

    def __iter__(self) -> Iterator[Any]:
        self._batches, reading = tee(self._batches)
        return reading


def _kept(batches: Iterator[Any], most: int) -> _Kept:
    """It goes by the name of the iterator, by which messages call data."""
    kept: type[_Kept] = type(type(batches).__name__, (_Kept,), {})
    return kept(batches, most)


def _check_alone(data: Any, criterion: Any, options: Mapping[str, Any]) -> None:
    """What was measured and judged already goes with nothing."""
    given = [name for name, value in options.items() if value is not None and name != "fail_on"]
    given += [
        name for name, value in (("data", data), ("criterion", criterion)) if value is not None
    ]
    if given:
        raise gradcheckup.UsageError(
            f"a report or a watched loop is judged as it is: leave out {', '.join(given)}, or pass "
            "the model"
        )
