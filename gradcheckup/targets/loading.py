"""From ``model.py:Name`` or ``package.module:Name`` to an imported module.

A file is imported as if it were run (its folder first on `sys.path`, `sys.argv` its own name), but
its ``__name__`` is not ``"__main__"``. What it set up stays for the process, since its model may
import more when it runs and DataLoader workers unpickle its classes; after a failure nothing stays.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import os
import pkgutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from gradcheckup.errors import MissingDependencyError, TargetError
from gradcheckup.suggestions import did_you_mean, nearest
from gradcheckup.tracebacks import one_line, relative, user_traceback

Result = TypeVar("Result")

# Import names whose distribution is called otherwise, and those that targets commonly need.
_DISTRIBUTIONS = {
    "PIL": "pillow",
    "cv2": "opencv-python",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "yaml": "PyYAML",
}
_OPTIONAL = frozenset(
    {*_DISTRIBUTIONS, "torchvision", "torchaudio", "timm", "transformers", "lightning", "datasets"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """An imported module and how the user wrote it.

    Attributes:
        module: The module.
        label: The part before the colon: ``model.py`` or ``torchvision.models``.
        name: The part after it, or None.
        is_file: True for a file, where the user can add ``build_model()``.
    """

    module: ModuleType
    label: str
    name: str | None
    is_file: bool


def load_source(spec: str) -> Source:
    """Import what a TARGET names.

    Raises:
        TargetError: There is no such file or module, or importing it failed.
        MissingDependencyError: It is a well-known package that is not installed.
    """
    label, name = _split(spec)
    is_file = _is_file(label)
    module = _import_file(label) if is_file else _import_module(label, name)
    return Source(module=module, label=label, name=name, is_file=is_file)


def call_user_code(action: Callable[[], Result], what: str) -> Result:
    """`action()`, with what it raises as a TargetError that shows the user's own frames.

    Raises:
        TargetError: The user's code raised, or called `sys.exit`.
    """
    try:
        return action()
    except SystemExit as error:
        raise TargetError(
            f"{what} called sys.exit({'' if error.code is None else repr(error.code)}): put what "
            'should not run on import below `if __name__ == "__main__":`',
            traceback_text=user_traceback(error),
        ) from error
    except Exception as error:
        raise TargetError(
            f"{what} failed: {one_line(error)}{_import_hint(error)}",
            traceback_text=user_traceback(error),
        ) from error


def _split(spec: str) -> tuple[str, str | None]:
    """``model.py:Name`` as (``model.py``, ``Name``); the colon of a drive letter is none."""
    label, colon, name = spec.rpartition(":")
    if not colon or Path(spec).is_file() or "/" in name or "\\" in name:
        label, name = spec, ""
    if colon and spec.endswith(":"):
        raise TargetError(f"expected a name after the colon in {spec!r}, as in {label}:Net")
    if not label.strip():
        raise TargetError("expected model.py, model.py:Name or package.module:Name as TARGET")
    if name and not all(part.isidentifier() for part in name.split(".")):
        raise TargetError(f"{name!r} in {spec!r} is not a name; expected one as in {label}:Net")
    return label, name or None


def _is_file(label: str) -> bool:
    """True where the user means a file rather than a module."""
    if label.endswith(".py") or os.sep in label or "/" in label:
        return True
    path = Path(label)
    return path.exists() and not (path / "__init__.py").exists()


def _import_file(label: str) -> ModuleType:
    """The file as a module, registered so that its classes can be pickled."""
    path = Path(label)
    _check_file(path, label)
    path = path.resolve()
    name = _free_name(path)
    loader = importlib.machinery.SourceFileLoader(name, str(path))
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    if spec is None:
        raise TargetError(f"Python cannot import {label}")
    module = importlib.util.module_from_spec(spec)

    def run() -> None:
        # Not `exec_module`: that would leave a __pycache__ beside the user's file.
        code = loader.source_to_code(loader.get_data(str(path)), str(path))
        exec(code, module.__dict__)  # noqa: S102 - running the user's file is the point

    with _as_if_run(str(path), path.parent):
        sys.modules[name] = module
        call_user_code(run, f"importing {label}")
    return module


def _import_module(label: str, name: str | None) -> ModuleType:
    """A module of a package, which may lie in the working directory."""
    if not all(part.isidentifier() for part in label.split(".")):
        raise TargetError(
            f"no file {label}, and it is no module name either{_similar_files(Path.cwd(), label)}"
        )
    with _as_if_run(label, Path.cwd()):
        try:
            return call_user_code(lambda: importlib.import_module(label), f"importing {label}")
        except TargetError as error:
            missing = error.__cause__
            if isinstance(missing, ModuleNotFoundError) and missing.name:
                _explain_missing(missing.name, label, name)
            raise


def _explain_missing(missing: str, label: str, name: str | None) -> None:
    """Raise the better error when it is the target itself that does not exist."""
    package = missing.partition(".")[0]
    if package in _OPTIONAL and sys.modules.get(package) is None:
        raise MissingDependencyError(
            f"{label} needs {package}, which is not installed: {_pip(package)}"
        ) from None
    if label != missing and not label.startswith(f"{missing}."):
        return  # The module exists, and something that it imports does not.
    parent, _, last = label.rpartition(".")
    if parent and missing == label:
        module = importlib.import_module(parent)
        if hasattr(module, last):
            written = f"{parent}:{last}" + (f".{name}" if name else "")
            raise TargetError(
                f"{label} is no module, but {parent} has {last}: write {written}"
            ) from None
        hint = did_you_mean(last, _public(module), form=f"{parent}:{{}}")
        raise TargetError(f"there is no module {label}{hint}") from None
    hint = (
        _similar_files(Path.cwd(), missing)
        or did_you_mean(missing, (found.name for found in pkgutil.iter_modules()))
        or "; expected model.py, model.py:Name or package.module:Name"
    )
    raise TargetError(f"there is no file and no module {missing}{hint}") from None


def _check_file(path: Path, label: str) -> None:
    """Refuse what is no Python file, with what was probably meant."""
    if path.is_dir():
        files = sorted(file.name for file in path.glob("*.py"))
        inside = f"; it has {', '.join(files[:6])}" if files else ""
        raise TargetError(f"{label} is a folder, expected a Python file{inside}")
    if not path.exists():
        if path.parent.is_dir():
            raise TargetError(f"no such file: {label}{_similar_files(path.parent, path.name)}")
        raise TargetError(f"no such file: {label} (there is no folder {path.parent})")
    if path.suffix != ".py":
        extra = (
            "; a checkpoint has weights but no code: give the file that builds the model"
            if path.suffix in {".pt", ".pth", ".ckpt", ".safetensors", ".bin"}
            else ""
        )
        raise TargetError(f"{label} is no Python file (.py){extra}")


def _similar_files(folder: Path, name: str) -> str:
    """``; did you mean src/model.py?`` for the nearest Python file, or an empty string."""
    stems = [file.stem for file in folder.glob("*.py")]
    found = nearest(name.removesuffix(".py"), stems)
    return f"; did you mean {relative(folder / found)}.py?" if found else ""


def _free_name(path: Path) -> str:
    """The stem, so that siblings can import it by name, unless another module has it."""
    name = path.stem
    known = sys.modules.get(name)
    taken = known is not None and getattr(known, "__file__", None) != str(path)
    if taken or name in sys.stdlib_module_names or name in {"torch", "numpy", "gradcheckup"}:
        return f"gradcheckup_target_{name}"
    return name


@contextmanager
def _as_if_run(argument: str, folder: Path) -> Iterator[None]:
    """`folder` first on the path and nothing on the command line, as for ``python file.py``."""
    argv, path, cwd, modules = sys.argv, list(sys.path), Path.cwd(), set(sys.modules)
    sys.argv = [argument]
    if sys.path[:1] != [str(folder)]:
        sys.path.insert(0, str(folder))
    try:
        yield
    except BaseException:
        sys.path[:] = path
        os.chdir(cwd)
        # Only what the user's folder brought in: half-removed libraries could not be used again.
        for name in set(sys.modules) - modules:
            origin = getattr(sys.modules[name], "__file__", None)
            if origin and Path(origin).is_relative_to(folder) and "site-packages" not in origin:
                del sys.modules[name]
        raise
    finally:
        sys.argv = argv


def _import_hint(error: BaseException) -> str:
    """What to install, or how to name the target, for an import that failed."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        if package in _OPTIONAL:
            return f" ({package} is not installed: {_pip(package)})"
    if isinstance(error, ImportError) and "relative import" in str(error):
        return " (name a file inside a package as package.module:Name, from the package's parent)"
    return ""


def _pip(package: str) -> str:
    return f"pip install {_DISTRIBUTIONS.get(package, package)}"


def _public(module: ModuleType) -> list[str]:
    return [name for name in vars(module) if not name.startswith("_")]
