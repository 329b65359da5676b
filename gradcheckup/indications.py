"""Which treatments are indicated by a finding, best first: those that are likely to help."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from gradcheckup.records import Finding

_BY_CAUSE: Mapping[tuple[str, str | None], tuple[str, ...]] = {
    ("GC101", "squashing-activation"): ("normalization", "skip_connection", "activation"),
    ("GC101", "small-weights"): ("weight_scale", "normalization", "skip_connection"),
    ("GC101", "learning-rate"): ("gradient_clipping", "optimizer", "normalization"),
    ("GC102", "normalisation-growth"): ("skip_connection", "gradient_clipping"),
    ("GC102", "learning-rate"): ("gradient_clipping", "optimizer"),
    ("GC105", "large-recurrent-weights"): ("gradient_clipping", "weight_scale"),
    ("GC401", "large-weights"): ("weight_scale", "normalization"),
    ("GC401", "overflow"): ("gradient_clipping", "normalization", "weight_scale"),
    ("GC402", "large-weights"): ("weight_scale", "normalization"),
    ("GC402", "overflow"): ("gradient_clipping", "normalization", "weight_scale"),
    ("GC203", "learning-rate"): ("optimizer", "normalization", "gradient_clipping"),
    ("GC203", "lost-input"): (),
}

_BY_CODE: Mapping[str, tuple[str, ...]] = {
    "GC101": ("normalization", "skip_connection", "weight_scale"),
    "GC102": ("weight_scale", "normalization", "gradient_clipping"),
    "GC105": ("weight_scale",),
    "GC106": ("gradient_clipping", "optimizer"),
    "GC201": ("weight_scale", "normalization", "activation"),
    "GC202": ("activation", "weight_scale", "normalization"),
    "GC203": ("weight_scale", "normalization", "skip_connection"),
    "GC204": ("weight_scale", "normalization"),
    "GC301": ("optimizer", "normalization"),
    "GC302": ("gradient_clipping", "optimizer"),
    "GC305": ("optimizer", "weight_scale", "normalization"),
    "GC306": ("optimizer", "weight_scale", "normalization"),
    "GC504": ("weight_scale",),
}


def indicated(finding: Finding) -> Finding:
    """The finding with its prescriptions; none where the user's code has to change instead."""
    by_code = _BY_CODE.get(finding.code, ())
    by_cause = _BY_CAUSE.get((finding.code, finding.cause), by_code)
    return replace(finding, prescriptions=by_cause)
