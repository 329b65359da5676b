"""Nothing of the user's is changed, whatever happens; and measuring changes nothing of the run."""

from __future__ import annotations

import copy
import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import _get_current_function_mode_stack
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

import gradcheckup

# -- a picture of everything that a user owns -----------------------------------------------------


def _bits(tensor: Tensor) -> tuple[Any, ...]:
    raw = tensor.detach().contiguous().flatten().clone().view(torch.uint8).numpy().tobytes()
    return str(tensor.dtype), tuple(tensor.shape), tensor.requires_grad, raw


def _frozen(value: Any, seen: tuple[int, ...] = ()) -> Any:
    """A bitwise comparable picture of a value: bits of tensors, identities of objects."""
    if isinstance(value, Tensor):
        return id(value), *_bits(value)
    if id(value) in seen:
        return "again"
    seen = (*seen, id(value))
    if isinstance(value, dict):
        keys = [key if isinstance(key, (str, int)) else id(key) for key in value]
        inside = [_frozen(each, seen) for each in value.values()]
        return dict(zip(keys, inside, strict=True))
    if isinstance(value, (list, tuple, set)):
        return type(value), [_frozen(each, seen) for each in value]
    if isinstance(value, (int, float, str, bool, bytes, type(None))):
        return value
    return id(value)


def _module(module: nn.Module) -> dict[str, Any]:
    """Every attribute of every module, hook dicts, flags and buffers among them."""
    picture = {}
    for name, each in module.named_modules():
        picture[name] = {key: _frozen(value) for key, value in vars(each).items()}
        # The handle of a hook refers to the very dict that it was put into.
        picture[f"{name} hooks"] = {key: id(value) for key, value in vars(each).items()
                                    if key.endswith("_hooks")}  # fmt: skip
    for name, parameter in module.named_parameters():
        hooks = parameter._backward_hooks
        accumulated = getattr(parameter, "_post_accumulate_grad_hooks", None)
        picture[f"{name} gradient"] = {
            "grad": _frozen(parameter.grad),
            "hooks": len(hooks or ()) + len(accumulated or ()),
            "attributes": {key: _frozen(value) for key, value in vars(parameter).items()},
        }
    return picture


def _optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    return {
        "groups": [
            {key: _frozen(value) for key, value in group.items()}
            for group in optimizer.param_groups
        ],
        "group identities": [id(group) for group in optimizer.param_groups],
        "state": {
            id(parameter): {
                key: _bits(value) if isinstance(value, Tensor) else repr(value)
                for key, value in state.items()
            }
            for parameter, state in optimizer.state.items()
        },
        "step": vars(optimizer).get("step"),
        "hooks": [
            len(vars(optimizer).get(name, ()))
            for name in ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")
        ],
    }


def _surroundings() -> dict[str, Any]:
    """Global state that a run could leave changed."""
    from torch.nn.modules import module as registry

    dynamo = getattr(torch._dynamo.eval_frame, "_stance", None)
    numpy_state = np.random.get_state()  # noqa: NPY002 - the legacy state is what users have
    return {
        "torch": _bits(torch.get_rng_state()),
        "numpy": repr(numpy_state),
        "random": random.getstate(),
        "modes": len(_get_current_function_mode_stack()),
        "grad enabled": torch.is_grad_enabled(),
        "anomaly": torch.is_anomaly_enabled(),
        "threads": torch.get_num_threads(),
        "dtype": torch.get_default_dtype(),
        "stance": getattr(dynamo, "stance", None),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "module hooks": [
            len(hooks)
            for hooks in (
                registry._global_forward_hooks,
                registry._global_forward_pre_hooks,
                registry._global_backward_hooks,
                registry._global_backward_pre_hooks,
            )
        ],
        "warnings": len(warnings.filters),
    }


