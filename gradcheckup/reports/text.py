"""The text report: the answer first, every claim with its evidence, short unless asked."""

from __future__ import annotations

from collections.abc import Iterator

from gradcheckup.records import Finding, Role, Severity, Step
from gradcheckup.report import Report
from gradcheckup.reports.causes import describe_cause
from gradcheckup.reports.course import course
from gradcheckup.reports.evidence import first_step, fold_layers
from gradcheckup.reports.numbers import count, number
from gradcheckup.reports.profile import depth_profile, time_profile
from gradcheckup.reports.sentences import describe
from gradcheckup.reports.sheet import Page
from gradcheckup.reports.table import layer_table

_WIDTH = 80
_STYLES = {
    Severity.CRITICAL: "bold red",
    Severity.WARNING: "bold yellow",
    Severity.INFORMATION: "bold cyan",
}


def render(
    report: Report,
    *,
    verbose: bool = False,
    width: int | None = None,
    color: bool = False,
    next_steps: bool = True,
    encoding: str = "utf-8",
) -> str:
    """The report as text, without a newline at its end.

    Args:
        report: What to show.
        verbose: Everything said of every finding, and the table of all layers.
        width: Columns to fill, 80 unless given.
        color: With ANSI codes; without, there are none.
        next_steps: Close with the commands to go on with.
        encoding: That of the terminal or file it goes to: signs that it lacks are replaced.
    """
    page = Page(max(width or _WIDTH, 40), color=color, encoding=encoding)
    _verdict(page, report)
    if report.assumptions:
        page.write("assumed: " + "; ".join(report.assumptions))
    if report.healthy:
        page.write(_vital_signs(report, page.width))
    for finding in report.findings:
        _finding(page, finding, report, verbose=verbose)
    step = first_step(report.findings[0], report) if report.findings else report.steps[0]
    if not report.healthy or verbose:
        page.picture(depth_profile(step, page.width - 2))
        for name in _through_time(report):
            page.picture(time_profile(step, name, page.width - 2))
    if report.recording.history:
        page.picture(course(report.recording.history, page.width - 2))
    if verbose:
        page.table(layer_table(step.layers, page.width, page.clean))
    hints = list(_next_steps(report, verbose=verbose)) if next_steps else []
    if hints:
        page.gap()
        page.write("     ".join(hints))
    return page.text()


def headline(report: Report) -> tuple[str, str]:
    """The verdict in a word, and what it is about: ``Net, 8 layers, 8 probe steps with SGD``.

    Of a net that was followed: ``8 of 64 steps measured with SGD``; of a run that was watched:
    ``watched for 900 steps with SGD``.
    """
    recording = report.recording
    steps = count(len(report.steps), "probe step")
    if recording.course:
        schooled = recording.generalization.steps if recording.generalization else 0
        made = max(len(recording.course), schooled)
        steps = f"{len(report.steps)} of {count(made, 'step')} measured"
    if recording.history:
        steps = f"watched for {count(recording.history.steps, 'step')}"
        if recording.history.processes > 1:
            steps += f" on {recording.history.processes} processes"
    optimizer = f" with {recording.optimizer}" if recording.optimizer else ""
    about = f"{recording.model}, {_size(report.steps[0])}, {steps}{optimizer}"
    return "HEALTHY" if report.healthy else "UNHEALTHY", about


def _verdict(page: Page, report: Report) -> None:
    word, about = headline(report)
    style = "bold green" if report.healthy else "bold red"
    page.write(f"  {about}", lead=word, style=style)


def _size(step: Step) -> str:
    """``8 layers``: those with weights, and how often they run where that is more often."""
    layers = [layer for layer in step.layers if layer.role is Role.WEIGHT] or step.layers
    names = {layer.name for layer in layers}
    calls = f" in {len(layers)} calls" if len(layers) > len(names) else ""
    return count(len(names), "layer") + calls


def _vital_signs(report: Report, width: int) -> str:
    """Why a healthy net is called healthy, in one line."""
    first, last = report.steps[0], report.steps[-1]
    updates = [
        layer.update_ratio
        for layer in last.layers
        if layer.role is Role.WEIGHT and layer.update_ratio is not None
    ]
    signs = [
        _course("gradient", first.end_to_end_ratio, last.end_to_end_ratio, " end to end"),
        _course("signal", first.end_to_end_signal, last.end_to_end_signal),
        f"updates {number(min(updates))} … {number(max(updates))}" if updates else "",
        f"loss {number(first.loss)} → {number(report.recording.last_loss)}",
    ]
    line = ", ".join(filter(None, signs))
    return line if len(line) <= width else line.replace(" end to end", "")


def _course(name: str, first: float | None, last: float | None, after: str = "") -> str:
    """``gradient 0.63``, or ``gradient 150 → 10`` where it changed by a factor of two."""
    if first is None and last is None:
        return ""
    same = first is not None and last is not None and first / 2 <= last <= first * 2
    return f"{name} {number(first)}{'' if same else f' → {number(last)}'}{after}"


def _finding(page: Page, finding: Finding, report: Report, *, verbose: bool) -> None:
    """Critical findings in full, warnings with their evidence, information in a line."""
    brief = finding.severity is Severity.INFORMATION and not verbose
    layers = fold_layers(finding.layers, report, most=len(finding.layers) if verbose else 4)
    if not brief:
        page.gap()
    heading = f"  {finding.severity.value}" + (f"  {layers}" if layers else "")
    page.write(heading, lead=f"{finding.code} {finding.rule}", style=_STYLES[finding.severity])
    if brief:
        return
    page.write(" ".join(describe(finding, report)), indent=2)
    cause = describe_cause(finding)
    if cause:
        page.write(f"likely cause: {cause}", indent=2)
    also = "; ".join(_also(finding, report))
    if also:
        page.write(f"also: {also}", indent=2)
    if finding.prescriptions:
        page.write(f"likely to help: {', '.join(finding.prescriptions)}", indent=2)


def _also(finding: Finding, report: Report) -> Iterator[str]:
    """The consequences in one line: ``GC203 collapsed-signal in layer3 … layer6``."""
    for consequence in list(finding.walk())[1:]:
        layers = fold_layers(consequence.layers, report, most=2)
        yield f"{consequence.code} {consequence.rule}" + (f" in {layers}" if layers else "")


def _through_time(report: Report) -> Iterator[str]:
    """Recurrent layers whose findings are about time."""
    for finding in report.findings:
        for each in finding.walk():
            if each.code == "GC105" and each.culprit:
                yield each.culprit


def _next_steps(report: Report, *, verbose: bool) -> Iterator[str]:
    if not report.findings:
        return
    if not verbose and not report.healthy:
        yield "all layers: --verbose" if report.subject else "all layers: report.layers"
    yield f"why: gradcheckup explain {report.findings[0].code}"
