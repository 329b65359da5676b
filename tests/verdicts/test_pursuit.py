"""Nets that look sound in eight steps, followed to where a hand-written training leads them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle, islice

import pytest
import torch
from torch import Tensor, nn

import gradcheckup
from gradcheckup.pursuit import HORIZON, lasts
from gradcheckup.records import Finding, Recording, Severity, Step

Batches = list[tuple[Tensor, Tensor]]
CE = nn.CrossEntropyLoss()
SGD = partial(torch.optim.SGD, momentum=0.9)
_he = nn.init.kaiming_normal_


def _normal(weight: Tensor) -> None:
    nn.init.normal_(weight)


def stack(
    width: int,
    depth: int,
    activation: type[nn.Module],
    *,
    init: Callable[[Tensor], object] | None = None,
    norm: Callable[[int], nn.Module] | None = None,
) -> nn.Sequential:
    """Plain layers for digits, the same ones each time."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for index in range(depth):
        layers.append(nn.Linear(width if index else 64, width))
        layers += [norm(width)] if norm else []
        layers.append(activation())
    model = nn.Sequential(*layers, nn.Linear(width, 10))
    for layer in model:
        if init and isinstance(layer, nn.Linear):
            init(layer.weight)
            nn.init.zeros_(layer.bias)
    return model


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, batches: Batches, steps: int
) -> Iterator[float]:
    """A loop as users write it; the loss of each step."""
    for inputs, targets in islice(cycle(batches), steps):
        optimizer.zero_grad()
        loss = CE(model(inputs), targets)
        yield loss.item()
        loss.backward()
        optimizer.step()


def share_right(model: nn.Module, batches: Batches) -> float:
    """Of the very samples it was trained on."""
    right = [(model(inputs).argmax(1) == targets).float().mean() for inputs, targets in batches]
    return float(torch.stack(right).mean())


