"""What a check runs with. One precedence: mark, command-line option, ini, [tool.gradcheckup].

What a test passes in a call wins over all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import pytest

import gradcheckup
from pytest_gradcheckup.plugin import of_ini
from pytest_gradcheckup.suggestions import suggestion
from pytest_gradcheckup.tracebacks import HIDDEN

__tracebackhide__ = HIDDEN

Layer = Mapping[str, Any]
"""Settings by name from one source, read already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckSettings:
    """How models are probed and judged.

    Attributes:
        steps: Steps of each probe.
        batches: Batches of the data that these go through in turn; as many as steps where None.
        follow: To which step the loss is followed; None to leave it to its size.
        seed: The first seed.
        seeds: With how many seeds to ask; they count up from `seed`.
        select: Codes, beginnings of codes or names of the rules to judge by; all when empty.
        ignore: Those to leave out.
        thresholds: Limits that differ from their defaults.
        fail_on: ``critical`` or ``warning``: what is that bad or worse fails.
    """

    steps: int = 8
    batches: int | None = None
    follow: int | None = None
    seed: int = 0
    seeds: int = 3
    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    thresholds: Mapping[str, float] = field(default_factory=dict)
    fail_on: str = "critical"

    @property
    def all_seeds(self) -> tuple[int, ...]:
        """The seeds to ask with, in order."""
        return tuple(range(self.seed, self.seed + self.seeds))

    def changed(self, given: Mapping[str, Any], where: str) -> CheckSettings:
        """These, with what is not None in `given` in place of what they say.

        Thresholds are changed one by one; everything else is exchanged.

        Raises:
            pytest.UsageError: A setting is unknown or has a value that makes no sense.
        """
        return _over(self, _read({k: v for k, v in given.items() if v is not None}, where), where)


def of_run(config: pytest.Config) -> CheckSettings:
    """What holds for all tests of a run: options over ini keys over ``[tool.gradcheckup]``.

    Raises:
        pytest.UsageError: One of them makes no sense.
    """
    if _KEY not in config.stash:
        settings = _over(CheckSettings(), *_of_project(config))
        for name in NAMES:
            option = f"--gradcheckup-{name.replace('_', '-')}"
            for where, value in (
                (f"gradcheckup_{name}", of_ini(config, name)),
                (option, config.getoption(f"gradcheckup_{name}")),
            ):
                if value is not None:
                    settings = _over(settings, {name: _READERS[name](value, where)}, where)
        _check_batches(settings, "the settings of the run")
        config.stash[_KEY] = settings
    return config.stash[_KEY]


def of_test(config: pytest.Config, marks: Sequence[pytest.Mark]) -> CheckSettings:
    """What holds for one test: its marks, the closest first, over what holds for the run.

    Raises:
        pytest.UsageError: A mark or another source makes no sense.
    """
    settings = of_run(config)
    for mark in reversed(marks):
        if mark.args:
            raise pytest.UsageError(
                f"@pytest.mark.gradcheckup takes keywords alone, as steps=4, got {mark.args[0]!r}"
            )
        settings = settings.changed(mark.kwargs, "@pytest.mark.gradcheckup")
    _check_batches(settings, "@pytest.mark.gradcheckup")
    return settings


def matching(word: str, where: str) -> frozenset[str]:
    """Codes of the rules that a code, the beginning of one or a name means.

    Raises:
        pytest.UsageError: There is no such rule.
    """
    try:
        return frozenset(rule.code for rule in gradcheckup.choose_rules([word], None))
    except gradcheckup.UsageError as error:
        raise pytest.UsageError(f"{where}: {error}") from None


def _check_batches(settings: CheckSettings, where: str) -> None:
    if settings.batches is not None and settings.batches > settings.steps:
        raise pytest.UsageError(
            f"{where}: expected at most as many batches as steps, since each step takes one, got "
            f"batches={settings.batches} and steps={settings.steps}"
        )


