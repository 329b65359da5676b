"""Those who wait for what a monitor sees: loggers, callbacks of trainers, a user's alarm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gradcheckup.tracebacks import one_line
from gradcheckup.watching.warning import warn


class Audience:
    """Functions that are called with each piece of news."""

    def __init__(self) -> None:
        self._calls: list[tuple[str, Callable[[Any], object]]] = []

    def add(self, call: Callable[[Any], object], name: str = "") -> None:
        """Has a function called from now on; the name is for the warning should it raise."""
        self._calls.append((name or getattr(call, "__name__", repr(call)), call))

    def tell(self, news: object) -> None:
        """Calls all of them; one that raises is called no more, and the training goes on."""
        self._calls = [(name, call) for name, call in self._calls if _succeeds(name, call, news)]


def _succeeds(name: str, call: Callable[[Any], object], news: object) -> bool:
    try:
        call(news)
    except Exception as error:  # noqa: BLE001 - a server that is away, a full disk
        warn(
            f"gradcheckup calls {name} no more, your training goes on and is watched: "
            f"{one_line(error)}"
        )
        return False
    return True
