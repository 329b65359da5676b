"""Lightning: a callback that watches the training, and logs to the loggers of the trainer."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from typing_extensions import Self

from gradcheckup.integrations.callback import Watcher
from gradcheckup.integrations.packages import missing
from gradcheckup.watching import Monitor

_PACKAGES = ("lightning.pytorch", "pytorch_lightning")
"""The same trainer under two names, which do not accept each other's callbacks."""


class GradcheckupCallback(Watcher):
    """Watches a `LightningModule` from the first training step to the last.

        callback = GradcheckupCallback(every=10)
        Trainer(callbacks=[callback]).fit(module, data)
        print(callback.report())

    Numbers go to `trainer.loggers`, under the step that `self.log` has there. Where several
    optimizers train parts of the module that have nothing in common (a GAN), each part is watched
    on its own. It is a `Callback` of `lightning` or of `pytorch_lightning`, whichever is imported.
    """

    def __new__(cls, *_: Any, **__: Any) -> Self:
        """Makes an instance that is a Lightning callback, too.

        Raises:
            MissingDependencyError: Neither package is installed.
        """
        bases = _callbacks()
        if not issubclass(cls, bases):
            cls = type(cls.__name__, (cls, *bases), {"__module__": cls.__module__})  # noqa: PLW0642
        return super().__new__(cls)

    def __reduce__(self) -> tuple[Any, ...]:
        """Sends the options alone to other processes: `ddp_spawn` pickles what the trainer has."""
        return _again, (self._options,)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begins to watch: weights and optimizers are there, and restored where there were any."""
        scaler = getattr(trainer.strategy.precision_plugin, "scaler", None)
        self.begin(pl_module, trainer.optimizers, scaler)

        def lightning(monitor: Monitor) -> None:
            # Where `self.log` and Lightning's own callbacks are in this batch.
            step = trainer.fit_loop.epoch_loop._batches_that_stepped  # noqa: SLF001
            for logger in trainer.loggers:
                logger.log_metrics(self.scalars(monitor), step=step)

        for monitor in self.monitors.values():
            monitor.on_sample(lightning)

    def on_train_end(self, *_: Any) -> None:
        """Stops watching."""
        self.close()

    def on_exception(self, *_: Any) -> None:
        """Stops watching."""
        self.close()


def _again(options: dict[str, Any]) -> GradcheckupCallback:
    return GradcheckupCallback(**options)


def _callbacks() -> tuple[type, ...]:
    """The class `Callback` of what is imported; else of what is installed."""
    found = [name for name in _PACKAGES if name in sys.modules]
    if not found:
        found = [name for name in _PACKAGES if find_spec(name.partition(".")[0])][:1]
    if not found:
        raise missing("lightning")
    return tuple(import_module(name).Callback for name in found)
