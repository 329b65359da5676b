"""One line of JSON per case: what is known of it, and the file that a run appends to."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.cases import Case, Culprit
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
        right_code: Whether its worst finding names what is known to be wrong; None where nothing
            is known or nothing was found.
        right_layer: Whether it places it, likewise.
        severity: Rank of the worst finding, -1 without any.
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
    peers: dict[str, Opinion] = field(default_factory=dict)

    def opinion(self, tool: str) -> Opinion:
        """What a tool says: gradcheckup (the empty name), or a peer, if it was asked."""
        if tool:
            return self.peers.get(tool, Opinion(unhealthy=None))
        return Opinion(unhealthy=not self.healthy, score=self.distance, findings=self.findings)

    @property
    def distance(self) -> float:
        """How bad the report is: its worst finding, then how far ratios are from 1 in the end.

        The second part is the larger |log10| of gradient and signal ratio, below 1 by division.
        """
        ratios = [ratio for ratio in (*self.ratios[-1:], *self.signals[-1:]) if ratio is not None]
        decades = max((_decades(ratio) for ratio in ratios), default=0.0)
        return self.severity + decades / _MOST_DECADES


_MOST_DECADES = 1000.0


def _decades(ratio: float) -> float:
    return abs(math.log10(ratio)) if 0 < ratio < math.inf else _MOST_DECADES - 1


def identity(case: Case, seed: int, budget: int) -> str:
    """What a result is filed under."""
    text = json.dumps([case.architecture, case.optimizer, case.batch_size], sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return f"{case.family}/{case.index}/{seed}/{budget}/{digest}"


def result(case: Case, seed: int, budget: int, outcome: Outcome, report: Report) -> Result:
    """What is kept of an outcome and a report."""
    worst = report.findings[0] if report.findings else None
    culprit = case.culprit if not report.healthy else None
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
        right_code=worst.code in culprit.codes if worst and culprit else None,
        right_layer=_placed(worst, culprit) if worst and culprit else None,
        severity=worst.severity.rank if worst else -1,
    )


def _placed(finding: Finding, culprit: Culprit) -> bool:
    """Whether the layer it blames is at fault; all of its layers, where it blames none."""
    named = {finding.culprit} if finding.culprit else set(finding.layers)
    owners = {name.removesuffix(".weight").removesuffix(".bias") for name in named}
    return bool(owners & culprit.layers)


def load(path: Path) -> dict[str, Result]:
    """Results by identity; the later of two of one case counts.

    A line that cannot be read, as the last one after a power cut, is a case not done yet.
    """
    if not path.exists():
        return {}
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return {each.identity: each for line in lines if (each := _decode(line)) is not None}


def append(path: Path, done: Result) -> None:
    """Adds a result to a file."""
    append_line(path, _encode(done))


def append_line(path: Path, values: dict[str, Any]) -> None:
    """Adds one line with a single write, behind a line break where the last line is torn."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(values, allow_nan=False, ensure_ascii=False) + "\n"
    with path.open("ab+") as file:
        if file.tell():
            file.seek(-1, 2)
            line = line if file.read() == b"\n" else "\n" + line
        file.write(line.encode())


_SERIES = ("ratios", "signals", "losses")


def _encode(done: Result) -> dict[str, Any]:
    """JSON has no infinities and no NaN: they are written as text."""
    values = asdict(done)
    for name in _SERIES:
        values[name] = [
            value if value is None or math.isfinite(value) else str(value) for value in values[name]
        ]
    return values


def _decode(line: str) -> Result | None:
    try:
        values = json.loads(line)
        for name in _SERIES:
            values[name] = [None if value is None else float(value) for value in values[name]]
        peers = {name: Opinion(**each) for name, each in values.pop("peers", {}).items()}
        return Result(**values, peers=peers)
    except (ValueError, TypeError, KeyError):
        return None
