"""The only file that registers hooks; here tensors become numbers.

During a step, a forward hook on every module and a function mode for activations collect 0-d
device tensors, and a tensor hook on every output adds the norm of its gradient. At the end of the
step they cross to the host in one transfer. Hooks exist only inside `Capture.step`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields, is_dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from gradcheckup import statistics
from gradcheckup.activations import FUNCTIONS, Activation, is_activation_module, type_name
from gradcheckup.records import Role
from gradcheckup.structure import Node, Place, locate

_UNITS_IN_DIM_1 = ("conv", "batchnorm", "groupnorm", "instancenorm")
_TORCH_WEIGHTS = (
    nn.Linear,
    nn.Bilinear,
    nn.Embedding,
    nn.EmbeddingBag,
    nn.RNNBase,
    nn.RNNCellBase,
    nn.MultiheadAttention,
    nn.modules.conv._ConvNd,
)


@dataclass(slots=True, eq=False)
class Event:
    """One call of one layer, as it happens: numbers are still tensors on the device."""

    name: str
    call: int
    kind: str
    role: Role
    functional: bool
    shape: tuple[int, ...]
    signal: Tensor | None = None
    peak: Tensor | None = None
    saturation: Tensor | None = None
    dead: Tensor | None = None
    gradients: list[Tensor] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    hooked: bool = False


@dataclass(frozen=True, slots=True)
class Measured:
    """One call of one layer, as numbers; None where nothing was measured."""

    name: str
    call: int
    kind: str
    role: Role
    functional: bool
    shape: tuple[int, ...]
    place: Place
    signal: float | None
    peak: float | None
    saturation: float | None
    dead_fraction: float | None
    gradient_norm: float | None


class _GradientHook:
    """Adds the norm of a gradient to an event while the loss is differentiated.

    A class and no closure: a closure survives `deepcopy` and would report into this capture.
    """

    __slots__ = ("capture", "event")

    def __init__(self, capture: Capture, event: Event) -> None:
        self.capture = capture
        self.event = event

    def __call__(self, gradient: Tensor) -> None:
        if self.capture.differentiating:
            self.event.gradients.append(statistics.norm(gradient))

    def __deepcopy__(self, memo: dict[int, Any]) -> _Nothing:
        return _Nothing()

    def __reduce__(self) -> tuple[type[_Nothing], tuple[()]]:
        return _Nothing, ()


class _Nothing:
    """What a copied gradient hook becomes."""

    def __call__(self, gradient: Tensor) -> None:
        return None


class _ActivationMode(TorchFunctionMode):
    """Sees every activation that runs, also `nn.Sigmoid()(x)` made on the fly and `x.relu_()`."""

    def __init__(self, capture: Capture) -> None:
        super().__init__()
        self.capture = capture

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        known = FUNCTIONS.get(func)
        if known is None or not self.capture.running:
            return func(*args, **kwargs)
        given = args[0] if args else kwargs.get("input")
        if not isinstance(given, Tensor) or not given.is_floating_point():
            return func(*args, **kwargs)
        return self.capture.activation(known, given, func, args, kwargs)


class Capture:
    """Measures the layers of one model, step after step.

    Attributes:
        running: Modules that are running now, outermost first, as (name, module).
        ran: Names and input shapes of the layers that finished in this step, for error messages.
        called: Names of all modules that ran in any step.
        differentiating: True inside `differentiate`; gradients at other times (a gradient
            penalty's inner one) are not dL/dy.
    """

    def __init__(self, model: nn.Module, names: dict[str, nn.Module], slope: float) -> None:
        """Prepares to measure a model; registers nothing yet.

        Args:
            model: The root module.
            names: Its modules by the name they are reported under.
            slope: `Thresholds.saturation_slope`.
        """
        self.model = model
        self.names = names
        self.slope = slope
        self.running: list[tuple[str, nn.Module]] = []
        self.ran: list[tuple[str, tuple[int, ...]]] = []
        self.called: set[str] = set()
        self.differentiating = False
        self._events: list[Event] = []
        self._calls: dict[str, int] = {}
        self._places: list[Place] = []
        self._peaks: dict[tuple[str, int], Tensor] = {}
        self._handles: list[RemovableHandle] = []
        self._paused = False
        self._recomputing: _ActivationMode | None = None
        self._owners = {
            name: module
            for name, module in names.items()
            if any(True for _ in module.parameters(recurse=False))
            and not is_activation_module(module)
        }

    # -- one step ---------------------------------------------------------------------------

    @contextmanager
    def step(self) -> Iterator[None]:
        """Attaches to the model for one forward and backward pass, and detaches in any case."""
        self.running.clear()
        self.ran.clear()
        self._events.clear()
        self._calls.clear()
        self._places.clear()
        self._paused = False
        with ExitStack() as stack:
            stack.callback(self._detach)
            for name, module in self.names.items():
                enter = module.register_forward_pre_hook(partial(self._enter, name))
                leave = module.register_forward_hook(partial(self._leave, name))
                self._handles += (enter, leave)
            stack.enter_context(_ActivationMode(self))
            yield

    def _detach(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._end_recomputation()

    @contextmanager
    def differentiate(self, loss: Tensor) -> Iterator[None]:
        """Surrounds the backward pass of the step's loss."""
        self._places = locate(loss, [(event.role, event.nodes) for event in self._events])
        for event in self._events:
            event.nodes.clear()
        self.running.clear()
        self.differentiating = True
        try:
            yield
        finally:
            self.differentiating = False
            self._end_recomputation()

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
        scalars: list[Tensor] = []

        def keep(value: Tensor | None) -> int | None:
            if value is None:
                return None
            scalars.append(value)
            return len(scalars) - 1

        slots = [
            (
                keep(event.signal),
                keep(event.peak),
                keep(event.saturation),
                keep(event.dead),
                [keep(gradient) for gradient in event.gradients],
            )
            for event in self._events
        ]
        numbers = to_host(scalars)

        def number(slot: int | None) -> float | None:
            return None if slot is None else numbers[slot]

        places = self._places or [Place()] * len(self._events)
        return [
            Measured(
                name=event.name,
                call=event.call,
                kind=event.kind,
                role=event.role,
                functional=event.functional,
                shape=event.shape,
                place=place,
                signal=number(signal),
                peak=number(peak),
                saturation=number(saturation),
                dead_fraction=number(dead),
                gradient_norm=_length([numbers[slot] for slot in norms if slot is not None]),
            )
            for event, place, (signal, peak, saturation, dead, norms) in zip(
                self._events, places, slots, strict=True
            )
        ]

    def _awaited(self) -> list[Event]:
        """Layers that ran under no_grad so far; a recomputation may show their gradient."""
        return [event for event in self._events if not event.hooked]

    def _end_recomputation(self) -> None:
        if self._recomputing is not None:
            self._recomputing.__exit__(None, None, None)
            self._recomputing = None

    # -- what the hooks call ----------------------------------------------------------------

    def _enter(self, name: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        if _transformed():
            return
        if _in_backward() and self._recomputing is None and self._awaited():
            # torch switches the function mode off around backward(), where reentrant
            # checkpointing runs the forward that counts.
            self._recomputing = _ActivationMode(self)
            self._recomputing.__enter__()
        self.running.append((name, module))

    def _leave(self, name: str, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if _transformed():
            return
        while self.running and self.running.pop()[0] != name:
            pass  # an exception that the model caught left its modules behind
        if not self.running:
            self._end_recomputation()
        self.called.add(name)
        if name in self._owners:
            values = list(_tensors(output))
            if not _in_backward():
                self.ran.append((name, _shape(args)))
            if values:
                self._record(name, *self._describe(name, module), False, values)

    def activation(
        self,
        known: Activation,
        given: Tensor,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Runs an activation and records it; the pre-activation is read before it can be lost."""
        if _transformed() or self._paused:
            return func(*args, **kwargs)
        path, module = self.running[-1]
        if is_activation_module(module):
            name, kind, functional = path, type_name(module) or known.kind, False
            self.called.add(name)
        else:
            inside = "" if module is self.model else f"{path}."
            name, kind, functional = f"{inside}{known.kind}", known.kind, True
        fresh = not _in_backward()
        call = known.arguments(args[1:], kwargs)
        saturation = peaks = None
        if fresh and known.zone and given.numel():
            saturation = statistics.share_outside(given, *known.zone(self.slope, call))
        if fresh and known.dead_below and given.numel():
            peaks = statistics.unit_peaks(given, self._unit_dim(given))
        result = func(*args, **kwargs)
        event = self._record(name, kind, Role.ACTIVATION, functional, [result])
        if event and fresh:
            event.saturation = saturation
            if peaks is not None and known.dead_below:
                event.dead = self._dead(event, peaks, known.dead_below(call))
        return result

    def _record(
        self, name: str, kind: str, role: Role, functional: bool, values: list[Tensor]
    ) -> Event | None:
        if self._paused:
            return None
        if _in_backward():
            # Checkpointing runs the forward again: the first run under no_grad left an event
            # without a gradient hook, which now gets it; every other one is complete.
            event = next((e for e in self._awaited() if e.name == name), None)
            if event:
                self._hook(event, values)
            return event
        call = self._calls.get(name, 0)
        self._calls[name] = call + 1
        main = values[0]
        event = Event(name, call, kind, role, functional, tuple(main.shape))
        if main.numel():
            event.signal = statistics.signal(main)
            if event.signal is None:  # which else tells whether all is finite
                event.peak = statistics.peak(main)
        self._events.append(event)
        self._hook(event, values)
        return event

    def _hook(self, event: Event, values: list[Tensor]) -> None:
        for value in values:
            if value.requires_grad and torch.is_grad_enabled():
                self._handles.append(value.register_hook(_GradientHook(self, event)))
                event.hooked = True
                if value.grad_fn is not None and not _in_backward():
                    event.nodes.append(value.grad_fn)

    def _describe(self, name: str, module: nn.Module) -> tuple[str, Role]:
        kind = type_name(module) or type(module).__name__.lower()
        if kind.startswith("nondynamicallyquantizable"):
            kind = kind.removeprefix("nondynamicallyquantizable")
        if isinstance(module, _TORCH_WEIGHTS):
            return kind, Role.WEIGHT
        if "norm" in kind:
            return kind, Role.NORM
        inside = f"{name}." if module is not self.model else ""
        if any(other != name and other.startswith(inside) for other in self._ran_owners()):
            return kind, Role.CONTAINER
        mixes = any(
            sum(size > 1 for size in parameter.shape) > 1
            for parameter in module.parameters(recurse=False)
        )
        return kind, Role.WEIGHT if mixes else Role.SCALE

    def _ran_owners(self) -> Iterator[str]:
        return (name for name, _ in self.ran)

    def _unit_dim(self, given: Tensor) -> int:
        """Channels come first after a convolution, last after a linear layer."""
        before = next((e.kind for e in reversed(self._events) if e.role is not Role.ACTIVATION), "")
        channels_first = given.ndim > 2 and before.startswith(_UNITS_IN_DIM_1)  # noqa: PLR2004
        return 1 if channels_first else -1

    def _dead(self, event: Event, peaks: Tensor, bound: float) -> Tensor:
        """Share of units that never rose above the bound in any step so far: exact, no sample."""
        key = event.name, event.call
        before = self._peaks.get(key)
        if before is not None and before.shape == peaks.shape:
            peaks = torch.maximum(peaks, before)
        self._peaks[key] = peaks
        return (peaks <= bound).float().mean()


def to_host(scalars: list[Tensor]) -> list[float]:
    """Values of 0-d tensors, in one transfer where they share a device."""
    if not scalars:
        return []
    home = scalars[0].device
    wide = torch.float32 if home.type == "mps" else torch.float64
    stacked = torch.stack([scalar.to(home, wide) for scalar in scalars])
    values: list[float] = stacked.tolist()
    return values


def _length(norms: list[float]) -> float | None:
    """Norm of the concatenation of vectors with these norms; None without any."""
    return math.hypot(*norms) if norms else None


def _tensors(output: Any) -> Iterator[Tensor]:
    """Floating-point tensors in whatever a module returns, the main one first."""
    if isinstance(output, Tensor):
        if output.is_floating_point() or output.is_complex():
            yield output
    elif isinstance(output, dict):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, (tuple, list)):
        for value in output:
            yield from _tensors(value)
    elif is_dataclass(output) and not isinstance(output, type):
        for each in fields(output):
            yield from _tensors(getattr(output, each.name, None))


def _shape(args: tuple[Any, ...]) -> tuple[int, ...]:
    return next((tuple(arg.shape) for arg in args if isinstance(arg, Tensor)), ())


def _transformed() -> bool:
    """Whether the forward is being compiled, traced or functionally transformed."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def _in_backward() -> bool:
    """Whether autograd is running a backward pass: the forward is a checkpoint's recomputation."""
    try:
        return bool(torch._C._current_graph_task_id() != -1)
    except AttributeError:  # a private call that a later torch may drop
        return False
