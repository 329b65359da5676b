"""The detectors beside gradcheckup in the benchmark: that their rules are the published ones."""

from __future__ import annotations

import dataclasses
import functools
import math
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from benchmarks import examination, networks, peers, results, tables, tasks, verdicts
from benchmarks.cases import OPTIMIZERS, Case
from benchmarks.peers import autotrainer, dlcheck, record, torchmortem
from benchmarks.peers.opinion import Opinion, excess


def case(build: functools.partial[nn.Module], optimizer: str = "sgd-0.01") -> Case:
    return Case(
        family="mlp",
        index=0,
        architecture={"net": "by hand"},
        optimizer=optimizer,
        make_optimizer=OPTIMIZERS[optimizer],
        task=tasks.digits(),
        build=build,
    )


SIGMOID = case(functools.partial(networks.mlp, [64, *[128] * 7, 10], nn.Sigmoid))


def _he() -> nn.Module:
    return networks.initialise(networks.mlp([64, 64, 64, 10], nn.ReLU), "he")


HE_RELU = case(functools.partial(_he), "adam-0.001")


def _shifted(activation: type[nn.Module], shift: float) -> nn.Module:
    model = networks.mlp([64, 64, 64, 10], activation)
    layer = model[2]
    assert isinstance(layer, nn.Linear)
    nn.init.constant_(layer.bias, shift)
    return model


def test_peers_see_the_training_that_gradcheckup_sees() -> None:
    model, optimizer = record.begin(HE_RELU, 3)
    losses = [moment.loss for moment in record.moments(HE_RELU, 3, model, optimizer)]
    report = examination.judge(HE_RELU, 3)
    assert losses == pytest.approx([step.loss for step in report.steps], rel=1e-4)


def test_autotrainer_calls_a_vanishing_gradient_by_its_ratio() -> None:
    torch.manual_seed(0)
    model = SIGMOID.build()
    inputs, targets = next(SIGMOID.task.batches(64, 0))
    nn.functional.cross_entropy(model(inputs), targets).backward()
    kernels = [each.grad for each in model.parameters() if each.dim() > 1]
    first, last = (float(kernels[k].norm()) for k in (0, -1))  # type: ignore[union-attr]
    assert first / last < 1e-3
    assert first < 1e-4
    opinion = autotrainer.judge(SIGMOID, 0)
    assert opinion.unhealthy
    assert opinion.findings == ["vanish"]
    # Later steps may be worse, and the milder of the two excesses counts.
    least = min(-3 - math.log10(first / last), -4 - math.log10(first))
    assert opinion.score is not None
    assert least <= opinion.score < least + 1


def test_autotrainer_sees_dying_relus_and_leaves_a_learning_net_alone() -> None:
    dead = case(functools.partial(_shifted, nn.ReLU, -50.0))
    assert autotrainer.judge(dead, 0).findings == ["relu"]
    assert autotrainer.judge(HE_RELU, 0) == Opinion(
        unhealthy=False, score=autotrainer.judge(HE_RELU, 0).score
    )


def test_autotrainer_calls_nan_an_explosion() -> None:
    broken = case(functools.partial(_shifted, nn.ReLU, math.nan))
    assert autotrainer.judge(broken, 0).findings == ["explode"]


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([0.5, 0.6, 0.5, 0.6, 0.5, 0.6, 0.5, 0.6], True),
        ([0.5, 0.52, 0.5, 0.52, 0.5, 0.52, 0.5, 0.52], False),  # swings below zeta
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8], False),
    ],
)
def test_autotrainer_counts_swings_of_the_accuracy(scores: list[float], expected: bool) -> None:
    assert autotrainer._oscillates(scores) is expected


