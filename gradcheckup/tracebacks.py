"""The part of a traceback that a user can act on: the frames in their own code."""

from __future__ import annotations

import sysconfig
import traceback
from pathlib import Path

_OWN = Path(__file__).resolve().parent
_INSTALLED = tuple(
    Path(path).resolve()
    for name, path in sysconfig.get_paths().items()
    if name in {"stdlib", "platstdlib", "purelib", "platlib"}
)


def user_traceback(error: BaseException) -> str | None:
    """The frames of `error` that lie in neither gradcheckup, Python nor an installed package.

    Paths below the working directory are written relative to it. The last line names the error;
    for a SyntaxError it is preceded by the place in the source. None where no frame is the user's.
    """
    summary = traceback.TracebackException.from_exception(error)
    lines = []
    for frame in summary.stack:
        if _is_users(frame.filename):
            lines.append(
                f'  File "{relative(frame.filename)}", line {frame.lineno}, in {frame.name}'
            )
            if frame.line:
                lines.append(f"    {frame.line}")
    if isinstance(error, SyntaxError) and error.filename:
        summary.filename = relative(error.filename)
    elif not lines:
        return None
    lines.extend("".join(summary.format_exception_only()).rstrip().splitlines())
    return "\n".join(lines)


def one_line(error: BaseException) -> str:
    """``ValueError: what it says``, its first line only."""
    text = str(error).strip()
    kind = type(error).__name__
    return f"{kind}: {text.splitlines()[0].strip()}" if text else kind


def relative(path: str | Path) -> str:
    """The path as seen from the working directory, when it lies below it."""
    try:
        return str(Path(path).resolve().relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)


def _is_users(filename: str) -> bool:
    """True for a source file that is no part of gradcheckup, Python or an installed package."""
    if filename.startswith("<"):
        return False
    path = Path(filename).resolve()
    if {"site-packages", "dist-packages"} & set(path.parts):
        return False
    return not any(path.is_relative_to(root) for root in (_OWN, *_INSTALLED))
