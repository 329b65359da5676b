"""The study of verdicts over seeds: what counts as a contradiction, and what is trained."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks import seeds
from benchmarks.seeds import Line, contradicted, differ


def line(label: str, *, healthy: bool) -> Line:
    return Line(identity="mlp/0/0", healthy=healthy, findings=(), label=label)


@pytest.mark.parametrize(
    ("labels", "contradiction"),
    [
        (("fails", "fails"), True),
        (("learns", "learns"), True),
        (("learns", "fails"), False),
        (("slow", "slow"), False),
        (("", ""), False),
    ],
)
def test_two_verdicts_contradict_where_a_clear_outcome_is_the_same(
    labels: tuple[str, str], contradiction: bool
) -> None:
    lines = [
        line(label, healthy=healthy) for label, healthy in zip(labels, (True, False), strict=True)
    ]
    assert differ(lines)
    assert contradicted(lines) is contradiction
    assert not contradicted([line(label, healthy=True) for label in labels])


def _run(tmp_path: Path, *arguments: str) -> str:
    output = ["--output", str(tmp_path / "seeds.jsonl"), "--cases", "1", "--seeds", "2"]
    result = CliRunner().invoke(seeds.main, [*output, *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_nets_are_trained_where_verdicts_differ_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = []

    def outcome(found: Line, _: object, seed: int) -> Line:
        trained.append(seed)
        return seeds.replace(found, label="fails", score=0.1)

    monkeypatch.setattr(seeds, "trained", outcome)
    file = tmp_path / "seeds.jsonl"
    assert "| mlp    | 1    | 0               | 0 " in _run(tmp_path, "--families", "mlp")
    assert len(file.read_text().splitlines()) == 2
    assert not trained
    before = file.read_text()
    healthy = '"healthy": true' in before.splitlines()[0]
    was, now = (f'"healthy": {str(each).lower()}' for each in (healthy, not healthy))
    file.write_text(before.replace(was, now, 1))
    assert "| mlp    | 1    | 1               | 1 " in _run(tmp_path, "--families", "mlp")
    assert trained == [0, 1]
    assert _run(tmp_path, "--families", "mlp")
    assert trained == [0, 1]


def test_an_unknown_family_is_refused() -> None:
    result = CliRunner().invoke(seeds.main, ["--families", "mpl"])
    assert result.exit_code == 2
    assert "mpl: choose from mlp, cnn" in result.stderr
