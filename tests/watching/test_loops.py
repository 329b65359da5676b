"""Loops that are not the plain one: what is measured in them, against autograd by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.checkpoint import checkpoint

import gradcheckup
from gradcheckup import Monitor, Sample


def _net(width: int = 6) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, 8), nn.Tanh(), nn.Linear(8, 2))


def _norms(
    model: nn.Sequential, *batches: Tensor, loss: Callable[[Tensor], Tensor] | None = None
) -> list[float]:
    """||dL/dy|| of each linear layer over all batches together, in float64, by hand."""
    twin = copy.deepcopy(model).double()
    total: Any = 0.0
    outputs: dict[int, list[Tensor]] = {}
    for batch in batches:
        reached = batch.double()
        for place, module in enumerate(twin):
            reached = module(reached)
            if isinstance(module, nn.Linear):
                outputs.setdefault(place, []).append(reached)
        total = total + (loss or _loss)(reached)
    found = []
    for each in outputs.values():
        gradients = torch.autograd.grad(total, each, retain_graph=True)
        found.append(torch.cat([one.flatten() for one in gradients]).norm().item())
    return found


def _loss(outputs: Tensor) -> Tensor:
    return outputs.square().mean()


def _samples(monitor: Monitor) -> tuple[Sample, ...]:
    history = monitor.report().recording.history
    assert history is not None
    return history.samples


def _moved(model: nn.Module, before: list[Tensor]) -> list[float]:
    """How far each parameter is from where it was."""
    pairs = zip(model.parameters(), before, strict=True)
    return [(one - other).norm().item() for one, other in pairs]


def _agree_on_updates(monitor: gradcheckup.Monitor, moved: list[list[float]]) -> None:
    """The full looks have the updates that were made."""
    for step in monitor.report().steps:
        updates = [each.update_norm for each in step.parameters]
        assert updates == pytest.approx(moved[step.index], rel=1e-4)


def _agree(
    monitor: Monitor, expected: dict[int, list[float]] | list[list[float]], rel: float = 1e-4
) -> None:
    """Samples and full looks against the norms by hand, by step."""
    known = dict(enumerate(expected)) if isinstance(expected, list) else expected
    samples = _samples(monitor)
    assert [each.index for each in samples] == list(known)
    for sample in samples:
        assert sample.norms == pytest.approx(known[sample.index], rel=rel), sample.index
    for step in monitor.report().steps:
        read: dict[str, float] = {}
        for layer in step.layers:
            if layer.kind == "linear" and layer.gradient_norm is not None:
                read[layer.name] = (read.get(layer.name, 0.0) ** 2 + layer.gradient_norm**2) ** 0.5
        assert [*read.values()] == pytest.approx(known[step.index], rel=rel)


# -- which pass ------------------------------------------------------------------------------


def test_of_micro_batches_the_first_is_looked_at_once_per_optimizer_step() -> None:
    model = _net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    monitor = gradcheckup.watch(model, optimizer, every=1)
    expected = []
    for _ in range(5):
        optimizer.zero_grad()
        batches = torch.randn(3, 4, 6)
        expected.append(_norms(model, batches[0]))
        for batch in batches:
            _loss(model(batch)).backward()
        optimizer.step()
    assert monitor.steps == 5
    _agree(monitor, expected)
    for step in monitor.report().steps[-1:]:  # parameters have the gradient of all
        for record in step.parameters:
            assert record.gradient_norm is not None


def test_parameters_have_the_gradient_that_the_optimizer_gets() -> None:
    """Of all micro-batches, clipped; layers that of the first pass, before clipping."""
    model = _net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    monitor = gradcheckup.watch(model, optimizer, every=1)
    for batch in torch.randn(3, 4, 6):
        _loss(model(batch)).backward()
    before = nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
    assert before > 1e-3
    expected = [each.grad.norm().item() for each in model.parameters() if each.grad is not None]
    optimizer.step()
    records = monitor.report().steps[0].parameters
    assert [each.gradient_norm for each in records] == pytest.approx(expected, rel=1e-5)
    assert sum((each.gradient_norm or 0) ** 2 for each in records) ** 0.5 == pytest.approx(
        1e-3, rel=1e-3
    )


@pytest.mark.parametrize("joint", [True, False])
def test_a_model_that_is_called_twice_counts_with_both_calls(joint: bool) -> None:
    """Siamese nets: one backward pass through both; of two backward passes the first."""
    model = _net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    monitor = gradcheckup.watch(model, optimizer, every=1)
    expected = []
    for _ in range(5):
        optimizer.zero_grad()
        one, other = torch.randn(2, 4, 6)
        expected.append(_norms(model, one, other) if joint else _norms(model, one))
        first, second = _loss(model(one)), _loss(model(other))
        if joint:
            (first + second).backward()
        else:
            first.backward()
            second.backward()
        optimizer.step()
    _agree(monitor, expected)


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("mode", [True, False])
def test_evaluations_between_steps_are_left_out(grad: bool, mode: bool) -> None:
    model = _net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    monitor = gradcheckup.watch(model, optimizer, every=1)
    expected = []
    for _ in range(5):
        model.train(mode)
        with torch.set_grad_enabled(grad):
            for _ in range(3):
                held = model(torch.randn(7, 6) * 100)
        model.train()
        data = torch.randn(4, 6)
        expected.append(_norms(model, data))
        optimizer.zero_grad()
        _loss(model(data)).backward()
        held = model(torch.randn(7, 6))
        optimizer.step()
    assert held is not None
    _agree(monitor, expected)
    assert all(layer.call == 0 for step in monitor.report().steps for layer in step.layers)


def test_a_cell_in_a_loop_counts_with_all_its_calls() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.GRUCell(3, 5), nn.Linear(5, 1)

        def forward(self, x: Tensor) -> Tensor:
            state = x.new_zeros(x.shape[1], 5)
            self.states = []
            for given in x:
                state = self.cell(given, state)
                self.states.append(state)
            return self.head(state)  # type: ignore[no-any-return]

    model = Recurrent()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = gradcheckup.watch(model, optimizer, every=1)
    expected = []
    for _ in range(5):
        data = torch.randn(6, 4, 3)
        twin = copy.deepcopy(model).double()
        output = twin(data.double())
        gradients = torch.autograd.grad(_loss(output), [*twin.states, output])
        total = sum(float(each.square().sum()) for each in gradients[:-1]) ** 0.5
        expected.append([total, gradients[-1].norm().item()])
        optimizer.zero_grad()
        _loss(model(data)).backward()
        optimizer.step()
        model.states = []
    for sample in _samples(monitor):
        assert sample.norms == pytest.approx(expected[sample.index], rel=1e-4)
    assert len(_samples(monitor)) == 5


# -- several optimizers and models -------------------------------------------------------------


def test_two_optimizers_of_one_model_make_one_step() -> None:
    model = _net()
    optimizers = [
        torch.optim.SGD(model[0].parameters(), lr=0.5),
        torch.optim.Adam(model[2].parameters(), lr=0.05),
    ]
    monitor = gradcheckup.watch(model, optimizers, every=1)
    expected, moved = [], []
    for _ in range(5):
        data = torch.randn(4, 6)
        expected.append(_norms(model, data))
        before = [each.detach().clone() for each in model.parameters()]
        for each in optimizers:
            each.zero_grad()
        _loss(model(data)).backward()
        for each in optimizers:
            each.step()
        moved.append(_moved(model, before))
    _agree(monitor, expected)
    _agree_on_updates(monitor, moved)


def test_an_optimizer_that_steps_now_and_then_spoils_no_measurement() -> None:
    """Layers and updates of one and the same step."""
    model = _net()
    often = torch.optim.SGD(model[0].parameters(), lr=0.5)
    seldom = torch.optim.SGD(model[2].parameters(), lr=0.5)
    monitor = gradcheckup.watch(model, [often, seldom], every=1)
    seen = []
    for iteration in range(9):
        data = torch.randn(4, 6)
        by_hand = _norms(model, data)
        before = [each.detach().clone() for each in model.parameters()]
        often.zero_grad()
        seldom.zero_grad()
        _loss(model(data)).backward()
        often.step()
        if iteration % 3 == 0:
            seldom.step()
        moved = [
            (one - other).norm().item()
            for one, other in zip(model.parameters(), before, strict=True)
        ]
        stepped = 4 if iteration % 3 == 0 else 2
        seen.append((by_hand, moved[:stepped]))
    steps = monitor.report().steps
    assert len(steps) >= 3
    for step in steps:
        norms = [each.gradient_norm for each in step.layers if each.kind == "linear"]
        (moved,) = [moved for by_hand, moved in seen if by_hand == pytest.approx(norms, rel=1e-4)]
        updates = [each.update_norm for each in step.parameters]
        assert updates[: len(moved)] == pytest.approx(moved, rel=1e-3)
        assert not any(updates[len(moved) :])


@pytest.mark.parametrize(("every", "rhythm"), [(1, 4), (5, 4), (10, 2), (10, 5)])
def test_parameters_whose_optimizer_has_its_turn_at_other_steps_are_no_finding(
    every: int, rhythm: int
) -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    often = torch.optim.SGD(model[2].parameters(), lr=0.1)
    seldom = torch.optim.SGD(model[0].parameters(), lr=0.1)
    monitor = gradcheckup.watch(model, [often, seldom], every=every, stop_on="critical")
    for iteration in range(80):
        often.zero_grad()
        _loss(model(torch.randn(4, 6))).backward()
        often.step()
        if iteration % rhythm == 1:
            seldom.step()
            seldom.zero_grad()
    assert not monitor.report().at_least("warning"), str(monitor.report())


@pytest.mark.parametrize("joint", [True, False])
def test_an_optimizer_of_another_model_may_step_first(joint: bool) -> None:
    """Actor and critic, each with its optimizer; and a weight of losses that is learnt."""
    data = torch.randn(4, 6)
    models = _net(), _net()
    weight = nn.Parameter(torch.ones(()))
    optimizers = [torch.optim.SGD(each.parameters(), lr=0.1) for each in models]
    of_weight = torch.optim.SGD([weight], lr=0.1)
    monitors = [
        gradcheckup.watch(model, optimizer, every=1)
        for model, optimizer in zip(models, optimizers, strict=True)
    ]
    expected: list[list[list[float]]] = [[], []]
    for _ in range(6):
        for each in (*optimizers, of_weight):
            each.zero_grad()
        for norms, model in zip(expected, models, strict=True):
            norms.append(_norms(model, data))
        losses = [_loss(model(data)) + 0 * weight for model in models]
        if joint:
            torch.stack(losses).sum().backward()
        else:
            for loss in losses:
                loss.backward()
        for each in (of_weight, *optimizers):
            each.step()
    for monitor, norms in zip(monitors, expected, strict=True):
        _agree(monitor, norms)


class _Recurring(nn.Module):
    """One block that runs twice, as in ALBERT, each time in a checkpoint."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.block, self.head, self.way = nn.Linear(6, 6), nn.Linear(6, 3), way

    def forward(self, x: Tensor) -> Tensor:
        def again(hidden: Tensor) -> Tensor:
            return torch.tanh(self.block(hidden))

        for _ in range(2):
            x = (
                again(x)
                if self.way == "plain"
                else checkpoint(again, x, use_reentrant=self.way == "reentrant")
            )
        out: Tensor = self.head(x)
        return out


