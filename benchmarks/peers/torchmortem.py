"""torchmortem, where it is installed: `pip install torchmortem`."""

from __future__ import annotations

import atexit
import contextlib
import importlib
import logging
import math
import warnings
from typing import Any

import numpy as np

from benchmarks.cases import Case
from benchmarks.peers.opinion import Opinion
from benchmarks.peers.record import begin, moments


def judge(case: Case, seed: int) -> Opinion:
    """Lets it watch every step; a critical finding makes a net sick, as its own report has it.

    Its score is one minus its mean health score over layers. Some of its detectors want ten or
    twenty steps and stay silent. Nets that its backward hooks break are not judged.
    """
    package = importlib.import_module("torchmortem")
    logging.getLogger("torchmortem").setLevel(logging.CRITICAL)
    model, optimizer = begin(case, seed)
    autopsy = package.Autopsy(model, optimizer=optimizer, sampling="thorough")
    losses: list[float] = []

    def reported(*_: Any) -> None:
        # As in a user's loop: after the update. Its hooks keep what they saw until then, so a step
        # reported later would hold the gradients of the next one.
        autopsy.step(loss=losses[-1])

    optimizer.register_step_post_hook(reported)
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"), autopsy:
            warnings.simplefilter("ignore")  # its own, about nets that are sick on purpose
            for moment in moments(case, seed, model, optimizer):
                losses.append(moment.loss)  # noqa: PERF401 - the hook reads it in between
            if not math.isfinite(losses[-1]):  # the update that would report it is not made
                reported()
    except Exception as error:  # noqa: BLE001 - a peer that fails is a result, too
        failed = f"{type(error).__name__} after step {len(losses)}"
        return Opinion(unhealthy=None, findings=[failed])
    finally:
        with contextlib.suppress(AttributeError):
            atexit.unregister(autopsy._atexit_handler)  # noqa: SLF001 - it would keep every net
    return _opinion(autopsy.get_report())


def _opinion(report: Any) -> Opinion:
    health = [each.score for each in report.health_scores]
    return Opinion(
        unhealthy=any(each.severity.name == "CRITICAL" for each in report.findings),
        score=1 - sum(health) / len(health) if health else 0.0,
        findings=[f"{each.title} ({each.severity.name.lower()})" for each in report.findings],
    )
