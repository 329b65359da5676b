"""Where the baselines of a test module stand: ``__gradcheckup__/<module>/<name>.json``."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections import Counter
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from gradcheckup import ReportError, UnhealthyError, UsageError
from pytest_gradcheckup import properties
from pytest_gradcheckup.baseline import Baseline
from pytest_gradcheckup.baseline_text import dumped, loaded
from pytest_gradcheckup.comparing import compared
from pytest_gradcheckup.differences import missing
from pytest_gradcheckup.files import write_whole
from pytest_gradcheckup.plugin import BEGAN, COLLECTED
from pytest_gradcheckup.tracebacks import HIDDEN

__tracebackhide__ = HIDDEN

FOLDER = "__gradcheckup__"
_LONGEST = 100
_TOLD = pytest.StashKey[set[str]]()
"""Modules whose folder was told to the end of the run."""


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
        began: When the run began, in seconds of `time.time`.
    """

    def __init__(
        self,
        folder: Path,
        test: str,
        mode: Mode,
        record: Callable[[str, str], None],
        *,
        began: float = math.inf,
    ) -> None:
        self.mode, self._began = mode, began
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

    def standard(self, path: Path) -> Baseline | None:
        """What to compare with; None where it is to be written.

        Raises:
            UnhealthyError: There is none, in a run that never writes one.
            ReportError: It cannot be read, or is no baseline.
        """
        before = None if self.mode is Mode.UPDATE else self.read(path)
        if before is None and self.mode is Mode.CI:
            raise UnhealthyError(missing(path.name))
        return before

    def check_alone(self, path: Path, now: Baseline, tolerance: float) -> None:
        """That no other test of this run wrote the same file for a net that is not like this one.

        Tests that share a baseline write it one after the other.

        Raises:
            UsageError: One did.
        """
        try:
            written = path.stat().st_mtime >= self._began
            earlier = self.read(path) if written else None
        except (FileNotFoundError, ReportError):
            return
        if earlier and compared(earlier, now, tolerance).broken:
            raise UsageError(
                f"another test of this run wrote {_shown(path)} for a net that is not like this "
                f"one ({earlier.model}, {len(earlier.layers)} layers): give one of them another "
                "name="
            )

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

    record = properties.recorder(node)
    folder = node.path.parent / FOLDER / node.path.stem
    module = node.nodeid.partition("::")[0]
    told = config.stash.setdefault(_TOLD, set())
    if module not in told and folder.parent.is_dir():
        told.add(module)
        counted = config.stash.get(COLLECTED, Counter[str]())[module]
        record(properties.FOLDER, json.dumps({"folder": folder.as_posix(), "tests": counted}))
    return Shelf(folder, test, mode, record, began=config.stash[BEGAN])


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
