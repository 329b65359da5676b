"""Nets that are trained on until it is known whether they learn, against trainings by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import cycle, islice, pairwise
from typing import Any, ClassVar

import pytest
import torch
from sklearn.datasets import make_classification  # type: ignore[import-untyped] # no stubs
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped] # no stubs
from torch import Tensor, nn

import gradcheckup

Batch = tuple[Tensor, Tensor]
Batches = list[Batch]
Data = Callable[..., Batches]
CE = nn.CrossEntropyLoss()
SGD = partial(torch.optim.SGD, momentum=0.9)
ADAM = partial(torch.optim.Adam, lr=1e-3)


class First(nn.Module):
    """Names the symbol that comes first in a sequence from the last output."""

    def __init__(self, core: nn.RNNBase) -> None:
        super().__init__()
        self.core = core
        self.head = nn.Linear(core.hidden_size, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Scores for sequences of shape (batch, time, 10)."""
        return self.head(self.core(x)[0][:, -1])  # type: ignore[no-any-return]


def first(kind: type[nn.RNNBase], width: int, **options: Any) -> First:
    """The same one each time."""
    torch.manual_seed(0)
    return First(kind(10, width, batch_first=True, **options))


def remembering(width: int) -> First:
    """Whose forget gates are open at first."""
    net = first(nn.LSTM, width)
    with torch.no_grad():
        for name, bias in net.core.named_parameters():
            if name.startswith("bias_hh"):
                bias[width : 2 * width] = 5.0
    return net


def normed(
    width: int, depth: int, norm: Callable[[int], nn.Module], activation: type[nn.Module]
) -> nn.Sequential:
    """Plain blocks with norms, for digits; the same ones each time."""
    torch.manual_seed(0)
    blocks = [
        nn.Sequential(nn.Linear(before, after), norm(after), activation())
        for before, after in pairwise([64] + [width] * depth)
    ]
    return nn.Sequential(*blocks, nn.Linear(width, 10))


def share_right(
    net: nn.Module,
    optimizer: Callable[..., torch.optim.Optimizer],
    known: Batches,
    new: Batches,
    steps: int,
) -> float:
    """Of other batches, after a training as users write it."""
    trained = optimizer(net.parameters())
    for inputs, targets in islice(cycle(known), steps):
        trained.zero_grad()
        CE(net(inputs), targets).backward()
        trained.step()
    net.eval()
    right = [(net(inputs).argmax(1) == targets).float().mean() for inputs, targets in new]
    return float(torch.stack(right).mean())


@pytest.mark.parametrize(
    ("build", "code"),
    [
        (partial(first, nn.RNN, 16), "GC105"),
        (partial(first, nn.RNN, 16, num_layers=2), "GC306"),
    ],
    ids=["one layer", "two layers"],
)
def test_what_only_learns_by_heart(recall: Data, build: Callable[[], First], code: str) -> None:
    batches, optimizer = recall(20, count=40), partial(SGD, lr=0.01)
    at_first = gradcheckup.diagnose(build(), batches[:8], CE, optimizer=optimizer)
    assert at_first.healthy, "eight batches are enough: nothing is tested"
    assert at_first.recording.generalization is None

    report = gradcheckup.diagnose(build(), batches, CE, optimizer=optimizer)
    (found,) = report.at_least("critical")
    assert found.code == code
    assert "GC306" in [each.code for each in found.walk()]
    known = report.recording.generalization
    assert known is not None
    assert known.steps == 2048
    assert known.unlearnt > 0.9
    text = " ".join(report.text(verbose=True).split())
    assert "of 2,048 steps measured" in text
    assert "explains" in text

    assert share_right(build(), optimizer, batches[:30], batches[30:], 2100) < 0.3
    told = LogisticRegression().fit(
        torch.cat([x.flatten(1) for x, _ in batches[:30]]), torch.cat([y for _, y in batches[:30]])
    )
    assert told.score(*(torch.cat(each) for each in zip(*_flat(batches[30:]), strict=True))) > 0.9


def _flat(batches: Batches) -> Batches:
    return [(x.flatten(1), y) for x, y in batches]


