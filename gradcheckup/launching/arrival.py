"""Notices when a module is imported, without importing it.

A script may set environment variables before its ``import torch``, or import what must come first;
a launcher that imported torch up front would change what it does.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class Arrival(MetaPathFinder):
    """Calls a function once, when a module has been loaded."""

    def __init__(self, name: str, then: Callable[[ModuleType], None]) -> None:
        """Waits for nothing yet.

        Args:
            name: Of the module, dotted.
            then: Called with the module; at once by `wait` where it is loaded already.
        """
        self._name, self._then = name, then

    def wait(self) -> None:
        """Begins to wait."""
        module = sys.modules.get(self._name)
        if module is not None:
            self._then(module)
        else:
            sys.meta_path.insert(0, self)

    def stop(self) -> None:
        """Waits no longer."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """What the other finders find; the module that is waited for tells when it is loaded."""
        if fullname != self._name:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(fullname, path, target)
            if spec is not None:
                self._tell(spec.loader)
                return spec
        return None

    def _tell(self, loader: Any) -> None:
        execute = loader.exec_module

        def execute_and_tell(module: ModuleType) -> None:
            execute(module)
            self.stop()
            self._then(module)

        loader.exec_module = execute_and_tell
