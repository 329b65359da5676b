"""The benchmark of verdicts: a slice of it, and that it can be interrupted and trusted."""

from __future__ import annotations

import ast
import dataclasses
import functools
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from sklearn.metrics import (
    balanced_accuracy_score,
    precision_score,
    recall_score,
    roc_auc_score,
)
from torch import nn

import gradcheckup
from benchmarks import (
    examination,
    networks,
    oracle,
    parts,
    planted,
    results,
    scores,
    tables,
    tasks,
    training,
    verdicts,
)
from benchmarks.cases import OPTIMIZERS, PROBE_STEPS, Case
from benchmarks.families import FAMILIES, cases
from benchmarks.faults import FAULTS

ROOT = Path(__file__).resolve().parents[2]
Run = Callable[..., Result]


def _case(build: Callable[[], nn.Module]) -> Case:
    return Case(
        family="mlp",
        index=0,
        architecture={"net": "by hand"},
        optimizer="sgd-0.01",
        make_optimizer=OPTIMIZERS["sgd-0.01"],
        task=tasks.digits(),
        build=build,
    )


def _relu() -> nn.Module:
    return networks.initialise(networks.mlp([64, 64, 64, 64, 10], nn.ReLU), "he")


DEEP_SIGMOID = _case(lambda: networks.mlp([64, *[128] * 7, 10], nn.Sigmoid))
HE_RELU = _case(_relu)


def test_a_deep_sigmoid_net_is_flagged_and_fails() -> None:
    report = examination.judge(DEEP_SIGMOID, 0)
    assert "GC101" in {finding.code for finding in report.findings}
    assert not report.healthy
    outcome = training.train(DEEP_SIGMOID, 0, 60)
    assert outcome.label == "fails"
    assert outcome.score is not None
    assert outcome.score < 0.2


def test_a_relu_net_with_he_initialisation_is_healthy_and_learns() -> None:
    assert examination.judge(HE_RELU, 0).healthy
    outcome = training.train(HE_RELU, 0, 250)
    assert outcome.label == "learns"
    assert outcome.score is not None
    assert outcome.score > 0.9


def test_a_net_is_judged_as_it_is_when_training_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []

    class Watched(nn.CrossEntropyLoss):
        def forward(self, *arguments: object) -> object:
            loss = super().forward(*arguments)  # type: ignore[arg-type]
            seen.append(loss.item())
            return loss

    report = examination.judge(HE_RELU, 3)
    monkeypatch.setattr(nn, "CrossEntropyLoss", Watched)
    tasks.digits.cache_clear()
    try:
        training.train(_case(_relu), 3, 8)
    finally:
        tasks.digits.cache_clear()
    assert seen[:PROBE_STEPS] == pytest.approx([step.loss for step in report.steps], rel=1e-4)


def test_a_loss_that_leaves_the_numbers_is_a_failure() -> None:
    hopeless = _case(lambda: nn.Sequential(nn.Linear(64, 10), _Infinite()))
    assert training.train(hopeless, 0, 5) == training.Outcome(label="fails", score=None)


class _Scripted:
    """A run with given scores: after 1, 2 and 4 times the budget, and at a tenth of the rate."""

    def __init__(self, *scores: float | None) -> None:
        self.scores = scores
        self.asked: list[tuple[float, int]] = []

    def __call__(self, case: Case, seed: int, rate: float = 1.0) -> _Scripted:
        del case, seed
        self.rate = rate
        return self

    def train(self, steps: int) -> float | None:
        self.asked.append((self.rate, steps))
        return self.scores[len(self.asked) - 1]


