"""What of a watched run is worth plotting: its last sampled step as named numbers.

    gradcheckup/loss                        gradcheckup/gradient_norm/<layer>
    gradcheckup/end_to_end_ratio            gradcheckup/signal/<layer>
    gradcheckup/end_to_end_signal           gradcheckup/update_ratio/<layer>
    gradcheckup/findings/critical           gradcheckup/saturation/<layer>
    gradcheckup/findings/warning            gradcheckup/dead_fraction/<layer>
    gradcheckup/findings/information        gradcheckup/attention_entropy/<layer>

What they mean stands at `Sample` and `LayerRecord`; of a layer with many calls in a step gradient
norms are those of all calls together, the others their mean.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from gradcheckup.records import Finding, LayerRecord, Role, Severity, Step
from gradcheckup.runs.run import Run

_OF_WEIGHTS = ("signal", "update_ratio")
_OF_ALL = ("saturation", "dead_fraction", "attention_entropy")


def scalars(run: Run) -> dict[str, float]:
    """What was measured at the last sampled step; empty before the first.

    Nothing of an earlier step is repeated: most sampled steps are glances, which know the loss, the
    end-to-end ratio and the gradient norms of the weight layers.

    Returns:
        Numbers by name, see the head of this file; among them may be NaN and Inf.
    """
    sample = run.trace.last
    if sample is None:
        return {}
    found: dict[str, float | None] = {
        "loss": sample.loss,
        "end_to_end_ratio": sample.end_to_end_ratio,
    }
    layers = run.trace.layers
    norms = zip(layers, sample.norms, strict=True)
    found.update({f"gradient_norm/{name}": norm for name, norm in norms})
    look = run.trace.steps[-1] if run.trace.steps else None
    if look is not None and look.index == sample.index:
        found.update(_of_look(look))
    if run.judged is not None and run.judged[0] == sample.index:
        found.update(_of_findings(run.judged[1]))
    return {f"gradcheckup/{name}": value for name, value in found.items() if value is not None}


def of_model(scalars: Mapping[str, float]) -> dict[str, float]:
    """Those of no single layer, which are few for any model."""
    whole = ("gradcheckup/loss", "gradcheckup/end_to_end_", "gradcheckup/findings/")
    return {name: value for name, value in scalars.items() if name.startswith(whole)}


def _of_look(step: Step) -> Iterator[tuple[str, float | None]]:
    yield "end_to_end_signal", step.end_to_end_signal
    calls: dict[str, list[LayerRecord]] = {}
    for layer in step.layers:
        calls.setdefault(layer.name, []).append(layer)
    for name, same in calls.items():
        for quantity in (*(_OF_WEIGHTS if same[0].role is Role.WEIGHT else ()), *_OF_ALL):
            yield f"{quantity}/{name}", _mean(getattr(layer, quantity) for layer in same)


def _of_findings(findings: Iterable[Finding]) -> Iterator[tuple[str, float]]:
    counted = Counter(finding.severity for finding in findings)
    for severity in Severity:
        yield f"findings/{severity.value}", float(counted[severity])


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
