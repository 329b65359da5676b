"""The monitor is a guest: nothing of it stays, it ends no training, and what it needs is little."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.jit.frontend import NotSupportedError
from torch.optim import Optimizer
from torch.optim.optimizer import _global_optimizer_post_hooks
from torch.optim.swa_utils import AveragedModel
from torch.overrides import _get_current_function_mode_stack

import gradcheckup
from gradcheckup import statistics
from gradcheckup.capture import Capture, Glance, readings
from gradcheckup.capture.functions import FunctionMode
from gradcheckup.watching import ledger, look, sampler


def _net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.LSTM(8, 4), _First())


class _First(nn.Module):
    def forward(self, given: tuple[Tensor, Any]) -> Tensor:
        return torch.sigmoid(given[0])


def _train(model: nn.Module, optimizer: Optimizer, steps: int = 1) -> list[float]:
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model(torch.randn(5, 6)).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def _owned(rate: float = 0.1) -> tuple[nn.Module, Optimizer]:
    model = _net()
    return model, torch.optim.SGD(model.parameters(), lr=rate)


def _hooks(model: nn.Module) -> int:
    return sum(
        len(hooks)
        for module in model.modules()
        for name, hooks in vars(module).items()
        if name.endswith("hooks")
    )


def _is_clean(model: nn.Module, optimizer: Optimizer) -> bool:
    return (
        not _hooks(model)
        and not optimizer._optimizer_step_pre_hooks
        and not optimizer._optimizer_step_post_hooks
        and not _get_current_function_mode_stack()
        and "gradcheckup" not in torch.autograd.backward.__code__.co_filename
    )


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    yield
    if _global_optimizer_post_hooks:
        gc.collect()
    assert not _global_optimizer_post_hooks
    assert not _get_current_function_mode_stack()
    assert "gradcheckup" not in torch.autograd.backward.__code__.co_filename


# -- copies ------------------------------------------------------------------------------------


def _after(steps: int) -> tuple[nn.Module, Optimizer, gradcheckup.Monitor]:
    """Watched, the hooks of the next look set: after 0 steps of a full one, after 2 a glance."""
    model, optimizer = _owned()
    monitor = gradcheckup.watch(model, optimizer, every=1)
    _train(model, optimizer, steps)
    assert _hooks(model)
    return model, optimizer, monitor


COPIES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),  # noqa: S301 - our own
    "ema": lambda model: AveragedModel(model).module,
}


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("way", COPIES)
def test_a_copy_of_a_watched_model_is_not_watched(way: str, steps: int) -> None:
    model, optimizer, monitor = _after(steps)
    twin = COPIES[way](model)
    other = torch.optim.SGD(twin.parameters(), lr=0.1)
    state = monitor.steps, monitor._sampler.seen, monitor._sampler.capture.events
    _train(twin, other, 3)
    assert (monitor.steps, monitor._sampler.seen, monitor._sampler.capture.events) == state
    data = torch.randn(5, 6)
    assert torch.equal(copy.deepcopy(model)(data), COPIES[way](model)(data))
    _train(model, optimizer, 2)
    assert monitor.steps == steps + 2
    assert monitor.failure is None
    monitor.close()
    assert _is_clean(model, optimizer)


@pytest.mark.parametrize("steps", [0, 2])
def test_a_copy_has_the_hooks_of_the_users_alone(steps: int) -> None:
    model, optimizer, monitor = _after(steps)
    theirs = [model.register_forward_hook(_theirs), model[0].register_forward_pre_hook(_theirs)]
    for twin in (copy.deepcopy(model), AveragedModel(model).module):
        assert _hooks(twin) == 2
        assert [*twin._forward_hooks.values(), *twin[0]._forward_pre_hooks.values()] == [
            _theirs
        ] * 2
    for handle in theirs:
        handle.remove()
    _train(model, optimizer, 1)
    assert monitor.steps == steps + 1
    monitor.close()


def _theirs(*_: object) -> None:
    """A hook of the user's."""


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is")
@pytest.mark.parametrize("steps", [0, 2])
def test_a_watched_model_and_its_copies_can_be_scripted(steps: int) -> None:
    """TorchScript compiles hooks too: there are none of ours for it, and all are there after it."""
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    original = torch.jit._recursive.create_script_module
    monitor = gradcheckup.watch(model, optimizer, every=1)
    _train(model, optimizer, steps)
    keys = [list(each._forward_hooks) for each in model.modules()]
    assert any(keys)
    data, average = torch.randn(5, 6), copy.deepcopy(model)
    for each in (model, average):
        assert torch.equal(torch.jit.script(each)(data), each(data))
    assert [list(each._forward_hooks) for each in model.modules()] == keys
    with pytest.raises(NotSupportedError, match="variable number"):
        torch.jit.script(_Unscriptable(model))
    assert [list(each._forward_hooks) for each in model.modules()] == keys
    _train(model, optimizer, 2)
    assert monitor.steps == steps + 2
    assert monitor.failure is None
    monitor.close()
    assert torch.jit._recursive.create_script_module is original
    assert torch.equal(torch.jit.script(average)(data), average(data))


