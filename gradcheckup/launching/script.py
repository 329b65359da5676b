"""Runs a script as Python itself would: ``python train.py`` or ``python -m package.train``.

``__main__``, ``sys.argv`` and ``sys.path[0]`` are what the script expects, so that it can pickle
its classes, import its neighbours and start workers; a traceback shows no frame of ours.
"""

from __future__ import annotations

import builtins
import importlib.util
import io
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType, TracebackType
from typing import Any

from gradcheckup.errors import TargetError
from gradcheckup.suggestions import nearest

INTERRUPTED = 130

_OURS = (__file__, importlib.util.__file__)


@dataclass(frozen=True, slots=True)
class Ending:
    """How a script ended.

    Attributes:
        code: Its exit code; 1 for an error that nothing caught, 130 for Ctrl-C.
        error: What nothing caught, with the frames of the script; None where it came to its end or
            called `sys.exit`.
    """

    code: int
    error: BaseException | None = None

    def complain(self) -> None:
        """Shows the error as Python would at the end of the script, by `sys.excepthook`."""
        if self.error is not None:
            sys.excepthook(type(self.error), self.error, self.error.__traceback__)


@dataclass(frozen=True, slots=True)
class _Program:
    """Code, and what its ``__main__`` knows of itself."""

    code: CodeType
    names: dict[str, Any]


def run_file(path: str, arguments: Sequence[str]) -> Ending:
    """Runs a file, as ``python PATH ARGUMENTS``.

    Args:
        path: As the user wrote it.
        arguments: `sys.argv` behind the path.

    Raises:
        TargetError: There is no such file.
    """
    _check_file(path)
    place = os.path.abspath(path)  # noqa: PTH100 - links stay in __file__, as Python leaves them
    _set_first_path(os.path.dirname(os.path.realpath(path)))  # noqa: PTH120 - as Python does
    sys.argv = [path, *arguments]
    return _execute(lambda: _file_program(place))


def run_module(name: str, arguments: Sequence[str]) -> Ending:
    """Runs a module, as ``python -m NAME ARGUMENTS``.

    Args:
        name: Dotted; of a package, its ``__main__`` is run.
        arguments: `sys.argv` behind the module's file.

    Raises:
        TargetError: There is no such module.
    """
    if Path(name).is_file():
        raise TargetError(f"expected a module, got a file; without -m: gradcheckup run {name}")
    _set_first_path(str(Path.cwd()))
    sys.argv = ["-m", *arguments]
    return _execute(lambda: _module_program(name))


def _check_file(path: str) -> None:
    given = Path(path)
    if given.is_dir():
        raise TargetError(
            f"expected a script, got the folder {path}; for a package: gradcheckup run -m NAME"
        )
    if given.exists():
        return
    folder = given.parent
    found = nearest(given.name, [each.name for each in folder.glob("*.py")])
    hint = f"; did you mean {folder / found}?" if found else ""
    if not found and given.suffix != ".py":
        hint = f"; for a module: gradcheckup run -m {path}"
    raise TargetError(f"no such file: {path}{hint}")


def _file_program(place: str) -> _Program:
    with io.open_code(place) as file:
        source = file.read()
    code = compile(source, place, "exec", dont_inherit=True)
    # `__spec__` stays None: workers that are spawned then run the file again, as __mp_main__.
    return _Program(code, {"__file__": place, "__loader__": SourceFileLoader("__main__", place)})


def _module_program(name: str) -> _Program:
    spec = _find(name)
    if spec.submodule_search_locations is not None:
        spec = _find(f"{name}.__main__", of=name)
    # No kind of loader without source has a training loop in it.
    get_code: Callable[[str], CodeType | None] | None = getattr(spec.loader, "get_code", None)
    code = get_code(spec.name) if get_code else None
    if code is None:
        raise TargetError(f"expected a module with Python code, {name} has none")
    sys.argv[0] = spec.origin or name
    names = {"__file__": spec.origin, "__cached__": spec.cached, "__loader__": spec.loader}
    return _Program(code, {**names, "__package__": spec.parent, "__spec__": spec})


def _find(name: str, of: str = "") -> ModuleSpec:
    """The module's spec; packages above it are imported, as Python does."""
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError as error:
        if not error.name or not f"{name}.".startswith(f"{error.name}."):
            raise  # a package above it imports something that is not there
        spec = None
    except ValueError:  # a relative name, or a module that has no spec
        spec = None
    if spec is None and of:
        raise TargetError(f"{of} is a package without a module __main__: name one of its modules")
    if spec is None:
        raise TargetError(f"no module named {name}")
    return spec


def _set_first_path(folder: str) -> None:
    """Puts the folder where Python has put ours, unless it was told to put none there."""
    safe = getattr(sys.flags, "safe_path", bool(sys.flags.isolated))
    if safe:
        return
    sys.path[:1] = [folder]


def _execute(prepare: Callable[[], _Program]) -> Ending:
    """Runs a program in a fresh ``__main__``, which stays: what it leaves behind may need it."""
    found = False
    try:
        program = prepare()
        found = True
        main = ModuleType("__main__")
        vars(main).update(program.names, __builtins__=builtins)
        sys.modules["__main__"] = main
        exec(program.code, vars(main))  # noqa: S102 - what the user asked for
    except SystemExit as ended:
        return Ending(_exit_code(ended.code))
    except BaseException as error:
        if isinstance(error, TargetError) and not found:
            raise
        error.__traceback__ = _of_the_script(error.__traceback__)
        return Ending(INTERRUPTED if isinstance(error, KeyboardInterrupt) else 1, error)
    return Ending(0)


def _exit_code(given: object) -> int:
    """What the interpreter makes of the argument of `sys.exit`."""
    if given is None:
        return 0
    if isinstance(given, int):
        return given
    print(given, file=sys.stderr)  # noqa: T201 - Python does
    return 1


def _of_the_script(traceback: TracebackType | None) -> TracebackType | None:
    """The traceback from the first frame that is the script's, or a package's above it."""
    while traceback is not None:
        name = traceback.tb_frame.f_code.co_filename
        if name not in _OURS and not name.startswith("<frozen importlib"):
            return traceback
        traceback = traceback.tb_next
    return None
