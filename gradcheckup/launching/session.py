"""What is told of every optimizer of a process, from the moment that torch is imported."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from typing_extensions import Self

from gradcheckup.launching.arrival import Arrival
from gradcheckup.report import Report
from gradcheckup.tracebacks import one_line

if TYPE_CHECKING:
    from gradcheckup.launching.seeker import Seeker


def numbered(path: Path, index: int) -> Path:
    """The file of the model of this index: run.jsonl, run-2.jsonl, ..."""
    return path.with_stem(f"{path.stem}-{index + 1}") if index else path


class Session:
    """Watches whatever is trained while it is open. Nothing that it does ends a training."""

    def __init__(self, options: Mapping[str, Any], *, log: Path | None = None) -> None:
        """Does nothing yet, and imports no torch.

        Args:
            options: Keyword arguments of `watch`, other than the model and its optimizer.
            log: That of the first model; of further ones, as `numbered`.
        """
        self._options, self._log = options, log
        self._process = os.getpid()
        self._seeker: Seeker | None = None
        self._failure = ""
        self._undo = ExitStack()

    def __enter__(self) -> Self:
        arrival = Arrival("torch.optim.optimizer", self._arrived)
        self._undo.callback(arrival.stop)
        arrival.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()
        self._tell("finish")

    @property
    def here(self) -> bool:
        """Whether this is the process that the session was opened in, and no fork of it."""
        return os.getpid() == self._process

    def reports(self) -> list[Report]:
        """One of each model that was watched, in the order they were found."""
        return self._seeker.reports() if self._seeker else []

    def notes(self) -> list[str]:
        """What was not watched, and why, a sentence each; of a script that trains, mostly none."""
        if self._failure:
            return [self._failure]
        return self._seeker.notes() if self._seeker else ["no optimizer stepped in this process"]

    def _log_of(self, index: int) -> Path | None:
        return numbered(self._log, index) if self._log else None

    def _arrived(self, optimizers: ModuleType) -> None:
        """`torch.optim` is there; no script has made an optimizer yet."""
        base = optimizers.Optimizer
        created = base.__init__

        @functools.wraps(created)
        def create(optimizer: Any, *args: Any, **kwargs: Any) -> None:
            created(optimizer, *args, **kwargs)
            self._tell("created", optimizer)

        def restore() -> None:
            base.__init__ = created

        base.__init__ = create
        self._undo.callback(restore)
        before = optimizers.register_optimizer_step_pre_hook(
            lambda optimizer, *given: self._tell("steps", optimizer, *given)
        )
        after = optimizers.register_optimizer_step_post_hook(
            lambda optimizer, *_: self._tell("stepped", optimizer)
        )
        self._undo.callback(before.remove)
        self._undo.callback(after.remove)

    def _tell(self, event: str, *args: Any) -> None:
        """Passes an event on; a worker that was forked off has no session."""
        if self._failure or not self.here or (event == "finish" and self._seeker is None):
            return
        try:
            if self._seeker is None:
                from gradcheckup.launching.seeker import Seeker

                self._seeker = Seeker(self._options, self._log_of)
            getattr(self._seeker, event)(*args)
        except Exception as error:  # noqa: BLE001 - whatever it is, the training goes on
            self._failure = f"watching failed, the training went on: {one_line(error)}"