def test_what_scrambles_its_input(digits: Data) -> None:
    """Weights of N(0, 10^2): BatchNorm keeps every norm in order, and no step turns a weight."""

    def build() -> nn.Sequential:
        net = normed(16, 5, nn.BatchNorm1d, nn.ReLU)
        for name, parameter in net.named_parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=10)
            elif name.endswith("0.bias"):
                nn.init.zeros_(parameter)
        return net

    batches, optimizer = digits(batch=64, count=28), partial(SGD, lr=0.01)
    report = gradcheckup.diagnose(build(), batches, CE, optimizer=optimizer)
    assert [each.code for each in report.at_least("critical")] == ["GC306"]
    known = report.recording.generalization
    assert known is not None
    assert known.unlearnt < 0.9
    assert "its outputs explain" in " ".join(str(report).split())
    assert share_right(build(), optimizer, batches[:20], batches[20:], 2048) < 0.5


def test_the_same_net_where_it_can_remember(recall: Data) -> None:
    batches = recall(20, count=40)
    report = gradcheckup.diagnose(remembering(32), batches, CE, optimizer=ADAM)
    assert report.healthy
    known = report.recording.generalization
    assert known is not None
    assert known.unlearnt < 0.5
    assert share_right(remembering(32), ADAM, batches[:30], batches[30:], 2048) > 0.8


def test_of_data_that_says_nothing_nobody_has_to_know_anything() -> None:
    """As in many a test: inputs and targets at random, without end."""
    generator = torch.Generator().manual_seed(0)

    def noise() -> Iterator[Batch]:
        while True:
            inputs = torch.randn(32, 20, generator=generator)
            yield inputs, torch.randint(0, 10, (32,), generator=generator)

    told: list[int] = []
    net = nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 10))
    report = gradcheckup.diagnose(
        net, noise(), CE, optimizer=partial(SGD, lr=0.01), on_step=lambda done, _: told.append(done)
    )
    assert report.healthy
    assert max(told) < 300, "a thousand steps for nothing"


def test_of_a_loss_that_is_computed_elsewhere_nobody_knows_what_it_asks_for(recall: Data) -> None:
    def compute_loss(model: nn.Module, batch: Batch) -> Tensor:
        return model(batch[0]).square().mean()  # type: ignore[no-any-return]

    net, optimizer = first(nn.RNN, 16), partial(SGD, lr=1e-6)
    data = recall(5, count=40)
    report = gradcheckup.diagnose(net, data, optimizer=optimizer, compute_loss=compute_loss)
    assert report.healthy
    known = report.recording.generalization
    assert known is None or known.regression is None


def test_who_limits_the_batches_means_it(recall: Data) -> None:
    data, net = recall(20, count=40), first(nn.RNN, 16)
    report = gradcheckup.diagnose(net, data, CE, optimizer=partial(SGD, lr=0.01), batches=8)
    assert report.healthy
    assert report.recording.generalization is None


def test_what_new_batches_acquit(digits: Data) -> None:
    """Deep sigmoids between norms: 1e-3 of the gradient is left, which Adam gets over."""
    build = partial(normed, 256, 6, nn.LayerNorm, nn.Sigmoid)
    batches = digits(batch=64, count=28)
    condemned = gradcheckup.diagnose(build(), batches[:8], CE, optimizer=ADAM)
    assert [each.code for each in condemned.at_least("critical")] == ["GC101"]
    report = gradcheckup.diagnose(build(), batches, CE, optimizer=ADAM)
    assert report.healthy
    (found,) = (each for each in report.findings if each.code == "GC101")
    assert found.severity.value == "warning"
    assert "of what new batches ask for" in " ".join(str(report).split())
    assert [step.index for step in report.steps] == list(range(8))
    assert share_right(build(), ADAM, batches[:20], batches[20:], 500) > 0.85