class Owner:
    """A model, its optimizer and a batch, as a user would own them in the middle of training."""

    def __init__(
        self,
        model: nn.Module,
        batch: tuple[Tensor, Tensor],
        optimizer: Callable[..., torch.optim.Optimizer] | None = None,
        criterion: nn.Module | None = None,
    ) -> None:
        self.model, self.batch = model, batch
        self.criterion = criterion or nn.CrossEntropyLoss()
        make = optimizer or partial(torch.optim.SGD, lr=0.1, momentum=0.9)
        self.optimizer = make(model.parameters())
        if not isinstance(self.optimizer, torch.optim.LBFGS):
            self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 1, 0.9)
            for _ in range(2):
                self.optimizer.zero_grad()
                self.criterion(model(batch[0]), batch[1]).backward()
                self.optimizer.step()
                self.scheduler.step()

    def picture(self) -> dict[str, Any]:
        return {
            "model": _module(self.model),
            "criterion": _module(self.criterion),
            "optimizer": _optimizer(self.optimizer),
            "batch": [_frozen(each) for each in self.batch],
            "batch gradients": [_frozen(each.grad) for each in self.batch],
            "surroundings": _surroundings(),
        }

    def diagnose(self, **settings: Any) -> gradcheckup.Report:
        settings = {"criterion": self.criterion, "optimizer": self.optimizer, **settings}
        criterion = settings.pop("criterion")
        return gradcheckup.diagnose(self.model, self.batch, criterion, **{"steps": 3} | settings)


def _same(before: dict[str, Any], after: dict[str, Any], path: str = "") -> None:
    """Compares pictures entry by entry, so that a failure names what changed."""
    assert list(before) == list(after), path
    for key, value in before.items():
        here = f"{path}/{key}"
        if isinstance(value, dict) and isinstance(after[key], dict):
            _same(value, after[key], here)
        else:
            assert value == after[key], f"{here} changed"


# -- models --------------------------------------------------------------------------------------


def _perceptron() -> nn.Module:
    return nn.Sequential(
        nn.Linear(12, 20), nn.Tanh(), nn.Dropout(0.4), nn.Linear(20, 20), nn.ReLU(inplace=True),
        nn.Linear(20, 4),
    )  # fmt: skip


def _convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Dropout2d(0.2),
        nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 4),
    )  # fmt: skip


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.lstm = nn.LSTM(8, 10, 2, batch_first=True, dropout=0.3)
        self.head = nn.Linear(10, 4)

    def forward(self, words: Tensor) -> Tensor:
        _, (hidden, _) = self.lstm(self.embedding(words))
        out: Tensor = self.head(F.dropout(torch.tanh(hidden[-1]), 0.2, self.training))
        return out


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.2, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, 4)

    def forward(self, words: Tensor) -> Tensor:
        out: Tensor = self.head(self.encoder(self.embedding(words)).mean(1))
        return out


def _rows() -> tuple[Tensor, Tensor]:
    return torch.randn(16, 12), torch.randint(0, 4, (16,))


def _images() -> tuple[Tensor, Tensor]:
    return torch.randn(6, 3, 10, 10), torch.randint(0, 4, (6,))


def _words() -> tuple[Tensor, Tensor]:
    return torch.randint(0, 20, (6, 7)), torch.randint(0, 4, (6,))


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple[Tensor, Tensor]]]] = {
    "perceptron": (_perceptron, _rows),
    "convolutional": (_convolutional, _images),
    "recurrent": (Recurrent, _words),
    "transformer": (Transformer, _words),
}

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=1e-2),
    "adam": partial(torch.optim.Adam, lr=1e-2),
    "adamw": partial(torch.optim.AdamW, lr=1e-2),
    "rmsprop": partial(torch.optim.RMSprop, lr=1e-3),
    "lbfgs": partial(torch.optim.LBFGS, max_iter=3),
}


@pytest.fixture(autouse=True, scope="module")
def _dynamo_loaded() -> None:
    """Load what torch loads lazily, so that pictures of global state can be compared."""
    import torch._dynamo  # noqa: F401 - to have it loaded


