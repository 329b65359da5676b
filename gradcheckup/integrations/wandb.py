"""Weights & Biases: the numbers of a watched run, in a run of the user's own."""

from __future__ import annotations

from typing import Any

from gradcheckup.errors import UsageError
from gradcheckup.integrations.packages import missing
from gradcheckup.watching import Monitor

_STEP = "gradcheckup/step"


def log(monitor: Monitor, run: Any = None, *, commit: bool = True) -> None:
    """Logs `monitor.scalars()` after each sampled step, plotted over `gradcheckup/step`.

    Where the loop has logged since the sample before, the numbers join the row that it fills;
    otherwise they get one of their own.

    Args:
        monitor: What watches the model.
        run: What `wandb.init` returned; None for the run that is active.
        commit: Whether numbers may begin a row of their own. Pass False where the loop calls
            `run.log(..., step=)` with numbers that grow slower than samples come, such as epochs:
            W&B refuses rows that go back. Of the samples between two rows the last one is kept.

    Raises:
        MissingDependencyError: No run was given and wandb is not installed.
        UsageError: No run was given and none is active, or it is no run.
    """
    run = _active() if run is None else run
    if not (callable(getattr(run, "log", None)) and callable(getattr(run, "define_metric", None))):
        raise UsageError(f"expected run to be what wandb.init returns, got {type(run).__name__}")
    run.define_metric(_STEP, hidden=True)
    run.define_metric("gradcheckup/*", step_metric=_STEP)
    row: int | None = None

    def wandb(monitor: Monitor) -> None:
        nonlocal row
        if commit and row == run.step:
            run.log({}, commit=True)
        row = run.step
        run.log({**monitor.scalars(), _STEP: monitor.sampled_at}, commit=False)

    monitor.on_sample(wandb)


def _active() -> Any:
    try:
        import wandb
    except ModuleNotFoundError:
        raise missing("wandb") from None
    if wandb.run is None:
        raise UsageError("expected a run of W&B, but none is active: call wandb.init first")
    return wandb.run
