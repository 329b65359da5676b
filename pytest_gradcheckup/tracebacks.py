"""Failures that show the line of the test, not the plugin's own frames.

A module says `__tracebackhide__ = HIDDEN`. Frames stay where the plugin itself is broken.
"""

from __future__ import annotations

from operator import methodcaller

import pytest

from gradcheckup import GradcheckupError

HIDDEN = methodcaller("errisinstance", (GradcheckupError, pytest.UsageError))
