"""What is known of a case, and how it is kept in a file."""

from __future__ import annotations

import hashlib
import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.cases import FOLLOWED_STEPS, PROBE_STEPS, Case
from benchmarks.jsonlines import append_line, read_lines
from benchmarks.oracle import (
    CAUSES,
    RUNAWAY,
    causes,
    layers_at_fault,
    learns_nothing,
    runs_away,
)
from benchmarks.peers import Opinion
from benchmarks.training import Outcome
from gradcheckup import Finding, Report


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A case with its outcome and its verdict.

    Attributes:
        identity: Family, index, seed, budget, and a hash of net, task and optimizer: a result is
            used again only for exactly the case that it is of.
        family: Name of the family.
        seed: Seed of initialisation and batches.
        architecture: See `Case`.
        optimizer: Name of the optimizer.
        half: `calibration` or `held-out`.
        label: `learns`, `fails` or `ambiguous`.
        score: Validation score after training.
        healthy: gradcheckup's verdict on the net before training.
        findings: Code and severity of its findings, consequences after the codes they belong to.
        ratios: End-to-end gradient ratio at each step of the probe.
        signals: End-to-end signal ratio, likewise.
        losses: Loss, likewise.
        late_score: See `Outcome`.
        gentle_score: See `Outcome`.
        right_code: Whether its worst finding names what is known to be wrong, or without a known
            fault what `oracle` measures; None where neither tells or nothing was found.
        right_layer: Whether it places it, likewise.
        severity: Rank of the worst finding, -1 without any.
        excess: By how many decades the findings of that rank break their limits, the most counting.
        peers: What other detectors say, by name.
    """

    identity: str
    family: str
    seed: int
    architecture: dict[str, str | int | float]
    optimizer: str
    half: str
    label: str
    score: float | None
    healthy: bool
    findings: list[str]
    ratios: list[float | None]
    signals: list[float | None]
    losses: list[float | None]
    late_score: float | None = None
    gentle_score: float | None = None
    right_code: bool | None = None
    right_layer: bool | None = None
    severity: int = -1
    excess: float = 0.0
    peers: dict[str, Opinion] = field(default_factory=dict)

    def opinion(self, tool: str) -> Opinion:
        """What a tool says: gradcheckup (the empty name), or a peer, if it was asked."""
        if tool:
            return self.peers.get(tool, Opinion(unhealthy=None))
        return Opinion(unhealthy=not self.healthy, score=self.distance, findings=self.findings)

    @property
    def distance(self) -> float:
        """How bad the report is: its worst finding, then how far it is on the wrong side.

        The second part is the larger of `excess` and |log10| of gradient and signal ratio, their
        medians over the settled half of the probe; below 1 by division.
        """
        settled = [series[len(series) // 2 :] for series in (self.ratios, self.signals)]
        decades = [_decades(ratio) for ratio in map(_median, settled) if ratio is not None]
        return self.severity + min(max(self.excess, *decades, 0.0), _MOST_DECADES) / _SCALE


_MOST_DECADES, _SCALE = 999.0, 1000.0


def _median(series: Sequence[float | None]) -> float | None:
    known = [value for value in series if value is not None and not math.isnan(value)]
    return statistics.median(known) if known else None


def _decades(ratio: float) -> float:
    return abs(math.log10(ratio)) if 0 < ratio < math.inf else _MOST_DECADES


def _excess(finding: Finding) -> float:
    """Decades between what was observed and the limit; the most where that is no number."""
    if finding.limit is None:
        return 0.0
    return _decades((finding.observed or 0.0) / finding.limit)


def identity(case: Case, seed: int, budget: int) -> str:
    """What a result is filed under."""
    text = json.dumps([case.architecture, case.optimizer, case.batch_size], sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return f"{case.family}/{case.index}/{seed}/{budget}/{digest}"


def result(case: Case, seed: int, budget: int, outcome: Outcome, report: Report) -> Result:
    """What is kept of an outcome and a report."""
    worst = report.findings[0] if report.findings else None
    blamed = worst if not report.healthy else None
    # What was measured where the course ends is about the net as it is there.
    course = report.recording.course
    made = len(course) if report.recording.late else PROBE_STEPS
    astray = made > FOLLOWED_STEPS and not course[-1] <= RUNAWAY * course[0]
    return Result(
        identity=identity(case, seed, budget),
        family=case.family,
        seed=seed,
        architecture=case.architecture,
        optimizer=case.optimizer,
        half=case.half,
        label=outcome.label,
        score=outcome.score,
        healthy=report.healthy,
        findings=[
            " > ".join(f"{each.code} {each.severity.value}" for each in finding.walk())
            for finding in report.findings
        ],
        ratios=[step.end_to_end_ratio for step in report.steps],
        signals=[step.end_to_end_signal for step in report.steps],
        losses=[step.loss for step in report.steps],
        late_score=outcome.late_score,
        gentle_score=outcome.gentle_score,
        right_code=_named(blamed, case, seed, made, astray=astray) if blamed else None,
        right_layer=(
            _placed(blamed, _fault(case, seed, blamed, made)) if blamed and not astray else None
        ),
        severity=worst.severity.rank if worst else -1,
        excess=max(
            (
                _excess(each)
                for each in report.findings
                if each.severity == report.findings[0].severity
            ),
            default=0.0,
        ),
    )


def _named(finding: Finding, case: Case, seed: int, made: int, *, astray: bool) -> bool | None:
    """Whether its code is what is wrong; None where nobody knows.

    Args:
        finding: That is blamed.
        case: The net.
        seed: Of it and its batches.
        made: After how many steps it was found.
        astray: Whether the loss runs away there, where no layer is at fault.
    """
    if case.culprit:
        return finding.code in case.culprit.codes
    if astray:
        return finding.code == "GC102" and runs_away(case, seed)
    if finding.code == "GC306":
        return learns_nothing(case, seed)
    known = causes(case, seed, made)
    if not (known or finding.code in CAUSES):
        return None
    return finding.code in known


def _fault(case: Case, seed: int, finding: Finding, made: int) -> frozenset[str]:
    """Layers at fault: known from the planting, else named by the oracle."""
    return case.culprit.layers if case.culprit else layers_at_fault(case, seed, finding.code, made)


def _placed(finding: Finding, layers: frozenset[str]) -> bool | None:
    """Whether the layer it blames, or else its first one, is at fault; None where no layer is."""
    if not layers:
        return None
    named = finding.culprit or next(iter(finding.layers), "")
    return any(named == layer or named.startswith(f"{layer}.") for layer in layers)


def load(path: Path) -> dict[str, Result]:
    """Results by identity; the later of two of one case counts."""
    return {each.identity: each for each in read_lines(path, _decode)}


def append(path: Path, done: Result) -> None:
    """Adds a result to a file."""
    append_line(path, _encode(done))


_SERIES = ("ratios", "signals", "losses")


def _encode(done: Result) -> dict[str, Any]:
    """JSON has no infinities and no NaN: they are written as text."""
    values = asdict(done)
    for name in _SERIES:
        values[name] = [
            value if value is None or math.isfinite(value) else str(value) for value in values[name]
        ]
    return values


def _decode(values: dict[str, Any]) -> Result:
    for name in _SERIES:
        values[name] = [None if value is None else float(value) for value in values[name]]
    peers = {name: Opinion(**each) for name, each in values.pop("peers", {}).items()}
    return Result(**values, peers=peers)
