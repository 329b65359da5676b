"""``[tool.gradcheckup]`` of the nearest pyproject.toml: what options are where none is given."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from gradcheckup.errors import UsageError
from gradcheckup.suggestions import did_you_mean
from gradcheckup.thresholds import Thresholds


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Defaults of a project; None and empty where it has none.

    Attributes:
        path: The file they come from.
        steps: Probe steps.
        batches: The most batches that they go through.
        follow: To which step the loss is followed.
        seed: Of the probe.
        select: Codes, prefixes or names of the rules to apply.
        ignore: Those to leave out.
        fail_on: ``critical``, ``warning`` or ``never``.
        format: ``text`` or ``json``.
        optimizer: A name in the file or in torch.optim.
        lr: Its learning rate.
        input: Shapes of random inputs, as ``8,3,64,64``.
        thresholds: Limits that differ from their defaults.
    """

    path: Path | None = None
    steps: int | None = None
    batches: int | None = None
    follow: int | None = None
    seed: int | None = None
    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    fail_on: str | None = None
    format: str | None = None
    optimizer: str | None = None
    lr: float | None = None
    input: tuple[str, ...] = ()
    thresholds: Mapping[str, float] = field(default_factory=dict)


def load_settings(folder: Path) -> Settings:
    """The settings that hold in this folder: those of the nearest pyproject.toml upwards.

    Raises:
        UsageError: The file is unreadable or no TOML, or a setting is unknown or of a wrong type.
    """
    for place in (folder, *folder.parents):
        path = place / "pyproject.toml"
        if path.is_file():
            return _read(path)
    return Settings()


def check_threshold(name: str, where: str) -> str:
    """The field of `Thresholds` that is meant; hyphens are as good as underscores.

    Raises:
        UsageError: There is none.
    """
    known = [each.name for each in fields(Thresholds)]
    plain = name.strip().replace("-", "_")
    if plain not in known:
        hint = did_you_mean(plain, known) or f"; there are {', '.join(known)}"
        raise UsageError(f"{where}: unknown threshold {name!r}{hint}")
    return plain


def _read(path: Path) -> Settings:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid TOML: {error}") from None
    tools = document.get("tool", {})
    table = tools.get("gradcheckup", {}) if isinstance(tools, dict) else {}
    if not isinstance(table, dict):
        raise UsageError(f"{path}: tool.gradcheckup should be a table, got {table!r}")
    values = {}
    for key, value in table.items():
        where = f"{path}: [tool.gradcheckup] {key}"
        if key not in _READERS:
            hint = did_you_mean(key, _READERS) or f"; there are {', '.join(_READERS)}"
            raise UsageError(f"{path}: unknown setting {key!r} in [tool.gradcheckup]{hint}")
        values[key.replace("-", "_")] = _READERS[key](value, where)
    return Settings(path=path, **values)


def _whole(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise UsageError(f"{where} should be a whole number, got {value!r}")
    return value


def _count(value: Any, where: str) -> int:
    if _whole(value, where) < 1:
        raise UsageError(f"{where} should be at least 1, got {value!r}")
    return int(value)


def _from_zero(value: Any, where: str) -> int:
    if _whole(value, where) < 0:
        raise UsageError(f"{where} should be at least 0, got {value!r}")
    return int(value)


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise UsageError(f"{where} should be a number, got {value!r}")
    return float(value)


def _rate(value: Any, where: str) -> float:
    if not _number(value, where) >= 0:
        raise UsageError(f"{where} should not be negative, got {value!r}")
    return float(value)


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise UsageError(f"{where} should be text, got {value!r}")
    return value


def _texts(value: Any, where: str) -> tuple[str, ...]:
    """One text or a list of them; for codes, one text may hold several with commas."""
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list):
        raise UsageError(f"{where} should be text or a list of texts, got {value!r}")
    return tuple(_text(item, where) for item in items)


def _codes(value: Any, where: str) -> tuple[str, ...]:
    parts = (part.strip() for text in _texts(value, where) for part in text.split(","))
    return tuple(part for part in parts if part)


def _choice(*choices: str) -> Callable[[Any, str], str]:
    def read(value: Any, where: str) -> str:
        if value not in choices:
            raise UsageError(f"{where} should be one of {', '.join(choices)}, got {value!r}")
        return str(value)

    return read


def _thresholds(value: Any, where: str) -> Mapping[str, float]:
    if not isinstance(value, dict):
        raise UsageError(f"{where} should be a table, got {value!r}")
    return {
        check_threshold(name, where): _number(limit, f"{where}.{name}")
        for name, limit in value.items()
    }


_READERS: Mapping[str, Callable[[Any, str], Any]] = {
    "steps": _count,
    "batches": _count,
    "follow": _from_zero,
    "seed": _from_zero,
    "select": _codes,
    "ignore": _codes,
    "fail-on": _choice("critical", "warning", "never"),
    "format": _choice("text", "json"),
    "optimizer": _text,
    "lr": _rate,
    "input": _texts,
    "thresholds": _thresholds,
}
