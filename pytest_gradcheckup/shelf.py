"""Where the baselines of a test module stand: ``__gradcheckup__/<module>/<name>.json``."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from gradcheckup import ReportError, UsageError
from pytest_gradcheckup import properties
from pytest_gradcheckup.baseline import Baseline
from pytest_gradcheckup.baseline_text import dumped, loaded
from pytest_gradcheckup.files import write_whole
from pytest_gradcheckup.tracebacks import HIDDEN

__tracebackhide__ = HIDDEN

FOLDER = "__gradcheckup__"
_LONGEST = 100


class Mode(Enum):
    """What is done with a baseline."""

    COMPARE = "compare; write where there is none"
    UPDATE = "write"
    CI = "compare; never write"


class Shelf:
    """The baselines of one test.

    Args:
        folder: That of its module.
        test: Its name; baselines are called so unless they have one of their own.
        mode: What to do.
        record: Told each baseline that is used and each note, as properties of the test.
    """

    def __init__(
        self, folder: Path, test: str, mode: Mode, record: Callable[[str, str], None]
    ) -> None:
        self.mode = mode
        self._folder, self._test, self._record = folder, test, record
        self._used: set[Path] = set()

    def place(self, name: str | None) -> Path:
        """The file for a baseline of this name.

        Raises:
            UsageError: The name is no text, or was taken by another check of the test.
        """
        given: Any = name
        if given is not None and not (isinstance(given, str) and given.strip()):
            raise UsageError(f"expected name to be text, got {given!r}")
        path = self._folder / f"{file_name(name or self._test)}.json"
        if path in self._used:
            raise UsageError(
                f"two baselines in one test: give the second one a name=, got {name!r}"
            )
        self._used.add(path)
        self._record(properties.BASELINE, path.as_posix())
        return path

    def read(self, path: Path) -> Baseline | None:
        """The baseline in a file, or None where there is no file.

        Raises:
            ReportError: It cannot be read, or is no baseline.
        """
        try:
            return loaded(path.read_text("utf-8"), _shown(path))
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise ReportError(f"cannot read the baseline {_shown(path)}: {error}") from None

    def write(self, path: Path, baseline: Baseline) -> None:
        """Write the whole file or leave what was there, also beside other processes.

        Raises:
            ReportError: It cannot be written.
        """
        try:
            write_whole(path, dumped(baseline))
        except OSError as error:
            raise ReportError(f"cannot write the baseline {_shown(path)}: {error}") from None

    def note(self, text: str) -> None:
        """Say something of the test in the summary of the run, whether it passes or fails."""
        self._record(properties.NOTE, text)


def shelf_of(node: pytest.Item) -> Shelf:
    """The baselines of a test."""
    config = node.config
    update, ci = config.getoption("gradcheckup_update"), config.getoption("gradcheckup_ci")
    mode = Mode.UPDATE if update else Mode.CI if ci else Mode.COMPARE
    test = ".".join(node.nodeid.split("::")[1:]) or node.name

    def record(name: str, value: str) -> None:
        node.user_properties.append((name, value))

    return Shelf(node.path.parent / FOLDER / node.path.stem, test, mode, record)


def file_name(name: str) -> str:
    """`name` as that of a file: ``test_flow[adam]`` is ``test_flow-adam``.

    A hash tells apart what would read the same.
    """
    bracketed = re.sub(r"\[(.*)\]$", r"-\1", name)
    plain = re.sub(r"[^\w.-]+", "-", bracketed).strip("-.") or "baseline"
    if plain == bracketed and len(plain) <= _LONGEST:
        return plain
    return f"{plain[:_LONGEST]}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def _shown(path: Path) -> str:
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
