"""The log of a watched run: JSON Lines, so that a crash loses the line being written at most.

    {"schema": "gradcheckup/run", ..., "start": 0, "every": 10, "processes": 1, "rules": [...], ...}
    {"look": {...}, "facts": {...}, "layers": ["0", "2"]}
    {"sample": {"index": 10, "loss": 2.3, "norms": [0.1, 0.2], "end_to_end_ratio": 0.5}}
    {"finding": {...}}
    {"end": {"steps": 900, "skipped": 0, "apart": 0, "failure": null}}

A run that goes on later appends to its log, beginning with another header.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from gradcheckup.encoding import encode
from gradcheckup.errors import ReportError
from gradcheckup.files import reason
from gradcheckup.history import Sample
from gradcheckup.records import Finding, Recording, Step
from gradcheckup.runs.run import Run
from gradcheckup.serialization import header
from gradcheckup.thresholds import Thresholds

SCHEMA = "gradcheckup/run"


class RunLog:
    """Appends lines to a file, each handed to the operating system as soon as it is there."""

    def __init__(self, path: str | Path) -> None:
        """Opens the file to append to it.

        Raises:
            ReportError: It cannot be written.
        """
        self.path = Path(path)
        self._process = os.getpid()
        try:
            self._file = self.path.open("a+b")
            torn = self._ends_within_a_line()
            if torn:
                self._file.write(b"\n")
        except OSError as error:
            raise self._refused(error) from None

    def _ends_within_a_line(self) -> bool:
        size = self._file.seek(0, 2)
        if not size:
            return False
        self._file.seek(size - 1)
        return self._file.read(1) != b"\n"

    def begin(self, run: Run) -> None:
        """Writes the header of a run, or of the next part of it.

        Raises:
            ReportError: It cannot be written.
        """
        first = {
            **header(SCHEMA),
            "start": run.steps,
            "every": run.every,
            "processes": run.processes,
            "subject": run.subject,
            "rules": [rule.code for rule in run.rules],
            "thresholds": encode(run.thresholds, Thresholds),
        }
        try:
            self._write(first)
        except OSError as error:
            with suppress(OSError):  # what is buffered still finds no room
                self.close()
            raise self._refused(error) from None

    def _refused(self, error: OSError) -> ReportError:
        return ReportError(f"cannot write run log {self.path}: {reason(error)}")

    def look(self, step: Step, facts: Recording, layers: tuple[str, ...]) -> None:
        """Writes a full look.

        Args:
            step: What was measured.
            facts: What is known of the model beside its steps.
            layers: Names of the layers whose norms a sample has, from now on.
        """
        bare = replace(facts, steps=(), history=None)
        self._write(
            {
                "look": encode(step, Step),
                "facts": encode(bare, Recording),
                "layers": list(layers),
            }
        )

    def sample(self, sample: Sample) -> None:
        """Writes a sample."""
        self._write({"sample": encode(sample, Sample)})

    def finding(self, finding: Finding) -> None:
        """Writes a finding that is new."""
        self._write({"finding": encode(finding, Finding)})

    def end(self, run: Run) -> None:
        """Writes the last line and closes the file."""
        self._write(
            {
                "end": {
                    "steps": run.steps,
                    "skipped": run.trace.skipped,
                    "apart": run.trace.apart,
                    "failure": run.failure,
                }
            }
        )
        self.close()

    def close(self) -> None:
        """Writes no more."""
        self._file.close()

    def _write(self, line: dict[str, Any]) -> None:
        if os.getpid() == self._process:  # and no fork of it, which trains something of its own
            self._file.write(json.dumps(line, allow_nan=False).encode() + b"\n")
            self._file.flush()
