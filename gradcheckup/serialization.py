"""Reports as versioned JSON, exact in both directions.

One mechanism serves every record: the type hints of the dataclasses say how a value becomes JSON
and back, so a new field needs nothing here. JSON has no NaN and no infinities; they are written as
the strings ``"NaN"``, ``"Infinity"`` and ``"-Infinity"``, which strict parsers accept. The shape of
a file is described in ``gradcheckup/report.schema.json``.
"""

from __future__ import annotations

import json
import math
import types
from dataclasses import fields, is_dataclass
from enum import Enum, EnumMeta
from functools import cache
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from gradcheckup.comparison import Comparison
from gradcheckup.errors import GradcheckupError, ReportError
from gradcheckup.files import reason, write_whole
from gradcheckup.prescription import Prescription, Trial
from gradcheckup.report import Report
from gradcheckup.thresholds import Thresholds
from gradcheckup.version import VERSION

SCHEMA = "gradcheckup/report"
COMPARISON_SCHEMA = "gradcheckup/comparison"
PRESCRIPTION_SCHEMA = "gradcheckup/prescription"
SCHEMA_VERSION = 1

_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class _MismatchError(Exception):
    """A value in a document does not fit its type hint."""


def dump_report(report: Report, path: str | Path | None = None) -> str:
    """The report as JSON text, also written to `path` when one is given.

    The file appears whole or not at all. Beside the records it has ``healthy`` and
    ``end_to_end_ratio`` at the top, for tools that want the verdict alone.

    Raises:
        ReportError: The file cannot be written.
    """
    return _dump(_document(report), "report", path)


def _document(report: Report) -> dict[str, Any]:
    return {
        **_header(SCHEMA),
        "healthy": report.healthy,
        "end_to_end_ratio": _encode(report.end_to_end_ratio, float | None),
        **_encode(report, Report),
    }


def dump_comparison(comparison: Comparison, path: str | Path | None = None) -> str:
    """The comparison as JSON text, also written to `path` when one is given.

    Beside the records it has ``worse`` and ``better`` at the top, and a ``factor`` for each layer.

    Raises:
        ReportError: The file cannot be written.
    """
    verdict = {"worse": comparison.worse, "better": comparison.better}
    document = {
        **_header(COMPARISON_SCHEMA),
        **verdict,
        **_encode(comparison, Comparison),
    }
    for layer, change in zip(document["layers"], comparison.layers, strict=True):
        layer["factor"] = _encode(change.factor, float)
    return _dump(document, "comparison", path)


def _header(schema: str) -> dict[str, Any]:
    return {
        "schema": schema,
        "schema_version": SCHEMA_VERSION,
        "gradcheckup_version": VERSION,
    }


def _dump(document: dict[str, Any], what: str, path: str | Path | None) -> str:
    """The text of a document, written whole or not at all."""
    text = json.dumps(document, indent=1, allow_nan=False)
    if path is not None:
        try:
            write_whole(path, text + "\n")
        except OSError as error:
            raise ReportError(f"cannot write {what} {path}: {reason(error)}") from None
    return text


def dump_prescription(prescription: Prescription, path: str | Path | None = None) -> str:
    """A prescription as JSON text, also written to `path` when one is given.

    Every trial is there but for its model, with its whole report, which `load_report` reads where
    it stands in a file of its own.

    Raises:
        ReportError: The file cannot be written.
    """
    random, nothing, best = prescription.random, prescription.nothing, prescription.best
    document = {
        **_header(PRESCRIPTION_SCHEMA),
        "budget": prescription.budget,
        "held_out_batches": prescription.held_out,
        "first_loss": _encode(prescription.first_loss, float | None),
        "learns": prescription.learns,
        "best": best.treatment if best else None,
        "before": _document(prescription.before),
        "trials": [_trial(each) for each in prescription.trials],
        "nothing": _trial(nothing) if nothing else None,
        "random": _trial(random) if random else None,
        "refused": [{"treatment": key, "reason": why} for key, why in prescription.refused],
    }
    return _dump(document, "prescription", path)


def _trial(trial: Trial) -> dict[str, Any]:
    """A trial without its model."""
    treated = trial.treated
    return {
        "treatment": trial.treatment,
        "acts_on": trial.acts_on,
        "healthy": trial.after.healthy,
        "loss": _encode(trial.loss, float),
        "accuracy": trial.accuracy,
        "outcomes": [
            {
                "seed": each.seed,
                "loss": _encode(each.loss, float),
                "accuracy": each.accuracy,
                "samples": each.samples,
                "chance": each.chance,
            }
            for each in trial.outcomes
        ],
        "changes": [{"what": each.what, "layers": list(each.layers)} for each in treated.changes],
        "snippet": treated.snippet,
        "after": _document(trial.after),
    }


def load_report(path: str | Path) -> Report:
    """The report that `Report.to_json` wrote to this file. Imports no torch.

    Raises:
        ReportError: The file cannot be read, is no report, is damaged, or was written by a newer
            version of gradcheckup.
    """
    try:
        document = json.loads(Path(path).read_bytes(), parse_constant=_reject_constant)
    except OSError as error:
        raise ReportError(f"cannot read report {path}: {reason(error)}") from None
    except (ValueError, RecursionError) as error:
        raise ReportError(f"cannot read report {path}: it is not valid JSON ({error})") from None
    _check_header(document, path)
    try:
        report: Report = _decode(document, Report, "")
    except (_MismatchError, GradcheckupError, RecursionError, OverflowError) as error:
        raise ReportError(f"report {path} is damaged: {error}") from None
    if not report.steps:
        raise ReportError(f"report {path} is damaged: recording.steps is empty")
    return report


