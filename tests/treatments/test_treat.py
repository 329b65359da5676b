"""What holds of every treatment, whatever the net: what stays, and what a treated copy can do."""

from __future__ import annotations

import copy
import functools
import io
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gradcheckup
from gradcheckup import treat
from gradcheckup.probe.subject import unwrap
from gradcheckup.treatments import TREATMENTS
from gradcheckup.treatments.course import Treated

KEYS = (
    "weight_scale",
    "weight_scale:normal",
    "weight_scale:lsuv",
    "activation",
    "activation:gelu",
    "optimizer",
    "normalization",
    "normalization:group",
    "normalization:tensor",
    "skip_connection",
    "skip_connection:dense",
)

_BUILT_IN = "has its activations built in"
_INSIDE = "not inside"
_SHAPE = "keeps the shape of its input"
_RECURRENT = {
    "normalization": _INSIDE,
    "normalization:group": _INSIDE,
    "normalization:tensor": _INSIDE,
    "skip_connection": _SHAPE,
    "skip_connection:dense": "no two layers in a row",
}
_ALREADY_RELU = {"activation": "is relu already"}
REASONS: dict[str, dict[str, str]] = {
    "f_relu": _ALREADY_RELU,
    "f_relu_in_place": _ALREADY_RELU,
    "relu_method_in_place": _ALREADY_RELU,
    "cnn": _ALREADY_RELU,
    "gated": {"skip_connection": _SHAPE},
    "rnn": {
        "activation:gelu": _BUILT_IN,
        **_RECURRENT,
    },
    "lstm": {
        "activation": _BUILT_IN,
        "activation:gelu": _BUILT_IN,
        **_RECURRENT,
    },
    "cell": dict.fromkeys(("skip_connection", "skip_connection:dense"), "a loop over time"),
    "transformer": {"activation:gelu": "is gelu already", "skip_connection": _SHAPE},
}
REASONS["gru"] = REASONS["lstm"]
"""Why a treatment does not apply, by net; all others do."""


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    trained = [each for each in model.parameters() if each.requires_grad]
    return torch.optim.SGD(trained, lr=0.05, momentum=0.9, weight_decay=1e-4)


@functools.cache
def _all_treated(animal: Any) -> tuple[dict[str, Treated], list[str]]:
    """What each treatment makes of one model; and what they changed that is not theirs."""
    model = animal.build()
    optimizer = sgd(model)
    loss(unwrap(model), animal).backward()
    optimizer.step()
    batch = tuple(each.clone() for each in animal.batch)
    before, dice = everything(model, optimizer), randomness()
    results, changed = {}, []
    for key in KEYS:
        if key not in REASONS.get(animal.name, {}):
            results[key] = treat(model, key, batch, optimizer=optimizer)
        else:
            with suppress(gradcheckup.TreatmentError):
                treat(model, key, batch, optimizer=optimizer)
        if everything(model, optimizer) != before:
            changed.append(f"the original, by {key}")
        if randomness() != dice:
            changed.append(f"random states, by {key}")
        if not all(map(torch.equal, batch, animal.batch)):
            changed.append(f"the batch, by {key}")
    return results, changed


def treated(animal: Any) -> Iterator[tuple[str, Treated]]:
    """Every treatment that applies, which tests may not change."""
    yield from _all_treated(animal)[0].items()


def outputs(model: nn.Module, animal: Any) -> Tensor:
    found = model(animal.batch[0].clone())
    if isinstance(found, dict):
        return found["logits"]
    return found[0] if isinstance(found, tuple) else found


def loss(model: nn.Module, animal: Any) -> Tensor:
    return F.cross_entropy(outputs(model, animal), animal.batch[1])