SPOILT = {
    "units die": (lambda: stack(16, 3, nn.ReLU, init=_normal), 32, "GC202"),
    "signals collapse": (lambda: stack(64, 13, nn.GELU, norm=nn.LayerNorm), 32, "GC101"),
    "units die in depth": (lambda: stack(32, 30, nn.ReLU, init=_he), 128, "GC202"),
    "it runs away": (lambda: stack(128, 6, nn.SELU), 32, "GC102"),
    "it runs away, deep": (lambda: stack(32, 25, nn.LeakyReLU, init=_he), 64, "GC102"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_what_is_spoilt_later_is_found(digits: Callable[..., Batches], name: str) -> None:
    build, batch, code = SPOILT[name]
    batches, optimizer = digits(batch=batch), partial(SGD, lr=0.1)
    at_once = gradcheckup.diagnose(build(), batches, CE, optimizer=optimizer, follow=0)
    assert at_once.healthy, "eight steps are enough: nothing is tested"
    assert at_once.recording.course == ()

    report = gradcheckup.diagnose(build(), batches, CE, optimizer=optimizer)
    assert not report.healthy
    assert report.findings[0].code == code
    assert report.findings[0].cause in {"learning-rate", "dead-units"}
    assert min(report.findings[0].steps) >= 8
    assert " of " in gradcheckup.Report.text(report).splitlines()[0]

    model = build()
    losses = [*train(model, optimizer(model.parameters()), batches, 1000)]
    assert share_right(model, batches) < 0.2
    made = len(report.recording.course)
    assert report.recording.course == pytest.approx(losses[:made], rel=0, nan_ok=True)
    for step in report.steps:
        assert step.loss == pytest.approx(losses[step.index], rel=0, nan_ok=True)
    assert [step.index for step in report.steps[-2:]] == [made - 2, made - 1]


@pytest.mark.parametrize(
    ("build", "rate"),
    [
        (lambda: stack(16, 3, nn.LeakyReLU), 0.01),
        (lambda: stack(64, 8, nn.SiLU, init=nn.init.xavier_normal_), 0.01),
        (lambda: stack(32, 6, nn.LeakyReLU), 0.02),
    ],
    ids=["narrow", "deep", "default"],
)
def test_a_plateau_from_which_a_net_learns_is_no_fault(
    digits: Callable[..., Batches], build: Callable[[], nn.Sequential], rate: float
) -> None:
    batches, optimizer = digits(), partial(SGD, lr=rate)
    report = gradcheckup.diagnose(build(), batches, CE, optimizer=optimizer)
    assert report.healthy
    *_, before, last = (sum(report.recording.course[at : at + 16]) for at in (32, 48))
    assert last > 0.95 * before, "it learns at once: nothing is tested"
    assert [step.index for step in report.steps][:8] == list(range(8))

    model = build()
    assert len([*train(model, optimizer(model.parameters()), batches, 1000)]) == 1000
    assert share_right(model, batches) > 0.99


def _small(weight: Tensor) -> None:
    nn.init.normal_(weight, std=0.02)


def test_a_plateau_that_is_left_late_is_no_fault(digits: Callable[..., Batches]) -> None:
    """By step 64 next to nothing is learnt, but a little faster each time."""
    build, optimizer = partial(stack, 128, 5, nn.SELU, init=_small), partial(SGD, lr=0.01)
    report = gradcheckup.diagnose(build(), digits(), CE, optimizer=optimizer)
    assert report.healthy
    assert len(report.recording.course) == 4 * HORIZON
    assert (report.recording.unlearnt or 0.0) > 0.9

    model = build()
    assert len([*train(model, optimizer(model.parameters()), digits(), 1500)]) == 1500
    assert share_right(model, digits()) > 0.95


def test_a_gradient_that_explodes_and_is_got_over(digits: Callable[..., Batches]) -> None:
    """Under Adam, whose steps do not follow the size of the gradient."""
    build, adam = partial(stack, 256, 10, nn.ELU, init=_normal), partial(torch.optim.Adam, lr=1e-3)
    data = digits(batch=128)
    at_once = gradcheckup.diagnose(build(), data, CE, optimizer=adam, follow=0)
    assert [each.code for each in at_once.at_least("critical")] == ["GC102"]

    report = gradcheckup.diagnose(build(), data, CE, optimizer=adam)
    assert report.healthy
    (found,) = (each for each in report.findings if each.code == "GC102")
    assert found.severity.value == "warning"
    assert "learns all the same: by step 64 it knows" in " ".join(str(report).split())
    assert [step.index for step in report.steps] == list(range(8))

    # What one batch asks for, nets learn by heart.
    assert not gradcheckup.diagnose(build(), data[0], CE, optimizer=adam).healthy

    model = build()
    assert len([*train(model, adam(model.parameters()), data, 500)]) == 500
    assert share_right(model, data) > 0.95


class Last(nn.Module):
    """Names the symbol that comes first in a sequence from the last output of two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.core = nn.LSTM(10, 32, 2, batch_first=True)
        self.head = nn.Linear(32, 10)
        for parameter in self.core.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Scores for sequences of shape (batch, time, 10)."""
        return self.head(self.core(x)[0][:, -1])  # type: ignore[no-any-return]


@pytest.mark.parametrize("warming_up", [False, True])
def test_where_no_step_teaches_anything(recall: Callable[..., Batches], warming_up: bool) -> None:
    """At chance after 1000 steps; in a warm-up the rate is not yet what it will be."""
    torch.manual_seed(0)
    model = Last()
    optimizer = SGD(model.parameters(), lr=1.0 if warming_up else 0.01)
    if warming_up:
        torch.optim.lr_scheduler.LinearLR(optimizer, 0.01, total_iters=500)
    report = gradcheckup.diagnose(model, recall(5), CE, optimizer=optimizer)
    assert report.recording.rate_share == pytest.approx(0.01 if warming_up else 1.0)
    if warming_up:
        assert report.healthy
        return
    assert [each.code for each in report.at_least("critical")] == ["GC305"]
    assert "a tenth of it takes" in " ".join(str(report).split())
    losses = [*train(model, optimizer, recall(5), 1000)]
    assert min(losses[-8:]) > 2.2


class Noisy(nn.Module):
    """Everything that a step may leave behind: dropout, running statistics, a counter."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.3))
        self.head = nn.Linear(32, 10)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        """Noise that depends on how often it was called."""
        self.calls += 1
        return self.head(self.body(x)) + 0.01 * math.sin(self.calls)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "optimizer", [partial(SGD, lr=0.05), partial(torch.optim.Adam, lr=1e-3)], ids=["sgd", "adam"]
)
def test_what_is_measured_first_knows_nothing_of_what_is_seen_later(
    digits: Callable[..., Batches], optimizer: Callable[..., torch.optim.Optimizer]
) -> None:
    torch.manual_seed(0)
    model = Noisy()
    before = copy.deepcopy(model.state_dict())
    reports = [
        gradcheckup.diagnose(model, digits(), CE, optimizer=optimizer, follow=follow)
        for follow in (0, 24, 64)
    ]
    assert all(report.steps == reports[0].steps for report in reports)
    assert reports[2].recording.course[:24] == reports[1].recording.course
    assert model.calls == 0
    assert all(bool((value == before[key]).all()) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("code", "steps", "grown", "rise", "expected"),
    [
        ("GC101", {6, 7}, 1.1, 0.0, True),
        ("GC101", {7}, 1.1, 0.0, False),  # not at each late step
        ("GC101", {6, 7}, 5.0, 0.0, False),  # it ends in 192 * ln(200) / ln(5) = 632 steps
        ("GC202", {6, 7}, 5.0, 0.0, True),  # dead units stay dead
        ("GC202", {6, 7}, 1.1, 0.006, False),  # no plateau
        ("GC101", {6, 7}, 1.1, 0.004, True),
    ],
)
def test_what_lasts_on_a_plateau(
    code: str, steps: set[int], grown: float, rise: float, expected: bool
) -> None:
    made = [Step(index=index, loss=2.3, layers=(), parameters=()) for index in (0, 1, 6, 7)]
    course = (2.3,) * 192 + (2.3 * (1 + rise),) * 64
    paces = (5e-6 / grown, 5e-6)
    found = Recording(model="Net", optimizer="SGD", steps=tuple(made), course=course, paces=paces)
    critical = Finding(code=code, rule="", severity=Severity.CRITICAL, steps=tuple(steps))
    limits = gradcheckup.Thresholds(stalled_steps=5000)
    assert lasts(found, [critical], limits) is expected


def test_heavy_nets_are_followed_only_when_asked() -> None:
    """10 million weights, and 6e8 multiply-adds."""
    net = nn.Sequential(nn.Linear(2000, 5000), nn.ReLU(), nn.Linear(5000, 2))
    batch = (torch.randn(64, 2000), torch.arange(64) % 2)
    assert gradcheckup.diagnose(net, batch, CE, steps=2).recording.course == ()
    assert len(gradcheckup.diagnose(net, batch, CE, steps=2, follow=4).recording.course) == 4


@pytest.mark.parametrize("follow", [1, 2, 3, 5])
def test_a_horizon_too_near_to_tell(digits: Callable[..., Batches], follow: int) -> None:
    sgd = partial(SGD, lr=1e-6)
    report = gradcheckup.diagnose(
        stack(16, 2, nn.ReLU), digits(), CE, optimizer=sgd, steps=1, follow=follow
    )
    assert report.healthy
    assert report.steps[0].index == 0


def test_a_loss_that_can_be_computed_so_often_and_no_more(digits: Callable[..., Batches]) -> None:
    """It is judged by the steps that it lasts for."""
    left = iter(range(20))

    def compute_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        next(left)
        return CE(model(batch[0]), batch[1])

    report = gradcheckup.diagnose(stack(16, 2, nn.ReLU), digits(), compute_loss=compute_loss)
    assert report.healthy
    assert len(report.steps) == 8
    assert report.recording.course == ()


def test_a_finite_loss_far_above_its_start_has_run_away() -> None:
    """Regression with large steps: the gradient grows a thousandfold at one step of many."""
    torch.manual_seed(0)
    inputs = torch.randn(32, 4)
    net = nn.Sequential(*[each for _ in range(4) for each in (nn.LazyLinear(32), nn.Tanh())])
    net.append(nn.LazyLinear(1))
    net(inputs)
    for layer in net:
        if isinstance(layer, nn.Linear):
            layer.reset_parameters()
    batch = (inputs, inputs.sum(1, keepdim=True).sin())
    runs = {
        rate: gradcheckup.diagnose(net, batch, nn.MSELoss(), optimizer=partial(SGD, lr=rate))
        for rate in (0.01, 1.0)
    }
    assert runs[0.01].healthy
    assert not runs[1.0].healthy


class Spiteful(torch.optim.SGD):
    """Takes a closure and does not call it."""

    def step(self, closure: object = None) -> None:  # type: ignore[override]
        """Heeds the gradients that are there."""
        del closure
        super().step()


def test_an_optimizer_that_calls_no_closure_is_followed(digits: Callable[..., Batches]) -> None:
    reports = [
        gradcheckup.diagnose(
            stack(128, 6, nn.SELU), digits(), CE, optimizer=partial(kind, lr=0.1, momentum=0.9)
        )
        for kind in (torch.optim.SGD, Spiteful)
    ]
    assert reports[0].recording.course == pytest.approx(
        reports[1].recording.course, rel=0, nan_ok=True
    )
    assert not reports[1].healthy


class Odd(dict[str, Tensor]):
    """Outputs that cannot be made anew."""

    def __setitem__(self, key: str, value: Tensor) -> None:
        raise TypeError("these are final")


class OddNet(nn.Module):
    """A plateau whose outputs cannot be exchanged among the samples."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Odd:
        """Scores in a mapping of its own kind."""
        return Odd(scores=self.layer(x))


def test_outputs_that_cannot_be_exchanged_are_no_error(digits: Callable[..., Batches]) -> None:
    report = gradcheckup.diagnose(
        OddNet(),
        digits(),
        lambda outputs, targets: CE(outputs["scores"], targets),
        optimizer=partial(SGD, lr=1e-6),
    )
    assert report.recording.unlearnt is None
    assert report.healthy


@pytest.mark.parametrize("calls", [30, 70, 100, 130])
def test_what_fails_while_it_is_followed_is_judged_as_before(
    digits: Callable[..., Batches], calls: int
) -> None:
    left = iter(range(calls))

    def criterion(outputs: Tensor, targets: Tensor) -> Tensor:
        next(left)
        return CE(outputs, targets)

    optimizer = partial(SGD, lr=1e-6)
    report = gradcheckup.diagnose(stack(16, 2, nn.ReLU), digits(), criterion, optimizer=optimizer)
    assert report.healthy
    assert [step.index for step in report.steps] == list(range(8))


class Stubborn(dict[str, int]):
    """What a model may keep, and nobody can copy."""

    def copy(self) -> Stubborn:
        """Refuses."""
        raise RuntimeError("no copies")


def test_what_cannot_be_put_back_is_not_followed(digits: Callable[..., Batches]) -> None:
    model = stack(16, 2, nn.ReLU)
    model.notes = Stubborn()  # type: ignore[assignment]
    report = gradcheckup.diagnose(model, digits(), CE)
    assert report.healthy
    assert report.recording.course == ()


def test_progress_never_runs_backwards(digits: Callable[..., Batches]) -> None:
    """Through the probe, what is foreseen, and the second look at its end."""
    told: list[tuple[int, int]] = []
    gradcheckup.diagnose(
        stack(16, 2, nn.ReLU),
        digits(),
        CE,
        optimizer=partial(SGD, lr=1e-6),
        on_step=lambda *count: told.append(count),
    )
    assert [done for done, _ in told] == list(range(1, 265))
    totals = [8] * 8 + [64] * 56 + [72] * 8 + [256] * 184 + [264] * 8
    assert [total for _, total in told] == totals


@pytest.mark.parametrize("at", [5, 20, 70])
def test_what_on_step_raises_is_the_callers(digits: Callable[..., Batches], at: int) -> None:
    def stop(done: int, _: int) -> None:
        if done == at:
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        gradcheckup.diagnose(
            stack(16, 2, nn.ReLU), digits(), CE, optimizer=partial(SGD, lr=1e-6), on_step=stop
        )


def test_a_first_step_that_was_too_large_is_acquitted_by_what_follows(
    digits: Callable[..., Batches],
) -> None:
    """RMSprop begins with ten times its learning rate."""
    build, optimizer = partial(stack, 64, 2, nn.ReLU), partial(torch.optim.RMSprop, lr=0.03)
    report = gradcheckup.diagnose(build(), digits(), CE, optimizer=optimizer, follow=0)
    assert [each.code for each in report.at_least("critical")] == ["GC302"]
    assert gradcheckup.diagnose(build(), digits(), CE, optimizer=optimizer).healthy
    model = build()
    assert len([*train(model, optimizer(model.parameters()), digits(), 300)]) == 300
    assert share_right(model, digits()) > 0.9


@pytest.mark.parametrize("follow", [-1, 1.5, "64", True])
def test_follow_is_a_number_of_steps(digits: Callable[..., Batches], follow: object) -> None:
    with pytest.raises(gradcheckup.UsageError, match="expected follow to be a whole number"):
        gradcheckup.diagnose(stack(16, 2, nn.ReLU), digits(), CE, follow=follow)  # type: ignore[arg-type]