def _of_project(config: pytest.Config) -> tuple[Layer, str]:
    """What ``[tool.gradcheckup]`` says, and where it stands."""
    try:
        project = gradcheckup.load_settings(config.rootpath)
    except gradcheckup.UsageError as error:
        raise pytest.UsageError(str(error)) from None
    values = {name: getattr(project, name) for name in _OF_PROJECT}
    # `never` is about the exit code of a command; a test that cannot fail is none.
    if values["fail_on"] == "never":
        values["fail_on"] = None
    where = str(project.path)
    return _read({k: v for k, v in values.items() if v not in (None, (), {})}, where), where


def _over(settings: CheckSettings, layer: Layer, where: str) -> CheckSettings:
    layer = dict(layer)
    if "thresholds" in layer:
        layer["thresholds"] = {**settings.thresholds, **layer["thresholds"]}
        try:
            gradcheckup.Thresholds(**layer["thresholds"])
        except gradcheckup.UsageError as error:
            raise pytest.UsageError(f"{where}: {error}") from None
    return replace(settings, **layer)


def _read(given: Mapping[str, Any], where: str) -> Layer:
    values = {}
    for name, value in given.items():
        if name not in _READERS:
            hint = suggestion(name, NAMES, f"there are {', '.join(NAMES)}")
            raise pytest.UsageError(f"{where}: unknown setting {name!r}; {hint}")
        values[name] = _READERS[name](value, f"{where}, {name}")
    return values


def _whole(least: int, most: int) -> Callable[[Any, str], int]:
    def read(value: Any, where: str) -> int:
        text = isinstance(value, str) and value.strip().isdecimal()
        number = int(value) if text else value
        if type(number) is not int or not least <= number <= most:
            bound = (
                f"at most {most}" if type(number) is int and number > most else f"at least {least}"
            )
            raise pytest.UsageError(f"{where}: expected a whole number of {bound}, got {value!r}")
        return number

    return read


def _codes(value: Any, where: str) -> tuple[str, ...]:
    words = [value] if isinstance(value, str) else value
    if not isinstance(words, Iterable) or not all(isinstance(word, str) for word in (*words,)):
        raise pytest.UsageError(f"{where}: expected rule codes or names, got {value!r}")
    parts = tuple(part.strip() for word in words for part in word.split(",") if part.strip())
    for part in parts:
        matching(part, where)
    return parts


def _thresholds(value: Any, where: str) -> Mapping[str, float]:
    if isinstance(value, gradcheckup.Thresholds):
        return {each.name: getattr(value, each.name) for each in fields(value)}
    if isinstance(value, (list, tuple)) and all(isinstance(each, str) for each in value):
        pairs = [part for text in value for part in text.split(",") if part.strip()]
        value = dict(_pair(part, where) for part in pairs)
    if not isinstance(value, Mapping):
        raise pytest.UsageError(f"{where}: expected a mapping of limits, got {value!r}")
    known = [each.name for each in fields(gradcheckup.Thresholds)]
    limits = {}
    for name, limit in value.items():
        plain = str(name).strip().replace("-", "_")
        if plain not in known:
            hint = suggestion(plain, known, "docs/rules.md lists them")
            raise pytest.UsageError(f"{where}: unknown threshold {name!r}; {hint}")
        if isinstance(limit, bool) or not isinstance(limit, (int, float)):
            raise pytest.UsageError(f"{where}: expected a number for {plain}, got {limit!r}")
        limits[plain] = float(limit)
    return limits


def _pair(text: str, where: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError:
        raise pytest.UsageError(
            f"{where}: expected NAME=NUMBER, as dead_warning=0.3, got {text!r}"
        ) from None


def _severity(value: Any, where: str) -> str:
    if value not in ("critical", "warning"):
        raise pytest.UsageError(f"{where}: expected critical or warning, got {value!r}")
    return str(value)


_READERS: Mapping[str, Callable[[Any, str], Any]] = {
    "steps": _whole(1, 10**9),
    "batches": _whole(1, 10**9),
    "follow": _whole(0, 10**9),
    "seed": _whole(0, 2**31),
    "seeds": _whole(1, 1000),
    "select": _codes,
    "ignore": _codes,
    "thresholds": _thresholds,
    "fail_on": _severity,
}
NAMES = tuple(_READERS)
_OF_PROJECT = ("steps", "batches", "follow", "seed", "select", "ignore", "thresholds", "fail_on")
_KEY = pytest.StashKey[CheckSettings]()