class Turning(torch.optim.SGD):
    """A training that goes well until step 150, and then wrong in some way at each step."""

    def __init__(self, parameters: Iterable[nn.Parameter], *, factor: float) -> None:
        super().__init__(parameters, lr=0.05, momentum=0.9)
        self.factor = factor
        self.made = 0

    def step(self, closure: Any = None) -> Any:
        found = super().step(closure)
        self.made += 1
        if self.made > 150:
            with torch.no_grad():
                for group in self.param_groups:
                    for parameter in group["params"]:
                        parameter.mul_(self.factor)
        return found


class Around(torch.optim.Optimizer):
    """Leaves the steps to another one, as a lookahead does."""

    def __init__(self, parameters: Iterable[nn.Parameter], *, factor: float) -> None:
        self.inner = Turning(parameters, factor=factor)
        super().__init__(self.inner.param_groups, {})

    def step(self, closure: Any = None) -> Any:
        return self.inner.step(closure)


def warned_of() -> nn.Sequential:
    """With a gradient ratio of 0.015: it learns, and is watched for that."""
    torch.manual_seed(0)
    sizes = [64] * 7
    blocks = [each for size in pairwise(sizes) for each in (nn.Linear(*size), nn.LeakyReLU())]
    return nn.Sequential(*blocks, nn.Linear(64, 10))


def test_a_warning_is_followed_until_it_has_proved_empty(digits: Data) -> None:
    batches, optimizer = digits(batch=64, count=28), partial(Turning, factor=1.0)
    report = gradcheckup.diagnose(warned_of(), batches, CE, optimizer=optimizer)
    assert report.healthy
    (found,) = (each for each in report.findings if each.code == "GC101")
    assert found.severity.value == "warning"
    known = report.recording.generalization
    assert known is not None
    assert known.unlearnt < 0.03 or known.steps == 2048
    assert f"by step {known.steps} it knows" in " ".join(str(report).split())
    assert share_right(warned_of(), optimizer, batches[:20], batches[20:], 500) > 0.8


@pytest.mark.parametrize("kind", [Turning, Around])
def test_what_runs_away_after_it_has_learnt(
    digits: Data, kind: Callable[..., torch.optim.Optimizer]
) -> None:
    batches, optimizer = digits(batch=64, count=28), partial(kind, factor=2.0)
    report = gradcheckup.diagnose(warned_of(), batches, CE, optimizer=optimizer)
    (found,) = report.at_least("critical")
    assert found.code == "GC102"
    course = report.recording.course
    assert not math.isfinite(course[-1])
    assert 150 < len(course) < 180
    late = list(range(len(course) - 8, len(course)))
    assert [step.index for step in report.steps] == [*range(8), *late]
    # They were made a second time, and are the same.
    assert [step.loss for step in report.steps[:-1]] == [course[i] for i in (*range(8), *late[:-1])]
    assert f"of {len(course)} steps measured" in " ".join(str(report).split())


class Unlucky(torch.optim.SGD):
    """Goes wrong at step 100 where it meets the batch that it met there the first time."""

    met: ClassVar[list[Tensor]] = []
    given: ClassVar[list[Tensor]] = []

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, becomes: float) -> None:
        super().__init__(parameters, lr=lr, momentum=0.9)
        self.made, self.becomes = 0, becomes

    def step(self, closure: Any = None) -> Any:
        found = super().step(closure)
        self.made += 1
        if self.made == 100:
            self.met.append(self.given[-1].clone())
            if torch.equal(self.met[0], self.met[-1]):
                for each in self.param_groups[0]["params"]:
                    each.detach().fill_(self.becomes)
                self.param_groups[0]["lr"] = 0.0
        return found


@pytest.mark.parametrize(
    ("rate", "becomes"),
    [(0.01, 1e30), (3e-4, 1e30), (1.6e-3, 0.0)],
    ids=["learns", "knew nothing", "began to learn"],
)
def test_what_one_order_of_the_samples_has_done(digits: Data, rate: float, becomes: float) -> None:
    """That a net runs away, or forgets, is believed where it does so in another order as well."""
    Unlucky.met.clear()
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    net.register_forward_pre_hook(lambda _, inputs: Unlucky.given.append(inputs[0].detach()))
    optimizer = partial(Unlucky, lr=rate, becomes=becomes)
    report = gradcheckup.diagnose(net, digits(batch=64, count=28), CE, optimizer=optimizer)
    assert report.healthy
    one, *again, other = Unlucky.met
    assert all(torch.equal(one, each) for each in again)  # made again, and measured
    assert not torch.equal(one, other)
    assert max(report.recording.course) < 10


