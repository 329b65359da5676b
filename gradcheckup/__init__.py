"""Diagnose gradient flow in PyTorch models: which layer, why, and what makes it better.

    report = gradcheckup.diagnose(model, data, criterion, optimizer=optimizer)
    print(report)

Importing this package does not import torch; the functions that need it do.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gradcheckup.comparison import Comparison, LayerChange, Vitals, compare
from gradcheckup.errors import (
    DataError,
    GradcheckupError,
    LossError,
    MissingDependencyError,
    ModelError,
    ReportError,
    TargetError,
    TreatmentError,
    UnhealthyError,
    UsageError,
)
from gradcheckup.history import History, Sample
from gradcheckup.prescription import Outcome, Prescription, Trial
from gradcheckup.records import (
    Finding,
    LayerRecord,
    ParameterRecord,
    Recording,
    Role,
    Severity,
    Step,
)
from gradcheckup.report import Report
from gradcheckup.serialization import load_report
from gradcheckup.thresholds import Thresholds
from gradcheckup.version import VERSION

if TYPE_CHECKING:
    from gradcheckup.checkup import assert_healthy, diagnose
    from gradcheckup.prescribing import prescribe
    from gradcheckup.probe.safekeeping import random_state
    from gradcheckup.reports.overlay import plot_profiles
    from gradcheckup.reports.sparkline import sparkline
    from gradcheckup.rules import Rule, choose_rules
    from gradcheckup.runs.reading import load_run
    from gradcheckup.settings import Settings, load_settings
    from gradcheckup.targets import Target, TargetOptions, load_target
    from gradcheckup.treating import treat
    from gradcheckup.treatments.course import Treated
    from gradcheckup.watching import Monitor, watch

__version__ = VERSION

# Imported when they are first used: torch takes seconds, and not all is always wanted.
_LAZY = {
    "Monitor": "gradcheckup.watching",
    "Rule": "gradcheckup.rules",
    "Settings": "gradcheckup.settings",
    "Target": "gradcheckup.targets",
    "TargetOptions": "gradcheckup.targets",
    "Treated": "gradcheckup.treatments.course",
    "assert_healthy": "gradcheckup.checkup",
    "choose_rules": "gradcheckup.rules",
    "diagnose": "gradcheckup.checkup",
    "load_run": "gradcheckup.runs.reading",
    "load_settings": "gradcheckup.settings",
    "load_target": "gradcheckup.targets",
    "plot_profiles": "gradcheckup.reports.overlay",
    "prescribe": "gradcheckup.prescribing",
    "random_state": "gradcheckup.probe.safekeeping",
    "sparkline": "gradcheckup.reports.sparkline",
    "treat": "gradcheckup.treating",
    "watch": "gradcheckup.watching",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return __all__


__all__ = [
    "Comparison",
    "DataError",
    "Finding",
    "GradcheckupError",
    "History",
    "LayerChange",
    "LayerRecord",
    "LossError",
    "MissingDependencyError",
    "ModelError",
    "Monitor",
    "Outcome",
    "ParameterRecord",
    "Prescription",
    "Recording",
    "Report",
    "ReportError",
    "Role",
    "Rule",
    "Sample",
    "Settings",
    "Severity",
    "Step",
    "Target",
    "TargetError",
    "TargetOptions",
    "Thresholds",
    "Treated",
    "TreatmentError",
    "Trial",
    "UnhealthyError",
    "UsageError",
    "Vitals",
    "__version__",
    "assert_healthy",
    "choose_rules",
    "compare",
    "diagnose",
    "load_report",
    "load_run",
    "load_settings",
    "load_target",
    "plot_profiles",
    "prescribe",
    "random_state",
    "sparkline",
    "treat",
    "watch",
]