class Stubborn(nn.Module):
    """Cannot be deep-copied, so it is probed in place; keeps state in every way a model can."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(12, 20)
        self.norm = nn.BatchNorm1d(20)
        self.frozen = nn.Linear(20, 20).requires_grad_(requires_grad=False)
        self.head = nn.Linear(20, 4)
        self.dropout = nn.Dropout(0.3)

    def __deepcopy__(self, memo: dict[int, Any]) -> Stubborn:
        raise RuntimeError("holds a lock")

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.dropout(torch.relu(self.frozen(self.norm(self.first(x))))))
        return out


class Stateful(Stubborn):
    """Assigns to itself in forward: a running buffer, a counter, the last hidden state, a flag."""

    average: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("average", torch.zeros(12))
        self.calls = 0
        self.last: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.average = 0.9 * self.average + 0.1 * x.mean(0)
        self.calls += 1
        out = super().forward(x)
        self.last = out
        if self.calls > 3:
            self.first.bias.requires_grad_(requires_grad=False)
        return out


# -- nothing is changed --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(MODELS))
def test_everything_is_as_before(kind: str) -> None:
    make, batch = MODELS[kind]
    owner = Owner(make(), batch())
    before = owner.picture()
    report = owner.diagnose()
    _same(before, owner.picture())
    assert len(report.steps) == 3
    assert not any("deep-copied" in line for line in report.assumptions)


@pytest.mark.parametrize("kind", list(OPTIMIZERS))
@pytest.mark.parametrize("stubborn", [False, True])
def test_optimizers_are_as_before(kind: str, stubborn: bool) -> None:
    model = Stubborn() if stubborn else _perceptron()
    owner = Owner(model, _rows(), OPTIMIZERS[kind])
    before = owner.picture()
    owner.diagnose()
    _same(before, owner.picture())


def test_model_that_cannot_be_copied_is_restored() -> None:
    owner = Owner(Stubborn(), _rows())
    before = owner.picture()
    report = owner.diagnose()
    _same(before, owner.picture())
    assert any("deep-copied" in line for line in report.assumptions)
    updated = {each.layer for each in report.steps[0].parameters if each.update_norm}
    assert updated == {"first", "norm", "head"}


def test_what_a_model_assigns_in_forward_is_restored() -> None:
    owner = Owner(Stateful(), _rows())
    before = owner.picture()
    owner.diagnose()
    _same(before, owner.picture())


def test_model_that_keeps_its_last_output() -> None:
    """Torch refuses to deep-copy a tensor that is part of a graph: an everyday uncopyable model."""

    class Keeper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(12, 12)
            self.head = nn.Linear(12, 4)

        def forward(self, x: Tensor) -> Tensor:
            self.hidden = torch.tanh(self.body(x))
            out: Tensor = self.head(self.hidden)
            return out

    owner = Owner(Keeper(), _rows())
    before = owner.picture()
    owner.diagnose()
    _same(before, owner.picture())


@pytest.mark.filterwarnings("ignore:.?torch.nn.utils.weight_norm.? is deprecated")
def test_weight_norm_of_the_old_kind() -> None:
    model = nn.Sequential(nn.utils.weight_norm(nn.Linear(12, 20)), nn.Tanh(), nn.Linear(20, 4))
    owner = Owner(model, _rows())
    before = owner.picture()
    owner.diagnose()
    _same(before, owner.picture())


def test_parametrizations() -> None:
    from torch.nn.utils import parametrizations

    model = nn.Sequential(
        parametrizations.weight_norm(nn.Linear(12, 20)),
        nn.Tanh(),
        parametrizations.spectral_norm(nn.Linear(20, 4)),
    )
    owner = Owner(model, _rows())
    before = owner.picture()
    owner.diagnose()
    _same(before, owner.picture())


def test_without_an_optimizer_and_in_eval_mode() -> None:
    for model in (_convolutional(), MODELS["convolutional"][0]()):
        owner = Owner(model, _images())
        model.eval()
        before = owner.picture()
        owner.diagnose(optimizer=None)
        owner.diagnose(optimizer=torch.optim.Adam)
        owner.diagnose(optimizer=lambda net: torch.optim.Adam(net.parameters()))
        _same(before, owner.picture())


def test_criterion_that_learns_and_counts() -> None:
    class Learnt(nn.Module):
        scale: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.temperature = nn.Parameter(torch.ones(()))
            self.register_buffer("scale", torch.zeros(()))

        def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
            self.scale += outputs.detach().abs().mean()
            return F.cross_entropy(outputs * self.temperature, targets)

    for model in (_perceptron(), Stubborn()):
        owner = Owner(model, _rows(), criterion=Learnt())
        before = owner.picture()
        owner.diagnose()
        _same(before, owner.picture())


def test_hooks_of_the_user_stay() -> None:
    owner = Owner(_perceptron(), _rows())
    seen: list[str] = []
    owner.model.register_forward_hook(lambda *_: seen.append("forward"))
    owner.model[1].register_full_backward_hook(lambda *_: seen.append("back"))  # type: ignore[index]
    next(owner.model.parameters()).register_hook(lambda _: seen.append("gradient"))
    owner.optimizer.register_step_post_hook(lambda *_: seen.append("step"))
    before = owner.picture()
    owner.diagnose()
    _same(before, owner.picture())
    seen.clear()
    owner.optimizer.zero_grad()
    owner.criterion(owner.model(owner.batch[0]), owner.batch[1]).backward()
    owner.optimizer.step()
    assert sorted(seen) == ["back", "forward", "gradient", "step"]


@pytest.mark.parametrize("change", ["relu_", "requires_grad_", "criterion"])
def test_batches_are_as_before(change: str) -> None:
    class Changing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(12, 4)

        def forward(self, x: Tensor) -> Tensor:
            if change == "relu_":
                x.relu_()
            elif change == "requires_grad_":
                x.requires_grad_()
            out: Tensor = self.head(x)
            return out

    def criterion(outputs: Tensor, targets: Tensor) -> Tensor:
        if change == "criterion":
            targets.zero_()
        return F.cross_entropy(outputs, targets)

    model, batch = Changing(), _rows()
    owner = Owner(_perceptron(), batch)
    owner.model = model
    before = owner.picture()
    gradcheckup.diagnose(model, batch, criterion, steps=2)
    _same(before, owner.picture())


@pytest.mark.parametrize("where", ["loader", "sampler", "batch sampler"])
def test_generators_of_a_loader(where: str) -> None:
    data, generator = TensorDataset(*_rows()), torch.Generator().manual_seed(7)
    loaders: dict[str, Callable[[], DataLoader[Any]]] = {
        "loader": lambda: DataLoader(data, 4, shuffle=True, generator=generator),
        "sampler": lambda: DataLoader(data, 4, sampler=RandomSampler(data, generator=generator)),
        "batch sampler": lambda: DataLoader(
            data, batch_sampler=BatchSampler(RandomSampler(data, generator=generator), 4, False)
        ),
    }
    model, loader, state = _perceptron(), loaders[where](), generator.get_state()
    first = [batch[0] for batch in loader]
    generator.set_state(state)
    before = _surroundings()
    gradcheckup.diagnose(model, loader, nn.CrossEntropyLoss(), steps=2)
    assert torch.equal(generator.get_state(), state)
    _same(before, _surroundings())
    assert all(torch.equal(a, b[0]) for a, b in zip(first, loader, strict=True))


def test_random_states_are_restored_and_results_do_not_depend_on_them() -> None:
    model, batch = _perceptron(), _rows()
    losses = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - the legacy state is what users have
        random.seed(seed)
        before = _surroundings()
        report = gradcheckup.diagnose(model, batch, steps=3)
        _same(before, _surroundings())
        losses.append([step.loss for step in report.steps])
    assert losses[0] == losses[1]
    other = gradcheckup.diagnose(model, batch, steps=3, seed=5)
    assert losses[0] != [step.loss for step in other.steps]  # dropout follows the seed


@pytest.mark.parametrize("error", [None, KeyError])
def test_random_state_is_a_seed_inside_and_what_it_was_outside(
    error: type[Exception] | None,
) -> None:
    def drawn() -> tuple[float, float, float]:
        return torch.rand(1).item(), float(np.random.rand()), random.random()  # noqa: NPY002, S311 - as users do

    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002 - as above
    random.seed(5)
    wanted = drawn()
    drawn()  # elsewhere than where the seed leads inside
    before = _surroundings()
    with suppress(KeyError), gradcheckup.random_state(5):
        assert drawn() == wanted
        if error:
            raise error
    _same(before, _surroundings())


@pytest.mark.parametrize("seed", [-1, 2**63, 1.0, "0", None, True])
def test_random_state_wants_a_seed(seed: Any) -> None:
    with pytest.raises(gradcheckup.UsageError, match="expected seed to be a whole number"):
        gradcheckup.random_state(seed).__enter__()


# -- also when something fails -------------------------------------------------------------------


class _FailsInBackward(torch.autograd.Function):
    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(*_: Any) -> Tensor:
        raise RuntimeError("no gradient today")


class Failing(nn.Module):
    """Fails in the given phase of the given call; everything else runs."""

    def __init__(self, inner: nn.Module, phase: str, at: int) -> None:
        super().__init__()
        self.inner, self.phase, self.at, self.calls = inner, phase, at, 0

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x)
        self.calls += 1
        if self.calls == self.at and self.phase == "forward":
            raise ValueError("a wrong shape")
        if self.calls == self.at and self.phase == "backward":
            out = _FailsInBackward.apply(out)  # type: ignore[no-untyped-call]
        return out


class FailingOptimizer(torch.optim.SGD):
    def step(self, closure: Any = None) -> Any:
        super().step(closure)
        if self.param_groups[0].get("fail"):
            raise ArithmeticError("the update failed")


def _prepared(phase: str, stubborn: bool, at: int) -> Owner:
    model = Stubborn() if stubborn else _convolutional_rows()
    owner = Owner(model, _rows(), partial(FailingOptimizer, lr=0.1, momentum=0.9))
    owner.model = Failing(model, phase, at)
    if phase == "optimizer":
        for group in owner.optimizer.param_groups:
            group["fail"] = True
    return owner


def _convolutional_rows() -> nn.Module:
    return nn.Sequential(nn.Unflatten(1, (3, 2, 2)), nn.Conv2d(3, 8, 2), nn.BatchNorm2d(8),
                         nn.Sigmoid(), nn.Flatten(), nn.Dropout(0.2), nn.Linear(8, 4))  # fmt: skip


@pytest.mark.parametrize("at", [1, 2])
@pytest.mark.parametrize("stubborn", [False, True])
@pytest.mark.parametrize("phase", ["forward", "criterion", "backward", "optimizer", "interrupt"])
def test_everything_is_as_before_after_a_failure(phase: str, stubborn: bool, at: int) -> None:
    owner = _prepared(phase, stubborn, at)
    calls = 0

    def criterion(outputs: Tensor, targets: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if phase == "criterion" and calls == at:
            raise TypeError("targets of another kind")
        return F.cross_entropy(outputs, targets)

    def on_step(done: int, _: int) -> None:
        if phase == "interrupt" and done == at:
            raise KeyboardInterrupt

    expected = KeyboardInterrupt if phase == "interrupt" else gradcheckup.ModelError
    before = owner.picture()
    with pytest.raises(expected):
        owner.diagnose(criterion=criterion, on_step=on_step)
    _same(before, owner.picture())
    # And the next run works as if nothing had happened.
    owner.model = owner.model.inner  # type: ignore[assignment]
    for group in owner.optimizer.param_groups:
        group["fail"] = False
    fresh = owner.picture()
    assert len(owner.diagnose().steps) == 3
    _same(fresh, owner.picture())


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
@pytest.mark.parametrize("stubborn", [False, True])
def test_interrupt_in_the_middle_of_a_forward(error: type[BaseException], stubborn: bool) -> None:
    class Interrupted(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            torch.relu(self.inner(x))
            raise error

    owner = Owner(Stubborn() if stubborn else _perceptron(), _rows())
    owner.model = Interrupted(owner.model)
    before = owner.picture()
    with pytest.raises(error):
        owner.diagnose()
    _same(before, owner.picture())


def test_data_that_fails_while_it_is_read() -> None:
    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        yield _rows()
        random.random()  # noqa: S311 - as augmentations do
        raise OSError("disk gone")

    owner = Owner(Stubborn(), _rows())
    before = owner.picture()
    with pytest.raises(Exception, match="disk gone"):
        gradcheckup.diagnose(owner.model, batches(), owner.criterion, optimizer=owner.optimizer)
    _same(before, owner.picture())


def test_loss_that_is_no_loss() -> None:
    for stubborn in (False, True):
        owner = Owner(Stubborn() if stubborn else _perceptron(), _rows())
        before = owner.picture()
        with pytest.raises(gradcheckup.LossError):
            owner.diagnose(criterion=lambda outputs, _: outputs)
        with pytest.raises(gradcheckup.LossError):
            owner.diagnose(criterion=lambda outputs, _: outputs.detach().sum())
        with pytest.raises(gradcheckup.UsageError):
            owner.diagnose(optimizer=lambda _: "none")
        _same(before, owner.picture())


def test_networks_outside_the_model_get_no_gradient() -> None:
    """`compute_loss` may use a second network: a frozen teacher that nobody froze."""
    teacher, model, batch = _perceptron(), _perceptron(), _rows()

    def loss(student: nn.Module, given: Any) -> Tensor:
        return F.mse_loss(student(given[0]), teacher(given[0]))

    gradcheckup.diagnose(model, batch, compute_loss=loss, steps=2)
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_loss_of_another_model_is_refused() -> None:
    """`compute_loss` that ignores its argument measures nothing, which must not read as healthy."""
    model, batch = _perceptron(), _rows()
    before = _module(model)
    with pytest.raises(gradcheckup.GradcheckupError):
        gradcheckup.diagnose(
            model, batch, compute_loss=lambda _, b: F.cross_entropy(model(b[0]), b[1]), steps=1
        )
    _same(before, _module(model))


# -- measuring changes nothing of the run --------------------------------------------------------


def _by_hand(
    model: nn.Module,
    batches: list[tuple[Tensor, Tensor]],
    make: Callable[..., torch.optim.Optimizer],
    steps: int,
    seed: int,
) -> tuple[list[float], dict[str, Tensor]]:
    """The plain training loop that the probe stands for."""
    twin = copy.deepcopy(model)
    optimizer = make(twin.parameters())
    losses = []
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    for index in range(steps):
        inputs, targets = batches[index % len(batches)]
        optimizer.zero_grad()
        loss = F.cross_entropy(twin(inputs), targets)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    torch.set_rng_state(state)
    return losses, twin.state_dict()


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("kind", list(MODELS))
def test_a_measured_run_is_the_run(kind: str, optimizer: str) -> None:
    make, draw = MODELS[kind]
    model, batches = make(), [draw() for _ in range(3)]
    losses, final = _by_hand(model, batches, OPTIMIZERS[optimizer], 7, seed=11)
    probed: list[nn.Module] = []

    def loss(twin: nn.Module, batch: Any) -> Tensor:
        probed.append(twin)
        return F.cross_entropy(twin(batch[0]), batch[1])

    report = gradcheckup.diagnose(
        model,
        batches,
        compute_loss=loss,
        optimizer=OPTIMIZERS[optimizer],
        steps=7,
        follow=0,
        seed=11,
    )
    assert [step.loss for step in report.steps] == losses
    after = probed[-1].state_dict()
    assert list(after) == list(final)
    for name, value in final.items():
        assert torch.equal(after[name], value), name
    assert len({id(each) for each in probed}) == 1
    assert probed[0] is not model


def test_a_bound_optimizer_goes_on_where_it_stands() -> None:
    """Momentum gathered before the checkup counts in it."""
    owner = Owner(_convolutional(), _images())
    twin, optimizer = copy.deepcopy((owner.model, owner.optimizer))
    report = owner.diagnose(steps=4, seed=3)
    torch.manual_seed(3)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = owner.criterion(twin(owner.batch[0]), owner.batch[1])
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert [step.loss for step in report.steps] == losses
    assert any("momentum_buffer" in state for state in owner.optimizer.state.values())
