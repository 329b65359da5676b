"""Which models of a script are watched, with which optimizers, from which step on."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
import torch.optim.optimizer as optimizers
from torch import Tensor, nn

import gradcheckup
from gradcheckup.launching.session import Session
from gradcheckup.report import Report


def small(width: int = 8) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, 16), nn.Tanh(), nn.Linear(16, width))


def named(reports: list[Report]) -> dict[str, tuple[str, int]]:
    """Optimizer and number of steps by model."""
    found = {}
    for report in reports:
        assert report.recording.history
        steps = report.recording.history.steps
        found[report.recording.model] = report.recording.optimizer.partition("(")[0], steps
    return found


def session(**options: Any) -> Session:
    return Session({"every": 1, **options})


class Encoder(nn.Sequential): ...


class Decoder(nn.Sequential): ...


class Whole(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = Encoder(*small()), Decoder(*small())

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))  # type: ignore[no-any-return]


def fit(model: Any, *optimizers: torch.optim.Optimizer, steps: int = 3) -> None:
    for _ in range(steps):
        for each in optimizers:
            each.zero_grad()
        model(torch.randn(16, 8)).square().mean().backward()
        for each in optimizers:
            each.step()


def test_the_outermost_model_from_the_first_step_on() -> None:
    with session() as watched:
        model = Whole()
        fit(model, torch.optim.SGD(model.parameters(), lr=0.1))
    (report,) = watched.reports()
    assert named([report]) == {"Whole": ("SGD", 3)}
    assert [step.index for step in report.steps] == [0, 1]
    assert [layer.name for layer in report.layers if layer.kind == "linear"] == [
        "encoder.0",
        "encoder.2",
        "decoder.0",
        "decoder.2",
    ]
    assert report.steps[0].parameters[0].update_norm
    assert watched.notes() == []


def test_the_first_step_is_measured_as_by_hand() -> None:
    """The model is found inside its forward pass: nothing of that pass may be missing."""

    def trained() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(3)
        model = Whole()
        return model, torch.optim.SGD(model.parameters(), lr=0.1)

    with session() as watched:
        fit(*trained())
    model, optimizer = trained()
    monitor = gradcheckup.watch(model, optimizer, every=1)
    fit(model, optimizer)
    (found,), by_hand = watched.reports(), monitor.report()
    assert found.steps == by_hand.steps
    assert found.findings == by_hand.findings


def test_parts_that_the_loop_calls_itself() -> None:
    with session() as watched:
        model = Whole()
        optimizer = torch.optim.Adam(model.parameters())
        fit(lambda x: model.decoder(model.encoder(x)), optimizer)
    (report,) = watched.reports()
    assert named([report]) == {"Whole": ("Adam", 3)}
    assert len([layer for layer in report.layers if layer.kind == "linear"]) == 4


def test_parts_without_a_model_around_them() -> None:
    with session() as watched:
        encoder, decoder = Encoder(*small()), Decoder(*small())
        optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()])
        fit(lambda x: decoder(encoder(x)), optimizer)
    assert named(watched.reports()) == {"Encoder": ("Adam", 3), "Decoder": ("Adam", 3)}


def test_two_optimizers_of_one_model() -> None:
    with session() as watched:
        model = Whole()
        first = torch.optim.SGD(model.encoder.parameters(), lr=0.1)
        fit(model, first, torch.optim.Adam(model.decoder.parameters()))
    (report,) = watched.reports()
    assert report.recording.optimizer == "SGD(lr=0.1) and Adam(lr=0.001)"
    assert named([report])["Whole"][1] == 3


def test_a_generator_and_its_critic() -> None:
    class Generator(nn.Sequential): ...

    class Critic(nn.Sequential): ...

    with session() as watched:
        generator, critic = Generator(*small()), Critic(*small())
        ours = torch.optim.Adam(generator.parameters())
        theirs = torch.optim.SGD(critic.parameters(), lr=0.1)
        for _ in range(4):
            with torch.no_grad():
                fake = generator(torch.randn(16, 8))
            theirs.zero_grad()
            (critic(torch.randn(16, 8)) - critic(fake)).mean().backward()
            theirs.step()
            ours.zero_grad()
            critic(generator(torch.randn(16, 8))).mean().backward()
            ours.step()
    # The generator's first pass with gradients is seen after the critic's first step.
    assert named(watched.reports()) == {"Critic": ("SGD", 4), "Generator": ("Adam", 3)}


def test_a_closure_that_runs_the_first_pass() -> None:
    with session() as watched:
        model, x = Whole(), torch.randn(16, 8)
        optimizer = torch.optim.LBFGS(model.parameters(), max_iter=2)

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss: Tensor = model(x).square().mean()
            loss.backward()
            return loss

        for _ in range(3):
            optimizer.step(closure)  # type: ignore[no-untyped-call]
    (report,) = watched.reports()
    assert named([report]) == {"Whole": ("LBFGS", 3)}
    assert all(each.update_norm for each in report.steps[0].parameters)


def test_an_optimizer_that_takes_over() -> None:
    with session() as watched:
        model = Whole()
        fit(model, torch.optim.SGD(model.parameters(), lr=0.1), steps=4)
        fit(model, torch.optim.Adam(model.parameters()), steps=3)
    first, second = watched.reports()
    assert named([first]) == {"Whole": ("SGD", 4)}
    assert named([second]) == {"Whole": ("Adam", 2)}


def test_of_two_optimizers_the_one_that_is_used() -> None:
    with session() as watched:
        model = Whole()
        unused = torch.optim.SGD(model.parameters(), lr=0.1)
        fit(model, torch.optim.Adam(model.parameters()))
    assert named(watched.reports()) == {"Whole": ("Adam", 2)}
    assert unused.param_groups


@pytest.mark.skipif(not hasattr(torch.compiler, "set_stance"), reason="torch >= 2.6")
def test_a_compiled_model() -> None:
    with session() as watched:
        model = Whole()
        compiled = torch.compile(model, backend="eager")
        fit(compiled, torch.optim.SGD(compiled.parameters(), lr=0.1))
    assert named(watched.reports()) == {"Whole": ("SGD", 3)}


def test_a_script_that_watches_by_itself() -> None:
    with session() as watched:
        model = Whole()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        monitor = gradcheckup.watch(model, optimizer, every=2)
        fit(model, optimizer)
        assert not monitor.closed
    (report,) = watched.reports()
    assert report.recording.history
    assert report.recording.history.every == 2
    monitor.close()


def test_passes_without_gradients_and_foreign_models_do_not_count() -> None:
    with session() as watched:
        model, teacher = Whole(), Decoder(*small())
        optimizer = torch.optim.SGD(model.decoder.parameters(), lr=0.1)
        with torch.no_grad():
            model.encoder(torch.randn(4, 8))
        fit(lambda x: model(teacher(x)), optimizer)
    assert named(watched.reports()) == {"Whole": ("SGD", 3)}


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace")
def test_a_model_that_cannot_be_watched_is_named() -> None:
    with session() as watched:
        model = torch.jit.trace(small(), torch.randn(4, 8))
        fit(model, torch.optim.SGD(model.parameters(), lr=0.1))
    assert watched.reports() == []
    (note,) = watched.notes()
    assert "TorchScript" in note


def test_no_model() -> None:
    with session() as watched:
        weight = nn.Parameter(torch.randn(3))
        optimizer = torch.optim.SGD([weight], lr=0.1)
        for _ in range(3):
            weight.square().sum().backward()
            optimizer.step()
    assert watched.reports() == []
    (note,) = watched.notes()
    assert note.startswith("no model was found in 3 optimizer steps")


def test_models_are_let_go_and_nothing_is_left_behind() -> None:
    create = torch.optim.Optimizer.__init__
    with session() as watched:
        gone = []
        for _ in range(3):
            model = Whole()
            gone.append(weakref.ref(model))
            fit(model, torch.optim.SGD(model.parameters(), lr=0.1))
        kept = model
        del model
        gc.collect()
        assert [each() for each in gone[:2]] == [None, None]
    assert len(watched.reports()) == 3
    assert torch.optim.Optimizer.__init__ is create
    assert not optimizers._global_optimizer_pre_hooks
    for module in kept.modules():
        assert not module._forward_pre_hooks
        assert not module._forward_hooks


def test_a_script_that_makes_many_optimizers() -> None:
    with session() as watched:
        for _ in range(18):
            model = small()
            fit(model, torch.optim.SGD(model.parameters(), lr=0.1), steps=1)
    assert len(watched.reports()) == 16
    assert watched.notes() == ["the first 16 of 18 optimizers were looked at, no more"]


def test_an_error_of_ours_does_not_end_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("gradcheckup.launching.seeker._owners", broken)
    with session() as watched:
        model = Whole()
        fit(model, torch.optim.SGD(model.parameters(), lr=0.1))
    assert watched.reports() == []
    assert watched.notes() == ["watching failed, the training went on: ZeroDivisionError: oops"]
