"""Finds the models that optimizers train, and watches them.

A new optimizer tells which parameters it trains. Every module that owns some of them waits for a
forward pass with gradients; the first of them to run one is the outermost, as its parts run inside.
It is watched from that pass on, or, where it owns a part of the parameters alone, the module around
it that owns them all. An optimizer that steps before such a pass was seen is given its second step
to show one.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from gradcheckup.capture import Hook, class_name, eager, scriptable, transformed
from gradcheckup.errors import GradcheckupError, ReportError
from gradcheckup.probe.subject import parameters_of, unwrap
from gradcheckup.report import Report
from gradcheckup.runs.run import Run
from gradcheckup.tracebacks import one_line
from gradcheckup.watching import Monitor, watch, watching
from gradcheckup.watching.processes import known
from gradcheckup.watching.warning import warn

_MOST = 16
"""Optimizers to look at: a script that makes one in every step is not to be slowed down."""

_PATIENCE = 16
"""Steps of others for which a new optimizer's model is waited for: nothing is compiled then."""


@dataclass(slots=True, eq=False)
class _Watched:
    """A model that is or was watched. Nothing here keeps it alive.

    Attributes:
        run: What is remembered of its training.
        name: Its class.
        model: Unwrapped.
        monitor: What watches it.
        optimizers: Those that train it.
        ours: Whether it was watched here, and not by the script itself.
    """

    run: Run
    name: str
    model: weakref.ref[nn.Module]
    monitor: weakref.ref[Monitor]
    optimizers: weakref.WeakSet[Optimizer]
    ours: bool

    def parameters(self) -> set[int]:
        """What the model owns, by `id`; nothing when it is no longer watched."""
        model, monitor = self.model(), self.monitor()
        if model is None or monitor is None or monitor.closed:
            return set()
        return _own(model)

    def close(self) -> None:
        """Watches it no longer; a monitor of the script stays as it is."""
        monitor = self.monitor()
        if monitor is not None and self.ours:
            monitor.close()


