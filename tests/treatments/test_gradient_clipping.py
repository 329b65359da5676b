"""`gradient_clipping`: what a clipped step is, worked out by hand, and that it stays in place."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

import gradcheckup

X = 30 * torch.randn(32, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.randn(32, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2)).double()


def treated(
    optimizer: Callable[..., Optimizer] | None = lambda held: SGD(held, lr=0.1),
    variant: str = "norm",
    **options: float,
) -> gradcheckup.treating.Treated:
    return gradcheckup.treat(
        net(), f"gradient_clipping:{variant}", (X, Y), nn.MSELoss(), optimizer=optimizer, **options
    )


def backward(model: nn.Module, factor: float = 1.0) -> Tensor:
    loss: Tensor = nn.functional.mse_loss(model(X), Y) * factor
    loss.backward()  # type: ignore[no-untyped-call]
    return loss


def same(model: nn.Module, other: nn.Module) -> bool:
    pairs = zip(model.parameters(), other.parameters(), strict=True)
    return all(torch.equal(one, another) for one, another in pairs)


@pytest.mark.parametrize("bound", [0.01, 1.0])
def test_a_step_is_that_of_gradients_clipped_to_their_norm(bound: float) -> None:
    result = treated(max_norm=bound)
    backward(result.model)
    before = [each.detach().clone() for each in result.model.parameters()]
    gradients = [each.grad.clone() for each in result.model.parameters()]
    total = torch.cat([each.flatten() for each in gradients]).norm()
    assert total > 10  # or nothing would be clipped
    result.optimizer.step()
    for parameter, was, gradient in zip(result.model.parameters(), before, gradients, strict=True):
        torch.testing.assert_close(
            parameter.detach(), was - 0.1 * gradient * bound / (total + 1e-6), rtol=1e-12, atol=0
        )


def test_a_step_is_that_of_gradients_with_clipped_elements() -> None:
    result = treated(variant="value", clip_value=0.2)
    backward(result.model)
    before = [each.detach().clone() for each in result.model.parameters()]
    gradients = [each.grad.clone() for each in result.model.parameters()]
    assert max(each.abs().max() for each in gradients) > 0.2 > gradients[0].abs().min()
    result.optimizer.step()
    for parameter, was, gradient in zip(result.model.parameters(), before, gradients, strict=True):
        torch.testing.assert_close(parameter.detach(), was - 0.1 * gradient.clamp(-0.2, 0.2))


def test_small_gradients_are_left_alone() -> None:
    result, plain = treated(), net()
    optimizer = SGD(plain.parameters(), lr=0.1)
    backward(result.model, 1e-6)
    backward(plain, 1e-6)
    result.optimizer.step()
    optimizer.step()
    assert same(result.model, plain)


@pytest.mark.parametrize("kind", [SGD, Adam, torch.optim.AdamW, torch.optim.RMSprop])
def test_training_is_that_with_the_line_of_the_snippet(kind: Any) -> None:
    """Also with the line itself: the same, step by step."""
    result = treated(lambda held: kind(held, lr=1e-2))
    assert "between" not in result.snippet
    scope: dict[str, Any] = {"model": net(), "torch": torch}
    plain = kind(scope["model"].parameters(), lr=1e-2)
    for _ in range(5):
        for model, optimizer in ((result.model, result.optimizer), (scope["model"], plain)):
            optimizer.zero_grad()
            backward(model)
            if optimizer is plain:
                exec(result.snippet, scope)  # noqa: S102 - what a user pastes
            optimizer.step()
    assert same(result.model, scope["model"])


def test_the_class_of_the_users_optimizer_stays_as_it_is() -> None:
    model = net()
    optimizer = SGD(model.parameters(), lr=0.1)
    step = SGD.step
    result = gradcheckup.treat(model, "gradient_clipping", (X, Y), optimizer=optimizer)
    assert type(optimizer) is SGD
    assert SGD.step is step
    assert isinstance(result.optimizer, SGD)
    assert type(result.optimizer).__name__ == "ClippedSGD"
    assert result.optimizer.param_groups[0]["params"][0] is next(result.model.parameters())
    plain = net()
    backward(plain)
    own = SGD(plain.parameters(), lr=0.1)
    gradient = plain[0].weight.grad.clone()  # type: ignore[index]
    own.step()
    assert torch.equal(plain[0].weight.grad, gradient)  # type: ignore[index]


def test_without_an_optimizer_it_is_the_one_that_diagnose_takes() -> None:
    result = treated(None)
    assert isinstance(result.optimizer, SGD)
    assert result.optimizer.param_groups[0]["momentum"] == 0.9
    backward(result.model)
    result.optimizer.step()
    total = torch.cat([each.grad.flatten() for each in result.model.parameters()]).norm()
    assert total == pytest.approx(1.0, abs=1e-6)


def test_every_evaluation_of_a_closure_is_clipped() -> None:
    result = treated(lambda held: torch.optim.LBFGS(held, lr=1e-3, max_iter=3, max_eval=3))
    seen: list[float] = []

    def closure() -> Tensor:
        if seen:  # what the optimizer made its step of, the evaluation before
            held = [each.grad.flatten() for each in result.model.parameters()]
            seen.append(float(torch.cat(held).norm()))
        else:
            seen.append(1.0)
        result.optimizer.zero_grad()
        return backward(result.model)

    result.optimizer.step(closure)
    assert len(seen) == 3
    assert seen == pytest.approx([1.0] * 3, abs=1e-6)
    assert inspect.signature(result.optimizer.step) == inspect.signature(
        torch.optim.LBFGS(net().parameters()).step
    )


@pytest.mark.parametrize("how", ["as it is", "deepcopy", "pickle", "deepcopy of a deepcopy"])
def test_hooks_run_once_and_copies_clip(how: str) -> None:
    model, optimizer = (result := treated()).model, result.optimizer
    if how == "pickle":
        model, optimizer = pickle.loads(pickle.dumps((model, optimizer)))  # noqa: S301 - our own
    for _ in range(how.count("deepcopy")):
        model, optimizer = copy.deepcopy((model, optimizer))
    assert type(optimizer) is type(result.optimizer)
    calls: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    backward(model)
    optimizer.step()
    assert calls == ["before", "after"]
    total = torch.cat([each.grad.flatten() for each in model.parameters()]).norm()
    assert total == pytest.approx(1.0, abs=1e-6)
    assert result.model[0].weight.grad is None or how == "as it is"


def test_a_saved_state_is_loaded_by_the_plain_optimizer_and_back() -> None:
    result = treated(lambda held: Adam(held, lr=0.1))
    backward(result.model)
    result.optimizer.step()
    file = io.BytesIO()
    torch.save(result.optimizer.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    plain = Adam(copy.deepcopy(result.model).parameters(), lr=1.0)
    plain.load_state_dict(state)
    assert plain.state_dict() == state
    result.optimizer.load_state_dict(plain.state_dict())
    backward(result.model)
    result.optimizer.step()
    assert result.optimizer.state_dict()["state"][0]["step"] == 2


def test_schedulers_schedule() -> None:
    result = treated()
    scheduler = torch.optim.lr_scheduler.StepLR(result.optimizer, step_size=1, gamma=0.5)
    for expected in (0.1, 0.05, 0.025):
        assert result.optimizer.param_groups[0]["lr"] == pytest.approx(expected)
        result.optimizer.zero_grad()
        backward(result.model)
        before = torch.cat([each.detach().flatten() for each in result.model.parameters()])
        result.optimizer.step()
        after = torch.cat([each.detach().flatten() for each in result.model.parameters()])
        assert (after - before).norm() == pytest.approx(expected, rel=1e-5)
        scheduler.step()


def test_an_optimizer_that_a_scheduler_holds_already_clips() -> None:
    def make(model: nn.Module) -> Optimizer:
        optimizer = SGD(model.parameters(), lr=0.1)
        torch.optim.lr_scheduler.StepLR(optimizer, step_size=1)
        return optimizer

    result = gradcheckup.treat(net(), "gradient_clipping", (X, Y), optimizer=make)
    backward(result.model)
    result.optimizer.step()
    total = torch.cat([each.grad.flatten() for each in result.model.parameters()]).norm()
    assert total == pytest.approx(1.0, abs=1e-6)


FUSED = pytest.param(
    {"fused": True},
    marks=pytest.mark.skipif(
        tuple(map(int, torch.__version__.split(".")[:2])) < (2, 4),
        reason="fused on the CPU came with torch 2.4",
    ),
)


@pytest.mark.parametrize("settings", [FUSED, {"foreach": True}, {"foreach": False}])
def test_scaled_losses_are_unscaled_before_they_are_clipped(settings: dict[str, bool]) -> None:
    result = treated(lambda held: SGD(held, lr=0.1, **settings))
    plain = net()
    optimizer = SGD(plain.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(nn.functional.mse_loss(result.model(X), Y)).backward()
    scaler.step(result.optimizer)
    backward(plain)
    nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
    optimizer.step()
    for one, other in zip(result.model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=0)


def test_clipping_stays_when_the_optimizer_is_exchanged() -> None:
    result = gradcheckup.treat(
        net(), "gradient_clipping + optimizer", (X, Y), optimizer=lambda m: SGD(m.parameters(), 0.1)
    )
    assert isinstance(result.optimizer, Adam)
    backward(result.model)
    result.optimizer.step()
    total = torch.cat([each.grad.flatten() for each in result.model.parameters()]).norm()
    assert total == pytest.approx(1.0, abs=1e-6)


def test_diagnose_sees_what_clipping_does() -> None:
    """Ten layers that triple the gradient each: updates of 1 at most, in place of 1e5."""
    torch.manual_seed(0)
    layers = [nn.Linear(32, 32, bias=False) for _ in range(10)]
    for layer in layers:
        nn.init.normal_(layer.weight, std=3 / 32**0.5)
    model = nn.Sequential(*layers)
    data = (torch.randn(16, 32), torch.randn(16, 32))
    optimizer = SGD(model.parameters(), lr=0.01)
    before = gradcheckup.diagnose(model, data, nn.MSELoss(), optimizer=optimizer, steps=1)
    result = gradcheckup.treat(model, "gradient_clipping", data, nn.MSELoss(), optimizer=optimizer)
    after = gradcheckup.diagnose(
        result.model, data, nn.MSELoss(), optimizer=result.optimizer, steps=1
    )
    assert before.layers[0].update_ratio > 1e3
    moved = [each.update_norm for each in after.recording.steps[0].parameters]
    assert sum(each**2 for each in moved) ** 0.5 == pytest.approx(0.01, rel=1e-4)


def test_a_second_clip_says_that_there_is_one() -> None:
    with pytest.raises(gradcheckup.TreatmentError, match="clips by norm at 1 already"):
        gradcheckup.treat(net(), "gradient_clipping + gradient_clipping:value", (X, Y))