def everything(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Any]:
    """All that a treatment of a copy may not change in the original, as comparable values."""
    modules = [
        (
            name,
            type(module),
            module.training,
            sorted(key for key in vars(module)),
            [len(value) for key, value in vars(module).items() if "hooks" in key],
        )
        for name, module in model.named_modules()
    ]
    tensors = [
        (name, id(value), value.requires_grad, value.detach().numpy().tobytes(), value.grad is None)
        for name, value in (*model.named_parameters(), *model.named_buffers())
    ]
    groups = [
        {**group, "params": [id(each) for each in group["params"]]}
        for group in optimizer.param_groups
    ]
    state = [
        (id(key), name, value.numpy().tobytes())
        for key, values in optimizer.state.items()
        for name, value in values.items()
        if isinstance(value, Tensor)
    ]
    return [modules, tensors, groups, state]


def randomness() -> list[Any]:
    return [
        torch.get_rng_state().numpy().tobytes(),
        random.getstate(),
        np.random.get_state()[1].tobytes(),  # noqa: NPY002 - the state that users draw from
    ]


def test_the_original_stays_as_it_is(animal: Any) -> None:
    _, changed = _all_treated(animal)
    assert not changed


def test_what_does_not_apply_says_why(animal: Any) -> None:
    for key, reason in REASONS.get(animal.name, {}).items():
        with pytest.raises(gradcheckup.TreatmentError, match=reason) as caught:
            treat(animal.build(), key, animal.batch)
        assert str(caught.value).startswith(f"{key} does not apply: ")
        assert "\n" not in str(caught.value)


def test_a_treated_model_trains(animal: Any) -> None:
    for key, result in treated(animal):
        model, optimizer = copied(result)
        model.train()
        losses = []
        for _ in range(6):
            optimizer.zero_grad()
            value = loss(model, animal)
            value.backward()
            optimizer.step()
            losses.append(float(value.detach()))
        assert losses[-1] < losses[0], key


