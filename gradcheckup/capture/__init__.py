"""Capture: the layers of a model during one step, from tensors to numbers.

`hooks`, `glance`, `effect`, `response` and `tap` are the only files that register hooks to measure.
"""

from __future__ import annotations

from gradcheckup.capture.backward import listen, stop_listening
from gradcheckup.capture.effect import telling, unexplained, without_effect
from gradcheckup.capture.glance import Glance
from gradcheckup.capture.hook import Hook
from gradcheckup.capture.hooks import Capture
from gradcheckup.capture.layers import class_name
from gradcheckup.capture.response import respond
from gradcheckup.capture.scripting import scriptable
from gradcheckup.capture.transforms import can_be_eager, eager, transformed
from gradcheckup.capture.wiring import Station, wiring

__all__ = [
    "Capture",
    "Glance",
    "Hook",
    "Station",
    "can_be_eager",
    "class_name",
    "eager",
    "listen",
    "respond",
    "scriptable",
    "stop_listening",
    "telling",
    "transformed",
    "unexplained",
    "wiring",
    "without_effect",
]
