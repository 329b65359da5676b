"""From the log of a run to a report, without torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gradcheckup import rules
from gradcheckup.encoding import MismatchError, decode, parse
from gradcheckup.errors import ReportError, UsageError
from gradcheckup.files import reason
from gradcheckup.history import Sample
from gradcheckup.records import Recording, Step
from gradcheckup.report import Report
from gradcheckup.runs.log import SCHEMA
from gradcheckup.runs.run import Run
from gradcheckup.serialization import check_version
from gradcheckup.thresholds import Thresholds


def is_run(content: bytes) -> bool:
    """Whether what a file holds is the log of a run."""
    first, _, _ = content.partition(b"\n")
    return _is_header(_parsed(first))


def load_run(path: str | Path) -> Report:
    """The report of a run from its log, at any time, also while it is written.

    A last line that a crash has torn is left out. Imports no torch.

    Args:
        path: What was given as `log` to `watch`.

    Raises:
        ReportError: The file cannot be read, is no log of a run or has no full look yet, is
            damaged, or was written by a newer version of gradcheckup.
    """
    return parse_run(_content(path), path)


def parse_run(content: bytes, path: str | Path) -> Report:
    """The same from what the file holds, for files that can be read but once, such as a pipe.

    Args:
        content: The log.
        path: Where it comes from, for messages.

    Raises:
        ReportError: See `load_run`.
    """
    run = _read(content, path)
    if not run.trace.steps:
        raise ReportError(f"run log {path} has no sampled training step yet")
    return run.report()


def steps_so_far(path: str | Path) -> int:
    """How many optimizer steps a log has seen, for a run that goes on; 0 for an empty or no file.

    Raises:
        ReportError: The file is no log of a run.
    """
    target = Path(path)
    try:
        fresh = not target.exists() or not target.stat().st_size
    except OSError as error:
        raise ReportError(f"cannot read run log {path}: {reason(error)}") from None
    return 0 if fresh else _read(_content(path), path).steps


def _content(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ReportError(f"cannot read run log {path}: {reason(error)}") from None


def _read(content: bytes, path: str | Path) -> Run:
    """What the lines of a log add up to."""
    run = Run(every=1, thresholds=Thresholds(), chosen=rules.RULES, subject="")
    taken = 0
    try:
        for taken, line in _lines(content, path):  # noqa: B007 - the message below names the line
            _take(run, line)
    except (MismatchError, AttributeError, OverflowError, UsageError) as error:
        raise ReportError(f"run log {path} is damaged in line {taken}: {error}") from None
    return run


def _take(run: Run, line: dict[str, Any]) -> None:
    if "schema" in line:
        run.steps = decode(line.get("start"), int, "start")
        run.every = decode(line.get("every"), int, "every")
        run.processes = decode(line.get("processes"), int, "processes")
        run.subject = decode(line.get("subject"), str, "subject")
        run.thresholds = decode(line.get("thresholds"), Thresholds, "thresholds")
        codes = decode(line.get("rules"), tuple[str, ...], "rules")
        run.rules = tuple(rule for rule in rules.RULES if rule.code in codes)
        run.failure = None
        run.trace.forget_from(run.steps)
    elif "look" in line:
        step: Step = decode(line["look"], Step, "look")
        facts: Recording = decode(line.get("facts"), Recording, "facts")
        run.look(step, facts, decode(line.get("layers"), tuple[str, ...], "layers"))
        run.steps = step.index + 1
    elif "sample" in line:
        sample: Sample = decode(line["sample"], Sample, "sample")
        expected, got = len(run.trace.layers), len(sample.norms)
        if run.trace.steps and expected != got:
            raise MismatchError(f"sample.norms should have {expected} items, got {got}")
        run.trace.add(sample)
        run.steps = sample.index + 1
    elif "end" in line:
        run.steps = decode(line["end"].get("steps"), int, "end.steps")
        run.trace.skipped = decode(line["end"].get("skipped"), int, "end.skipped")
        run.trace.apart = decode(line["end"].get("apart"), int, "end.apart")
        run.failure = decode(line["end"].get("failure"), str | None, "end.failure")


def _lines(content: bytes, path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects in the lines, with their numbers; a line that a crash has torn is left out."""
    for number, text in enumerate(content.splitlines(), start=1):
        line = _parsed(text)
        if number == 1 and not _is_header(line):
            raise ReportError(
                f'{path} is not the log of a run: expected a first line with "schema": '
                f'"{SCHEMA}", as `gradcheckup.watch(..., log=...)` writes it'
            )
        if isinstance(line, dict):
            if _is_header(line):
                check_version(line, f"run log {path}")
            yield number, line


def _parsed(text: bytes) -> Any:
    """The document in a line; None where it is none."""
    try:
        return parse(text)
    except (ValueError, RecursionError):
        return None


def _is_header(line: Any) -> bool:
    return isinstance(line, dict) and line.get("schema") == SCHEMA
