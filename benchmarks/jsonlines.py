"""Files of results: one line of JSON each, added as it comes, read again after an interruption."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

_Result = TypeVar("_Result")


def append_line(path: Path, values: dict[str, Any]) -> None:
    """Adds one line with a single write, behind a line break where the last line is torn."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(values, allow_nan=False, ensure_ascii=False) + "\n"
    with path.open("ab+") as file:
        if file.tell():
            file.seek(-1, 2)
            line = line if file.read() == b"\n" else "\n" + line
        file.write(line.encode())


def read_lines(path: Path, decode: Callable[[dict[str, Any]], _Result]) -> Iterator[_Result]:
    """The results in a file, in their order; none where there is no file.

    A line that cannot be read, as the last one after a power cut, is a case not done yet.

    Args:
        path: The file.
        decode: Makes a result of the values of a line; a `ValueError`, `TypeError` or `KeyError`
            says that they are none.
    """
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(ValueError, TypeError, KeyError):
            values = json.loads(line)
            if isinstance(values, dict):
                yield decode(values)
