"""Trials: which treatments to try, and what becomes of a treated model within a budget."""

from __future__ import annotations

from gradcheckup.trials.candidates import candidates, in_any_case
from gradcheckup.trials.clinic import Clinic, OnTrial
from gradcheckup.trials.training import Course, divided

__all__ = ["Clinic", "Course", "OnTrial", "candidates", "divided", "in_any_case"]
