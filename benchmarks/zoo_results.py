"""One line of JSON for a model and an optimizer, and the table of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import MARKDOWN
from rich.table import Table

from benchmarks.jsonlines import read_lines
from benchmarks.training import FAILS, LEARNS


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One model with one optimizer.

    Attributes:
        model: torchvision's name of it.
        setting: Name of the optimizer.
        side: Height and width of the images.
        steps: Training steps.
        seed: Seed of initialisation and batches.
        label: See `zoo.Outcome`; empty where it was not trained.
        loss: See `zoo.Outcome`.
        peak: See `zoo.Outcome`.
        healthy: The verdict; None where it was skipped.
        ratios: End-to-end gradient ratio at the first and at the last step of the probe, where it
            is finite.
        findings: Code and severity of the findings.
        note: Why it was skipped, or not trained.
    """

    model: str
    setting: str
    side: int
    steps: int
    seed: int
    label: str = ""
    loss: float | None = None
    peak: float | None = None
    healthy: bool | None = None
    ratios: tuple[float | None, ...] = ()
    findings: tuple[str, ...] = ()
    note: str = ""

    @property
    def key(self) -> tuple[str, str, int, int, int]:
        """What it is filed under."""
        return self.model, self.setting, self.side, self.steps, self.seed

    @property
    def wrong(self) -> bool:
        """Whether the outcome contradicts the verdict."""
        return (self.label == LEARNS and self.healthy is False) or (
            self.label == FAILS and self.healthy is True
        )


def load(path: Path) -> dict[tuple[str, str, int, int, int], Line]:
    """What a file holds, the later of two lines of one model counting."""
    return {line.key: line for line in read_lines(path, _decode)}


def _decode(values: dict[str, Any]) -> Line:
    ratios, findings = tuple(values["ratios"]), tuple(values["findings"])
    return Line(**values | {"ratios": ratios, "findings": findings})


def table(lines: Iterable[Line]) -> Table:
    """One row for each model and optimizer; wrong verdicts are marked."""
    view = Table(box=MARKDOWN)
    for name in ("model", "px", "optimizer", "loss at the end", "peak", "outcome", "verdict"):
        view.add_column(name)
    view.add_column("gradient ratio", overflow="fold")
    view.add_column("findings", overflow="fold")
    for line in lines:
        verdict = "" if line.healthy is None else "healthy" if line.healthy else "unhealthy"
        view.add_row(
            line.model,
            str(line.side),
            line.setting,
            _number(line.loss),
            _number(line.peak),
            line.label or ("skipped" if line.healthy is None else "not trained"),
            f"**{verdict}**" if line.wrong else verdict,
            " … ".join(map(_number, line.ratios)),
            "; ".join(filter(None, (*line.findings, line.note))),
        )
    return view


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"
