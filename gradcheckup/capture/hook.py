"""A hook that stays behind when its model is copied or saved."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any


class Hook:
    """Calls a function, as long as it sits on the object it was registered on.

    A closure would survive `deepcopy` and report from the copy (an average of the weights, say),
    and a saved model could not be read where gradcheckup is not installed. A copied or pickled
    hook does nothing: it becomes a bound method of the standard library that takes anything and
    returns None.
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
        return nullcontext().__exit__

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return getattr, (nullcontext(), "__exit__")
