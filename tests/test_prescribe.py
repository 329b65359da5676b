"""`prescribe`: trials are what a training by hand gives, and are ranked by what came of them."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from sklearn.datasets import load_digits
from torch import Tensor, nn

import gradcheckup
from gradcheckup import Outcome, Prescription, Trial
from gradcheckup.cli import main
from gradcheckup.prescription import ranked
from gradcheckup.trials import in_any_case

CROSS_ENTROPY = nn.CrossEntropyLoss()
Batch = tuple[Tensor, Tensor]


def digits(count: int = 12, size: int = 64) -> list[Batch]:
    pixels, labels = load_digits(return_X_y=True)
    x = torch.tensor(pixels, dtype=torch.float32)
    x = (x - x.mean()) / x.std()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    rows = order[: count * size].reshape(count, size)
    return [(x[each], torch.tensor(labels)[each]) for each in rows]


def sick(depth: int = 5, width: int = 32) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for before in (64, *[width] * (depth - 1)):
        layers += [nn.Linear(before, width), nn.Sigmoid()]
    return nn.Sequential(*layers, nn.Linear(width, 10))


def by_hand(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> tuple[float, float]:
    """Loss and accuracy on the last fifth of the batches, trained on the others."""
    data = digits()
    for index in range(steps):
        x, y = data[index % 10]
        optimizer.zero_grad()
        CROSS_ENTROPY(model(x), y).backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        losses = [float(CROSS_ENTROPY(model(x), y)) for x, y in data[10:]]
        right = [model(x).argmax(1) == y for x, y in data[10:]]
    return sum(losses) / 2, float(torch.cat(right).float().mean())


@pytest.fixture(scope="module")
def found() -> Prescription:
    """A sick net, treated in five ways."""
    model = sick()
    return gradcheckup.prescribe(
        model,
        digits(),
        CROSS_ENTROPY,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        treatments=["normalization", "weight_scale", "activation", "optimizer + normalization"],
        budget=60,
    )


def test_doing_nothing_is_what_plain_training_gives(found: Prescription) -> None:
    model = sick()
    wanted = by_hand(model, torch.optim.SGD(model.parameters(), lr=0.1), steps=60)
    assert found.nothing is not None
    assert found.nothing.loss == pytest.approx(wanted[0], rel=1e-6)
    assert found.nothing.accuracy == pytest.approx(wanted[1])


def test_a_trial_is_what_a_treatment_by_hand_gives(found: Prescription) -> None:
    original = sick()
    layers: list[nn.Module] = []
    for module in original:
        last = module is original[-1]
        layers += (
            [module, nn.BatchNorm1d(32)] if isinstance(module, nn.Linear) and not last else [module]
        )
    model = nn.Sequential(*layers)
    wanted = by_hand(model, torch.optim.SGD(model.parameters(), lr=0.1), steps=60)
    (trial,) = (each for each in found.trials if each.treatment == "normalization")
    assert trial.loss == pytest.approx(wanted[0], rel=1e-5)
    assert trial.accuracy == pytest.approx(wanted[1])


def test_the_best_trial_learns_and_is_healthy(found: Prescription) -> None:
    best, nothing = found.best, found.nothing
    assert best is not None
    assert nothing is not None
    assert best is found.trials[0]
    assert best.after.healthy
    assert not best.before.healthy
    assert best.accuracy is not None
    assert best.accuracy > 0.8  # a linear model reaches .9 on this task
    assert nothing.accuracy is not None
    assert nothing.accuracy < 0.3
    assert found.first_loss == pytest.approx(math.log(10), rel=0.2)
    assert (found.budget, found.held_out) == (60, 2)


def test_a_treated_model_is_handed_out_before_its_training(found: Prescription) -> None:
    best = found.best
    assert best is not None
    (trial,) = (each for each in found.trials if each.treatment == "normalization")
    weights = [each for each in trial.treated.model.parameters() if each.ndim == 2]
    for treated, original in zip(
        weights, (p for p in sick().parameters() if p.ndim == 2), strict=True
    ):
        assert torch.equal(treated, original)
    # Ready to be trained.
    optimizer = best.treated.optimizer
    held = {id(each) for group in optimizer.param_groups for each in group["params"]}
    assert held == {id(each) for each in best.treated.model.parameters()}


def test_the_users_objects_stay_as_they_are() -> None:
    model, data = sick(), digits(6)
    criterion = nn.CrossEntropyLoss(weight=torch.ones(10))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    before = copy.deepcopy(model.state_dict())
    kept = [(x.clone(), y.clone()) for x, y in data]
    state = torch.get_rng_state()
    gradcheckup.prescribe(
        model, data, criterion, optimizer=optimizer, treatments="normalization", budget=5
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(each.grad is None for each in model.parameters())
    assert not optimizer.state
    assert [type(each) for each in model] == [type(each) for each in sick()]
    for (x, y), (was_x, was_y) in zip(data, kept, strict=True):
        assert torch.equal(x, was_x)
        assert torch.equal(y, was_y)


def test_the_same_seed_gives_the_same_trials() -> None:
    def run() -> list[tuple[str, float]]:
        chosen = ["weight_scale", "activation:gelu"]
        made = gradcheckup.prescribe(
            sick(), digits(6), CROSS_ENTROPY, treatments=chosen, budget=8, steps=3
        )
        assert made.random is not None
        return [(each.treatment, each.loss) for each in (*made.trials, made.random)]

    assert run() == run()


def test_seeds_are_averaged() -> None:
    made = gradcheckup.prescribe(
        sick(), digits(6), CROSS_ENTROPY, treatments="weight_scale", budget=8, seeds=3, seed=5,
        batches=2,
    )  # fmt: skip
    (trial,) = made.trials
    assert (made.before.recording.batches, trial.after.recording.batches) == (2, 2)
    assert [each.seed for each in trial.outcomes] == [5, 6, 7]
    assert len({each.loss for each in trial.outcomes}) == 3  # other weights each time
    assert trial.loss == pytest.approx(sum(each.loss for each in trial.outcomes) / 3)


def test_a_healthy_model_is_left_alone() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    made = gradcheckup.prescribe(model, digits(6), CROSS_ENTROPY, budget=40)
    assert made.before.healthy
    assert made.learns
    assert not made.needed
    assert made.trials == ()
    assert made.best is None
    assert "Nothing to cure: it learns." in str(made)


def test_a_model_that_learns_nothing_without_a_finding_is_treated() -> None:
    """Targets that a healthy net cannot learn; of 10 classes the commonest makes 0.11 to 0.3."""
    generator = torch.Generator().manual_seed(0)
    data = [
        (torch.randn(64, 64, generator=generator), torch.randint(10, (64,), generator=generator))
        for _ in range(12)
    ]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    made = gradcheckup.prescribe(model, data, CROSS_ENTROPY, budget=10)
    assert made.before.healthy
    assert made.learns is False
    assert made.needed
    assert made.best is None
    assert {"normalization", "weight_scale", "optimizer"} <= {x.treatment for x in made.trials}
    assert made.nothing is not None
    (outcome,) = made.nothing.outcomes
    counts = torch.cat([y for _, y in data[10:]]).bincount()
    assert outcome.samples == 128
    assert outcome.chance == pytest.approx(int(counts.max()) / 128)
    text = str(made)
    assert "No critical finding, but after 10 steps it has learnt nothing." in text
    assert "Look at the data and the loss" in text


def test_whether_a_regression_learns_is_told_from_its_loss(trial: Callable[..., Trial]) -> None:
    def learns(loss: float) -> bool | None:
        nothing = trial("do nothing", None, loss)
        return Prescription(before=nothing.after, nothing=nothing, first_loss=1.0).learns

    assert [learns(0.5), learns(0.97), learns(math.nan)] == [True, False, False]


@pytest.mark.parametrize(
    ("loss", "other", "beats", "as_good"),
    [
        (0.9, 1.0, True, True),
        (0.96, 1.0, False, True),
        (-10.6, -10.0, True, True),
        (-10.0, -10.0, False, True),
        (-9.6, -10.0, False, True),
        (-9.4, -10.0, False, False),
        (-1.0, math.inf, True, True),
        (math.inf, -1.0, False, False),
        (math.nan, 1.0, False, False),
        (1.0, math.nan, True, False),
    ],
)
def test_losses_are_compared_below_zero_as_above(
    trial: Callable[..., Trial], loss: float, other: float, beats: bool, as_good: bool
) -> None:
    one, two = trial("one", None, loss), trial("two", None, other)
    assert one.beats(two) is beats
    assert one.is_as_good_as(two) is as_good


def test_nothing_helps_against_targets_that_have_nothing_to_do_with_the_inputs() -> None:
    generator = torch.Generator().manual_seed(0)
    data = [
        (torch.randn(64, 64, generator=generator), torch.randint(10, (64,), generator=generator))
        for _ in range(12)
    ]
    treatments = ["weight_scale", "normalization", "activation", "optimizer"]
    made = gradcheckup.prescribe(sick(), data, CROSS_ENTROPY, treatments=treatments, budget=30)
    assert not made.before.healthy
    assert len(made.trials) == 4
    assert made.best is None
    assert "Nothing that was tried helps." in str(made)


def test_what_no_treatment_cures_is_said() -> None:
    class Cut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(64, 32), nn.Linear(32, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(torch.relu(self.first(x)).detach())

    made = gradcheckup.prescribe(Cut(), digits(6), CROSS_ENTROPY)
    assert [finding.code for finding in made.before.findings] == ["GC103"]
    assert made.trials == ()
    assert "the code has to change" in str(made)


class WithLoss(nn.Module):
    """A model whose output carries its own loss."""

    def __init__(self) -> None:
        super().__init__()
        self.body = sick(width=16)

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.body(x)
        return {"loss": CROSS_ENTROPY(logits, labels), "logits": logits}


def _compute_loss(model: nn.Module, batch: Batch) -> Tensor:
    return CROSS_ENTROPY(model(batch[0]), batch[1])


def _one_hot(data: list[Batch]) -> list[Batch]:
    return [(x, nn.functional.one_hot(y, 10).float()) for x, y in data]


@pytest.mark.parametrize(
    ("build", "data", "arguments", "classifies"),
    [
        (WithLoss, [{"x": x, "labels": y} for x, y in digits(6)], {}, True),
        (sick, digits(6), {"compute_loss": _compute_loss}, False),
        (sick, _one_hot(digits(6)), {"criterion": nn.MSELoss()}, False),
        (sick, digits(6)[0], {"criterion": CROSS_ENTROPY}, True),
        (sick, digits(2), {}, True),
    ],
    ids=["own loss", "compute_loss", "regression", "one batch", "inferred"],
)
def test_every_way_to_a_loss(
    build: Callable[[], nn.Module], data: Any, arguments: dict[str, Any], classifies: bool
) -> None:
    made = gradcheckup.prescribe(build(), data, treatments="normalization", budget=4, **arguments)
    assert made.nothing is not None
    assert math.isfinite(made.nothing.loss)
    assert (made.nothing.accuracy is not None) == classifies
    assert made.held_out == (1 if isinstance(data, list) and len(data) == 6 else 0)
    assert len(made.trials) == 1


def test_binary_outputs_are_counted_by_their_loss() -> None:
    torch.manual_seed(0)
    data = [(torch.randn(50, 64), (torch.rand(50, 1) > 0.5).float()) for _ in range(2)]

    def accuracy(criterion: nn.Module, *last: nn.Module) -> tuple[float | None, float]:
        model = nn.Sequential(*sick()[:-1], nn.Linear(32, 1), *last)
        made = gradcheckup.prescribe(model, data, criterion, treatments="optimizer", budget=1)
        made_by_hand = copy.deepcopy(model)
        optimizer = torch.optim.SGD(made_by_hand.parameters(), lr=0.01, momentum=0.9)
        criterion(made_by_hand(data[0][0]), data[0][1]).backward()
        optimizer.step()
        middle = 0.5 if last else 0.0
        right = [((made_by_hand(x) > middle) == (y > 0.5)).float().mean() for x, y in data]
        assert made.nothing is not None
        return made.nothing.accuracy, float(sum(right)) / 2

    for measured, wanted in (
        accuracy(nn.BCEWithLogitsLoss()),
        accuracy(nn.BCELoss(), nn.Sigmoid()),
    ):
        assert measured == pytest.approx(wanted)


@pytest.mark.parametrize("text", in_any_case())
def test_what_is_tried_in_any_case_applies_to_a_plain_net(text: str) -> None:
    """In this order: behind norms, say, there is no scale of weights to choose."""
    model, (batch, *_) = sick(3, 8), digits(1)
    treated = gradcheckup.treat(model, text, batch, CROSS_ENTROPY, optimizer=torch.optim.SGD)
    assert " + ".join(treated.treatments) == text


def test_refused_treatments_say_why() -> None:
    model = nn.Sequential(nn.Linear(64, 32), nn.Sigmoid(), nn.Linear(32, 10))
    made = gradcheckup.prescribe(
        model, digits(2), CROSS_ENTROPY, treatments=["layerwise_training", "optimizer"], budget=2
    )
    ((key, reason),) = made.refused
    assert key == "layerwise_training"
    assert "does not apply" in reason
    assert [each.treatment for each in made.trials] == ["optimizer"]
    assert reason.split(":")[-1].strip() in " ".join(str(made).split())


def test_a_plan_is_followed() -> None:
    made = gradcheckup.prescribe(
        sick(6), digits(6), CROSS_ENTROPY, treatments="layerwise_training", budget=12
    )
    (trial,) = made.trials
    assert trial.acts_on == "training"
    treated = trial.treated
    assert all(each.requires_grad for each in treated.model.parameters())
    # Handed out untrained: trained by hand, half of it in the last stage, it ends alike.
    data = digits(6)
    stages = treated.plan.stages
    assert len(stages) == 3
    for stage, steps in zip(stages, (3, 3, 6), strict=True):
        for index in range(steps):
            x, y = data[index % 5]
            stage.optimizer.zero_grad()
            CROSS_ENTROPY(treated.model(x), y).backward()
            stage.optimizer.step()
    treated.model.eval()
    x, y = data[5]
    with torch.no_grad():
        loss = float(CROSS_ENTROPY(treated.model(x), y))
    assert trial.loss == pytest.approx(loss, rel=1e-6)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"budget": 0}, "at least 1"),
        ({"budget": "60"}, 'as 200, "60s" or "5m", got \'60\''),
        ({"budget": 1.5}, "got 1.5"),
        ({"budget": True}, "got True"),
        ({"seeds": 0}, "at least 1, got 0"),
        ({"treatments": "normalisation"}, "did you mean normalization?"),
        ({"treatments": "activation:rulu"}, "did you mean relu?"),
        ({"treatments": []}, "at least one treatment"),
        ({"treatments": 5}, "names of treatments, got 5"),
        ({"steps": 0}, "steps"),
    ],
)
def test_bad_arguments_are_one_line(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(gradcheckup.UsageError) as caught:
        gradcheckup.prescribe(sick(), digits(1), CROSS_ENTROPY, **arguments)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_time_is_kept_within_reason() -> None:
    made = gradcheckup.prescribe(
        sick(), digits(6), CROSS_ENTROPY, treatments="normalization", budget="1s"
    )
    assert made.budget >= 10


def test_progress_is_told() -> None:
    told: list[tuple[str, int, int]] = []
    gradcheckup.prescribe(
        sick(),
        digits(2),
        CROSS_ENTROPY,
        treatments=["normalization", "optimizer"],
        budget=3,
        on_trial=lambda *each: told.append(each),
    )
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)
    assert told[-1][1:] == (12, 12)
    labels = list(dict.fromkeys(label for label, *_ in told))
    assert labels == ["doing nothing", "normalization", "optimizer", "a random treatment"]


# -- ranking -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trial(found: Prescription) -> Callable[..., Trial]:
    def make(
        name: str, accuracy: float | None, loss: float = 1.0, *, healthy: bool = True
    ) -> Trial:
        best = found.best
        assert best is not None
        return Trial(
            treatment=name,
            before=found.before,
            after=best.after if healthy else found.before,
            treated=best.treated,
            outcomes=(Outcome(seed=0, loss=loss, accuracy=accuracy, samples=10_000),),
        )

    return make


def test_the_ranking(trial: Callable[..., Trial]) -> None:
    nothing = trial("nothing", 0.1, 2.3, healthy=False)
    wanted = [
        trial("healthy and best", 0.95, 0.2),
        trial("healthy and good", 0.8, 0.5),
        trial("sick but learns", 0.99, 0.1, healthy=False),
        trial("healthy and stuck", 0.1, 2.3),
        trial("sick and stuck", 0.11, 2.3, healthy=False),
    ]
    assert ranked(wanted[::-1], nothing) == tuple(wanted)


def test_the_simpler_of_two_alike_goes_first(trial: Callable[..., Trial]) -> None:
    nothing = trial("nothing", 0.1, 2.3, healthy=False)
    pair, single, worse = trial("a + b", 0.96), trial("a", 0.95), trial("b", 0.9)
    assert ranked([pair, worse, single], nothing) == (single, pair, worse)
    assert ranked([pair, worse], nothing) == (pair, worse)


@pytest.mark.parametrize(
    ("one", "other", "beats"),
    [
        ((0.5, 1.0), (0.4, 0.5), True),
        ((0.41, 0.9), (0.4, 1.0), True),
        ((0.41, 0.96), (0.4, 1.0), False),
        ((0.3, 0.1), (0.4, 1.0), False),
        ((None, 0.9), (None, 1.0), True),
        ((None, math.nan), (None, 1.0), False),
        ((None, 1.0), (None, math.inf), True),
        ((None, math.inf), (None, math.inf), False),
    ],
)
def test_what_beats_what(
    trial: Callable[..., Trial], one: tuple[Any, ...], other: tuple[Any, ...], beats: bool
) -> None:
    assert trial("one", *one).beats(trial("other", *other)) == beats


# -- reading it ----------------------------------------------------------------------------


def test_the_text_fits_a_terminal_and_has_its_evidence(found: Prescription) -> None:
    text = str(found)
    best = found.best
    assert best is not None
    assert text.startswith("UNHEALTHY  Sequential")
    head, _, code = text.partition("in your code, once the model is built:")
    assert all(len(line) <= 80 for line in head.splitlines())
    rows = [line for line in head.splitlines() if "healthy " in line]
    assert rows[0].startswith(best.treatment.split(" +")[0])
    assert any(row.startswith("do nothing") for row in rows)
    assert any(row.startswith("random: ") for row in rows)
    assert f"{best.accuracy:.2f}" in rows[0]
    assert best.treated.snippet.splitlines()[0] in code


def test_a_reason_is_told_once(found: Prescription) -> None:
    reason = "skip_connection does not apply: no two layers are alike"
    refused = (("skip_connection", reason), ("skip_connection + activation", reason))
    text = " ".join(str(dataclasses.replace(found, refused=refused)).split())
    assert text.count(f"not tried: {reason}") == 1
    assert text.count("not tried") == 1


def test_the_snippet_is_what_was_done() -> None:
    made = gradcheckup.prescribe(
        sick(), digits(6), CROSS_ENTROPY, treatments="normalization", budget=2
    )
    (trial,) = made.trials
    model = sick()
    exec(trial.treated.snippet, {"model": model, "nn": nn, "torch": torch})  # noqa: S102
    model.load_state_dict(trial.treated.model.state_dict())
    x = digits(1)[0][0]
    assert torch.equal(model(x), trial.treated.model(x))


def test_the_json_holds_reports_that_can_be_loaded(found: Prescription, tmp_path: Path) -> None:
    document = json.loads(found.to_json(tmp_path / "trials.json"))
    assert json.loads((tmp_path / "trials.json").read_text()) == document
    assert document["schema"] == "gradcheckup/prescription"
    assert document["best"] == document["trials"][0]["treatment"]
    for name, part in (("before", document["before"]), ("after", document["trials"][0]["after"])):
        file = tmp_path / f"{name}.json"
        file.write_text(json.dumps(part))
        assert gradcheckup.load_report(file).healthy == (name == "after")
    with pytest.raises(gradcheckup.ReportError):
        found.to_json(tmp_path / "no" / "such.json")


# -- the command ---------------------------------------------------------------------------

SICK = """
import torch
from torch import nn
print("imported")
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(32, 32) for _ in range(6))
        self.head = nn.Linear(32, 2)
    def forward(self, x):
        for layer in self.layers:
            x = nn.Sigmoid()(layer(x))
        return self.head(x)