class _Unscriptable(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *given: Tensor) -> Tensor:
        return self.inner(*given)  # type: ignore[no-any-return]


@pytest.mark.parametrize("steps", [0, 2])
def test_a_saved_model_knows_nothing_of_gradcheckup(tmp_path: Path, steps: int) -> None:
    """It is read and trained in a process that cannot import it."""
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    plain = set(model.state_dict())
    with gradcheckup.watch(model, optimizer, every=1):
        _train(model, optimizer, steps)
        assert _hooks(model)
        assert set(model.state_dict()) == plain
        torch.save({"model": model, "optimizer": optimizer.state_dict()}, tmp_path / "model.pt")
        written = pickle.dumps((model, optimizer))
        buffer = io.BytesIO()
        torch.save(optimizer, buffer)
    for content in (written, (tmp_path / "model.pt").read_bytes(), buffer.getvalue()):
        assert b"gradcheckup" not in content
    if steps:
        return
    (tmp_path / "gradcheckup.py").write_text("raise ImportError('not here')\n")
    code = (
        "import torch\n"
        "model = torch.load('model.pt', weights_only=False)['model']\n"
        "model(torch.randn(4, 6)).sum().backward()\n"
        "assert all(each.grad is not None for each in model.parameters())\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)  # noqa: S603


# -- opening and closing -----------------------------------------------------------------------


def test_a_cell_that_is_run_twice_piles_up_no_hooks() -> None:
    model, optimizer = _owned()
    first = gradcheckup.watch(model, optimizer, every=1)
    counted = _hooks(model)
    for _ in range(3):
        again = gradcheckup.watch(model, optimizer, every=1)
    assert first.closed
    assert _hooks(model) == counted
    assert len(optimizer._optimizer_step_pre_hooks) == 1
    _train(model, optimizer)
    assert again.steps == 1
    again.close()
    assert _is_clean(model, optimizer)


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_a_model_is_freed_with_its_monitor(steps: int) -> None:
    model, optimizer, monitor = _after(steps)
    monitor.close()
    found = weakref.ref(model)
    del model, optimizer, monitor
    gc.collect()
    assert found() is None


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_a_cell_with_a_new_model_leaves_the_old_one_behind(steps: int) -> None:
    """Nobody closed its monitor."""
    model, optimizer, monitor = _after(steps)
    found = weakref.ref(model)
    del model, optimizer, monitor
    gc.collect()
    assert found() is None


def test_closing_twice_and_reporting_after_it() -> None:
    model, optimizer = _owned()
    monitor = gradcheckup.watch(model, optimizer, every=1)
    _train(model, optimizer, 2)
    monitor.close()
    monitor.close()
    assert _is_clean(model, optimizer)
    _train(model, optimizer, 2)
    assert monitor.steps == 2
    assert len(monitor.report().steps) == 2


# -- errors of the user's ------------------------------------------------------------------------


class _Fuse(nn.Module):
    """Raises in the forward or backward pass when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.error: BaseException | None = None
        self.backward = False

    def forward(self, x: Tensor) -> Tensor:
        if self.error is not None and not self.backward:
            raise self.error
        if self.error is not None:
            x.register_hook(self._burn)  # type: ignore[no-untyped-call]
        return x

    def _burn(self, _: Tensor) -> None:
        assert self.error is not None
        raise self.error


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()], ids=["error", "ctrl-c"])
@pytest.mark.parametrize("place", ["forward", "backward", "step", "loss"])
@pytest.mark.parametrize("after", [0, 2])
def test_an_error_leaves_the_model_clean(error: BaseException, place: str, after: int) -> None:
    fuse = _Fuse()
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), fuse, nn.Linear(8, 2))

    class Broken(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            if place == "step" and fuse.error is not None:
                raise fuse.error
            super().step(closure)

    def fail(model: nn.Module, optimizer: Optimizer) -> None:
        fuse.error, fuse.backward = error, place == "backward"
        if place == "step":
            fuse.backward = True
            loss = model[0](torch.randn(5, 6)).sum() if isinstance(model, nn.Sequential) else None
            assert loss is not None
            loss.backward()
            optimizer.step()
        if place == "loss":
            fuse.error = None
            model(torch.randn(5, 6))
            raise error
        _train(model, optimizer)

    optimizer = Broken(model.parameters(), lr=0.1)
    with pytest.raises(type(error)), gradcheckup.watch(model, optimizer, every=1):  # noqa: PT012
        _train(model, optimizer, after)
        fail(model, optimizer)
    assert _is_clean(model, optimizer)
    fuse.error = None
    # And without `with`: the loop goes on.
    monitor = gradcheckup.watch(model, optimizer, every=1)
    _train(model, optimizer, after)
    with pytest.raises(type(error)):
        fail(model, optimizer)
    fuse.error = None
    _train(model, optimizer, 3)
    assert monitor.failure is None
    last = monitor.report().recording.history
    assert last is not None
    assert last.samples[-1].index == monitor.steps - 1
    monitor.close()
    assert _is_clean(model, optimizer)


def test_ctrl_c_in_a_forward_pass_lets_go_of_what_comes_after() -> None:
    """No hook tells of its end; what the user computes next is none of ours."""

    class Interrupted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            self.layer(x)
            raise KeyboardInterrupt

    model = Interrupted()
    monitor = gradcheckup.watch(model, torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(KeyboardInterrupt):
        model(torch.randn(2, 4))
    weight = torch.randn(4, 4, requires_grad=True)
    results = [nn.functional.relu(weight @ weight) for _ in range(3)]
    assert all(each._backward_hooks is None for each in results)
    monitor.close()
    assert not _get_current_function_mode_stack()


# -- errors of our own ---------------------------------------------------------------------------


def _raises(*_: Any, **__: Any) -> Any:
    raise RuntimeError("a fault of the monitor")


FAULTS: dict[str, list[tuple[Any, str]]] = {
    "norm": [(statistics, "norm")],
    "quick norm": [(statistics, "quick_norm")],
    "signal": [(statistics, "signal")],
    "saturation": [(statistics, "share_outside")],
    "units": [(statistics, "unit_peaks")],
    "spread": [(statistics, "row_spread")],
    "enter": [(Capture, "_enter")],
    "leave": [(Capture, "_leave")],
    "alias": [(Capture, "_alias")],
    "activation": [(Capture, "activation")],
    "record": [(Capture, "_record")],
    "within": [(Capture, "within_model")],
    "gradient": [(Capture, "_arrives")],
    "settle": [(Capture, "settle")],
    "attach": [(Capture, "attach")],
    "detach of a glance": [(Glance, "arrived")],
    "glance forward": [(Glance, "leave")],
    "glance backward": [(Glance, "arrives")],
    "glance attach": [(Glance, "attach")],
    "glance put": [(Glance, "put")],
    "pass": [(Capture, "during")],
    "again": [(Capture, "again")],
    "total": [(look, "_total")],
    "mode": [(FunctionMode, "_handed_on")],
    "tray": [(readings.Tray, "carry")],
    "sample": [(ledger, "_sample")],
    "owners": [(ledger, "owners")],
    "assemble": [(sampler, "assemble")],
    "find": [(sampler.Scale, "find")],
    "names": [(sampler, "named_modules")],
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_ours_does_not_end_the_training(
    fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(5)
    model, optimizer = _owned()
    expected = _train(model, optimizer, 6)
    torch.manual_seed(5)
    model, optimizer = _owned()
    monitor = gradcheckup.watch(model, optimizer, every=1)
    losses = _train(model, optimizer, 2)
    for place, name in FAULTS[fault]:
        monkeypatch.setattr(place, name, _raises)
    with pytest.warns(RuntimeWarning, match=r"stopped watching Sequential at step [234],") as told:
        losses += _train(model, optimizer, 4)
    monkeypatch.undo()
    assert len(told) == 1
    assert losses == expected
    assert monitor.closed
    assert monitor.failure is not None
    assert "a fault of the monitor" in monitor.failure
    assert any("a fault of the monitor" in each for each in monitor.report().assumptions)
    assert not _hooks(model)
    assert not _get_current_function_mode_stack()
    monitor.close()
    assert _is_clean(model, optimizer)


# -- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"every": 0}, "expected every to be a whole number of at least 1, got 0"),
        ({"every": 2.0}, "expected every to be a whole number of at least 1, got 2.0"),
        ({"every": True}, "expected every to be a whole number of at least 1, got True"),
        ({"stop_on": "sever"}, "expected stop_on to be one of .*, got 'sever'"),
        ({"on_finding": 3}, "expected on_finding to be a function, got int"),
        ({"optimizer": "adam"}, "expected optimizer to be a torch.optim.Optimizer"),
        ({"optimizer": torch.optim.SGD}, "expected optimizer to be a torch.optim.Optimizer"),
        ({"optimizer": []}, "expected optimizer to be"),
        ({"grad_scaler": 1024}, "expected grad_scaler to be"),
        ({"model": "net"}, "expected model to be an nn.Module, got str"),
        ({"select": "GC999"}, "GC999"),
    ],
)
def test_bad_input_is_refused_at_once_in_one_line(settings: dict[str, Any], complaint: str) -> None:
    model, optimizer = _owned()
    given = {"model": model, "optimizer": optimizer, **settings}
    with pytest.raises(gradcheckup.UsageError, match=complaint) as refused:
        gradcheckup.watch(**given)
    assert "\n" not in str(refused.value)
    assert _is_clean(model, optimizer)


def test_the_optimizer_of_another_model_is_refused() -> None:
    model, optimizer = _owned()
    _, other = _owned()
    for given in (other, [optimizer, other]):
        with pytest.raises(gradcheckup.UsageError, match="holds none of them"):
            gradcheckup.watch(model, given)
    assert _is_clean(model, optimizer)


def test_a_monitor_that_was_refused_leaves_the_one_before() -> None:
    model, optimizer = _owned()
    monitor = gradcheckup.watch(model, optimizer, every=1)
    with pytest.raises(gradcheckup.UsageError):
        gradcheckup.watch(model, optimizer, select=["GC999"])
    assert not monitor.closed
    monitor.close()


def test_step_is_for_loops_without_an_optimizer() -> None:
    model, optimizer = _owned()
    with (
        gradcheckup.watch(model, optimizer) as monitor,
        pytest.raises(gradcheckup.UsageError, match="its own step"),
    ):
        monitor.step()
    with gradcheckup.watch(model) as monitor:
        model(torch.randn(5, 6)).sum().backward()
        monitor.step()
    monitor.step()  # closed while it trained: the training goes on
    assert monitor.steps == 1
    unused = gradcheckup.watch(model)
    unused.close()
    with pytest.raises(gradcheckup.UsageError, match="closed before any step"):
        unused.step()
    assert monitor.report()


# -- what it takes ---------------------------------------------------------------------------------


def test_a_sampled_step_makes_one_transfer(monkeypatch: pytest.MonkeyPatch) -> None:
    model, optimizer = _owned()
    carried: list[int] = []
    original = readings.Tray.carry

    def carry(tray: readings.Tray) -> readings.Readings:
        carried.append(1)
        return original(tray)

    monkeypatch.setattr(readings.Tray, "carry", carry)
    with gradcheckup.watch(model, optimizer, every=3) as monitor:
        _train(model, optimizer, 12)
    history = monitor.report().recording.history
    assert history is not None
    assert len(carried) == len(history.samples) == 4


@pytest.mark.parametrize("full", [True, False])
def test_no_value_is_read_before_the_transfer(full: bool) -> None:
    """On the meta device there is none to read."""
    model, optimizer = _owned()
    with gradcheckup.watch(model, optimizer, every=1) as monitor:
        _train(model, optimizer, 2)
    model.to("meta")
    for each in model.parameters():
        each.grad = None
    tool = sampler.Sampler(model, [optimizer], every=1, slope=0.1, scaler=None, failed=_let_out)
    if not full:
        tool._last = monitor.report().steps[-1]
        tool._glance = tool._glance_at(tool._last)
    tool.open(full=full)
    model(torch.randn(5, 6, device="meta")).square().mean().backward()
    assert tool.seen
    tool.before_update()
    optimizer.step()
    tool.updated(0)
    assert tool.due
    with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
        tool.take(0)
    tool.close()


def _let_out(error: Exception) -> None:
    raise AssertionError from error


@pytest.mark.parametrize("every", [1, 3])
def test_no_activation_outlives_its_step(every: int) -> None:
    alive: list[weakref.ref[Tensor]] = []

    class Keep(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = torch.tanh(x) * 2
            alive.append(weakref.ref(y))
            return y

    model = nn.Sequential(nn.Linear(6, 8), Keep(), nn.Linear(8, 4), Keep())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradcheckup.watch(model, optimizer, every=every):
        for _ in range(7):
            _train(model, optimizer)
            assert not [each for each in alive if each() is not None]


def _tensors() -> int:
    gc.collect()
    return sum(issubclass(type(each), Tensor) for each in gc.get_objects())


def test_nothing_grows_with_the_steps() -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    counts = []
    with gradcheckup.watch(model, optimizer, every=1) as monitor:
        for steps in (1600, 200, 200):
            _train(model, optimizer, steps)
            counts.append((_tensors(), len(gc.get_objects())))
    history = monitor.report().recording.history
    assert history is not None
    assert len(history.samples) <= 520
    assert counts[0][0] == counts[1][0] == counts[2][0]
    assert abs(counts[2][1] - counts[1][1]) < 600  # the length of the history varies


def test_a_monitor_may_be_closed_from_inside_of_a_step() -> None:
    """Torch goes through its hooks at that moment."""
    torch.manual_seed(0)
    model = nn.Sequential(*(each for _ in range(12) for each in (nn.Linear(6, 6), nn.Sigmoid())))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    found: list[gradcheckup.Finding] = []

    def stop(finding: gradcheckup.Finding) -> None:
        found.append(finding)
        monitor.close()

    monitor = gradcheckup.watch(model, optimizer, every=1, on_finding=stop)
    _train(model, optimizer, 12)
    assert found
    assert monitor.steps < 12
    monitor.close()
    assert _is_clean(model, optimizer)


def test_a_monitor_that_stops_the_training_leaves_it_clean() -> None:
    model = nn.Sequential(*(each for _ in range(12) for each in (nn.Linear(6, 6), nn.Sigmoid())))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = gradcheckup.watch(model, optimizer, every=1, stop_on="critical")
    with pytest.raises(gradcheckup.UnhealthyError, match="GC1"):
        _train(model, optimizer, 12)
    assert monitor.closed
    assert _is_clean(model, optimizer)
    _train(model, optimizer, 2)
