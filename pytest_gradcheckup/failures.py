"""What a failed assertion says: the claim, the report, the layers that matter, and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import NoReturn

from gradcheckup import Finding, Report, UnhealthyError
from pytest_gradcheckup.majority import Verdict
from pytest_gradcheckup.tracebacks import HIDDEN

__tracebackhide__ = HIDDEN

_MOST_ROWS = 8
_MOST_OF_ONE = 3
# Of 80 columns, pytest takes the first eight of each line: an E, and as the test is indented.
_WIDTH = 72

# What a rule compares with its limit, where it does so layer by layer: `LayerRecord` attributes.
_MEASURED = {
    "GC101": "gradient_ratio",
    "GC102": "gradient_ratio",
    "GC103": "gradient_norm",
    "GC104": "gradient_norm",
    "GC201": "saturation",
    "GC202": "dead_fraction",
    "GC203": "signal_ratio",
    "GC204": "attention_entropy",
    "GC301": "update_ratio",
    "GC302": "update_ratio",
}

Row = tuple[str, ...]


def failure(
    claim: str,
    verdict: Verdict,
    silence: str,
    codes: AbstractSet[str] = frozenset(),
    details: Sequence[str] = (),
) -> str:
    """The text of an AssertionError.

    Args:
        claim: The first line, which pytest's summary shows.
        verdict: What speaks against it.
        silence: How to leave it out, where it is wanted so.
        codes: Rules whose findings are tabled, with the limit that each layer broke.
        details: Paragraphs that say more of the claim, before the report.
    """
    report = verdict.telling.report
    found = [
        each
        for finding in report.findings
        for each in finding.walk()
        if codes & {finding.code, each.code}
    ]
    rows = [row for finding in found for row in _rows(finding, report)][:_MOST_ROWS]
    parts = [
        claim,
        *details,
        report.text(width=_WIDTH),
        "\n".join(aligned([("rule", "layer", "measured", "value", "limit"), *rows]))
        if rows
        else "",
        "\n".join(filter(None, (_seeds(verdict), f"wanted so? {silence}"))),
    ]
    return "\n\n".join(filter(None, parts))


def fail(
    claim: str,
    verdict: Verdict,
    silence: str,
    findings: Iterable[Finding] = (),
    details: Sequence[str] = (),
) -> NoReturn:
    """Raise what `failure` says, with the rules of these findings."""
    codes = {finding.code for finding in findings}
    raise UnhealthyError(failure(claim, verdict, silence, codes, details))


def _rows(finding: Finding, report: Report) -> Iterator[Row]:
    """The worst few layers of a finding, in execution order."""
    attribute = _MEASURED.get(finding.code)
    # Of a watched loop, not all steps are kept; a spike of the gradient stands in none of them.
    step = next((each for each in report.steps if each.index in finding.steps), report.steps[0])
    values = {
        layer.name: getattr(layer, attribute)
        for layer in reversed(step.layers)  # the first call of a layer stays
        if attribute and layer.name in finding.layers
    }
    if not values:
        name = finding.culprit or next(iter(finding.layers), None)
        if finding.observed is not None:
            yield (
                finding.code,
                name or "the model",
                "",
                _number(finding.observed),
                _limit(finding),
            )
        return
    order = [name for name in finding.layers if name in values]
    worst = sorted(order, key=lambda name: _severity(values[name], finding))[:_MOST_OF_ONE]
    for name in order:
        if name in worst:
            measured = str(attribute).replace("_", " ")
            yield finding.code, name, measured, _number(values[name]), _limit(finding)


def _severity(value: float | None, finding: Finding) -> float:
    """A key by which the worst values come first; what never arrived is worst."""
    if value is None:
        return float("-inf")
    return -value if _too_large(finding) else value


def _too_large(finding: Finding) -> bool:
    observed, limit = finding.observed, finding.limit
    return observed is not None and limit is not None and observed > limit


def _limit(finding: Finding) -> str:
    if finding.limit is None:
        return "above 0" if not finding.observed else ""
    return f"{'at most' if _too_large(finding) else 'at least'} {_number(finding.limit)}"


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.2g}"


def aligned(rows: Sequence[Row]) -> Iterator[str]:
    """Columns as wide as their widest cell; the fourth one, of values, to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.rjust(width) if place == 3 else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield ("  " + "  ".join(cells)).rstrip()


def _seeds(verdict: Verdict) -> str:
    """Which seeds say so, and how to see it again; empty for a report that was given."""
    broken = [case.seed for case in verdict.cases if case.broken and case.seed is not None]
    if not broken:
        return ""
    held = [case.seed for case in verdict.cases if not case.broken and case.seed is not None]
    fine = f", not with {_listed(held)}" if held else ""
    return f"so with {_listed(broken)}{fine}; again: --gradcheckup-seed={broken[0]}"


def _listed(seeds: Sequence[int]) -> str:
    word = "seed" if len(seeds) == 1 else "seeds"
    return f"{word} {', '.join(map(str, seeds))}"
