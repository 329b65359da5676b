"""The benchmark of torchvision's models: a slice of it, labels, guards, and that it resumes."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from torch import nn

import gradcheckup
from benchmarks import real_networks, zoo, zoo_results

NAME = "shufflenet_v2_x0_5"  # small, and without dropout, which would differ in the probe


def run(tmp_path: Path, *arguments: str) -> Result:
    usual = ["--models", NAME, "--steps", "1", "--pixels", "32"]
    output = ["--output", str(tmp_path / "new" / "lines.jsonl")]
    return CliRunner().invoke(real_networks.main, [*usual, *output, *arguments])


def lines(tmp_path: Path) -> list[zoo_results.Line]:
    return list(zoo_results.load(tmp_path / "new" / "lines.jsonl").values())


def test_a_model_is_trained_judged_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zoo, "PROBE_STEPS", 2)
    first = run(tmp_path, "--reports", str(tmp_path / "reports"))
    assert first.exit_code == 0, first.output
    assert [line.setting for line in lines(tmp_path)] == ["sgd-0.01", "adam-0.001"]
    report = gradcheckup.load_report(tmp_path / "reports" / f"{NAME}-sgd-0.01-0.json")
    assert report.subject == NAME
    # The loss that training begins with is the one that the probe begins with.
    assert lines(tmp_path)[0].loss == pytest.approx(report.steps[0].loss, rel=1e-4)
    assert f"| {NAME} | 32 | sgd-0.01 |" in " ".join(first.stdout.split())
    monkeypatch.setattr(zoo, "train", lambda *_, **__: pytest.fail("trained again"))
    assert run(tmp_path).stdout == first.stdout


def test_what_does_not_fit_is_skipped_with_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zoo, "build", lambda *_: nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)))
    skipped = run(tmp_path, "--memory", "0.001", "--minutes", "1")
    assert skipped.exit_code == 0, skipped.output
    assert {line.healthy for line in lines(tmp_path)} == {None}
    assert all("GiB of 0.001" in line.note for line in lines(tmp_path))
    text = (tmp_path / "new" / "lines.jsonl").read_text()
    run(tmp_path, "--memory", "0.001")
    assert (tmp_path / "new" / "lines.jsonl").read_text() == text
    run(tmp_path)
    assert all(line.label for line in lines(tmp_path))


def test_what_takes_too_long_is_stopped_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "build", lambda *_: nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)))
    with pytest.raises(zoo.TooLargeError, match="10000000 steps would take"):
        zoo.train(NAME, "sgd-0.01", side=32, steps=10_000_000, seed=0, limit=1.0)


@pytest.mark.parametrize(
    ("net", "label"),
    [
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)), "learns"),
        (lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 10)), "fails"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(3072, 10), Infinite()), "fails"),
    ],
)
def test_labels_follow_the_loss(monkeypatch: pytest.MonkeyPatch, net: object, label: str) -> None:
    monkeypatch.setattr(zoo, "build", lambda *_: net())  # type: ignore[operator]
    torch.manual_seed(0)
    outcome = zoo.train(NAME, "sgd-0.01", side=32, steps=40, seed=0, limit=60)
    assert outcome.label == label


class Infinite(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * math.inf


def test_a_torn_line_is_a_model_not_done_yet(tmp_path: Path) -> None:
    run(tmp_path, "--memory", "0.001")
    path = tmp_path / "new" / "lines.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    assert len(lines(tmp_path)) == 1
    run(tmp_path, "--memory", "0.001")
    assert len(lines(tmp_path)) == 2
    assert all(json.loads(text) for text in path.read_text().splitlines() if text[-1] == "}")


def test_every_model_says_what_it_needs() -> None:
    assert len(zoo.names()) >= 80
    assert zoo.needs("vit_b_16")[0] == 224
    assert zoo.needs("resnet18")[0] <= 64
    # 11.7 million parameters of four bytes, eight times.
    assert zoo.needs("resnet18")[1] == pytest.approx(11.7e6 * 32 / 2**30, rel=0.01)


def test_an_unknown_model_is_refused(tmp_path: Path) -> None:
    refused = run(tmp_path, "--models", "resnet19")
    assert refused.exit_code == 2
    assert "torchvision has no resnet19" in refused.stderr


def test_help_names_every_option() -> None:
    shown = CliRunner().invoke(real_networks.main, ["--help"]).stdout
    for option in real_networks.main.params:
        assert option.opts[0] in shown
