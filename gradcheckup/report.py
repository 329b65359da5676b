"""The object a user holds after a checkup: the facts, and the doors to the ways of reading them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gradcheckup.errors import UsageError
from gradcheckup.records import Finding, LayerRecord, Recording, Severity, Step
from gradcheckup.thresholds import Thresholds


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Report:
    """A judged recording. `str(report)` is the short text report.

    Attributes:
        recording: What was measured.
        findings: What the rules found, worst first, consequences folded under their causes.
        thresholds: The limits they judged by.
        assumptions: What was not given and had to be inferred, one line each.
        subject: What was diagnosed, as the user named it; empty when it was passed as an object.
    """

    recording: Recording
    findings: tuple[Finding, ...] = ()
    thresholds: Thresholds = Thresholds()
    assumptions: tuple[str, ...] = ()
    subject: str = ""

    @property
    def healthy(self) -> bool:
        """False exactly when a critical finding stands."""
        return not self.at_least(Severity.CRITICAL)

    def at_least(self, severity: Severity | str) -> tuple[Finding, ...]:
        """The findings that are as severe as this or more.

        Args:
            severity: ``information``, ``warning`` or ``critical``.

        Raises:
            UsageError: It is none of these.
        """
        try:
            limit = Severity(severity).rank
        except ValueError:
            known = ", ".join(repr(each.value) for each in Severity)
            raise UsageError(f"expected one of {known}, got {severity!r}") from None
        return tuple(finding for finding in self.findings if finding.severity.rank >= limit)

    @property
    def steps(self) -> tuple[Step, ...]:
        """All measured steps."""
        return self.recording.steps

    @property
    def layers(self) -> tuple[LayerRecord, ...]:
        """The layers in execution order at the first step; `step(k).layers` for a later one."""
        return self.steps[0].layers

    @property
    def end_to_end_ratio(self) -> float | None:
        """Gradient norm of the first layer over that of the reference layer, at the first step."""
        return self.steps[0].end_to_end_ratio

    def step(self, index: int) -> Step:
        """The measured step at this position; negative ones count from the end.

        Raises:
            UsageError: There is no such step.
        """
        try:
            return self.steps[index]
        except IndexError:
            raise UsageError(
                f"expected a step from 0 to {len(self.steps) - 1}, got {index}: "
                "diagnose with more steps= to measure further"
            ) from None

    def to_json(self, path: str | Path | None = None) -> str:
        """The report as versioned JSON text, also written to `path` when one is given.

        `gradcheckup.load_report(path)` reads it back; the schema is in the package, as
        ``gradcheckup/report.schema.json``.

        Raises:
            ReportError: The file cannot be written.
        """
        from gradcheckup.serialization import dump_report

        return dump_report(self, path)

    def text(self, *, width: int = 80, verbose: bool = False) -> str:
        """The report as text.

        Args:
            width: Columns to fill, 40 or more; names that are longer are not cut.
            verbose: Everything said of every finding, and the table of all layers.
        """
        from gradcheckup.reports.text import render

        return render(self, width=width, verbose=verbose)

    def plot(self, path: str | Path) -> None:
        """Draw the layers into a file that ends in .png, .svg or .pdf.

        Gradient ratio against depth with the band of healthy ratios and the layers that findings
        concern, at the first and the last step; below it the signal, saturated and dead units.

        Raises:
            ReportError: The file has another ending, or cannot be written.
        """
        from gradcheckup.reports.figure import draw

        draw(self, path)

    def __str__(self) -> str:
        return self.text()

    def __repr__(self) -> str:
        return str(self)
