"""Workflow commands of GitHub Actions, which it shows beside the test in a pull request.

https://docs.github.com/actions/reference/workflow-commands-for-github-actions
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def annotation(test: pytest.TestReport, root: Path, message: str) -> str:
    """An error at the place of a test.

    Args:
        test: What pytest says of it.
        root: What its location is relative to. GitHub looks for files from the workspace on,
            where a project may be a folder of many.
        message: What to say.
    """
    file, line, _ = test.location
    workspace = os.environ.get("GITHUB_WORKSPACE")
    if workspace:
        path = Path(os.path.normpath(root / file))
        for base in (Path(workspace), Path(workspace).resolve()):
            if path.is_relative_to(base):
                file = path.relative_to(base).as_posix()
                break
    place = f"file={_escaped(file, property_too=True)},line={(line or 0) + 1}"
    return f"::error {place},title=gradcheckup::{_escaped(message)}"


def _escaped(text: str, *, property_too: bool = False) -> str:
    for sign, code in (("%", "%25"), ("\r", "%0D"), ("\n", "%0A")):
        text = text.replace(sign, code)
    if property_too:
        text = text.replace(":", "%3A").replace(",", "%2C")
    return text
