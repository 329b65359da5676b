"""A net that grows while it is trained: stages that a training loop goes through."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from gradcheckup.errors import UsageError
from gradcheckup.treatments.mechanisms.arguments import Call, first_tensor, with_first
from gradcheckup.treatments.mechanisms.optimizers import narrowed


class Cut:
    """Ends a net early: the output layer reads what a hidden layer is given.

    Hooks of two layers, which copies of the model have as well.

    Attributes:
        head: What stands in for the output layer; None where that one fits.
    """

    def __init__(self, head: nn.Module | None) -> None:
        self.head = head
        self._given: Tensor | None = None

    def take(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | None:
        """Keeps what the first layer that is not in yet is given; it runs on without a gradient."""
        self._given = first_tensor(args, kwargs)
        if self._given is None:
            return None
        return with_first(args, kwargs, self._given.detach())

    def hand(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | None:
        """Gives it to the output layer."""
        given, self._given = self._given, None
        return None if given is None else with_first(args, kwargs, given)

    def answer(self, _: nn.Module, __: Any, output: Any) -> Any:
        """Has the head answer in place of the output layer."""
        given, self._given = self._given, None
        return output if given is None or self.head is None else self.head(given)

    def attach(self, first_out: nn.Module, output: nn.Module) -> list[RemovableHandle]:
        """Registers the hooks."""
        taken = first_out.register_forward_pre_hook(self.take, with_kwargs=True)
        if self.head is None:
            return [taken, output.register_forward_pre_hook(self.hand, with_kwargs=True)]
        return [taken, output.register_forward_hook(self.answer)]

    def __getstate__(self) -> dict[str, Any]:
        return {"head": self.head, "_given": None}


@dataclass(slots=True, eq=False)
class Growing:
    """What the stages of one net share.

    Attributes:
        model: The net.
        output: Name of its output layer.
        optimizer: Of which class and settings those of the stages are.
        trainable: Parameters that are trained when nothing is frozen.
        running: The stage that has begun and not ended.
    """

    model: nn.Module
    output: str
    optimizer: Optimizer
    trainable: tuple[nn.Parameter, ...]
    running: Stage | None = None


class Stage:
    """One stretch of the training of a net that grows.

    Attributes:
        index: 0 for the first stage.
        trains: Names of the weight layers that are trained; all others are frozen.
        head: Reads the net's features in place of its output layer, where that one does not fit.
    """

    def __init__(
        self,
        net: Growing,
        index: int,
        *,
        trains: tuple[str, ...],
        trained: Iterable[nn.Parameter],
        first_out: str | None,
        head: nn.Module | None = None,
    ) -> None:
        """Prepares a stage; changes nothing yet.

        Args:
            net: Shared with the other stages.
            index: Position among them.
            trains: As the attribute.
            trained: The parameters of the model that are trained.
            first_out: Name of the first layer that is not in yet; None when all are.
            head: As the attribute.
        """
        self.index = index
        self.trains = trains
        self.head = head
        self._net = net
        self._trained = tuple(trained)
        self._first_out = first_out
        self._handles: list[RemovableHandle] = []
        self._optimizer: Optimizer | None = None

    @property
    def name(self) -> str:
        """What it trains, in words."""
        return "everything" if self._first_out is None else ", ".join(self.trains)

    @property
    def optimizer(self) -> Optimizer:
        """An optimizer of its parameters, made anew when it begins.

        Raises:
            UsageError: It has not begun.
        """
        if self._optimizer is None:
            raise UsageError(
                f"stage {self.index} has not begun and has no optimizer yet: loop over the "
                "stages, or call stage.begin()"
            )
        return self._optimizer

    def parameters(self) -> Iterator[nn.Parameter]:
        """What it trains: parameters of the model, and of its head."""
        yield from self._trained
        if self.head is not None:
            yield from self.head.parameters()

    def begin(self) -> None:
        """Freezes what it does not train and cuts the net; ends the stage that was running."""
        net = self._net
        if net.running:
            net.running.end()
        net.running = self
        chosen = {id(each) for each in self._trained}
        for each in net.trainable:
            each.requires_grad_(id(each) in chosen)
            each.grad = None
        if self._first_out is not None:
            output = net.model.get_submodule(net.output)
            if self.head is not None:
                weight = next(output.parameters())
                self.head.to(weight.device, weight.dtype)
            first_out = net.model.get_submodule(self._first_out)
            self._handles = Cut(self.head).attach(first_out, output)
        added = () if self.head is None else tuple(self.head.parameters())
        own = {id(each) for each in net.model.parameters()} - chosen
        self._optimizer = narrowed(net.optimizer, own, added)
        _forget_compiled()

    def end(self) -> None:
        """Makes the net whole and trainable again, as it was before the first stage."""
        if self._net.running is not self:
            return
        self._net.running = None
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        for each in self._net.trainable:
            each.requires_grad_(True)
            each.grad = None
        _forget_compiled()

    def __repr__(self) -> str:
        return f"Stage({self.index}: {self.name})"


class Stages(Sequence[Stage]):
    """The stages of a training, in order.

    In a loop, each begins when it is its turn and ends when the next one is asked for, or when the
    loop is left.
    """

    def __init__(self, stages: Iterable[Stage]) -> None:
        self._stages = tuple(stages)

    def __len__(self) -> int:
        return len(self._stages)

    @overload
    def __getitem__(self, index: int) -> Stage: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Stage]: ...

    def __getitem__(self, index: int | slice) -> Stage | Sequence[Stage]:
        return self._stages[index]

    def __iter__(self) -> Iterator[Stage]:
        for stage in self._stages:
            stage.begin()
            try:
                yield stage
            finally:
                stage.end()

    def __repr__(self) -> str:
        return f"Stages({', '.join(f'{each.index}: {each.name}' for each in self._stages)})"


@dataclass(frozen=True, slots=True)
class Plan:
    """How a treated model is to be trained.

    Attributes:
        stages: To be trained one after the other, each with its own optimizer.
    """

    stages: Stages

    def shared_out(self, budget: int) -> Iterator[tuple[Stage, int, bool]]:
        """The stages with the steps of each: half of all for the last one, the rest shared equally.

        Each begins when it is its turn, as in a loop over `stages`.

        Args:
            budget: Training steps in all; every stage gets one at least.

        Yields:
            A stage, its training steps, and whether it is the last one.
        """
        before_last = len(self.stages) - 1
        early = max(1, budget // 2 // max(1, before_last))
        for stage in self.stages:
            last = stage.index == before_last
            yield stage, max(1, budget - early * before_last) if last else early, last

    def finish(self) -> None:
        """Ends the stage that is running, if one is."""
        for index in range(len(self.stages)):
            self.stages[index].end()


def _forget_compiled() -> None:
    """Has compiled models look again, which take hooks to be there from the first call on."""
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()