@pytest.mark.parametrize(
    ("given", "label", "asked"),
    [
        ((0.9,), "learns", [(1.0, 100)]),
        ((0.1, 0.9), "slow", [(1.0, 100), (1.0, 100)]),
        ((0.6, 0.7, 0.9), "slow", [(1.0, 100), (1.0, 100), (1.0, 200)]),
        ((0.1, 0.2, 0.6), "ambiguous", [(1.0, 100), (1.0, 100), (1.0, 200)]),
        ((0.1, 0.1, None, 0.9), "unstable", [(1.0, 100), (1.0, 100), (1.0, 200), (0.1, 100)]),
        ((0.1, 0.1, 0.1, 0.8), "fails", [(1.0, 100), (1.0, 100), (1.0, 200), (0.1, 100)]),
    ],
)
def test_a_net_that_fails_gets_time_and_a_gentler_rate(
    monkeypatch: pytest.MonkeyPatch,
    given: tuple[float | None, ...],
    label: str,
    asked: list[tuple[float, int]],
) -> None:
    script = _Scripted(*given)
    monkeypatch.setattr(training, "_Run", script)
    assert training.train(HE_RELU, 0, 100).label == label
    assert script.asked == asked


def test_a_run_goes_on_where_it_stopped() -> None:
    whole, parts = training._Run(HE_RELU, 3), training._Run(HE_RELU, 3)
    parts.train(7)
    assert parts.train(5) == whole.train(12)
    for one, other in zip(parts.model.parameters(), whole.model.parameters(), strict=True):
        assert one.equal(other)


def test_a_gentle_run_has_a_tenth_of_the_rate() -> None:
    run = training._Run(HE_RELU, 0, 0.1)
    assert [group["lr"] for group in run.optimizer.param_groups] == pytest.approx([0.001])


class _Infinite(nn.Module):
    def forward(self, x: object) -> object:
        return x * float("inf")  # type: ignore[operator]


@pytest.mark.parametrize(
    ("score", "label"),
    [(0.85, "learns"), (0.84, "ambiguous"), (0.51, "ambiguous"), (0.5, "fails")],
)
def test_labels_follow_the_limits_of_the_task(
    monkeypatch: pytest.MonkeyPatch, score: float, label: str
) -> None:
    monkeypatch.setattr(training.Training, "score", lambda _: score)
    assert training.train(HE_RELU, 0, 1).label == label


