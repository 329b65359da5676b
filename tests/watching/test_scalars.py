"""What `Monitor.scalars` says, against the run it was read from and against autograd by hand."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch import Tensor, nn

import gradcheckup


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.again = nn.Linear(8, 8)
        self.last = nn.Linear(8, 2)

    def forward(self, given: Tensor) -> Tensor:
        hidden = torch.sigmoid(self.first(given))
        hidden = torch.relu(self.again(torch.relu(self.again(hidden))))
        out: Tensor = self.last(hidden)
        return out


def _train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(16, 6)).square().mean().backward()
        optimizer.step()


def _watched(**options: object) -> tuple[_Net, torch.optim.Optimizer, gradcheckup.Monitor]:
    model = _Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return model, optimizer, gradcheckup.watch(model, optimizer, **options)  # type: ignore[arg-type]


def test_there_is_nothing_before_the_first_sampled_step() -> None:
    _, _, monitor = _watched(every=3)
    assert monitor.sampled_at is None
    assert monitor.scalars() == {}


def test_a_full_look_has_all_of_the_layers() -> None:
    model, optimizer, monitor = _watched(every=1)
    state = torch.get_rng_state()
    before = {name: each.detach().clone() for name, each in model.named_parameters()}
    _train(model, optimizer, 1)
    torch.set_rng_state(state)
    read = monitor.scalars()
    assert monitor.sampled_at == 0
    layers = ("first", "again", "last")
    assert set(read) == {
        "gradcheckup/loss",
        "gradcheckup/end_to_end_ratio",
        "gradcheckup/end_to_end_signal",
        *(
            f"gradcheckup/{quantity}/{layer}"
            for quantity in ("gradient_norm", "signal", "update_ratio")
            for layer in layers
        ),
        "gradcheckup/saturation/sigmoid",
        "gradcheckup/dead_fraction/relu",
    }
    with torch.no_grad():
        change = sum(
            float((each - before[name]).square().sum())
            for name, each in model.named_parameters()
            if name.startswith("first")
        )
        size = sum(float(before[f"first.{name}"].square().sum()) for name in ("weight", "bias"))
        for name, each in model.named_parameters():
            each.copy_(before[name])
    assert read["gradcheckup/update_ratio/first"] == pytest.approx(math.sqrt(change / size), 1e-3)
    twin = model.double()
    data = torch.randn(16, 6).double()
    outputs = [twin.first(data)]
    outputs.append(twin.again(torch.sigmoid(outputs[0])))
    outputs.append(twin.again(torch.relu(outputs[1])))
    outputs.append(twin.last(torch.relu(outputs[2])))
    loss = outputs[3].square().mean()
    norms = [float(each.norm()) for each in torch.autograd.grad(loss, outputs)]
    assert read["gradcheckup/loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert read["gradcheckup/gradient_norm/first"] == pytest.approx(norms[0], rel=1e-4)
    # Called twice: the norm of both gradients together.
    assert read["gradcheckup/gradient_norm/again"] == pytest.approx(
        math.hypot(norms[1], norms[2]), rel=1e-4
    )
    # Of what is no norm, the mean over the calls.
    spreads = [each.detach().std(0) for each in outputs[1:3]]
    signals = [float(spread.square().mean().sqrt()) for spread in spreads]
    assert read["gradcheckup/signal/again"] == pytest.approx(sum(signals) / 2, rel=1e-3)


def test_a_glance_repeats_nothing_of_an_earlier_step() -> None:
    model, optimizer, monitor = _watched(every=1)
    _train(model, optimizer, 3)  # looks at 0 and 1, a glance at 2
    glance = monitor.scalars()
    assert monitor.sampled_at == 2
    assert set(glance) == {
        "gradcheckup/loss",
        "gradcheckup/end_to_end_ratio",
        "gradcheckup/gradient_norm/first",
        "gradcheckup/gradient_norm/again",
        "gradcheckup/gradient_norm/last",
    }
    history = monitor.report().recording.history
    assert history is not None
    assert glance["gradcheckup/loss"] == history.samples[-1].loss


def test_findings_are_counted_where_they_were_looked_for() -> None:
    model = nn.Sequential(
        *(each for _ in range(20) for each in (nn.Linear(8, 8), nn.Sigmoid())), nn.Linear(8, 2)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = gradcheckup.watch(model, optimizer, every=1)
    counted = {}
    monitor.on_sample(
        lambda each: counted.update(
            {
                each.sampled_at: {
                    name.rpartition("/")[2]: value
                    for name, value in each.scalars().items()
                    if "/findings/" in name
                }
            }
        )
    )
    for _ in range(8):
        optimizer.zero_grad()
        model(torch.randn(16, 8)).square().mean().backward()
        optimizer.step()
    # Four looks are judged, at 0, 1, 3 and 7.
    assert {index: found for index, found in counted.items() if found} == {
        7: {
            severity.value: sum(each.severity is severity for each in monitor.report().findings)
            for severity in gradcheckup.Severity
        }
    }
    assert counted[7]["critical"] >= 1


def test_every_sampled_step_is_told_once_and_no_other() -> None:
    model, optimizer, monitor = _watched(every=3)
    told = []
    monitor.on_sample(lambda each: told.append((each.sampled_at, each.steps)))
    _train(model, optimizer, 8)
    # The update is made, and counted, when it is told of.
    assert told == [(0, 1), (3, 4), (6, 7)]
    monitor.close()
    _train(model, optimizer, 3)
    assert len(told) == 3


def test_skipped_steps_are_not_told() -> None:
    model, optimizer, monitor = _watched(every=1)
    told = []
    monitor.on_sample(lambda each: told.append(each.sampled_at))
    for step in range(3):
        optimizer.zero_grad()
        if step != 1:
            model(torch.randn(16, 6)).square().mean().backward()
        optimizer.step()
    assert told == [0, 2]


def test_who_raises_is_called_no_more_and_the_training_goes_on() -> None:
    model, optimizer, monitor = _watched(every=1)
    told = []

    def broken(_: gradcheckup.Monitor) -> None:
        raise ConnectionError("the server is away\nfor a while")

    monitor.on_sample(broken)
    monitor.on_sample(lambda each: told.append(each.sampled_at))
    with pytest.warns(RuntimeWarning, match=r"broken no more.*ConnectionError: the server is away"):
        _train(model, optimizer, 1)
    _train(model, optimizer, 2)
    assert told == [0, 1, 2]
    assert not monitor.closed


def test_who_raises_ends_no_training_where_warnings_are_errors(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def broken(_: gradcheckup.Monitor) -> None:
        raise ConnectionError("the server is away")

    model, optimizer, monitor = _watched(every=1)
    monitor.on_sample(broken)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _train(model, optimizer, 2)
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith("gradcheckup calls broken no more")
    assert not monitor.closed


def test_values_that_are_not_finite_are_kept() -> None:
    model, optimizer, monitor = _watched(every=1)
    _train(model, optimizer, 2)
    with torch.no_grad():
        model.last.weight.fill_(math.nan)
    _train(model, optimizer, 1)
    assert math.isnan(monitor.scalars()["gradcheckup/loss"])
