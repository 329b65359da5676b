"""The report as an object: what it answers about its findings."""

from __future__ import annotations

import pytest

from gradcheckup import Finding, Recording, Report, Severity, Step, UsageError


@pytest.fixture
def report() -> Report:
    """One finding of each severity."""
    findings = tuple(
        Finding(code=f"GC{number}", rule="rule", severity=severity)
        for number, severity in enumerate(reversed(Severity))
    )
    step = Step(index=0, loss=1.0, layers=(), parameters=())
    recording = Recording(model="Net", optimizer="SGD(lr=0.1)", steps=(step,))
    return Report(recording=recording, findings=findings)


@pytest.mark.parametrize(
    ("severity", "codes"),
    [
        ("critical", ["GC0"]),
        (Severity.WARNING, ["GC0", "GC1"]),
        ("information", ["GC0", "GC1", "GC2"]),
    ],
)
def test_findings_of_a_severity_and_worse(
    report: Report, severity: Severity | str, codes: list[str]
) -> None:
    assert [each.code for each in report.at_least(severity)] == codes


def test_an_unknown_severity_is_told(report: Report) -> None:
    with pytest.raises(UsageError, match="'critical', got 'warn'"):
        report.at_least("warn")