class Seeker:
    """Is told of optimizers as they are made and step."""

    def __init__(
        self, options: Mapping[str, Any], log_of: Callable[[int], str | Path | None]
    ) -> None:
        """Watches nothing yet.

        Args:
            options: Keyword arguments of `watch`.
            log_of: Where the model of an index is to be logged.
        """
        self._options, self._log_of = options, log_of
        self._watched: list[_Watched] = []
        self._problems: list[str] = []
        self._pending: list[Optimizer] = []
        self._waiting: list[nn.Module] = []
        self._hooks = ExitStack()
        self._stepped: weakref.WeakSet[Optimizer] = weakref.WeakSet()
        self._running: tuple[Optimizer, tuple[Any, ...]] | None = None
        self._made = self._steps = self._waited = 0

    # -- what happens in the script ---------------------------------------------------------------

    def created(self, optimizer: Optimizer) -> None:
        """An optimizer was made."""
        self._made += 1
        if self._made <= _MOST:
            self._wait_for([*self._pending, optimizer])

    def steps(self, optimizer: Optimizer, *given: Any) -> None:
        """An optimizer is about to step."""
        self._running = optimizer, given

    def stepped(self, optimizer: Optimizer) -> None:
        """It has; all that trains for it has run a forward pass by now, if it ever does."""
        self._running = None
        self._steps += 1
        self._waited += 1
        if self._pending and (self._waited > _PATIENCE or optimizer in self._pending):
            self._wait_for([])
        if optimizer in self._stepped:
            return
        self._stepped.add(optimizer)
        found = any(optimizer in each.optimizers for each in self._watched)
        if not found and self._made <= _MOST:
            self._wait_for([*self._pending, optimizer])

    def finish(self) -> None:
        """The script has ended."""
        self._wait_for([])
        for each in self._watched:
            each.close()

    # -- what came of it --------------------------------------------------------------------------

    def reports(self) -> list[Report]:
        """One of each model that was measured, in the order they were found."""
        return [each.run.report() for each in self._watched if each.run.trace.steps]

    def notes(self) -> list[str]:
        """Why there is no report of something that was trained."""
        notes = [*self._problems]
        for each in self._watched:
            if each.run.steps and not each.run.trace.steps:
                why = each.run.failure or "no backward pass reached it"
                notes.append(f"no report of {each.name} after {each.run.steps} steps: {why}")
        if self._made > _MOST:
            notes.append(f"the first {_MOST} of {self._made} optimizers were looked at, no more")
        if notes or self._watched:
            return list(dict.fromkeys(notes))
        if not self._steps:
            return ["no optimizer stepped in this process"]
        none = f"no model was found in {self._steps} optimizer steps"
        return [f"{none}: no module that owns the parameters ran a forward pass with gradients"]

    # -- how a model is found ---------------------------------------------------------------------

    def _wait_for(self, optimizers: list[Optimizer]) -> None:
        """Has modules that own parameters of these tell of a forward pass; others no more."""
        self._hooks.close()
        self._pending, self._waited = optimizers, 0
        self._waiting = list(_owners(_trained(optimizers))) if optimizers else []
        if optimizers:
            self._hooks.enter_context(eager())
            self._hooks.enter_context(scriptable())
        for module in self._waiting:
            if isinstance(module, torch.jit.ScriptModule):
                self._problems.append("a TorchScript module is not watched: its layers are hidden")
                continue
            passes = Hook(partial(self._passes, module), self._failed)
            handle = module.register_forward_pre_hook(passes, with_kwargs=True)
            self._hooks.callback(handle.remove)

    def _passes(self, module: nn.Module, passing: nn.Module, *given: Any) -> None:
        """A module begins a forward pass."""
        if module is not passing or not torch.is_grad_enabled() or transformed():
            return
        own = _own(module)
        optimizers = [each for each in self._pending if own & self._unwatched(each)]
        if not optimizers or self._undecided(optimizers, own):
            return
        wanted = set().union(*map(self._unwatched, optimizers))
        around = [
            each
            for each in self._waiting
            if wanted <= _own(each) and any(part is module for part in each.modules())
        ]
        smallest = min(around, key=lambda each: sum(1 for _ in each.modules()), default=module)
        self._watch(module if wanted <= own else smallest, optimizers, module, given)

    def _unwatched(self, optimizer: Optimizer) -> set[int]:
        """What it trains of no model that is watched with it."""
        left = _trained([optimizer])
        for each in self._watched:
            if optimizer in each.optimizers:
                left -= each.parameters()
        return left

    def _undecided(self, optimizers: list[Optimizer], own: set[int]) -> bool:
        """Whether another optimizer trains the same: only its first step tells if one is used."""
        rivals = {*optimizers, *(old for each in self._watched for old in each.optimizers)}
        return any(
            own & _trained([each]) & _trained([rival])
            for each in optimizers
            if each not in self._stepped
            for rival in rivals - {each}
        )

    def _watch(
        self,
        model: nn.Module,
        optimizers: list[Optimizer],
        module: nn.Module,
        given: tuple[Any, ...],
    ) -> None:
        """Watches a model from the forward pass on that a module of it is in."""
        own, trained = _own(model), _trained(optimizers)
        for each in [each for each in self._watched if each.ours and each.parameters() & own]:
            optimizers[:0] = [old for old in each.optimizers if not _trained([old]) & trained]
            each.close()
            if not each.run.trace.steps:
                self._watched.remove(each)
        monitor = watching(model)
        ours = monitor is None
        if monitor is None:
            with self._caught_up(module, given):
                monitor = self._monitor(model, optimizers)
        self._watched.append(
            _Watched(
                run=monitor.run,
                name=class_name(model),
                model=weakref.ref(model),
                monitor=weakref.ref(monitor),
                optimizers=weakref.WeakSet(optimizers),
                ours=ours,
            )
        )

    def _monitor(self, model: nn.Module, optimizers: list[Optimizer]) -> Monitor:
        """One with a log, or without where none can be written."""
        log = self._log_of(len(self._watched))
        try:
            return watch(model, optimizers, log=log, **self._options)
        except ReportError as error:
            if log is None or known() > 1:  # other processes have seen this one leave
                raise
            warn(f"{error}; your training goes on and is watched without a log")
            return watch(model, optimizers, **self._options)

    @contextmanager
    def _caught_up(self, module: nn.Module, given: tuple[Any, ...]) -> Iterator[None]:
        """Calls hooks that are set too late: torch lists those of a call before it runs the first.

        The call is the forward pass that the module is in, and the step of an optimizer that runs
        it in a closure.
        """
        passes = module._forward_pre_hooks  # noqa: SLF001 - torch offers no list of hooks
        named = module._forward_pre_hooks_with_kwargs  # noqa: SLF001 - the same
        steps: Mapping[int, Any] = {}
        if self._running:
            steps = self._running[0]._optimizer_step_pre_hooks  # noqa: SLF001 - the same
        before = {*passes, *steps}
        yield
        for key in sorted({*passes} - before):
            passes[key](module, *given) if key in named else passes[key](module, given[0])
        for key in sorted({*steps} - before):
            if self._running:
                steps[key](self._running[0], *self._running[1])

    def _failed(self, error: Exception) -> None:
        """Something went wrong in a forward pass of the script, which goes on."""
        told = str(error) if isinstance(error, GradcheckupError) else one_line(error)
        self._problems.append(f"a model is not watched: {told}")


def _own(module: nn.Module) -> set[int]:
    """The parameters of a module and its parts, by `id`."""
    return {id(each) for each in module.parameters()}


def _trained(optimizers: Collection[Optimizer]) -> set[int]:
    """What optimizers train, by `id`."""
    return {id(each) for each in parameters_of(*optimizers)}


def _owners(wanted: set[int]) -> Iterator[nn.Module]:
    """The modules that own some of these parameters, also inside of a part."""
    for each in gc.get_objects():
        # `isinstance` would wake proxies up; a module without parts is not complete yet.
        if not issubclass(type(each), nn.Module) or "_modules" not in vars(each):
            continue
        if unwrap(each) is each and _own(each) & wanted:
            yield each