def test_what_loses_all_that_it_has_learnt(digits: Data) -> None:
    batches, optimizer = digits(batch=64, count=28), partial(Turning, factor=0.0)
    report = gradcheckup.diagnose(warned_of(), batches, CE, optimizer=optimizer)
    (found,) = report.at_least("critical")
    assert found.code == "GC101"
    assert {"GC203", "GC306"} <= {each.code for each in found.walk()}
    assert "after 2048 steps it knows little of new batches" in " ".join(str(report).split())


@pytest.mark.parametrize("fit", [True, False], ids=["mixed", "as they are"])
def test_batches_are_shuffled_each_time(recall: Data, *, fit: bool) -> None:
    """Sample by sample where they fit; as wholes where they do not."""
    batches: list[Any] = recall(20, count=40)
    if not fit:
        batches = [((x, f"no tensor: {index}"), y) for index, (x, y) in enumerate(batches)]
    trained: list[Tensor] = []
    now: list[Tensor] = []

    class Net(First):
        def forward(self, x: Tensor, _: str = "") -> Tensor:
            now[:] = [x.detach().flatten(1)]
            return super().forward(x)

    class Logged(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            trained.append(now[0])
            return super().step(closure)

    def run() -> gradcheckup.Report:
        trained.clear()
        torch.manual_seed(0)
        net = Net(nn.RNN(10, 16, batch_first=True))
        return gradcheckup.diagnose(net, batches, CE, optimizer=partial(Logged, lr=0.01))

    known = run().recording.generalization
    assert known is not None
    assert (known.steps, known.batches) == (2048, 30)
    rounds = [trained[-8 - 30 * k :][:30] for k in (1, 2, 3)]  # 2048 = 68 * 30 + 8
    samples = [sorted(map(tuple, torch.cat(each).tolist())) for each in rounds]
    assert samples[0] == samples[1] == samples[2]
    orders = [tuple(_name(each) for each in one) for one in rounds]
    assert [len(set(each)) for each in orders] == [30] * 3
    assert len(set(orders)) == 3
    assert (set(orders[0]) == set(orders[1])) is not fit
    before = list(trained)
    run()
    assert all(map(torch.equal, trained, before))


def _name(samples: Tensor) -> float:
    """The same for the same samples in any order."""
    return round(float((samples @ torch.arange(samples.shape[1]).float()).square().sum()), 2)


class TimeFirst(nn.Module):
    """Names a symbol at each step; time is the first dimension of everything it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.core = nn.LSTM(4, 24)
        self.head = nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Scores for sequences of shape (time, batch, 4)."""
        out: Tensor = self.head(self.core(x)[0])
        return out


def test_steps_of_time_are_not_mixed_as_samples_are() -> None:
    """Each step of a sequence asks for the input before it: mixed, there is nothing to learn."""
    generator = torch.Generator().manual_seed(0)
    batches: Batches = []
    for _ in range(40):
        symbols = torch.randint(0, 4, (12, 32), generator=generator)
        inputs = nn.functional.one_hot(symbols, 4).float()
        batches.append((inputs, inputs.roll(1, 0)))
    torch.manual_seed(0)
    report = gradcheckup.diagnose(
        TimeFirst(), batches, nn.MSELoss(), optimizer=partial(torch.optim.Adam, lr=3e-3)
    )
    assert report.healthy
    known = report.recording.generalization
    assert known is not None
    assert known.unlearnt < 0.3


@pytest.mark.parametrize("wrong", [0.3, 0.4])
def test_of_labels_that_are_often_wrong_nobody_has_to_know_much(wrong: float) -> None:
    """Learning these by heart costs what was known of new batches: that is no fault of the net."""
    x, y = make_classification(800, 20, n_informative=8, flip_y=wrong, random_state=0)
    inputs, targets = torch.tensor(x, dtype=torch.float32), torch.tensor(y)
    inputs = (inputs - inputs.mean(dim=0)) / inputs.std(dim=0)
    batches = list(zip(inputs.split(16), targets.split(16), strict=True))
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
    net.append(nn.Linear(64, 2))
    assert gradcheckup.diagnose(net, batches, CE, optimizer=ADAM).healthy


@pytest.mark.parametrize("noise", [False, True], ids=["digits", "noise"])
def test_a_net_that_is_too_narrow_by_design(digits: Data, *, noise: bool) -> None:
    """One number for each sample leaves half of an image, and nearly all of white noise."""
    generator = torch.Generator().manual_seed(0)
    images = [x for x, _ in digits(batch=64, count=28)]
    if noise:
        images = [torch.randn(each.shape, generator=generator) for each in images]
    torch.manual_seed(0)
    sizes = [(64, 64), (64, 1), (1, 64), (64, 64)]
    code, *rest = (nn.Linear(*each) for each in sizes)
    net = nn.Sequential(code, nn.ReLU(), rest[0], rest[1], nn.ReLU(), rest[2])
    report = gradcheckup.diagnose(net, [(x, x) for x in images], nn.MSELoss(), optimizer=ADAM)
    assert report.healthy


def test_what_a_net_knows_is_asked_without_dropout(digits: Data) -> None:
    """And with the statistics of the batch, as it is trained."""
    modes: dict[str, set[bool]] = {"noise": set(), "norm": set()}

    class Noise(nn.Dropout):
        def forward(self, x: Tensor) -> Tensor:
            modes["noise"].add(self.training)
            return super().forward(x)

    class Norm(nn.BatchNorm1d):
        def forward(self, x: Tensor) -> Tensor:
            modes["norm"].add(self.training)
            return super().forward(x)

    net = nn.Sequential(nn.Linear(64, 32), Norm(32), nn.ReLU(), Noise(0.5), nn.Linear(32, 10))
    optimizer = partial(SGD, lr=1e-4)
    report = gradcheckup.diagnose(net, digits(batch=64, count=28), CE, optimizer=optimizer)
    assert report.recording.generalization is not None
    assert modes == {"noise": {True, False}, "norm": {True}}
    assert net.training
    assert net[3].training


def test_what_is_treated_is_followed_as_far_as_the_untreated(digits: Data) -> None:
    found = gradcheckup.prescribe(
        warned_of(),
        digits(batch=64, count=28),
        CE,
        optimizer=partial(Turning, factor=2.0),
        treatments="gradient_clipping",
        budget=20,
    )
    assert [each.code for each in found.before.at_least("critical")] == ["GC102"]
    assert not any(each.after.healthy for each in found.trials)


def test_what_is_treated_is_schooled_where_the_untreated_was(recall: Data) -> None:
    """So that the two verdicts say the same."""
    prescribe = partial(gradcheckup.prescribe, treatments="gradient_clipping", budget=20)
    data = recall(20, count=40)
    found = prescribe(first(nn.RNN, 16), data, CE, optimizer=partial(SGD, lr=0.01))
    assert [each.code for each in found.before.at_least("critical")] == ["GC105"]
    assert all(each.after.recording.generalization for each in found.trials)
    found = prescribe(remembering(32), data, CE, optimizer=ADAM)
    assert found.before.recording.generalization is not None
    assert [each.after.recording.generalization for each in found.trials] == [None]


@pytest.mark.parametrize("calls", [90, 200, 400, 700])
def test_what_fails_on_the_way_is_judged_as_before(recall: Data, calls: int) -> None:
    left = iter(range(calls))

    def criterion(outputs: Tensor, targets: Tensor) -> Tensor:
        next(left)
        return CE(outputs, targets)

    net = first(nn.RNN, 16)
    report = gradcheckup.diagnose(
        net, recall(5, count=40), criterion, optimizer=partial(SGD, lr=1e-5)
    )
    assert [step.index for step in report.steps] == list(range(8))
    assert report.recording.generalization is None
