"""A baseline as a small file that can be read, and reviewed in a diff: a line a layer.

    {"layer": "stem.conv", "kind": "conv2d", "weight": [16, 3, 3, 3], "gradient": 0.63, "signal": 1}

A number that JSON has no word for is refused, in writing as in reading.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any, NoReturn

from gradcheckup import ReportError
from pytest_gradcheckup.baseline import Baseline, LayerLine
from pytest_gradcheckup.tracebacks import HIDDEN

__tracebackhide__ = HIDDEN

VERSION = 1


def dumped(baseline: Baseline) -> str:
    """As JSON text with one line a layer.

    Raises:
        ValueError: A number is not finite, for which JSON has no word.
    """
    head = {
        "gradcheckup_baseline": VERSION,
        "model": baseline.model,
        "optimizer": baseline.optimizer,
        "steps": baseline.steps,
    }
    lines = [f"  {json.dumps(key)}: {json.dumps(value)}," for key, value in head.items()]
    layers = [json.dumps(asdict(line), allow_nan=False) for line in baseline.layers]
    rows = ",\n".join(f"    {layer}" for layer in layers)
    return "\n".join(["{", *lines, '  "layers": [', rows, "  ]", "}"]) + "\n"


def loaded(text: str, where: str) -> Baseline:
    """A baseline from its text.

    Raises:
        ReportError: It is none, or of a later version.
    """
    try:
        document = json.loads(text, parse_constant=_no_number)
        version = document["gradcheckup_baseline"]
        if version != VERSION:
            raise ReportError(
                f"{where} is a baseline of version {version!r}, expected {VERSION}: "
                "write it anew with --gradcheckup-update"
            )
        return Baseline(
            model=_text(document["model"]),
            optimizer=_text(document["optimizer"]),
            steps=_whole(document["steps"]),
            layers=tuple(_line(each) for each in document["layers"]),
        )
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ReportError(
            f"{where} is no baseline ({type(error).__name__}: {error}): restore it from version "
            "control, or write it anew with --gradcheckup-update"
        ) from None


def _line(values: dict[str, Any]) -> LayerLine:
    return LayerLine(
        layer=_text(values["layer"]),
        kind=_text(values["kind"]),
        weight=tuple(_whole(size) for size in values["weight"]),
        gradient=_ratio(values["gradient"]),
        signal=_ratio(values["signal"]),
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected text, got {value!r}")
    return value


def _whole(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise TypeError(f"expected a whole number, got {value!r}")
    return value


def _ratio(value: Any) -> float | None:
    if value is None:
        return None
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 <= value < math.inf:
        raise TypeError(f"expected a finite number from 0 up, or null, got {value!r}")
    return float(value)


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number of JSON")