def build_data():
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        x = torch.randn(64, 32, generator=generator)
        yield x, (x[:, 0] > 0).long()
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    (tmp_path / "model.py").write_text(SICK)
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(main, ["prescribe", *arguments])


def test_the_command(run: Callable[..., Any], tmp_path: Path) -> None:
    result = run(
        "model.py", "--budget", "60", "--treatments", "normalization,optimizer", "--save", "w.pt"
    )
    assert result.exit_code == 0, result.output
    assert "GC101 vanishing-gradient  critical" in result.stdout
    assert (
        "model.layers[index] = nn.Sequential(model.layers[index], nn.BatchNorm1d(32))"
        in result.stdout
    )
    saved = torch.load(tmp_path / "w.pt", weights_only=True)
    assert "layers.0.1.running_mean" in saved


def test_the_command_writes_json_and_nothing_else(run: Callable[..., Any]) -> None:
    result = run("model.py", "--budget", "3", "--treatments", "optimizer", "--format", "json")
    document = json.loads(result.stdout)
    assert "imported" in result.stderr
    assert result.exit_code == (0 if document["best"] else 1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--budget", "soon"], "got 'soon'"),
        (["--treatments", "normalisaton"], "did you mean normalization?"),
        (["--output", "no/such/file.txt"], "there is no folder"),
        (["--save", "model.py"], "would be overwritten"),
        (["--seeds", "0"], "--seeds"),
        (["--buget", "5"], "--budget"),
    ],
)
def test_the_commands_mistakes(run: Callable[..., Any], arguments: list[str], said: str) -> None:
    result = run("model.py", *arguments)
    assert result.exit_code == 2, result.output
    assert said in result.stderr
    assert "Traceback" not in result.stderr
