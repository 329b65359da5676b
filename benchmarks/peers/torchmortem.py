"""torchmortem, where it is installed: `pip install torchmortem`."""

from __future__ import annotations

import atexit
import contextlib
import importlib
import logging
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
    steps = 0
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"), autopsy:
            warnings.simplefilter("ignore")
            losses: list[float] = []
            for moment in moments(case, seed, model, optimizer):
                if losses:  # a step is reported once its update is made
                    autopsy.step(loss=losses[-1])
                losses.append(moment.loss)
            autopsy.step(loss=losses[-1])
            steps = len(losses)
    except Exception as error:  # noqa: BLE001 - a peer that fails is a result, too
        return Opinion(unhealthy=None, findings=[f"{type(error).__name__} at step {steps}"])
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
