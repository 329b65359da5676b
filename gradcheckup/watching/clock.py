"""The optimizer as the clock: when a step of a training loop begins and ends."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.hooks import RemovableHandle

from gradcheckup.capture import transformed
from gradcheckup.capture.backward import in_backward
from gradcheckup.probe.subject import parameters_of


def innermost(optimizer: Optimizer) -> Optimizer:
    """The optimizer that makes the update, inside those that trainers wrap around it."""
    while True:
        held = vars(optimizer)
        inner = held.get("optimizer")
        if not isinstance(inner, Optimizer) and "_optimizer_step_pre_hooks" not in held:
            # A wrapper that is an optimizer in name alone: its `__init__` was never called.
            inner = next((each for each in held.values() if isinstance(each, Optimizer)), None)
        if not isinstance(inner, Optimizer):
            return optimizer
        optimizer = inner


class Clock:
    """Calls back around each step of some optimizers.

    Several optimizers make one step together: it is over when all have stepped, or one of them
    steps again.

    Attributes:
        strangers: How often optimizers of the model's parameters stepped that are none of them, by
            the name of their class.
        amid_backward: Whether one of them stepped while gradients were computed.
    """

    def __init__(
        self,
        optimizers: Sequence[Optimizer],
        own: Iterable[Tensor],
        *,
        before: Callable[[], None],
        updated: Callable[[int], None],
        after: Callable[[], None],
        elsewhere: Callable[[], None],
    ) -> None:
        """Sets hooks on the optimizers.

        Args:
            optimizers: Those that train the model.
            own: The model's parameters.
            before: Called before the first of them steps.
            updated: Called with the number of the one that has stepped.
            after: Called when the step is over.
            elsewhere: Called when an optimizer of other parameters has stepped: what ran since may
                have been for another model's sake, as the pass through the critic that trains a
                generator.
        """
        self._all = len(optimizers)
        self._own = {id(each) for each in own}
        inner = [innermost(each) for each in optimizers]
        # One may have another make its update, as sharpness-aware minimisation does.
        held = [each for one in inner for each in vars(one).values() if isinstance(each, Optimizer)]
        self._known = {id(each) for each in (*inner, *held)}
        self.strangers: Counter[str] = Counter()
        self.amid_backward = False
        self._stepping: set[int] = set()
        self._stepped: set[int] = set()
        self._before, self._updated = before, updated
        self._after, self._elsewhere = after, elsewhere
        self._inside = 0
        self._stopped = False
        self._handles: list[RemovableHandle] = []
        for number, one in enumerate(inner):
            self._handles.append(one.register_step_pre_hook(partial(self._begins, number)))
            self._handles.append(one.register_step_post_hook(partial(self._ended, number)))
        # Torch would keep it for ever, and with it whatever it refers to.
        everywhere = register_optimizer_step_post_hook(partial(_any_ended, weakref.ref(self)))
        self._handles.append(everywhere)
        weakref.finalize(self, everywhere.remove).atexit = False

    def stop(self) -> None:
        """Leaves the optimizers as they were.

        Inside a step, where torch is going through the hooks, they stay and do nothing, until this
        is called from outside.
        """
        self._stopped = True
        if not self._inside:
            for handle in self._handles:
                handle.remove()
            self._handles.clear()

    def elsewhere(self, optimizer: Optimizer) -> None:
        """Any optimizer of the process has stepped."""
        if not any(id(each) in self._own for each in parameters_of(optimizer)):
            with self._hook():
                self._elsewhere()
        elif id(innermost(optimizer)) not in self._known:
            self.strangers[type(optimizer).__name__] += 1

    def _begins(self, number: int, *_: Any) -> None:
        if transformed():
            return  # a compiled `step` that is being traced: it would raise, and tells nothing
        self._stepping.add(number)
        self.amid_backward = self.amid_backward or in_backward()
        with self._hook():
            if number in self._stepped:
                self._over()
            if not self._stepped:
                self._before()

    def _ended(self, number: int, *_: Any) -> None:
        if transformed() or number not in self._stepping:
            return  # the `step` of a subclass, whose `super().step()` has told already
        self._stepping.remove(number)
        with self._hook():
            self._updated(number)
            self._stepped.add(number)
            if len(self._stepped) == self._all:
                self._over()

    def _over(self) -> None:
        self._stepped.clear()
        self._after()

    @contextmanager
    def _hook(self) -> Iterator[None]:
        self._inside += 1
        try:
            yield
        except BaseException:
            self._inside -= 1
            if self._stopped:
                self.stop()  # torch goes through no more hooks
            raise
        self._inside -= 1


def _any_ended(clock: weakref.ref[Clock], optimizer: Optimizer, *_: Any) -> None:
    if transformed():
        return
    found = clock()
    if found is not None:
        found.elsewhere(optimizer)
