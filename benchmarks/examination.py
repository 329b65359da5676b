"""A case from its net to its result: judged, trained, and shown to other detectors."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch

import gradcheckup
from benchmarks.cases import PROBE_STEPS, Case
from benchmarks.peers import PEERS
from benchmarks.results import Result, result
from benchmarks.training import Outcome, train


def judge(case: Case, seed: int) -> gradcheckup.Report:
    """Diagnoses a case as it is initialised, on the batches that its training begins with.

    It is given what a loader gives: one epoch.
    """
    torch.manual_seed(seed)
    model = case.build()
    epoch = len(case.task.inputs) // case.batch_size
    return gradcheckup.diagnose(
        model,
        list(islice(case.task.batches(case.batch_size, seed), epoch)),
        case.task.criterion(),
        optimizer=case.make_optimizer,
        steps=PROBE_STEPS,
        seed=seed,
        subject=f"{case.family}/{case.index}",
    )


def examine(
    case: Case, seed: int, budget: int, *, known: Result | None, reports: Path | None
) -> Result:
    """Judges a case and trains it; where it is known, only the judgement is made anew."""
    report = judge(case, seed)
    if reports is not None:
        reports.mkdir(parents=True, exist_ok=True)
        report.to_json(reports / f"{case.family}-{case.index}-{seed}.json")
    if known is None:
        return result(case, seed, budget, train(case, seed, budget), report)
    outcome = Outcome(
        label=known.label,
        score=known.score,
        late_score=known.late_score,
        gentle_score=known.gentle_score,
    )
    return replace(result(case, seed, budget, outcome, report), peers=known.peers)


def consult(case: Case, seed: int, found: Result, peers: Iterable[str]) -> Result:
    """Asks the peers that were not asked before; the same result where there are none."""
    new = {name: PEERS[name](case, seed) for name in peers if name not in found.peers}
    return replace(found, peers={**found.peers, **new}) if new else found
