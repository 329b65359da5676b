"""TensorBoard: the numbers of a watched run, through a `SummaryWriter` of the user's own."""

from __future__ import annotations

from typing import Any

from gradcheckup.errors import UsageError
from gradcheckup.watching import Monitor


def log(monitor: Monitor, writer: Any) -> None:
    """Writes `monitor.scalars()` after each sampled step, under the number of that step.

    Args:
        monitor: What watches the model.
        writer: A `torch.utils.tensorboard.SummaryWriter`, or another with its `add_scalar`; it
            stays the caller's to flush and close.

    Raises:
        UsageError: It is no such writer.
    """
    if not callable(getattr(writer, "add_scalar", None)):
        raise UsageError(
            "expected writer to be a torch.utils.tensorboard.SummaryWriter, got "
            f"{type(writer).__name__}"
        )

    def tensorboard(monitor: Monitor) -> None:
        for name, value in monitor.scalars().items():
            writer.add_scalar(name, value, monitor.sampled_at)

    monitor.on_sample(tensorboard)
