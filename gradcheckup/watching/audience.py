"""Those who wait for the samples of a monitor: loggers, callbacks of trainers."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from gradcheckup.tracebacks import one_line


class Audience:
    """Functions that are called after each sampled step."""

    def __init__(self) -> None:
        self._calls: list[Callable[[Any], object]] = []

    def add(self, call: Callable[[Any], object]) -> None:
        """Has a function called from now on."""
        self._calls.append(call)

    def tell(self, monitor: object) -> None:
        """Calls all of them; one that raises is called no more, and the training goes on."""
        self._calls = [call for call in self._calls if _succeeds(call, monitor)]


def _succeeds(call: Callable[[Any], object], monitor: object) -> bool:
    try:
        call(monitor)
    except Exception as error:  # noqa: BLE001 - a server that is away, a full disk
        warnings.warn(
            f"gradcheckup calls {getattr(call, '__qualname__', call)} no more, your training goes "
            f"on and is watched: {type(error).__name__}: {one_line(error)}",
            RuntimeWarning,
            stacklevel=2,
        )
        return False
    return True
