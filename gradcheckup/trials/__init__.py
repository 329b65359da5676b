"""Trials: which treatments to try, and what becomes of a treated model within a budget."""

from __future__ import annotations

from gradcheckup.trials.candidates import candidates, drawn, in_any_case
from gradcheckup.trials.training import Course, divided, measure, train

__all__ = ["Course", "candidates", "divided", "drawn", "in_any_case", "measure", "train"]
