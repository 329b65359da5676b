"""Records as values that JSON knows, exact in both directions.

One mechanism serves every record: the type hints of the dataclasses say how a value becomes JSON
and back, so a new field needs nothing here. JSON has no NaN and no infinities; they are written as
the strings ``"NaN"``, ``"Infinity"`` and ``"-Infinity"``, which strict parsers accept.
"""

from __future__ import annotations

import json
import math
import types
from dataclasses import fields, is_dataclass
from enum import Enum, EnumMeta
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints

from gradcheckup.thresholds import Thresholds

_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class MismatchError(Exception):
    """A value in a document does not fit its type hint."""


def parse(text: str | bytes) -> Any:
    """The document in a JSON text.

    Raises:
        ValueError: It is none; `NaN` as a bare word is not.
    """
    return json.loads(text, parse_constant=_reject_constant)


@cache
def _hints(record: Any) -> dict[str, Any]:
    """Field names of a record and their types, resolved."""
    hints = get_type_hints(record)
    return {field.name: hints[field.name] for field in fields(record)}


def _alternatives(hint: Any) -> tuple[Any, ...]:
    """The members of a union, or the type itself."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def encode(value: Any, hint: Any) -> Any:
    """`value`, which has the type `hint`, in the types that JSON knows."""
    if is_dataclass(value):
        record: Any = type(value)
        return {name: encode(getattr(value, name), of) for name, of in _hints(record).items()}
    if isinstance(value, tuple):
        return [encode(item, of) for item, of in zip(value, _items(hint, value), strict=True)]
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


def decode(value: Any, hint: Any, where: str) -> Any:
    """The reverse of `encode`; `where` names the place in the document for messages."""
    choices = _alternatives(hint)
    for choice in choices:
        if is_dataclass(choice) and isinstance(value, dict):
            return _decode_record(value, choice, where)
        if get_origin(choice) is tuple and isinstance(value, list):
            kinds = _items(choice, value, where)
            return tuple(
                decode(item, kind, f"{where}[{index}]")
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
            if choice is int and float not in choices and value < 0:  # all count or number things
                raise MismatchError(f"{where} should be 0 or more, got {_shorten(value)}")
            return value
        if value in _words(choice):
            return choice(value)
    raise MismatchError(f"{where} should be {_describe(choices)}, got {_shorten(value)}")


def _decode_record(document: dict[str, Any], record: Any, where: str) -> Any:
    """A record from a JSON object. Keys that it does not know are left out."""
    values = {}
    for field in fields(record):
        place = f"{where}.{field.name}" if where else field.name
        if field.name in document:
            values[field.name] = decode(document[field.name], _hints(record)[field.name], place)
        elif record is not Thresholds:  # of which a later version may have one more
            raise MismatchError(f"{place} is missing")
    return record(**values)


def _items(hint: Any, values: Any, where: str = "") -> tuple[Any, ...]:
    """The type of each item of a tuple: ``tuple[int, ...]`` or ``tuple[str, int]``."""
    (found,) = (choice for choice in _alternatives(hint) if get_origin(choice) is tuple)
    kinds = get_args(found)
    if kinds[-1:] == (Ellipsis,):
        return kinds[:1] * len(values)
    if len(kinds) != len(values):
        raise MismatchError(f"{where} should have {len(kinds)} items, got {len(values)}")
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
