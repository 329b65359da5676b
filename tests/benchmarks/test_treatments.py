"""The benchmark of treatments: what counts as sick, as cured, and how that is summed up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import sick, treatments
from benchmarks.jsonlines import read_lines


def line(index: int, first: Any, random: Any = None, **other: Any) -> dict[str, Any]:
    known = {"label": "fails", "untreated": 0.1, "best_known": 0.9, **other}
    return {
        "index": index,
        "seed": 0,
        "net": {"kind": "mlp"},
        "first": first,
        "random": random,
    } | known


def trial(score: float, *, healthy: bool = True) -> dict[str, Any]:
    return {"treatment": "normalization", "healthy": healthy, "score": score}


def test_a_cure_is_healthy_and_near_the_best_that_is_known() -> None:
    assert treatments.cured(line(0, trial(0.86)), "first")
    assert not treatments.cured(line(0, trial(0.84)), "first")
    assert not treatments.cured(line(0, trial(0.9, healthy=False)), "first")
    assert not treatments.cured(line(0, None), "first")
    assert not treatments.cured(line(0, trial(0.86), trial(0.95)), "first")  # a better one is known


def test_the_summary_counts_sick_nets_and_the_others_apart() -> None:
    lines = [
        line(0, trial(0.9), trial(0.2)),
        line(1, trial(0.6), trial(0.9)),
        line(2, None, best_known=0.1),  # nothing is known that learns
        line(3, trial(0.9), label="slow"),
        {"index": 4, "seed": 0, "net": {"kind": "mlp"}, "label": "learns", "untreated": 0.95},
    ]
    rows = treatments.summary(lines).splitlines()
    assert "| all | 2 | 1 (0.50) | 2 (1.00) | 1 (0.50) | 1 (0.50) |" in rows
    assert "| slow, unstable or halfway | 1 | 1 (1.00) | 1 (1.00) | 1 (1.00) | 0 (0.00) |" in rows
    assert "5 nets drawn, 3 sick; of 1 no configuration is known that learns." in rows
    (missed,) = [row for row in rows if row.startswith("| 1: mlp")]
    assert "| 0.10 | 0.90 | normalization | True | 0.60 |" in missed


def test_the_nets_are_the_same_in_every_run_and_unlike_each_other() -> None:
    def drawn() -> list[str]:
        return [json.dumps([x.architecture, x.optimizer]) for x in sick.cases(40)]

    assert drawn() == drawn()
    assert len(set(drawn())) > 35


def test_a_torn_last_line_is_a_net_not_done_yet(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    file.write_text(json.dumps(line(0, None)) + '\n{"index": 1, "se')
    assert [each["index"] for each in read_lines(file, dict)] == [0]


@pytest.mark.slow
def test_a_sick_net_is_cured() -> None:
    """The first one drawn: 20 sigmoid layers."""
    (case,) = sick.cases(1)
    found = treatments.examine(case, seed=0, budget=200)
    assert found["label"] == "fails"
    assert treatments.cured(found, "first")
