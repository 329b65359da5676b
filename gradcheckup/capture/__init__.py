"""Capture: the layers of a model during one step, from tensors to numbers.

`hooks` is the only file of the package that registers hooks.
"""

from __future__ import annotations

from gradcheckup.capture.hooks import Capture
from gradcheckup.capture.readings import Measured

__all__ = ["Capture", "Measured"]
