"""Findings in sentences, written from their evidence.

Rules hand over numbers and names; what is said of them is decided here and nowhere else. Every
fact is optional: a sentence leaves out what it does not know.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from gradcheckup.records import Finding, Severity
from gradcheckup.report import Report
from gradcheckup.reports.evidence import Evidence
from gradcheckup.reports.names import spoken
from gradcheckup.reports.numbers import count, factor, number, percent

_NOTICEABLE = 0.01
"""The change of a weight that a pace is told by."""
_PATIENCE = 1000
"""Steps from which on such a change is slow."""
_USUAL_UPDATE = 1e-3


def describe(finding: Finding, report: Report) -> list[str]:
    """What was found, in one to four sentences."""
    evidence = Evidence(finding, report)
    sentences = [*_SENTENCES.get(finding.code, _other)(evidence), _learnt(evidence)]
    return [sentence for sentence in sentences if sentence]


def _learnt(evidence: Evidence) -> str:
    """What became of the net, where that decides over what was found."""
    left, followed = evidence.figure("unlearnt"), evidence.figure("followed")
    if left is not None and followed is not None:
        of = "new batches" if evidence.text("new") else "its batches"
        return (
            f"The net learns all the same: by step {followed:.0f} it knows {percent(1 - left)} of "
            f"what {of} ask for."
        )
    finding = evidence.finding
    told = (Evidence(each, evidence.report) for each in (finding, *finding.consequences))
    return "" if finding.code == "GC306" else next(filter(None, map(_not_got_over, told)), "")


def _not_got_over(evidence: Evidence) -> str:
    schooled, left = evidence.figure("schooled"), evidence.figure("regression")
    if schooled is None or left is None:
        return ""
    return (
        f"The net does not get over it: after {schooled:.0f} steps it knows little of new "
        f"batches, of which kernel regression explains {percent(1 - left)}."
    )


def _losses(evidence: Evidence) -> str:
    first, last = evidence.figure("loss_first"), evidence.figure("loss_last")
    if first is None or last is None:
        return ""
    return f"The loss went from {number(first)} to {number(last)}."


def _gradient_ratio(evidence: Evidence, *, low: float, high: float, more: bool) -> list[str]:
    ratio, worst, reference = evidence.finding.observed, evidence.worst, evidence.reference
    rate = evidence.figure("per_layer")
    facts = [
        f"a ratio of {number(ratio)}" if ratio else "",
        f"{_times(rate)} per layer" if rate else "",
    ]
    measured = ", ".join(filter(None, facts))
    healthy = f"healthy: {number(low)} … {number(high)}"
    aside = f"({measured}; {healthy})" if measured else f"({healthy})"
    than = f" than {reference}" if reference and reference != worst else ""
    if not ratio:
        said = f"{worst} receives {'too much' if more else 'next to no'} gradient"
    elif more:
        said = f"{worst} receives {factor(ratio)} more gradient{than}"
    else:
        said = f"{worst} receives {factor(1 / ratio)} less gradient{than}"
    flow = f"{said} {aside}{evidence.when}."
    return [flow, _moves(evidence), _signal(evidence), _blind(evidence)]


def _blind(evidence: Evidence) -> str:
    """That nothing is learnt from the input, where that was seen."""
    condition = evidence.figure("blindness")
    if condition is None:
        return ""
    return f"Updates move the outputs of all samples together, {factor(condition)} as far as apart."


def _moves(evidence: Evidence) -> str:
    first, other = evidence.figure("update_first"), evidence.figure("update_reference")
    if first is None:
        return ""
    against = f", {evidence.reference}'s {number(other)}" if other and evidence.reference else ""
    return (
        f"Its weights moved {number(first)} of their size a step{against}{_pace(evidence, first)}."
    )


def _pace(evidence: Evidence, update: float) -> str:
    """What an update ratio means with this optimizer, where it is a small one."""
    steps = _NOTICEABLE / update if update else math.inf
    if not _PATIENCE < steps < math.inf:
        return ""
    optimizer = evidence.report.recording.optimizer
    return f": {optimizer} needs {number(steps)} steps to change them by {percent(_NOTICEABLE)}"


def _signal(evidence: Evidence) -> str:
    ratio = evidence.figure("signal_ratio")
    if ratio is None or ratio >= evidence.report.thresholds.signal_ratio_low:
        return ""
    left = f"Only {number(ratio)} of the differences between samples is left"
    return f"{left} at {evidence.reference}." if evidence.reference else f"{left}."


def _vanishing(evidence: Evidence) -> list[str]:
    limits = evidence.report.thresholds
    low = evidence.finding.limit or limits.gradient_ratio_low
    return _gradient_ratio(evidence, low=low, high=limits.gradient_ratio_high, more=False)


def _exploding(evidence: Evidence) -> list[str]:
    limits = evidence.report.thresholds
    if evidence.finding.cause == "learning-rate":
        observed = evidence.finding.observed
        grown = f"to {_times(observed)} that of step 0{evidence.limit}"
        if observed is not None and not math.isfinite(observed):
            grown = "until it was NaN or Inf"
        return [f"The gradient has grown {grown}{evidence.when}.", _losses(evidence)]
    high = evidence.finding.limit or limits.gradient_ratio_high
    return _gradient_ratio(evidence, low=limits.gradient_ratio_low, high=high, more=True)


def _spike(evidence: Evidence) -> list[str]:
    step, more = evidence.figure("step"), len(evidence.finding.steps) - 1
    at = "" if step is None else f" at step {int(step)}"
    again = f" It happened {count(more, 'more time')}." if more else ""
    return [
        (
            f"The gradient{at} was {_times(evidence.finding.observed)} its usual size"
            f"{evidence.limit}, and the loss stayed higher afterwards.{again}"
        ),
        _losses(evidence),
    ]


def _severed(evidence: Evidence) -> list[str]:
    if evidence.finding.cause == "detached-loss":
        share, limit = percent(evidence.finding.observed), percent(evidence.finding.limit)
        known = f"accounts for {share} of what the outputs do to its value (limit {limit})"
        return [f"The gradient of the criterion {known}: the part that matters is detached."]
    last, behind = evidence.finding.culprit, evidence.text("behind")
    return [
        f"No gradient arrives at {evidence.layers} (grad is None){evidence.when}.",
        f"The cut lies between {spoken(last)} and {spoken(behind)}." if last and behind else "",
    ]


def _zero(evidence: Evidence) -> list[str]:
    if evidence.finding.severity is Severity.INFORMATION:
        return [f"The gradient of {evidence.layers} is 0 but for rounding, and has to be."]
    return [f"The gradient of {evidence.layers} is exactly 0{evidence.when}."]


def _through_time(evidence: Evidence) -> list[str]:
    finding, rate = evidence.finding, evidence.figure("per_step")
    length, blind = evidence.figure("time_steps"), evidence.figure("blind_steps")
    limit = f"limit {number(finding.limit)}" if finding.limit is not None else ""
    aside = "; ".join(filter(None, [limit, f"{_times(rate)} per step" if rate else ""]))
    aside = f" ({aside})" if aside else ""
    sequence = f"{number(length)} time steps" if length else "time steps"
    if finding.rule.startswith("exploding"):
        grown = f"receives {_times(finding.observed)} the gradient of the last{aside}"
        return [f"The first of the {sequence} of {evidence.worst} {grown}{evidence.when}."]
    early = f"the first {number(blind)} of its {sequence}" if blind else "its first time steps"
    share = f"{number(finding.observed)} of" if finding.observed else "nothing of"
    left = {
        "none": (
            "What it hands on from the others has no bearing on the targets. An LSTM with an open "
            "forget gate, an orthogonal recurrent matrix, or attention over all outputs reaches "
            "further."
        ),
        "some": "What it hands on from the others does bear on the targets.",
    }
    return [
        (
            f"{evidence.worst} cannot learn from {early}: the very first receives {share} the "
            f"largest gradient along the sequence{aside}{evidence.when}."
        ),
        left.get(evidence.text("bearing"), ""),
    ]


def _saturated(evidence: Evidence) -> list[str]:
    slope = percent(evidence.report.thresholds.saturation_slope)
    return [
        (
            f"{percent(evidence.finding.observed)} of what enters {evidence.worst} lies where its "
            f"slope is below {slope} of the steepest{evidence.percent_limit}{evidence.when}."
        )
    ]


def _dead(evidence: Evidence) -> list[str]:
    return [
        (
            f"{percent(evidence.finding.observed)} of the units of {evidence.worst} never fired"
            f"{evidence.percent_limit}{evidence.when}."
        )
    ]


_SAME = "Outputs are the same for every input, and updates move them all alike."


def _collapsed(evidence: Evidence) -> list[str]:
    left = f"Only {number(evidence.finding.observed)} of the differences between samples"
    place = evidence.reference or evidence.worst
    if evidence.finding.cause == "lost-input":
        return [f"{left} is left at {evidence.worst}{evidence.limit}{evidence.when}.", _SAME]
    first = evidence.figure("signal_first") if evidence.finding.cause == "learning-rate" else None
    gone = f" At step 0 it was {number(first)}: the first updates wiped it out." if first else ""
    held = f"{left} is left at {place}{evidence.limit}{evidence.when}.{gone}"
    return [held, _blind(evidence)]


def _sharp(evidence: Evidence) -> list[str]:
    some, every = evidence.figure("saturated"), evidence.figure("attention")
    shared = ""
    if some is not None and every is not None and every > 1:
        amount = f"all {every:.0f}" if some == every else f"{some:.0f} of {every:.0f}"
        shared = f"So it is in {amount} layers with attention."
    left = f"{number(evidence.finding.observed)} of the entropy of equal weights"
    return [
        (
            f"{evidence.worst} attends to next to one key a row: its weights have {left}"
            f"{evidence.limit}{evidence.when}."
        ),
        shared,
        "Such a softmax hardly passes on what to attend to instead.",
        _losses(evidence) if evidence.finding.severity is Severity.CRITICAL else "",
    ]


def _times(value: float | None) -> str:
    return number(value) if value is None else factor(value)


def _starved(evidence: Evidence) -> list[str]:
    median = evidence.figure("median")
    against = f", the median layer's {number(median)}" if median is not None else ""
    observed = evidence.finding.observed
    moved = f"The weights of {evidence.worst} move {number(observed)}"
    pace = _pace(evidence, observed) if observed else ""
    return [f"{moved} of their size a step{against}{evidence.limit}{evidence.when}{pace}."]


def _oversized(evidence: Evidence) -> list[str]:
    return [
        (
            f"Each step changes the weights of {evidence.worst} by "
            f"{_times(evidence.finding.observed)} their size{evidence.limit}{evidence.when}."
        ),
        _losses(evidence),
        _gentler(evidence),
    ]


def _stalled(evidence: Evidence) -> list[str]:
    won, left = evidence.finding.observed, evidence.figure("plateau_left")
    pace = f": a tenth of it takes {number(0.1 / won)} steps" if won and won > 0 else ""
    if left:
        growth = f"As fast as this grows, the plateau lasts another {number(left)} steps."
    else:
        growth = f"This has not grown since step {len(evidence.report.recording.course) // 4}."
    return [
        (
            "The outputs say nothing of the samples they belong to, and by telling them apart a "
            f"step wins {number(won)} of the loss{evidence.limit}{evidence.when}{pace}."
        ),
        growth,
    ]


def _schooled(evidence: Evidence) -> list[str]:
    steps, batches = evidence.figure("schooled"), evidence.figure("batches")
    left, limit = evidence.finding.observed, evidence.finding.limit
    told, regression = evidence.figure("readout"), evidence.figure("regression")
    after = f"After {steps:.0f} steps" if steps else "After many steps"
    on = f" on {batches:.0f} batches" if batches else ""
    kept = f"{percent(left)} of the loss is left" if left else ""
    if told is None or limit:
        knows = "nothing of others" + (f": {kept}{evidence.percent_limit}" if left else "")
    else:
        share = percent(max(1 - told, 0.0))
        knows = f"little of others: its outputs explain {share} of what these ask for"
        knows += f", and {kept}" if left else ""
    said = [f"{after}{on} the net knows {knows}."]
    if regression is not None:
        said.append(
            f"Kernel regression on the same batches explains {percent(1 - regression)} of what the "
            "others ask for: there is something to learn."
        )
    return said


def _gentler(evidence: Evidence) -> str:
    """The learning rate that would fit, as a multiple: updates are in proportion to it."""
    observed = evidence.finding.observed
    if not observed or not math.isfinite(observed):
        return ""
    times, usual = factor(observed / _USUAL_UPDATE), number(_USUAL_UPDATE)
    optimizer = evidence.report.recording.optimizer
    return f"Usual updates are {usual} of the weights: {optimizer} moves them {times} as far."


def _unchanged(evidence: Evidence) -> list[str]:
    return [
        f"{evidence.share} got a gradient and did not change{evidence.when}: {evidence.layers}."
    ]


def _accumulating(evidence: Evidence) -> list[str]:
    observed = evidence.finding.observed
    size = f" ({number(observed)}× the new one)" if observed is not None else ""
    return [
        (
            f"Steps began with the gradient of earlier steps still in .grad{size}{evidence.limit}"
            f"{evidence.when}: was optimizer.zero_grad() forgotten?"
        )
    ]


_ORIGIN_UNSEEN = (
    "The first NaN or Inf came at step {seen:.0f}, of which gradients alone were read. Measured in "
    "full{step}, it is in the {place} already: where it arose is not known. To see that, diagnose "
    "a checkpoint from before it with the batch of that step."
)


def _not_finite(what: str) -> Callable[[Evidence], list[str]]:
    def describe_not_finite(evidence: Evidence) -> list[str]:
        steps, culprit, before = evidence.finding.steps, evidence.worst, evidence.text("before")
        place = culprit if culprit == "loss" else f"{what} of {culprit}"
        behind = f", or on the way to it from {spoken(before)}" if before else ""
        step = f" at step {steps[0]}" if steps else ""
        grown, seen = evidence.figure("grown"), evidence.figure("seen")
        if seen is not None:
            return [
                _ORIGIN_UNSEEN.format(seen=seen, step=step, place=place),
                _on_ranks(evidence),
            ]
        flow = "signal" if what == "output" else "gradient"
        return [
            f"The first NaN or Inf arose in the {place}{behind}{step}.",
            f"The {flow} grew {number(grown)}× on its way there." if grown else "",
            _on_ranks(evidence),
        ]

    return describe_not_finite


def _on_ranks(evidence: Evidence) -> str:
    rank, ranks, processes = map(evidence.figure, ("rank", "ranks", "processes"))
    if rank is None or ranks is None or processes is None:
        return ""
    step, layer = evidence.figure("rank_step"), evidence.text("rank_layer")
    others = f" and {ranks - 1:.0f} more" if ranks > 1 else ""
    return (
        f"Seen first on rank {rank:.0f}{others} of {processes:.0f}, at step {step:.0f} in {layer}."
    )


def _underflowing(evidence: Evidence) -> list[str]:
    observed, total = evidence.finding.observed, evidence.figure("total")
    amount = int(evidence.figure("parameters") or len(evidence.finding.layers))
    of = f" of {count(int(total), 'weight')}" if total else ""
    share = f": {percent(observed)} of it at {evidence.worst}" if observed is not None else ""
    return [
        (
            f"float16 rounds away the gradient of {evidence.layers}{share}{evidence.percent_limit}"
            f"{evidence.when}."
        ),
        f"This holds for {amount}{of}; with a scaled loss they get their gradient.",
    ]


def _unused(evidence: Evidence) -> list[str]:
    return [f"{evidence.share} had no part in the loss: {evidence.layers}."]


def _frozen(evidence: Evidence) -> list[str]:
    return [f"{evidence.share} do not train (requires_grad=False): {evidence.layers}."]


def _misspelt(evidence: Evidence) -> list[str]:
    return [
        (
            f"{evidence.layers} is not what PyTorch looks at, and setting it freezes nothing: "
            "the name is requires_grad, on a parameter."
        )
    ]


def _symmetric(evidence: Evidence) -> list[str]:
    return [
        (
            f"All units of {evidence.worst} have the same weights and the same gradient"
            f"{evidence.when}: they stay copies of one unit."
        )
    ]


def _other(evidence: Evidence) -> list[str]:
    """For codes that this version has no words for."""
    observed = evidence.finding.observed
    value = f": {number(observed)}{evidence.limit}" if observed is not None else ""
    return [
        f"{evidence.finding.rule.replace('-', ' ')} in {evidence.layers}{value}{evidence.when}."
    ]


_SENTENCES: dict[str, Callable[[Evidence], list[str]]] = {
    "GC101": _vanishing,
    "GC102": _exploding,
    "GC103": _severed,
    "GC104": _zero,
    "GC105": _through_time,
    "GC106": _spike,
    "GC201": _saturated,
    "GC202": _dead,
    "GC203": _collapsed,
    "GC204": _sharp,
    "GC301": _starved,
    "GC302": _oversized,
    "GC303": _unchanged,
    "GC304": _accumulating,
    "GC305": _stalled,
    "GC306": _schooled,
    "GC401": _not_finite("output"),
    "GC402": _not_finite("gradient"),
    "GC403": _underflowing,
    "GC501": _unused,
    "GC502": _frozen,
    "GC503": _misspelt,
    "GC504": _symmetric,
}
