"""MLflow: the numbers of a watched run, as metrics of a run of the user's own."""

from __future__ import annotations

import re
from itertools import islice

from gradcheckup.errors import UsageError
from gradcheckup.integrations.packages import missing
from gradcheckup.watching import Monitor

_MOST = 1000
"""Metrics that MLflow takes in one call."""

_FOREIGN = re.compile(r"[^\w\-. :/]", flags=re.ASCII)
"""What MLflow takes in no name."""


def log(monitor: Monitor, run_id: str | None = None) -> None:
    """Logs `monitor.scalars()` after each sampled step, under the number of that step.

    Characters that MLflow does not take in the name of a metric are written as `_`.

    Args:
        monitor: What watches the model.
        run_id: Which run gets them; None for the one that is active.

    Raises:
        MissingDependencyError: mlflow is not installed.
        UsageError: No run was given and none is active.
    """
    try:
        import mlflow as package
    except ModuleNotFoundError:
        raise missing("mlflow") from None
    if run_id is None:
        active = package.active_run()
        if active is None:
            raise UsageError(
                "expected a run of MLflow, but none is active: call mlflow.start_run first"
            )
        run_id = active.info.run_id

    def mlflow(monitor: Monitor) -> None:
        metrics = iter(
            [(_FOREIGN.sub("_", name), each) for name, each in monitor.scalars().items()]
        )
        while batch := dict(islice(metrics, _MOST)):
            package.log_metrics(batch, step=monitor.sampled_at, run_id=run_id)

    monitor.on_sample(mlflow)
