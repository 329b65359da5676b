"""Hand-made reports: the reports' code needs no model and no torch."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gradcheckup.records import Finding, LayerRecord, Recording, Role, Severity, Step
from gradcheckup.report import Report

MakeReport = Callable[..., Report]


def make_report(
    *findings: Finding,
    depth: int = 8,
    gain: float = 1.0,
    name: str = "layer{}",
    steps: int = 8,
    assumptions: tuple[str, ...] = (),
    subject: str = "net.py",
) -> Report:
    """A net of `depth` linear layers, each of which passes `gain` of the gradient and the signal.

    The reference is the last but one, as in a real classifier.
    """
    layers = tuple(
        LayerRecord(
            name=name.format(index),
            call=0,
            kind="linear",
            role=Role.WEIGHT,
            gradient_norm=1e-3 * gain ** (depth - 1 - index),
            gradient_ratio=gain ** (depth - 1 - index),
            signal=0.5 * gain ** (index - 1),
            signal_ratio=gain ** (index - 1),
            update_ratio=1e-3,
        )
        for index in range(1, depth + 1)
    )
    recording = Recording(
        model="Net",
        optimizer="SGD(lr=0.01)",
        steps=tuple(
            Step(
                index=index,
                loss=2.3 - index / 10,
                layers=layers,
                parameters=(),
                reference=layers[-2].key if depth > 1 else None,
            )
            for index in range(steps)
        ),
    )
    return Report(recording=recording, findings=findings, assumptions=assumptions, subject=subject)


@pytest.fixture(name="make_report")
def _make_report() -> MakeReport:
    return make_report


@pytest.fixture
def vanishing() -> Finding:
    """What a deep sigmoid net gets: one cause with its consequence folded under it."""
    collapsed = Finding(
        code="GC203",
        rule="collapsed-signal",
        severity=Severity.CRITICAL,
        layers=("layer3", "layer4", "layer5", "layer6"),
    )
    return Finding(
        code="GC101",
        rule="vanishing-gradient",
        severity=Severity.CRITICAL,
        layers=("layer1", "layer2", "layer3", "layer4", "layer5"),
        culprit="layer1",
        observed=1e-6,
        limit=0.02,
        steps=tuple(range(8)),
        cause="squashing-activation",
        evidence=(
            ("per_layer", 0.1),
            ("reference", "layer7"),
            ("update_first", 2e-10),
            ("update_reference", 2e-4),
            ("slope_share", 0.24),
            ("weight_share", 0.58),
            ("activation", "sigmoid"),
            ("activations", 7),
        ),
        consequences=(collapsed,),
        prescriptions=("normalization", "skip_connection"),
    )
