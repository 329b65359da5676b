"""Capture: the layers of a model during one step, from tensors to numbers.

`hooks`, `effect`, `response` and `tap` are the only files that register hooks to measure.
"""

from __future__ import annotations

from gradcheckup.capture.effect import telling, unexplained, without_effect
from gradcheckup.capture.hooks import Capture
from gradcheckup.capture.readings import Measured
from gradcheckup.capture.response import respond
from gradcheckup.capture.wiring import Station, wiring

__all__ = [
    "Capture",
    "Measured",
    "Station",
    "respond",
    "telling",
    "unexplained",
    "wiring",
    "without_effect",
]
