"""Threads that a script leaves running, which Python waits for before it exits."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress


class Leftovers:
    """What remains to be done once threads of a script have ended.

    Python waits for them when the main thread is over, and tells those that wait for its end or
    for work. To join them before would wait for these forever; so the rest is done at exit.
    """

    def __init__(self) -> None:
        """Is made before the script runs: what is registered first is called last at exit."""
        self._before = {*threading.enumerate()}
        self._rest: Callable[[], int] | None = None
        self._code = 0
        atexit.register(self._finish)

    def any(self) -> bool:
        """Whether threads of the script go on that Python is going to wait for."""
        return any(not each.daemon for each in {*threading.enumerate()} - self._before)

    def close(self) -> None:
        """There is nothing left to do."""
        atexit.unregister(self._finish)

    def postpone(self, rest: Callable[[], int], code: int) -> None:
        """Does something when Python exits, behind the threads and handlers of the script.

        Args:
            rest: Returns the exit code.
            code: The one that Python exits with by itself.
        """
        self._rest, self._code = rest, code

    def _finish(self) -> None:
        if self._rest is None:
            return
        code = self._rest()
        if code != self._code:
            for stream in (sys.stdout, sys.stderr):
                with suppress(OSError, ValueError, AttributeError):
                    stream.flush()
            os._exit(code)  # at exit, there is no other way to say it