def copied(result: Treated) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A model and its optimizer, copied as a user copies them."""
    assert result.optimizer is not None
    return copy.deepcopy((result.model, result.optimizer))


def test_a_treated_model_can_be_copied_and_saved(animal: Any) -> None:
    for key, result in treated(animal):
        model = copy.deepcopy(result.model).eval()
        expected = outputs(model, animal)
        again = treat(animal.build(), key, animal.batch, seed=5).model.eval()
        again.load_state_dict(model.state_dict())
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        loaded = torch.load(file, weights_only=False)
        for name, other in (("state_dict", again), ("torch.load", loaded)):
            assert torch.equal(outputs(other, animal), expected), f"{key}: {name}"


def test_a_copy_of_a_treated_model_shares_nothing(animal: Any) -> None:
    for key, result in treated(animal):
        twin = copy.deepcopy(result.model)
        expected = outputs(copy.deepcopy(result.model).eval(), animal)
        with torch.no_grad():
            for each in twin.parameters():
                each.add_(1.0)
        outputs(twin, animal)
        assert torch.equal(outputs(copy.deepcopy(result.model).eval(), animal), expected), key


def test_the_optimizer_updates_the_trainable_parameters_of_the_copy(animal: Any) -> None:
    for key, result in treated(animal):
        assert result.optimizer is not None
        held = [id(each) for group in result.optimizer.param_groups for each in group["params"]]
        trained = [id(each) for each in result.model.parameters() if each.requires_grad]
        assert sorted(held) == sorted(trained), key


def test_what_is_frozen_stays_frozen(zoo: Any) -> None:
    animal = zoo["frozen"]
    frozen = [name for name, each in animal.build().named_parameters() if not each.requires_grad]
    assert len(frozen) == 2
    for key, result in treated(animal):
        left = [each for each in result.model.parameters() if not each.requires_grad]
        assert len(left) == len(frozen), key


def test_the_snippet_makes_the_same_model(animal: Any) -> None:
    for key, result in treated(animal):
        lines = result.snippet.splitlines()
        assert lines, key
        if all(line.startswith("#") for line in lines):
            continue
        model = unwrap(animal.build())
        names = {"model": model, "optimizer": sgd(model), "nn": nn, "torch": torch, "F": F}
        exec(result.snippet, names)  # noqa: S102 - what a user does with it
        expected = copy.deepcopy(result.model).eval()
        shapes = {name: each.shape for name, each in expected.state_dict().items()}
        assert {name: each.shape for name, each in model.state_dict().items()} == shapes, key
        if any(line.startswith("#") for line in lines):
            continue  # forward is to be changed by hand as well
        model.load_state_dict(expected.state_dict())
        assert torch.equal(outputs(model.eval(), animal), outputs(expected, animal)), key


# Scripting is deprecated, and still used.
@pytest.mark.filterwarnings("ignore:.torch.jit")
@pytest.mark.parametrize("name", ["sequential", "cnn"])
def test_what_is_made_of_modules_can_be_scripted(zoo: Any, name: str) -> None:
    for key, result in treated(zoo[name]):
        if key == "skip_connection:dense":
            continue  # made of hooks
        model = copy.deepcopy(result.model).eval()
        scripted = torch.jit.script(model)
        assert torch.equal(outputs(scripted, zoo[name]), outputs(model, zoo[name])), key


# Scripting is deprecated, and still used.
@pytest.mark.filterwarnings("ignore:.torch.jit")
@pytest.mark.parametrize(
    "key", ["activation", "skip_connection", "skip_connection:dense", "gradient_normalization"]
)
def test_what_is_made_of_functions_and_hooks_is_not_scripted_wrongly(zoo: Any, key: str) -> None:
    """`treat` says so: TorchScript has to refuse it, as it would leave out what was changed."""
    torch.jit.script(zoo["scriptable"].build())
    model = treat(zoo["scriptable"].build(), key, zoo["scriptable"].batch).model
    refusals = (RuntimeError, AttributeError, torch.jit.frontend.NotSupportedError)
    with pytest.raises(refusals):
        torch.jit.script(model)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_seed_gives_the_same_weights(zoo: Any, seed: int) -> None:
    animal = zoo["sequential"]
    for key in ("weight_scale", "activation", "skip_connection:dense"):
        first, second = (
            treat(animal.build(), key, animal.batch, seed=seed).model for _ in range(2)
        )
        other = treat(animal.build(), key, animal.batch, seed=seed + 1).model
        pairs = list(zip(first.parameters(), second.parameters(), strict=True))
        assert all(torch.equal(a, b) for a, b in pairs), key
        assert not torch.equal(next(first.parameters()), next(other.parameters())) or "dense" in key


def test_several_treatments_are_applied_in_turn(zoo: Any) -> None:
    animal = zoo["sequential"]
    result = treat(animal.build(), " normalization + activation : gelu+optimizer", animal.batch)
    assert result.treatments == ("normalization", "activation:gelu", "optimizer")
    kinds = [type(each).__name__ for each in result.model.modules()]
    assert kinds.count("BatchNorm1d") == kinds.count("GELU") == 4
    assert "Sigmoid" not in kinds
    assert type(result.optimizer) is torch.optim.Adam
    assert len(result.changes) >= 3


@pytest.mark.parametrize("name", ["sequential", "cnn", "lstm", "transformer", "float64", "gated"])
def test_inputs_are_guessed_where_there_are_none(zoo: Any, name: str) -> None:
    result = treat(zoo[name].build(), "weight_scale")
    assert result.changes[0].layers
    outputs(result.model, zoo[name])


def test_models_that_are_not_called_with_the_inputs(zoo: Any) -> None:
    class Steps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = zoo["sequential"].build()

        def forward(self, x: Tensor, *, flag: bool) -> Tensor:
            return self.net(x) if flag else x

    def compute_loss(model: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(model(batch[0], flag=True), batch[1])

    batch = zoo["sequential"].batch
    with pytest.raises(gradcheckup.ModelError, match="missing 1 required keyword-only"):
        treat(Steps(), "normalization", batch)
    result = treat(Steps(), "normalization", batch, compute_loss=compute_loss)
    assert result.changes[0].layers == ("net.0", "net.2", "net.4", "net.6")


@pytest.mark.parametrize("backend", ["eager"])
@pytest.mark.parametrize(
    ("name", "key"),
    [("on_the_fly", "activation"), ("on_the_fly", "skip_connection")],
)
def test_what_is_made_of_functions_and_hooks_compiles(
    zoo: Any, name: str, key: str, backend: str
) -> None:
    model = copy.deepcopy(dict(treated(zoo[name]))[key].model).eval()
    torch._dynamo.reset()
    fast = torch.compile(model, backend=backend)
    torch.testing.assert_close(outputs(fast, zoo[name]), outputs(model, zoo[name]))


# What dynamo does at its graph break in a recurrent layer, treated or not.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.slow
def test_every_treated_model_compiles(animal: Any) -> None:
    for key, result in treated(animal):
        model = copy.deepcopy(result.model).eval()
        torch._dynamo.reset()
        fast = torch.compile(model, backend="aot_eager")
        torch.testing.assert_close(outputs(fast, animal), outputs(model, animal), msg=key)
        loss(fast, animal).backward()


def rejected(error: type[Exception], said: str, call: Callable[[], Any]) -> None:
    """Expects an error of one line."""
    with pytest.raises(error) as caught:
        call()
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert type(caught.value) is error


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        (None, {}, "expected the name of a treatment, as 'weight_scale', got NoneType"),
        (["activation"], {}, "got list"),
        ("", {}, "unknown treatment ''"),
        ("skip_conection", {}, "unknown treatment 'skip_conection'; did you mean skip_connection?"),
        ("activation:rlu", {}, "activation has no variant 'rlu'; did you mean relu?"),
        ("normalization:", {}, "normalization has no variant '': expected one of auto, batch"),
        ("optimizer:adam, lr=-1", {}, "optimizer has no variant 'adam, lr=-1'"),
        ("activation + activation", {}, "expected different treatments, got activation twice"),
        ("activation:step", {}, "expected one of relu, leaky_relu, gelu, selu"),
        ("normalization", {"foo": 1}, "normalization has no options, got 'foo'"),
        ("skip_connection", {"spam": 1}, "no option 'spam'; did you mean span?"),
        ("weight_scale", {"std": 10}, "std is an option of weight_scale:normal, not of weight_sc"),
        ("skip_connection", {"block": 2}, "block is an option of skip_connection:dense, not of"),
        ("skip_connection", {"span": 0}, "expected span to be a whole number above 0, got 0"),
        ("skip_connection", {"span": 1.5}, "expected span to be a whole number above 0, got 1.5"),
        ("skip_connection", {"span": "x"}, "expected span to be a whole number above 0, got 'x'"),
        ("skip_connection", {"span": True}, "expected span to be a whole number above 0, got True"),
        ("skip_connection:dense", {"block": 0}, "expected block to be a whole number above 0"),
        ("weight_scale:normal", {"std": -1}, "expected std to be a number above 0, got -1"),
        ("weight_scale:normal", {"std": "x"}, "expected std to be a number above 0, got 'x'"),
        ("weight_scale:normal", {"std": float("nan")}, "above 0, got nan"),
        ("weight_scale:normal", {"std": float("inf")}, "above 0, got inf"),
        ("weight_scale:normal", {"std": 10**400}, "expected std to be a number above 0, got 1000"),
        ("optimizer", {"lr": 0}, "expected lr to be a number above 0, got 0"),
        ("layerwise_training", {"layers_per_stage": 1.5}, "whole number above 0, got 1.5"),
        ("gradient_clipping", {"max_norm": 0}, "expected max_norm to be a number above 0, got 0"),
        ("gradient_clipping", {"clip_value": 1}, "is an option of gradient_clipping:value"),
    ],
)
def test_names_and_options_that_make_no_sense(
    zoo: Any, text: Any, options: dict[str, Any], said: str
) -> None:
    animal = zoo["sequential"]
    rejected(
        gradcheckup.UsageError, said, lambda: treat(animal.build(), text, animal.batch, **options)
    )


@pytest.mark.parametrize(
    ("data", "error", "said"),
    [
        (5, gradcheckup.DataError, "expected a batch (inputs, targets) or an iterable"),
        ("text", gradcheckup.DataError, "got str"),
        ([], gradcheckup.DataError, "the list is empty"),
        (np.zeros((3, 12)), gradcheckup.DataError, "got a numpy array of shape"),
        (torch.full((4, 12), float("nan")), gradcheckup.DataError, "48 NaN or Inf"),
        (torch.zeros(4, 5), gradcheckup.ModelError, "the forward pass on the batch failed: Runt"),
        ([None], gradcheckup.ModelError, "the forward pass on the batch failed: TypeError"),
    ],
)
def test_data_that_cannot_be_used(zoo: Any, data: Any, error: type[Exception], said: str) -> None:
    rejected(error, said, lambda: treat(zoo["sequential"].build(), "normalization", data))


def _lazy() -> nn.Module:
    return nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(4))


# torch says so whenever one is made.
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature", "ignore:.torch.jit")
@pytest.mark.parametrize("given", [True, False], ids=["data", "no data"])
@pytest.mark.parametrize(
    ("build", "said"),
    [
        (_lazy, "got lazy ones: run one batch through the model first"),
        (lambda: nn.Linear(12, 4, device="meta"), "got some on the meta device"),
        (lambda: nn.Sequential(nn.ReLU()), "expected parameters to train"),
        (lambda: nn.Linear(12, 4).requires_grad_(requires_grad=False), "unfreeze at least one"),
        (lambda: torch.jit.script(nn.Linear(12, 4)), "got a TorchScript module"),
    ],
)
def test_models_that_cannot_be_treated(
    build: Callable[[], nn.Module], said: str, *, given: bool
) -> None:
    data = torch.zeros(4, 12) if given else None
    for each in TREATMENTS:
        rejected(gradcheckup.ModelError, said, lambda key=each.key: treat(build(), key, data))


class Answers(nn.Module):
    def __init__(self, answer: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(12, 12), nn.Linear(12, 4)
        self.answer = answer

    def forward(self, x: Tensor) -> Any:
        return self.answer(self.two(torch.tanh(self.one(x))))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda x: x.argmax(-1), "expected floating-point outputs, got none: give compute_loss"),
        (lambda x: x.detach(), "expected outputs that require grad"),
    ],
)
def test_outputs_without_a_gradient(answer: Callable[[Tensor], Any], said: str) -> None:
    rejected(
        gradcheckup.LossError,
        said,
        lambda: treat(Answers(answer), "normalization", torch.zeros(4, 12)),
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"model": "net"}, "expected a torch.nn.Module, got str"),
        ({"model": nn.Linear}, "expected a model, got the class Linear"),
        ({"criterion": nn.CrossEntropyLoss}, "pass an instance, CrossEntropyLoss()"),
        ({"compute_loss": "loss"}, "expected compute_loss to be a function, got str"),
        ({"optimizer": "adam"}, "expected an optimizer, a class or partial of one"),
        (
            {"optimizer": torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)},
            "expected an optimizer of the model's parameters, but SGD holds none of them",
        ),
        ({"seed": "x"}, "expected seed to be a whole number"),
        ({"seed": -1}, "expected seed to be a whole number"),
    ],
)
def test_arguments_that_make_no_sense(zoo: Any, arguments: dict[str, Any], said: str) -> None:
    animal = zoo["sequential"]
    given = {"model": animal.build(), "data": animal.batch, **arguments}
    model = given.pop("model")
    rejected(gradcheckup.UsageError, said, lambda: treat(model, "normalization", **given))


def test_models_that_cannot_be_copied(zoo: Any) -> None:
    class Once(nn.Linear):
        def __deepcopy__(self, _: Any) -> Any:
            raise RuntimeError("there is one of me")

    animal = zoo["sequential"]
    rejected(
        gradcheckup.TreatmentError,
        "the model cannot be deep-copied, so no treatment can be tried: RuntimeError: there is one",
        lambda: treat(Once(12, 4), "weight_scale", animal.batch),
    )
