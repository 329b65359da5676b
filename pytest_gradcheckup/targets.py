"""Models that are checked without a test: ``gradcheckup_targets = models/*.py`` in the ini file."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

import gradcheckup
from pytest_gradcheckup.journal import journal_of
from pytest_gradcheckup.settings import of_run
from pytest_gradcheckup.silence import Silence
from pytest_gradcheckup.tracebacks import HIDDEN

__tracebackhide__ = HIDDEN


class Targets:
    """The hooks that collect targets; registered where the ini file names some.

    Raises:
        pytest.UsageError: A pattern is no pattern of Python files, or finds none.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._names: dict[Path, list[str]] = {}
        for pattern in config.getini("gradcheckup_targets"):
            for path, name in _found(pattern, config.rootpath):
                self._names.setdefault(path, []).append(name)

        given: Any = getattr(config, "workerinput", None)
        # Workers of xdist have paths in their arguments also where the user gave none.
        self._everywhere = (
            config.args_source is not pytest.Config.ArgsSource.ARGS
            if given is None
            else given["gradcheckup_everywhere"]
        )

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tell a worker of xdist whether the user named paths."""
        node.workerinput["gradcheckup_everywhere"] = self._everywhere

    @pytest.hookimpl(wrapper=True)
    def pytest_collect_file(
        self, file_path: Path, parent: pytest.Collector
    ) -> Generator[None, list[pytest.Collector], list[pytest.Collector]]:
        """The targets of a file that pytest comes by.

        It takes a file that is named on the command line for one of tests; a target is one only
        where its name says so.
        """
        collected = yield
        names = self._names.get(file_path)
        if not names:
            return collected
        patterns = parent.config.getini("python_files")
        tests = any(file_path.match(pattern) for pattern in patterns)
        others = [each for each in collected if tests or not isinstance(each, pytest.Module)]
        return [*others, TargetFile.from_parent(parent, path=file_path, names=names)]

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(
        self, session: pytest.Session, items: list[pytest.Item]
    ) -> None:
        """The targets of files that pytest did not come by, unless it was told where to look."""
        if self._everywhere:
            option = session.config.option
            left_out = [Path(each).absolute() for each in option.ignore or ()]
            patterns = [str(Path(each).absolute()) for each in option.ignore_glob or ()]
            seen = {item.path for item in items if isinstance(item, TargetItem)}
            for path, names in self._names.items():
                around = (path, *path.parents)
                ignored = any(each in left_out for each in around) or any(
                    fnmatch(str(each), pattern) for pattern in patterns for each in around
                )
                if path not in seen and not ignored:
                    file = TargetFile.from_parent(session, path=path, names=names)
                    items.extend(file.collect())


class TargetFile(pytest.File):
    """A file with models."""

    def __init__(self, *, names: list[str], **given: Any) -> None:
        super().__init__(**given)
        self._names = names

    def collect(self) -> Iterator[TargetItem]:
        """One test for each model that is named, or for the model that the file has."""
        for name in dict.fromkeys(self._names):
            yield TargetItem.from_parent(self, name=name or "gradcheckup", target=name)


class TargetItem(pytest.Item):
    """`assert_healthy` of one target."""

    gradcheckup_silence = Silence.INI

    def __init__(self, *, target: str, **given: Any) -> None:
        super().__init__(**given)
        self._target = target

    def runtest(self) -> None:
        """Load the target, with what the project says of targets, and check it."""
        from pytest_gradcheckup.fixture import checking

        settings = of_run(self.config)
        project = gradcheckup.load_settings(self.config.rootpath)
        options = gradcheckup.TargetOptions(
            default_input=project.input,
            default_optimizer=project.optimizer,
            default_lr=project.lr,
            seed=settings.seed,
        )
        spec = f"{self.path}:{self._target}" if self._target else str(self.path)
        with checking(self, settings) as checker:
            with journal_of(self).check("assert_healthy"):
                target = gradcheckup.load_target(spec, options)
            checker.assert_healthy(
                target.model,
                target.data,
                target.criterion,
                optimizer=target.optimizer,
                compute_loss=target.compute_loss,
            )

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """What a check or a target that cannot be used says, without a traceback."""
        error = excinfo.value
        if isinstance(error, (gradcheckup.GradcheckupError, pytest.UsageError)):
            more = getattr(error, "traceback_text", None)
            return f"{error}\n{more}" if more else str(error)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int, str]:
        """Where it is and what it is called."""
        return self.path, 0, f"gradcheckup {self._target}".rstrip()


def _found(pattern: str, root: Path) -> list[tuple[Path, str]]:
    """``models/*.py:Net`` as its files, each with ``Net``; an empty name where there is none."""
    files, colon, name = pattern.rpartition(":")
    if not colon or not name.isidentifier():
        files, name = pattern, ""
    try:
        paths = sorted(path for path in root.glob(files) if path.is_file())
    except (NotImplementedError, ValueError):
        raise pytest.UsageError(
            f"gradcheckup_targets: expected a pattern relative to {root}, got {pattern!r}"
        ) from None
    found = [path for path in paths if path.suffix == ".py" and path.name != "__init__.py"]
    if not found:
        raise pytest.UsageError(
            f"gradcheckup_targets: no Python file matches {pattern!r} in {root}"
        )
    return [(path, name) for path in found]
