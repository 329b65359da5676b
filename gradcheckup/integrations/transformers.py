"""transformers: a callback that watches what a `Trainer` trains."""

from __future__ import annotations

import weakref
from functools import partial
from typing import Any, NamedTuple

from typing_extensions import Self

from gradcheckup.integrations.callback import Watcher
from gradcheckup.integrations.packages import missing
from gradcheckup.runs.scalars import of_model
from gradcheckup.watching import Monitor
from gradcheckup.watching.audience import Audience

try:
    from transformers import TrainerCallback
    from transformers.integrations import INTEGRATION_TO_CALLBACK
except ModuleNotFoundError as error:
    if error.name != "transformers":
        raise
    raise missing("transformers") from None


class GradcheckupCallback(Watcher, TrainerCallback):
    """Watches the model of a `transformers.Trainer` from the first training step to the last.

        callback = GradcheckupCallback(every=10)
        callback.attach(trainer)
        trainer.train()
        print(callback.report())

    The numbers of the whole model go to `trainer.state.log_history`, one entry for each sampled
    step; with those of the layers they go to whatever `report_to` names. `Trainer(callbacks=
    [callback])` does for the first alone: a callback is not told who else reports.

    A training that ends in an exception tells no callback; `callback.close()` then takes every
    hook away, and so does `with callback:` around `trainer.train()`.
    """

    def __init__(self, every: int = 10, **options: Any) -> None:
        super().__init__(every, **options)
        self._trainer: Any = lambda: None
        self._fresh: dict[str, float] = {}
        self._reporters = Audience()

    def attach(self, trainer: Any) -> Self:
        """Adds itself to a trainer, to report to where the trainer does."""
        if self not in trainer.callback_handler.callbacks:
            trainer.add_callback(self)
        self._trainer = weakref.ref(trainer)
        return self

    def on_train_begin(self, *_: Any, model: Any, optimizer: Any, **__: Any) -> None:
        """Begins to watch: weights and optimizer are there, and restored where there were any."""
        self.begin(model, [optimizer], getattr(optimizer, "scaler", None))
        for monitor in self.monitors.values():
            monitor.on_sample(self._sampled)
        self._reporters = Audience()
        trainer = self._trainer()
        for each in trainer.callback_handler.callbacks if trainer else ():
            if isinstance(each, tuple(INTEGRATION_TO_CALLBACK.values())):
                self._reporters.add(partial(_hand_on, each), type(each).__name__)

    def _sampled(self, monitor: Monitor) -> None:
        self._fresh.update(self.scalars(monitor))

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Hands on what was sampled in this step; now it has its number."""
        scalars, self._fresh = self._fresh, {}
        if not scalars:
            return
        entry = {"epoch": state.epoch, "step": state.global_step}
        state.log_history.append({**of_model(scalars), **entry})
        self._reporters.tell(_Event(args, state, control, scalars, others))

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Stops watching."""
        self.close()


class _Event(NamedTuple):
    args: Any
    state: Any
    control: Any
    scalars: dict[str, float]
    others: dict[str, Any]


def _hand_on(reporter: Any, event: _Event) -> None:
    logs = {**event.scalars, "epoch": event.state.epoch}
    reporter.on_log(event.args, event.state, event.control, logs=logs, **event.others)
