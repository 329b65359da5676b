"""The optimizer as the clock: when a step of a training loop begins and ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.hooks import RemovableHandle


def innermost(optimizer: Optimizer) -> Optimizer:
    """The optimizer that makes the update, inside those that trainers wrap around it."""
    while isinstance(getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = optimizer.optimizer  # type: ignore[attr-defined]
    return optimizer


class Clock:
    """Calls back around each step of some optimizers.

    Several optimizers make one step together: it is over when all have stepped, or one of them
    steps again.
    """

    def __init__(
        self,
        optimizers: Sequence[Optimizer],
        own: Iterable[Tensor],
        *,
        before: Callable[[], None],
        after: Callable[[], None],
        elsewhere: Callable[[], None],
    ) -> None:
        """Sets hooks on the optimizers.

        Args:
            optimizers: Those that train the model.
            own: The model's parameters.
            before: Called before the first of them steps.
            after: Called when the step is over.
            elsewhere: Called when an optimizer of other parameters has stepped: what ran since was
                for another model's sake, as the pass through the critic that trains a generator.
        """
        self._all = len(optimizers)
        self._own = {id(each) for each in own}
        self._stepped: set[int] = set()
        self._before, self._after, self._elsewhere = before, after, elsewhere
        self._handles: list[RemovableHandle] = []
        for number, optimizer in enumerate(optimizers):
            inner = innermost(optimizer)
            self._handles.append(inner.register_step_pre_hook(partial(self._begins, number)))
            self._handles.append(inner.register_step_post_hook(partial(self._ended, number)))
        self._handles.append(register_optimizer_step_post_hook(self._any_ended))

    def stop(self) -> None:
        """Leaves the optimizers as they were."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _begins(self, number: int, *_: Any) -> None:
        if number in self._stepped:
            self._over()
        if not self._stepped:
            self._before()

    def _ended(self, number: int, *_: Any) -> None:
        self._stepped.add(number)
        if len(self._stepped) == self._all:
            self._over()

    def _any_ended(self, optimizer: Optimizer, *_: Any) -> None:
        groups = optimizer.param_groups
        if not any(id(each) in self._own for group in groups for each in group["params"]):
            self._elsewhere()

    def _over(self) -> None:
        self._stepped.clear()
        self._after()