@pytest.mark.parametrize("way", ["plain", "reentrant", "not reentrant"])
def test_a_block_that_runs_twice_in_checkpoints(way: str) -> None:
    model = _Recurring(way)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = gradcheckup.watch(model, optimizer, every=1)
    expected = []
    for _ in range(6):
        data = torch.randn(4, 6, requires_grad=True)
        twin = copy.deepcopy(model).double()
        first = twin.block(data.double())
        second = twin.block(first.tanh())
        outputs = twin.head(second.tanh())
        found = torch.autograd.grad(_loss(outputs), [first, second, outputs])
        expected.append([torch.cat(found[:2]).norm().item(), found[2].norm().item()])
        optimizer.zero_grad()
        _loss(model(data)).backward()
        optimizer.step()
    _agree(monitor, expected)


class _Quantised(nn.Module):
    """A frozen layer in integers or 8-bit floats, and an adapter that trains."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        codes = (20 * torch.randn(8, 8)).clamp(0, 100).to(dtype)
        self.codes = nn.Parameter(codes, requires_grad=False)
        self.down, self.up = nn.Linear(8, 2), nn.Linear(2, 8)

    def forward(self, x: Tensor) -> Tensor:
        adapted: Tensor = self.up(self.down(x))
        return x @ self.codes.float() * 0.02 + adapted


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn])
@pytest.mark.parametrize("given", ["all", "those that train"])
def test_quantised_weights_have_no_norm_and_do_no_harm(dtype: torch.dtype, given: str) -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), _Quantised(dtype), nn.Linear(8, 3))
    data = torch.randn(16, 6)
    parameters = [each for each in model.parameters() if given == "all" or each.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=1e-3)
    monitor = gradcheckup.watch(model, optimizer, every=1)
    for _ in range(4):
        optimizer.zero_grad()
        _loss(model(data)).backward()
        optimizer.step()
    diagnosed = gradcheckup.diagnose(
        model, data, compute_loss=lambda model, batch: _loss(model(batch)), optimizer=optimizer
    )
    for report in (monitor.report(), diagnosed):
        assert not report.at_least("warning"), str(report)
        (codes,) = [each for each in report.steps[-1].parameters if each.name == "2.codes"]
        assert codes.weight_norm is codes.update_norm is None
    assert monitor.failure is None


def _judged(critic: nn.Module, data: Tensor, real: bool) -> Tensor:
    return nn.functional.softplus(critic(data) * (-1 if real else 1)).mean()


@pytest.mark.parametrize("way", ["plain", "retained", "generator first", "not detached"])
def test_a_gan_is_watched_by_two_monitors_that_do_not_mix(way: str) -> None:
    """The critic's monitor measures the critic's own passes, not those that train the generator."""
    generator, critic = _net(4), nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))
    of_generator = torch.optim.SGD(generator.parameters(), lr=0.1)
    of_critic = torch.optim.SGD(critic.parameters(), lr=0.1)
    on_generator = gradcheckup.watch(generator, of_generator, every=1)
    on_critic = gradcheckup.watch(critic, of_critic, every=1)
    by_critic, by_generator = [], []

    def train_critic(fake: Tensor) -> None:
        real = torch.randn(5, 2)

        twin = copy.deepcopy(critic).double()
        total, outputs = 0.0, []
        for values, sign in ((real, -1), (fake, 1)):
            hidden = twin[0](values.detach().double())
            result = twin[2](twin[1](hidden))
            outputs.append((hidden, result))
            total = total + nn.functional.softplus(result * sign).mean()
        by_critic.append([
            torch.cat(torch.autograd.grad(total, list(each), retain_graph=True)).norm().item()
            for each in zip(*outputs, strict=True)
        ])  # fmt: skip
        of_critic.zero_grad()
        given = fake if way == "not detached" else fake.detach()
        loss = _judged(critic, real, real=True) + _judged(critic, given, real=False)
        loss.backward(retain_graph=way in {"retained", "not detached"})
        of_critic.step()

    def train_generator(fake: Tensor) -> None:
        of_generator.zero_grad()
        loss = _judged(critic, fake, real=True)
        loss.backward(retain_graph=way == "retained")
        of_generator.step()

    for _ in range(6):
        noise = torch.randn(5, 4)
        fake = generator(noise)
        if way == "generator first":
            by_generator.append(
                _norms(
                    generator,
                    noise,
                    loss=lambda y: _judged(copy.deepcopy(critic).double(), y, True),
                )
            )
            train_generator(fake)
            train_critic(fake)
        else:
            train_critic(fake)
            by_generator.append(
                _norms(
                    generator,
                    noise,
                    loss=lambda y: _judged(copy.deepcopy(critic).double(), y, True),
                )
            )
            train_generator(fake)
    if way != "not detached":
        _agree(on_generator, by_generator)
    _agree(on_critic, by_critic)


# -- gradient scalers --------------------------------------------------------------------------


class _Cast(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return super().forward(x).float()


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("set_to_none", [True, False])
def test_scaled_gradients_are_reported_without_the_scale(
    told: bool, fused: bool, set_to_none: bool
) -> None:
    """What a skipped step saw is not reported, also where nobody told of the scaler."""
    if fused and torch.__version__ < "2.5":
        pytest.skip("fused optimizers on the CPU came later")
    model = _Cast(*_net())
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12, growth_interval=3)
    monitor = gradcheckup.watch(model, optimizer, every=1, grad_scaler=scaler if told else None)
    expected, moved = [], []
    for iteration in range(9):
        data = torch.randn(4, 6)
        expected.append(_norms(nn.Sequential(*model), data))
        before = [each.detach().clone() for each in model.parameters()]
        optimizer.zero_grad(set_to_none=set_to_none)
        loss = _loss(model(data))
        if iteration in {0, 5}:
            loss = loss * float("inf")
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        moved.append(_moved(model, before))
    report = monitor.report()
    assert not [each for each in report.findings if each.code in {"GC301", "GC302"}]
    samples = _samples(monitor)
    assert len(samples) >= 4
    usable = [index for index in range(9) if index not in {0, 5}]
    known = [expected[index] for index in usable]
    for sample in samples:
        assert any(sample.norms == pytest.approx(each, rel=0.05) for each in known)
        assert sample.loss is not None
        assert 0 < sample.loss < 10
    for step in report.steps:
        linear = [each.gradient_norm for each in step.layers if each.kind == "linear"]
        (place,) = [index for index in usable if expected[index] == pytest.approx(linear, rel=0.05)]
        updates = [each.update_norm for each in step.parameters]
        assert updates == pytest.approx(moved[place], rel=1e-3)
        for record in step.parameters:
            assert record.gradient_norm is not None
            assert record.gradient_norm < 10
    history = report.recording.history
    assert history is not None
    assert history.first_bad is None
    assert all(each.gradient_norm is None or each.gradient_norm < 10 for each in samples)
    if told:
        assert history.skipped >= 1


# -- optimizers that are not the usual ones ------------------------------------------------------


class _ScheduleFree(Optimizer):
    """Weights are y while training and x while evaluating, as those of Defazio et al. (2024)."""

    def __init__(self, params: Any, lr: float = 0.1) -> None:
        super().__init__(params, {"lr": lr})
        self.mode = True
        for group in self.param_groups:
            for each in group["params"]:
                self.state[each]["z"] = each.detach().clone()
                self.state[each]["x"] = each.detach().clone()

    @torch.no_grad()
    def swap(self, mode: bool) -> None:
        for group in self.param_groups:
            for each in group["params"]:
                x, z = self.state[each]["x"], self.state[each]["z"]
                each.copy_(0.9 * x + 0.1 * z if mode else x)
        self.mode = mode

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # noqa: ARG002 - torch's signature
        assert self.mode
        for group in self.param_groups:
            for each in group["params"]:
                x, z = self.state[each]["x"], self.state[each]["z"]
                z.sub_(each.grad, alpha=group["lr"])
                x.lerp_(z, 0.3)
        self.swap(True)


def test_a_schedule_free_optimizer_is_measured_at_the_weights_it_trains() -> None:
    model = _net()
    optimizer = _ScheduleFree(model.parameters())
    monitor = gradcheckup.watch(model, optimizer, every=1)
    expected = []
    for _ in range(5):
        optimizer.swap(False)
        with torch.no_grad():
            model(torch.randn(3, 6))
        optimizer.swap(True)
        data = torch.randn(4, 6)
        expected.append(_norms(model, data))
        optimizer.zero_grad()
        _loss(model(data)).backward()
        optimizer.step()
    _agree(monitor, expected)


def test_an_optimizer_in_the_backward_pass_tells_of_its_steps() -> None:
    model = _net()
    rate = 0.5
    expected, moved = [], []

    def update(parameter: Tensor) -> None:
        assert parameter.grad is not None
        with torch.no_grad():
            parameter.sub_(parameter.grad, alpha=rate)
        parameter.grad = None

    for each in model.parameters():
        each.register_post_accumulate_grad_hook(update)
    monitor = gradcheckup.watch(model, every=1)
    for _ in range(5):
        data = torch.randn(4, 6)
        expected.append(_norms(nn.Sequential(*map(_bare, model)), data))
        before = [each.detach().clone() for each in model.parameters()]
        _loss(model(data)).backward()
        monitor.step()
        moved.append(_moved(model, before))
    _agree(monitor, expected)
    _agree_on_updates(monitor, moved)


def _bare(module: nn.Module) -> nn.Module:
    """A copy without hooks on its parameters."""
    twin = copy.deepcopy(module)
    for name, each in list(twin.named_parameters()):
        setattr(twin, name, nn.Parameter(each.detach().clone()))
    return twin


def test_lbfgs_is_measured_at_its_first_evaluation() -> None:
    model = _net()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=3)
    monitor = gradcheckup.watch(model, optimizer, every=1)
    data = torch.randn(8, 6)
    expected, moved = [], []
    for _ in range(4):
        expected.append(_norms(model, data))
        before = [each.detach().clone() for each in model.parameters()]

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = _loss(model(data))
            loss.backward()
            return loss

        optimizer.step(closure)  # type: ignore[arg-type]
        moved.append(_moved(model, before))
    _agree(monitor, expected)
    _agree_on_updates(monitor, moved)


class _Wrapper(Optimizer):
    """An optimizer in name alone, as several trainers make one."""

    def __init__(self, base: Optimizer) -> None:
        self.base = base

    @property
    def param_groups(self) -> Any:
        return self.base.param_groups

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.base.zero_grad(set_to_none)

    def step(self, closure: Any = None) -> None:  # noqa: ARG002 - torch's signature
        self.base.step()


def test_an_optimizer_around_another_one() -> None:
    model = _net()
    optimizer = _Wrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    monitor = gradcheckup.watch(model, optimizer, every=1)
    expected = []
    for _ in range(3):
        data = torch.randn(4, 6)
        expected.append(_norms(model, data))
        optimizer.zero_grad()
        _loss(model(data)).backward()
        optimizer.step()
    _agree(monitor, expected)


def test_learning_rates_are_those_of_the_step() -> None:
    model = _net()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    monitor = gradcheckup.watch(model, optimizer, every=1)
    for _ in range(4):
        optimizer.zero_grad()
        _loss(model(torch.randn(4, 6))).backward()
        optimizer.step()
        schedule.step()
    rates = [step.parameters[0].learning_rate for step in monitor.report().steps]
    assert rates == [1.0, 0.5, 0.125]


# -- models that change ------------------------------------------------------------------------


def test_parameters_may_be_thawed_and_added_while_the_model_is_watched() -> None:
    model = _net()
    model[0].requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    monitor = gradcheckup.watch(model, optimizer, every=1)

    def train(count: int) -> None:
        for _ in range(count):
            optimizer.zero_grad()
            _loss(model(torch.randn(4, 6))).backward()
            optimizer.step()

    train(2)
    assert not monitor.report().steps[-1].parameters[0].trainable
    model[0].requires_grad_(True)
    model.append(nn.Linear(2, 3))
    optimizer.add_param_group({"params": list(model[3].parameters())})
    train(6)
    last = monitor.report().steps[-1]
    assert [each.name for each in last.layers] == ["0", "1", "2", "3"]
    assert [each.name for each in last.parameters][-2:] == ["3.weight", "3.bias"]
    assert all(each.trainable and each.update_norm for each in last.parameters)
    assert monitor.failure is None


def test_layers_that_are_exchanged_are_looked_at_again() -> None:
    """A glance at layers that run no more sees nothing, and a full look follows."""
    model = _net()
    model.append(nn.Linear(2, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    monitor = gradcheckup.watch(model, optimizer, every=1)
    for iteration in range(12):
        if iteration == 4:
            for place in (0, 2, 3):
                model[place] = nn.Linear(model[place].in_features, model[place].out_features)
                optimizer.add_param_group({"params": list(model[place].parameters())})
        data = torch.randn(4, 6)
        expected = _norms(model, data)
        optimizer.zero_grad()
        _loss(model(data)).backward()
        optimizer.step()
    assert _samples(monitor)[-1].index == 11
    assert _samples(monitor)[-1].norms == pytest.approx(expected, rel=1e-4)


def test_layers_that_are_dropped_at_random_do_not_lose_the_course_of_the_run() -> None:
    class Dropping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.head = nn.Linear(6, 8), nn.Linear(8, 2)
            self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            for block in self.blocks:
                if torch.rand(()) > 0.5:
                    x = x + torch.tanh(block(x))
            out: Tensor = self.head(x)
            return out

    model = Dropping()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = gradcheckup.watch(model, optimizer, every=1)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = _loss(model(torch.randn(4, 6)))
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
    samples = _samples(monitor)
    assert [each.loss for each in samples] == pytest.approx(losses)
    history = monitor.report().recording.history
    assert history is not None
    assert {len(each.norms) for each in samples} == {len(history.layers)}
    (first,) = [row for row, name in enumerate(history.layers) if name == "first"]
    assert all(each.norms[first] for each in samples)


def test_optimizers_that_step_inside_of_backward_are_told_what_to_do() -> None:
    model = _net()
    optimizers = {
        each: torch.optim.SGD([each], lr=0.1, foreach=False) for each in model.parameters()
    }

    def update(parameter: Tensor) -> None:
        optimizers[parameter].step()  # type: ignore[index]
        optimizers[parameter].zero_grad()  # type: ignore[index]

    for each in model.parameters():
        each.register_post_accumulate_grad_hook(update)
    monitor = gradcheckup.watch(model, list(optimizers.values()), every=1)
    for _ in range(3):
        _loss(model(torch.randn(4, 6))).backward()
    with pytest.raises(gradcheckup.UsageError, match=r"inside of backward.*monitor.step\(\)"):
        monitor.report()


def test_a_monitor_that_sees_nothing_says_so_in_time() -> None:
    model, other = _net(), _net()
    optimizer = torch.optim.SGD([*model.parameters(), *other.parameters()], lr=0.1)
    gradcheckup.watch(model, optimizer)

    def train(steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            _loss(other(torch.randn(4, 6))).backward()
            optimizer.step()

    with pytest.warns(
        RuntimeWarning, match=r"sees nothing of Sequential.*no loss.backward"
    ) as told:
        train(300)
    assert len(told) == 1


def test_a_model_that_the_loop_does_not_run_costs_nothing_for_long() -> None:
    """Hooks are taken away again; the report says what is wrong."""
    model, other = _net(), _net()
    optimizer = torch.optim.SGD([*model.parameters(), *other.parameters()], lr=0.5)
    monitor = gradcheckup.watch(model, optimizer, every=100)
    for _ in range(10):
        optimizer.zero_grad()
        _loss(other(torch.randn(4, 6))).backward()
        optimizer.step()
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in model.modules())
    with pytest.raises(gradcheckup.UsageError, match=r"no loss.backward\(\) reached"):
        monitor.report()