@pytest.mark.parametrize(
    ("net", "finding"),
    [
        (functools.partial(_shifted, nn.ReLU, -50.0), "dead activations"),
        (functools.partial(_shifted, nn.Tanh, 50.0), "zero gradients"),
        (functools.partial(_shifted, nn.ReLU, math.nan), "NaN gradients"),
    ],
)
def test_dlcheck_names_what_its_report_names(
    net: functools.partial[nn.Module], finding: str
) -> None:
    opinion = dlcheck.judge(case(net), 0)
    assert opinion.unhealthy
    assert finding in opinion.findings


def test_dlcheck_leaves_a_learning_net_and_its_hooks_alone() -> None:
    assert dlcheck.judge(HE_RELU, 0).findings == []
    model = _he()
    with dlcheck._watched(model, dlcheck._Watch()):
        assert any(module._forward_hooks for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())


def test_torchmortem_judges_where_it_is_installed() -> None:
    pytest.importorskip("torchmortem")
    opinion = torchmortem.judge(SIGMOID, 0)
    assert opinion.unhealthy
    assert opinion.score is not None
    assert 0 < opinion.score <= 1


def test_a_peer_that_fails_is_not_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    package = pytest.importorskip("torchmortem")

    def _fail(*_: object, **__: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(package.Autopsy, "step", _fail)
    opinion = torchmortem.judge(HE_RELU, 0)
    assert opinion.unhealthy is None
    assert "RuntimeError" in opinion.findings[0]


@pytest.mark.parametrize(
    ("value", "limit", "above", "expected"),
    [(100.0, 1.0, True, 2.0), (1e-5, 1e-3, False, 2.0), (0.0, 1e-3, False, 1000.0)],
)
def test_excess_is_in_decades(value: float, limit: float, above: bool, expected: float) -> None:
    assert excess(value, limit, above=above) == pytest.approx(expected)


def test_known_cases_get_new_peers_without_being_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "results.jsonl"

    def run(*arguments: str) -> str:
        usual = ["--families", "literature", "--cases", "1", "--budget", "3"]
        done = CliRunner().invoke(verdicts.main, [*usual, "--output", str(output), *arguments])
        assert done.exit_code == 0, done.output
        return done.stdout

    assert "DLCheck | not run" in " ".join(run("--peers", "").split())
    monkeypatch.setattr(examination, "train", lambda *_: pytest.fail("trained again"))
    monkeypatch.setattr(examination, "judge", lambda *_: pytest.fail("judged again"))
    assert "DLCheck | not run" not in " ".join(run("--peers", "DLCheck").split())
    (known,) = results.load(output).values()
    assert known.peers == {"DLCheck": dlcheck.judge(verdicts.cases("literature", 1)[0], 0)}
    lines = output.read_text()
    run("--peers", "DLCheck")
    assert output.read_text() == lines


def test_every_tool_is_scored_on_what_it_judged() -> None:
    def result(number: int, label: str, *, unhealthy: bool | None) -> results.Result:
        return results.Result(
            identity=f"mlp/{number}",
            family="mlp",
            seed=0,
            architecture={},
            optimizer="",
            half="",
            label=label,
            score=None,
            healthy=True,
            findings=[],
            ratios=[],
            signals=[],
            losses=[],
            peers={"DLCheck": Opinion(unhealthy=unhealthy, score=float(number))},
        )

    some = [
        result(3, "fails", unhealthy=True),
        result(2, "fails", unhealthy=False),
        result(1, "learns", unhealthy=False),
        result(0, "learns", unhealthy=None),
        dataclasses.replace(result(9, "slow", unhealthy=True)),
    ]
    view = tables.tools(some)
    rows = list(zip(*(list(column.cells) for column in view.columns), strict=True))
    by_tool = {row[1]: row[2:] for row in rows}
    # Judged, failed to run, precision, recall, balanced accuracy (3/4), ROC area.
    assert by_tool["DLCheck"] == ("3", "1", "1.000", ".500", ".750", "1.000")
    assert by_tool["AUTOTRAINER"][0] == "not run"
    assert set(by_tool) == {"gradcheckup", *peers.PEERS}