def _check_header(document: object, path: str | Path) -> None:
    """Refuse documents that are no report, or that only a newer gradcheckup understands."""
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise ReportError(
            f"{path} is not a gradcheckup report: expected a JSON object with "
            f'"schema": "{SCHEMA}", as `gradcheckup diagnose --format json` writes it'
        )
    version = document.get("schema_version")
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise ReportError(f"report {path} is damaged: schema_version is {version!r}")
    if version > SCHEMA_VERSION:
        raise ReportError(
            f"report {path} has schema version {version}, and gradcheckup {VERSION} reads "
            f"versions up to {SCHEMA_VERSION}: upgrade gradcheckup to read it"
        )


@cache
def _hints(record: Any) -> dict[str, Any]:
    """Field names of a record and their types, resolved."""
    hints = get_type_hints(record)
    return {field.name: hints[field.name] for field in fields(record)}


def _alternatives(hint: Any) -> tuple[Any, ...]:
    """The members of a union, or the type itself."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _encode(value: Any, hint: Any) -> Any:
    """`value`, which has the type `hint`, in the types that JSON knows."""
    if is_dataclass(value):
        record: Any = type(value)
        return {name: _encode(getattr(value, name), of) for name, of in _hints(record).items()}
    if isinstance(value, tuple):
        return [_encode(item, of) for item, of in zip(value, _items(hint, value), strict=True)]
    return _encode_scalar(value, _alternatives(hint))


def _encode_scalar(value: Any, choices: tuple[Any, ...]) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, str) and float in choices and value in _NON_FINITE:
        return {"text": value}  # a number may stand here too, and the bare word would be one
    if isinstance(value, int) and float in choices and int not in choices:
        value = float(value)
    if isinstance(value, float) and not math.isfinite(value):
        return json.dumps(value)
    return value


def _decode(value: Any, hint: Any, where: str) -> Any:
    """The reverse of `_encode`; `where` names the place in the document for messages."""
    choices = _alternatives(hint)
    for choice in choices:
        if is_dataclass(choice) and isinstance(value, dict):
            return _decode_record(value, choice, where)
        if get_origin(choice) is tuple and isinstance(value, list):
            kinds = _items(choice, value, where)
            return tuple(
                _decode(item, kind, f"{where}[{index}]")
                for index, (item, kind) in enumerate(zip(value, kinds, strict=True))
            )
    return _decode_scalar(value, choices, where)


def _decode_scalar(value: Any, choices: tuple[Any, ...], where: str) -> Any:
    if float in choices:
        if isinstance(value, str) and value in _NON_FINITE:
            return _NON_FINITE[value]
        if str in choices and isinstance(value, dict) and isinstance(value.get("text"), str):
            return value["text"]
        if type(value) is int and int not in choices:
            value = float(value)
    for choice in choices:
        if type(value) is choice:
            return value
        if value in _words(choice):
            return choice(value)
    raise _MismatchError(f"{where} should be {_describe(choices)}, got {_shorten(value)}")


def _decode_record(document: dict[str, Any], record: Any, where: str) -> Any:
    """A record from a JSON object. Keys that it does not know are left out."""
    values = {}
    for field in fields(record):
        place = f"{where}.{field.name}" if where else field.name
        if field.name in document:
            values[field.name] = _decode(document[field.name], _hints(record)[field.name], place)
        elif record is not Thresholds:  # of which a later version may have one more
            raise _MismatchError(f"{place} is missing")
    return record(**values)


def _items(hint: Any, values: Any, where: str = "") -> tuple[Any, ...]:
    """The type of each item of a tuple: ``tuple[int, ...]`` or ``tuple[str, int]``."""
    (found,) = (choice for choice in _alternatives(hint) if get_origin(choice) is tuple)
    kinds = get_args(found)
    if kinds[-1:] == (Ellipsis,):
        return kinds[:1] * len(values)
    if len(kinds) != len(values):
        raise _MismatchError(f"{where} should have {len(kinds)} items, got {len(values)}")
    return kinds


def _words(choice: Any) -> list[str]:
    """The values of an enumeration; none for other types."""
    members: list[Enum] = list(choice) if isinstance(choice, EnumMeta) else []
    return [member.value for member in members]


def _describe(choices: tuple[Any, ...]) -> str:
    """The expected types in words: ``a number or null``."""
    words = {str: "text", bool: "true or false", int: "a whole number", float: "a number"}
    words[types.NoneType] = "null"
    named = []
    for choice in choices:
        if _words(choice):
            named.append("one of " + ", ".join(_words(choice)))
        else:
            named.append(words.get(choice, "a list" if get_args(choice) else "an object"))
    return " or ".join(named)


def _shorten(value: object) -> str:
    """A value from a file, short enough for one line."""
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _reject_constant(word: str) -> float:
    raise ValueError(f"{word} is no JSON value")
