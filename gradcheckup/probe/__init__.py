"""Probe: a few real training steps on a copy of the user's model, recorded."""

from __future__ import annotations

from gradcheckup.probe.run import OnStep, probe

__all__ = ["OnStep", "probe"]
