"""A hook that stays behind when its model is copied, and does nothing where it is saved."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any


class Hook:
    """Calls a function, as long as it sits on the object it was registered on.

    A closure would survive `deepcopy` and report from the copy (an average of the weights, say),
    and a saved model could not be read where gradcheckup is not installed. A deep copy has no such
    hook. A pickled one does nothing: it becomes a bound method of the standard library that takes
    anything and returns None.
    """

    __slots__ = ("failed", "function")

    def __init__(
        self, function: Callable[..., Any], failed: Callable[[Exception], None] | None = None
    ) -> None:
        """Makes a hook of a function.

        Args:
            function: Called with what torch hands to a hook.
            failed: Told of an error of the function, which then goes no further.
        """
        self.function = function
        self.failed = failed

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the function returns."""
        try:
            return self.function(*args, **kwargs)
        except Exception as error:
            if self.failed is None:
                raise
            self.failed(error)
            return None

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[..., None]:
        copied = nullcontext().__exit__
        # `deepcopy` has put the dictionary that it is filling into the memo, as the last one.
        filled = next((each for each in reversed(memo.values()) if type(each) is OrderedDict), None)
        if filled is not None:
            after = _Removal(filled, copied)
            memo[id(after)] = after
        return copied

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return getattr, (nullcontext(), "__exit__")


class _Removal:
    """Removes a value from a dictionary when it is itself let go of: with the memo of a deep copy.

    While the copy is made that is too early: `deepcopy` has yet to put the value there.
    """

    __slots__ = ("hooks", "value")

    def __init__(self, hooks: OrderedDict[Any, Any], value: object) -> None:
        self.hooks, self.value = hooks, value

    def __del__(self) -> None:
        for key in [key for key, each in self.hooks.items() if each is self.value]:
            del self.hooks[key]
