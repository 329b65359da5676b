"""Baselines that no test uses any more."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pytest_gradcheckup import properties


def unused(config: pytest.Config, reports: Sequence[pytest.TestReport]) -> Iterator[str]:
    """A line for each baseline that no test used, and for each folder whose module is gone.

    Of a module's baselines it is known where all of its tests were collected and passed; a test
    that did not run, or failed, may be the one that uses it.

    Args:
        config: Of the run.
        reports: All of it, of all workers.
    """
    folders = {}
    for report in reports:
        for value in properties.values([report], properties.FOLDER):
            told = json.loads(value)
            folders[Path(told["folder"])] = (_module(report), told["tests"])
    used = {Path(value) for value in properties.values(reports, properties.BASELINE)}
    passed: dict[str, set[str]] = {}
    for report in reports:
        if report.when == "call" and report.passed:
            passed.setdefault(_module(report), set()).add(report.nodeid)
    for folder, (module, tests) in sorted(folders.items()):
        if not _some(config) and len(passed.get(module, ())) == tests:
            for path in sorted(folder.glob("*.json")):
                if path not in used:
                    yield f"unused baseline: {path.name} (in {folder})"
    for shelves in sorted({folder.parent for folder in folders}):
        yield from _orphans(shelves)


def _module(report: pytest.TestReport) -> str:
    return report.nodeid.partition("::")[0]


def _some(config: pytest.Config) -> bool:
    """True where modules may have been collected in part, which no hook tells of."""
    last_failed = bool(getattr(config.option, "lf", False))
    return last_failed or any("::" in each for each in config.args)


def _orphans(shelves: Path) -> Iterator[str]:
    """Folders of modules that were renamed or deleted."""
    if not shelves.is_dir():
        return
    modules = {path.stem for path in shelves.parent.iterdir() if path != shelves}
    for folder in sorted(path for path in shelves.iterdir() if path.is_dir()):
        count = len([*folder.glob("*.json")])
        if count and folder.name not in modules:
            what = "baseline" if count == 1 else "baselines"
            yield f"unused {what}: {count} in {folder}, whose module is gone"