def test_cases_are_the_same_everywhere() -> None:
    assert cases("mlp", 3)[0].architecture == {
        "width": 256,
        "depth": 10,
        "activation": "selu",
        "init": "normal-0.02",
        "norm": "none",
        "skips": "plain",
        "task": "digits",
    }
    assert cases("mlp", 3)[0].optimizer == "sgd-0.01"
    assert [case.architecture for case in cases("cnn", 4)] == [
        case.architecture for case in cases("cnn", 9)[:4]
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_builds_and_fits_its_task(family: str) -> None:
    found = cases(family, 40)
    assert {case.half for case in found} == {"calibration", "held-out"}
    assert len({str(case.architecture) for case in found}) > 0.9 * len(found)
    for case in found[:4]:
        inputs, targets = next(case.task.batches(4, 0))
        loss = case.task.criterion()(case.build()(inputs), targets)
        assert loss.dim() == 0


def test_foreign_nets_of_every_structure_learn_from_all_they_have() -> None:
    """No part of them stands beside the way from the inputs to the loss."""
    found = {str(case.architecture["structure"]): case for case in cases("foreign", 40)}
    assert len(found) == 6
    for case in found.values():
        assert case.optimizer not in OPTIMIZERS
        model = case.build()
        inputs, targets = next(case.task.batches(16, 0))
        case.task.criterion()(model(inputs), targets).backward()
        assert all(each.grad is not None for each in model.parameters())


def test_a_question_is_answered_by_the_pair_with_its_key() -> None:
    task = tasks.lookup(5)
    question = task.inputs[:, -1, :10]
    matches = (task.inputs[:, :-1, :10] * question[:, None]).sum(-1)
    assert torch.equal(matches.sum(1), torch.ones(5000))
    values = (task.inputs[:, :-1, 10:] * matches[:, :, None]).sum(1).argmax(1)
    assert torch.equal(values, task.targets)
    assert not task.inputs[:, -1, 10:].any()


def test_one_net_under_two_optimizers_is_in_one_half() -> None:
    halves: dict[str, set[str]] = {}
    for case in cases("mlp", 60):
        halves.setdefault(str(case.architecture), set()).add(case.half)
    assert all(len(found) == 1 for found in halves.values())
    assert HE_RELU.half == DEEP_SIGMOID.half  # the same architecture, as far as it is named


def _result(number: int, label: str, *, healthy: bool, ratio: float | None) -> results.Result:
    return results.Result(
        identity=f"mlp/{number}/0/500/hash",
        family="mlp",
        seed=0,
        architecture={"depth": number},
        optimizer="sgd-0.01",
        half="calibration",
        label=label,
        score=None,
        healthy=healthy,
        findings=[] if healthy else ["GC101 critical > GC203 warning"],
        ratios=[ratio, math.inf],
        signals=[1.0, None],
        losses=[2.3, math.nan],
    )


MIXED = [
    _result(0, "fails", healthy=False, ratio=1e-5),
    _result(1, "fails", healthy=False, ratio=0.0),
    _result(2, "fails", healthy=True, ratio=0.3),
    _result(3, "learns", healthy=True, ratio=0.5),
    _result(4, "learns", healthy=True, ratio=20.0),
    _result(5, "learns", healthy=False, ratio=5e-3),
    _result(6, "learns", healthy=True, ratio=None),
    _result(7, "ambiguous", healthy=False, ratio=1e-3),
    _result(8, "slow", healthy=True, ratio=1e-2),
    _result(9, "unstable", healthy=True, ratio=1.0),
]


@pytest.mark.parametrize("others", [None, "fails", "learns"])
def test_scores_agree_with_scikit_learn(others: str | None) -> None:
    clear = {"learns", "fails"}
    pairs = [
        ((each.label if each.label in clear else others) == "fails", not each.healthy)
        for each in MIXED
        if others or each.label in clear
    ]
    sick, flagged = zip(*pairs, strict=True)
    found = scores.score(MIXED, others=others)
    assert found.cases == len(pairs)
    assert found.precision == pytest.approx(precision_score(sick, flagged))
    assert found.recall == pytest.approx(recall_score(sick, flagged))
    assert found.balanced_accuracy == pytest.approx(balanced_accuracy_score(sick, flagged))


def test_roc_area_agrees_with_scikit_learn() -> None:
    clear = [each for each in MIXED if each.label in {"learns", "fails"}]
    distances = [each.distance for each in clear]
    expected = roc_auc_score([each.label == "fails" for each in clear], distances)
    assert scores.roc_area(MIXED) == pytest.approx(expected)


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "new" / "results.jsonl"
    for each in MIXED:
        results.append(path, each)
    assert repr(list(results.load(path).values())) == repr(MIXED)
    json.loads(path.read_text().splitlines()[0], parse_constant=pytest.fail)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs the command on two quick cases; more arguments replace the usual ones."""
    usual = ["--families", "literature", "--cases", "2", "--budget", "3"]
    output = ["--output", str(tmp_path / "results.jsonl")]

    def _run(*arguments: str) -> Result:
        return CliRunner().invoke(verdicts.main, [*usual, *output, *arguments])

    return _run


def _forbidden(*_: object) -> training.Outcome:
    raise AssertionError("trained again")


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_in_a_net_that_trains(name: str) -> None:
    index = list(FAULTS).index(name)
    case = next(
        case
        for number in range(index, 20 * len(FAULTS), len(FAULTS))
        if (case := planted.case(number)).optimizer == "sgd-0.01"
    )
    assert case.architecture["fault"] == name
    assert case.culprit is not None
    model = case.build()
    assert case.culprit.layers <= {path for path, _ in model.named_modules()}
    inputs, targets = next(case.task.batches(16, 0))
    optimizer = case.make_optimizer(model.parameters())
    case.task.criterion()(model(inputs), targets).backward()
    optimizer.step()


@pytest.mark.parametrize(
    "name", ["detached", "not in the optimizer", "bias of -50 before relu", "zero weights"]
)
def test_a_planted_fault_is_named_and_placed(name: str) -> None:
    case = planted.case(list(FAULTS).index(name))
    outcome = training.Outcome(label="fails", score=None)
    found = results.result(case, 0, 1, outcome, examination.judge(case, 0))
    assert (found.right_code, found.right_layer) == (True, True), found.findings
    row = [list(column.cells) for column in tables.faults([found]).columns]
    assert row == [[name], ["1"], ["1"], ["1"], ["1 of 1"], ["1 of 1"]]


def test_faults_of_optimizers_are_what_they_say() -> None:
    def after_a_step(name: str) -> tuple[Case, nn.Module, dict[str, nn.Module]]:
        case = planted.case(list(FAULTS).index(name))
        before, model = case.build(), case.build()
        model.load_state_dict(before.state_dict())
        optimizer = case.make_optimizer(model.parameters())
        inputs, targets = next(case.task.batches(16, 0))
        case.task.criterion()(model(inputs), targets).backward()
        optimizer.step()
        optimizer.zero_grad()
        return case, model, dict(before.named_modules())

    for name in ("not in the optimizer", "learning rate of 0"):
        case, model, before = after_a_step(name)
        assert case.culprit is not None
        for path, module in model.named_modules():
            for (_, old), (_, new) in zip(
                before[path].named_parameters(recurse=False),
                module.named_parameters(recurse=False),
                strict=True,
            ):
                if new.dim() > 1:
                    assert old.equal(new) == (path in case.culprit.layers), path
    _, model, _ = after_a_step("zero_grad forgotten")
    assert all(each.grad is not None for each in model.parameters())


def test_a_sound_net_is_healthy() -> None:
    for kind in ("mlp", "cnn", "recurrent", "transformer"):
        case = Case(
            family="planted",
            index=0,
            architecture={"net": kind},
            optimizer="sgd-0.01",
            make_optimizer=OPTIMIZERS["sgd-0.01"],
            task=planted._task(kind),
            build=lambda kind=kind: nn.Sequential(*parts.sound(kind, 3, "relu")),
        )
        assert examination.judge(case, 0).healthy, kind


def test_the_oracle_finds_the_layer_that_loses_the_gradient() -> None:
    def shrunk() -> nn.Module:
        model = _relu()
        with torch.no_grad():
            model.get_submodule("4").weight.mul_(1e-6)  # type: ignore[operator, union-attr]
        return model

    # dL/dy at layer 2 has to pass the weights of layer 4; in front of it all is well.
    assert oracle.layers_at_fault(_case(shrunk), 0, "GC101") == {"2"}
    assert oracle.layers_at_fault(_case(shrunk), 0, "GC102") == set()
    assert oracle.layers_at_fault(HE_RELU, 0, "GC101") == set()
    assert oracle.layers_at_fault(DEEP_SIGMOID, 0, "GC101") == {"0"}
    report = examination.judge(DEEP_SIGMOID, 0)
    gains = oracle.gains(DEEP_SIGMOID, 0)
    for layer in report.layers:
        if layer.name in gains:
            assert layer.gain == pytest.approx(gains[layer.name], rel=1e-3)


def test_the_oracle_names_what_is_out_of_order() -> None:
    def scaled(factor: float) -> Callable[[], nn.Module]:
        def build() -> nn.Module:
            model = _relu()
            for module in model.modules():
                if isinstance(module, nn.Linear):
                    nn.init.kaiming_normal_(module.weight).data.mul_(factor)
            return model

        return build

    assert oracle.causes(HE_RELU, 0) == set()
    # He's weights keep signal and gradient; a factor tells twice between three hidden layers.
    assert oracle.causes(_case(scaled(0.1)), 0) == {"GC101", "GC203"}
    assert "GC102" in (oracle.causes(_case(scaled(12.0)), 0) or ())
    assert "GC401" not in oracle.causes(_case(scaled(12.0)), 0)
    assert "GC401" in oracle.causes(_case(scaled(1e20)), 0)  # float32 ends at 3e38


def test_the_oracle_knows_whose_loss_runs_away() -> None:
    assert not oracle.runs_away(HE_RELU, 0, steps=100)
    hasty = dataclasses.replace(HE_RELU, make_optimizer=functools.partial(torch.optim.SGD, lr=10.0))
    assert oracle.runs_away(hasty, 0, steps=100)


def test_the_oracle_names_activations_that_are_flat() -> None:
    def biased(bias: float) -> Callable[[], nn.Module]:
        def build() -> nn.Module:
            model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
            nn.init.constant_(model.get_parameter("0.bias"), bias)
            return model

        return build

    # tanh' is a tenth at artanh(sqrt(0.9)) = 1.82.
    assert "GC201" not in oracle.causes(_case(biased(0.0)), 0)
    assert "GC201" in oracle.causes(_case(biased(4.0)), 0)


def test_the_oracle_knows_who_learns_nothing() -> None:
    """Where there is something to learn, which logistic regression does."""
    assert not oracle.learns_nothing(HE_RELU, 0, steps=200)
    assert oracle.learns_nothing(DEEP_SIGMOID, 0, steps=200)
    shuffled = DEEP_SIGMOID.task.targets[torch.randperm(len(DEEP_SIGMOID.task.targets))]
    unknowable = dataclasses.replace(DEEP_SIGMOID.task, targets=shuffled)
    assert not oracle.learns_nothing(dataclasses.replace(DEEP_SIGMOID, task=unknowable), 0, 200)


def test_the_oracle_goes_as_far_as_the_verdict() -> None:
    """Sound at first; the learning rate drives every unit of three narrow layers off."""
    case = FAMILIES["mlp"](882)
    report = examination.judge(case, 0)
    assert report.recording.late
    assert report.findings[0].code == "GC202"
    assert oracle.causes(case, 0) == set()
    assert "GC202" in oracle.causes(case, 0, len(report.recording.course))
    outcome = training.Outcome(label="fails", score=0.1)
    assert results.result(case, 0, 500, outcome, report).right_code


@pytest.mark.parametrize(("factor", "wrong"), [(0.1, True), (0.5, False), (3.0, True)])
def test_the_oracle_follows_time(factor: float, wrong: bool) -> None:
    """Near 0, tanh passes on everything: each of seven steps back costs the same factor."""

    def build() -> nn.Module:
        model = networks.recurrent("rnn-tanh", 8, 16, 1, "default")
        for parameter in model.core.parameters():
            parameter.data.mul_(1e-4)
        model.core.weight_hh_l0.data[:] = factor * torch.eye(16)
        return model

    case = dataclasses.replace(_case(build), task=tasks.digits(8, 8))
    assert ("GC105" in oracle.causes(case, 0)) is wrong
    assert oracle.layers_at_fault(case, 0, "GC105") == {"core"}
    assert oracle.layers_at_fault(case, 0, "GC102") == set()


def test_the_oracle_counts_blocks_as_layers() -> None:
    def build() -> nn.Module:
        torch.manual_seed(0)
        model = networks.Transformer(3, 16, activation="relu", pre_norm=False, dropout=0.0)
        model.blocks[1].norm2.weight.data.fill_(1e-6)  # type: ignore[union-attr, operator]
        return model

    case = dataclasses.replace(_case(build), task=tasks.digits(8, 8))
    # What follows a post-norm block of outputs near 0 is scaled up by the next one's norms.
    assert set(oracle.gains(case, 0)) == {"embed", "blocks.0", "blocks.1"}
    assert oracle.layers_at_fault(case, 0, "GC101") == {"blocks.0"}


def test_a_report_is_as_bad_as_its_worst_finding_then_by_how_far() -> None:
    mild = dataclasses.replace(_result(1, "fails", healthy=True, ratio=0.3), ratios=[1e-9, 0.3])
    far = dataclasses.replace(mild, ratios=[1.0, 1e-3])
    warned = dataclasses.replace(mild, severity=1)
    sick = dataclasses.replace(mild, severity=2, excess=3.0)
    sicker = dataclasses.replace(mild, severity=2, excess=1e9)
    found = [each.distance for each in (mild, far, warned, sick, sicker)]
    assert found == sorted(found)
    assert len(set(found)) == 5
    assert found[2] < 2 < found[3] < found[4] < 3


def test_seeds_that_disagree_are_listed() -> None:
    healthy, flagged = (
        _result(1, "fails", healthy=healthy, ratio=0.1) for healthy in (True, False)
    )
    other = dataclasses.replace(flagged, seed=1, identity=flagged.identity.replace("/0/", "/1/"))
    assert tables.disagreements([healthy, other]).row_count == 1
    assert tables.disagreements([flagged, other]).row_count == 0
    assert (
        tables.disagreements([healthy, dataclasses.replace(other, label="learns")]).row_count == 0
    )


def test_a_second_run_trains_nothing_again(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run()
    assert first.exit_code == 0, first.output
    assert "| literature |" in first.output
    lines = (tmp_path / "results.jsonl").read_text()
    assert lines.count("\n") == 2
    monkeypatch.setattr(examination, "train", _forbidden)
    assert run().stdout == first.stdout
    assert (tmp_path / "results.jsonl").read_text() == lines
    assert run("--budget", "4").exit_code != 0  # another budget is another case


def test_judging_again_keeps_outcomes(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run()
    monkeypatch.setattr(examination, "train", _forbidden)
    strict = functools.partial(gradcheckup.diagnose, thresholds={"gradient_ratio_critical": 1e9})
    monkeypatch.setattr(gradcheckup, "diagnose", strict)
    again = run("--again", "--reports", str(tmp_path / "reports"))
    assert again.exit_code == 0, again.output
    assert len(results.load(tmp_path / "results.jsonl")) == 2
    saved = gradcheckup.load_report(tmp_path / "reports" / "literature-0-0.json")
    assert saved.thresholds.gradient_ratio_critical == 1e9


def test_a_torn_last_line_is_a_case_not_done_yet(run: Run, tmp_path: Path) -> None:
    first = run()
    path = tmp_path / "results.jsonl"
    whole = results.load(path)
    path.write_bytes(path.read_bytes()[:-40])
    assert len(results.load(path)) == 1
    assert "1 of 2 cases done" in run("--summary").stderr
    assert run().stdout == first.stdout
    assert repr(results.load(path)) == repr(whole)


def test_an_interrupted_run_keeps_what_is_done(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = iter([training.Outcome(label="fails", score=0.5)])

    def _train(*_: object) -> training.Outcome:
        for outcome in done:
            return outcome
        raise KeyboardInterrupt

    monkeypatch.setattr(examination, "train", _train)
    stopped = run()
    assert stopped.exit_code == 130
    assert "1 of 2 cases done; run again to go on" in stopped.stderr
    assert "| literature |" in stopped.stdout
    assert len(results.load(tmp_path / "results.jsonl")) == 1


def test_a_net_that_cannot_be_judged_stops_no_run(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def _diagnose(*_: object, subject: str, **__: object) -> gradcheckup.Report:
        raise gradcheckup.ModelError(f"no gradient in [{subject}]")

    monkeypatch.setattr(gradcheckup, "diagnose", _diagnose)
    done = run()
    assert done.exit_code == 0, done.output
    assert "literature/1 seed 0 cannot be judged: no gradient in [literature/1]" in done.stderr
    assert "0 of 2 cases done" in done.stderr


def test_halves_share_out_the_cases(run: Run, tmp_path: Path) -> None:
    run("--cases", "4", "--calibration", "--budget", "1")
    one = results.load(tmp_path / "results.jsonl")
    assert {each.half for each in one.values()} == {"calibration"}
    run("--cases", "4", "--held-out", "--budget", "1")
    assert len(results.load(tmp_path / "results.jsonl")) == 4


def test_cases_that_limits_were_set_on_can_be_left_out(run: Run, tmp_path: Path) -> None:
    run("--cases", "3", "--skip", "2", "--budget", "1")
    (only,) = results.load(tmp_path / "results.jsonl").values()
    assert only.identity.startswith("literature/2/")


def test_an_unknown_family_is_refused(run: Run) -> None:
    refused = run("--families", "mlp,diffusion")
    assert refused.exit_code == 2
    assert "diffusion: choose from mlp, cnn" in refused.stderr


def test_help_names_every_option() -> None:
    shown = CliRunner().invoke(verdicts.main, ["--help"]).stdout
    for option in verdicts.main.params:
        assert option.opts[0] in shown


def test_only_public_names_are_used() -> None:
    for path in (ROOT / "benchmarks").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                parts = {alias.name for alias in node.names}
                assert not any(name.startswith("gradcheckup.") for name in parts), path
            elif isinstance(node, ast.ImportFrom) and "gradcheckup" in (node.module or ""):
                assert node.module == "gradcheckup", path
                assert {alias.name for alias in node.names} <= set(gradcheckup.__all__), path
