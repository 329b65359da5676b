"""The hooks that measure a step; here tensors become numbers.

During a step, a forward hook on every module and a function mode for activations collect 0-d
device tensors, and a tensor hook on every output adds the norm of its gradient. At the end of the
step they cross to the host in one transfer. Hooks exist between `attach` and `detach` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from gradcheckup import statistics
from gradcheckup.activations import Activation, of_module
from gradcheckup.capture import attention, layers
from gradcheckup.capture.backward import in_backward
from gradcheckup.capture.functions import Call, FunctionMode, watching
from gradcheckup.capture.hook import Hook
from gradcheckup.capture.passes import Passes
from gradcheckup.capture.readings import Event, Measured, Readings, Tray, floating_tensors
from gradcheckup.capture.recurrences import Arguments, Recurrences
from gradcheckup.capture.response import Output
from gradcheckup.capture.structure import leaves
from gradcheckup.capture.transforms import transformed
from gradcheckup.capture.units import Units
from gradcheckup.capture.weighing import Weighing
from gradcheckup.records import Role


class Capture:
    """Measures the layers of one model, step after step.

    Attributes:
        running: Modules that are running now, outermost first, as (name, module).
        ran: Names and input shapes of the layers that finished in this step, for error messages.
        called: Names of all modules that ran in any step.
        stretch: How often gradients were switched off or on in this step.
        differentiating: True inside `differentiate`; gradients at other times (a gradient
            penalty's inner one) are not dL/dy.
        units: Which of them fired so far.
        foreign: The `id` of all leaves of the losses that belong to neither model nor optimizer.
        keeps_outputs: Whether to hold on to the values of output layers until the next step.
        failed: Told of an error of ours, which then goes no further; None to raise it.
    """

    def __init__(
        self,
        model: nn.Module,
        names: dict[str, nn.Module],
        slope: float,
        own: Iterable[Tensor],
    ) -> None:
        """Prepares to measure a model; registers nothing yet.

        Args:
            model: The root module.
            names: Its modules by the name they are reported under.
            slope: `Thresholds.saturation_slope`.
            own: Tensors that are to keep the gradients of a backward pass.
        """
        self.model = model
        self.names = names
        self.slope = slope
        self.running: list[tuple[str, nn.Module]] = []
        self.ran: list[tuple[str, tuple[int, ...]]] = []
        self.called: set[str] = set()
        self.differentiating = False
        self.stretch = 0
        self.keeps_outputs = False
        self.failed: Callable[[Exception], None] | None = None
        self._passes = Passes()
        self._recurrences = Recurrences()
        self.units = Units()
        self._handles: list[RemovableHandle] = []
        self._paused = False
        self._weighing = Weighing()
        self._entropies: dict[str, Tensor | None] = {}
        self._own = {id(tensor) for tensor in own}
        self.foreign: set[int] = set()
        self._loose = layers.loose_weights(names, model)
        self._several = layers.owners_of_several(names)
        self._owners = {
            name: module
            for name, module in names.items()
            if any(True for _ in module.parameters(recurse=False)) and of_module(module) is None
        }

    # -- one step ---------------------------------------------------------------------------

    @contextmanager
    def step(self) -> Iterator[None]:
        """Attaches to the model for one forward and backward pass, and detaches in any case."""
        self.begin()
        with ExitStack() as stack:
            stack.callback(self.detach)
            self.attach()
            stack.enter_context(self.during())
            yield

    def begin(self) -> None:
        """Forgets the step before, if any."""
        self.running.clear()
        self.ran.clear()
        self.stretch = 0
        self._passes.begin()
        self._entropies.clear()
        self._recurrences.begin()
        self._paused = False

    def again(self, *, keep: bool) -> None:
        """Another forward pass of the step begins; see `Passes.again`."""
        self.running.clear()
        self._passes.again(keep=keep)

    def attach(self) -> None:
        """Sets the hooks on the modules; `detach` takes all away again."""
        for name, module in self.names.items():
            enter = Hook(partial(self._enter, name), self.failed)
            leave = Hook(partial(self._leave, name), self.failed)
            self._handles.append(module.register_forward_pre_hook(enter))
            self._handles.append(module.register_forward_hook(leave, with_kwargs=True))
            if isinstance(module, nn.RNNBase):
                alias = Hook(self._alias, self.failed)
                self._handles.append(module.register_forward_pre_hook(alias, with_kwargs=True))

    def during(self, *, grad: bool = True) -> AbstractContextManager[Any]:
        """Surrounds a forward pass: activations and products that are no modules are seen in it.

        A pass without gradients is left out.
        """
        return FunctionMode(self) if grad else self.paused()

    def detach(self) -> None:
        """Takes every hook away."""
        self._weighing.clear()
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    @contextmanager
    def differentiate(self, loss: Tensor) -> Iterator[None]:
        """Surrounds the backward pass of the step's loss, as `sparing` does."""
        if self._paused:
            yield
            return
        self.settle([loss])
        self.differentiating = True
        try:
            with self.sparing(loss):
                yield
        finally:
            self.differentiating = False

    @contextmanager
    def sparing(self, loss: Tensor) -> Iterator[None]:
        """Surrounds a backward pass.

        Leaves that belong to neither model nor loss (another net in a GAN, the inputs) have their
        `.grad` back afterwards.
        """
        foreign = [(leaf, leaf.grad) for leaf in leaves(loss) if id(leaf) not in self._own]
        for leaf, _ in foreign:
            self.foreign.add(id(leaf))
            leaf.grad = None
        try:
            yield
        finally:
            for leaf, gradient in foreign:
                leaf.grad = gradient

    def settle(self, loss: Sequence[Tensor]) -> bool:
        """Ends the forward pass; see `Passes.settle`."""
        if not self._passes.settle(loss):
            return False
        self._weighing.clear()
        self.running.clear()
        return True

    def arrived(self) -> bool:
        """Whether a gradient came."""
        return self._passes.arrived()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Records nothing inside, where an optimizer evaluates its closure again."""
        self._paused = True
        try:
            yield
        finally:
            self._paused = False

    def measured(self) -> list[Measured]:
        """The layers of the step in execution order, after one transfer to the host."""
        tray = Tray()
        read = self.put(tray)
        return read(tray.carry())

    def put(self, tray: Tray) -> Callable[[Readings], list[Measured]]:
        """Puts the step on a tray; returns what makes numbers of it once the tray was carried."""
        return self._passes.put(tray)

    @property
    def events(self) -> tuple[Event, ...]:
        """What ran in this step so far, in execution order."""
        return tuple(self._passes)

    def outputs(self) -> list[Output]:
        """The output layers of the step with their gradient, where `keeps_outputs` was set."""
        return self._passes.outputs()

    def within_model(self) -> bool:
        """Whether the model is running, or a part of it again, for a checkpoint."""
        return bool(self.running) or (self.differentiating and in_backward())

    # -- what the hooks call ----------------------------------------------------------------

    def _enter(self, name: str, module: nn.Module, _: tuple[Any, ...]) -> None:
        self.called.add(name)
        if transformed():
            return
        if in_backward() and self._passes.awaited() and not watching():
            # torch switches the function mode off around backward(), where reentrant
            # checkpointing runs the forward that counts. Autograd drops this one again with the
            # thread state of the node that recomputes.
            FunctionMode(self, recomputing=True).__enter__()  # type: ignore[no-untyped-call]
        self.running.append((name, module))

    def _alias(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Arguments | None:
        """Gives a recurrent layer an alias of its input, whose gradient is read along the time.

        So it is also when a checkpoint runs the layer again, which has to save the same tensors.
        """
        if transformed() or self._paused:
            return None
        entered = self._recurrences.enter(module, args, kwargs)
        if entered is None:
            return None
        arguments, alias, read = entered
        self._watch(alias, read)
        return arguments

    def _leave(
        self,
        name: str,
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        output: Any,
    ) -> None:
        if transformed():
            return
        while self.running and self.running.pop()[0] != name:
            pass  # an exception that the model caught left its modules behind
        passage = self._recurrences.passage(module)
        if name in self._owners:
            values = list(floating_tensors(output))
            if not in_backward():
                self.ran.append((name, _shape(args, kwargs)))
            if values:
                within = self._within(name, module)
                holds = any(each != name and each.startswith(within) for each, _ in self.ran)
                role = layers.role(module, holds_layers=holds)
                event = self._record(name, layers.kind(module), role, False, values)
                if event:
                    event.given = _shape(args, kwargs)
                    event.channels_first = layers.channels_first(module)
                    if name in self._entropies:
                        event.attention_entropy = self._entropies.pop(name)
                    event.passage = passage
                    self._compare(event, module, output)

    # -- what the function mode calls -------------------------------------------------------

    def activation(self, known: Activation, given: Tensor, call: Call) -> Any:
        """Runs an activation and records it; the pre-activation is read before it can be lost."""
        if transformed() or self._paused:
            return call()
        path, module = self.running[-1] if self.running else ("", self.model)
        registered = of_module(module)
        if registered:
            name, known, functional = path, registered, False
        else:
            name, functional = f"{self._within(path, module)}{known.kind}", True
        fresh = not in_backward()
        arguments = known.arguments(call.args[1:], call.kwargs)
        saturation = peaks = None
        if fresh and known.zone and given.numel():
            saturation = statistics.share_outside(given, *known.zone(self.slope, arguments))
        if fresh and known.dead_below and given.numel():
            peaks = statistics.unit_peaks(given, self._unit_dim(given))
        result = call()
        event = self._record(name, known.kind, Role.ACTIVATION, functional, [result])
        if event and fresh:
            event.saturation = saturation
            if peaks is not None and known.dead_below:
                key = event.name, event.call
                event.dead = self.units.dead(key, peaks, known.dead_below(arguments))
        if event and known.kind == "softmax":
            dim = call.args[1] if len(call.args) > 1 else call.kwargs.get("dim")
            self._weighing.softmax(event, given, result, dim)
        return result

    def mixing(self, kind: str, call: Call) -> Any:
        """Runs a function that mixes features; records it where no module call stands for it.

        So it is for `F.linear(x, self.weights[i])` and `x @ w`: the weight's own module does not
        run, or owns several weights. The layer bears the name of the parameter.
        """
        result = self.product(call)
        found = next(filter(None, map(self._loose.get, map(_identity, call.operands()))), None)
        if found is None or transformed() or not isinstance(result, Tensor):
            return result
        owner, name = found
        if owner in self._several or all(running != owner for running, _ in self.running):
            event = self._record(name, kind, Role.WEIGHT, True, [result])
            if event:
                event.channels_first = kind.startswith("conv")
                self._compare(event, None, result)
        return result

    def product(self, call: Call) -> Any:
        """Multiplies matrices; they may be the queries and keys, or weights and values."""
        result = call()
        if not self._paused and not transformed():
            self._weighing.product(call, result)
        return result

    def attention(self, call: Call) -> Any:
        """Runs an attention; where it is not that of a `nn.MultiheadAttention`, it is a layer."""
        result = call()
        if transformed() or self._paused:
            return result
        path, module = self.running[-1] if self.running else ("", self.model)
        if call.function is F.scaled_dot_product_attention:
            entropy, values = attention.of_scaled_dot_product, result
        else:
            entropy, values = attention.of_multi_head, result[0]
        if isinstance(module, nn.MultiheadAttention):
            if not in_backward():
                self._entropies[path] = entropy(call.args, call.kwargs)
            return result
        name = f"{self._within(path, module)}attention"
        event = self._record(name, "attention", Role.ATTENTION, True, [values])
        if event and not in_backward():
            event.attention_entropy = entropy(call.args, call.kwargs)
        return result

    def _within(self, name: str, module: nn.Module) -> str:
        """What the names of a module's parts begin with."""
        return "" if module is self.model else f"{name}."

    def _record(
        self, name: str, kind: str, role: Role, functional: bool, values: list[Tensor]
    ) -> Event | None:
        if self._paused:
            return None
        if in_backward():
            event = self._passes.again_called(name)
            if event:
                self._hook(event, values)
            return event
        main = values[0]
        event = Event(name, 0, kind, role, functional, tuple(main.shape), stretch=self.stretch)
        self._passes.add(event)
        if main.numel():
            event.signal = statistics.signal(main)
            if event.signal is None:  # which else tells whether all is finite
                event.peak = statistics.peak(main)
        if self.keeps_outputs and role is Role.WEIGHT and not functional:
            event.value = main.detach()
        self._hook(event, values)
        return event

    def _hook(self, event: Event, values: list[Tensor]) -> None:
        for value in {id(value): value for value in values}.values():
            if value.requires_grad and torch.is_grad_enabled():
                self._watch(value, event.read)
                event.hooked = True
                if value.grad_fn is not None and not in_backward():
                    event.nodes.append(value.grad_fn)

    def _compare(self, event: Event, module: nn.Module | None, output: Any) -> None:
        for value, read in self._recurrences.leave(event, module, output):
            self._watch(value, read)

    def _watch(self, value: Tensor, read: Callable[[Tensor], None]) -> None:
        hook = Hook(partial(self._arrives, read), self.failed)
        self._handles.append(value.register_hook(hook))  # type: ignore[no-untyped-call]

    def _arrives(self, read: Callable[[Tensor], None], gradient: Tensor | None) -> None:
        # None for the output of an LSTM of which the last state alone is used.
        if self.differentiating and gradient is not None:
            read(gradient)

    def _unit_dim(self, given: Tensor) -> int:
        """Channels come first after a convolution, last after a linear layer."""
        nearest = self._passes.nearest()
        return 1 if nearest and nearest.channels_first and given.ndim > 1 else -1


def _identity(tensor: Tensor) -> int:
    """Of the parameter itself, where the tensor is a view of one, as `weight.T`."""
    return id(tensor if tensor._base is None else tensor._base)  # noqa: SLF001


def _shape(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[int, ...]:
    given = (*args, *kwargs.values())
    return next((tuple(each.shape) for each in given if isinstance(each, Tensor)), ())
