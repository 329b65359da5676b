"""How the outputs answer an update: what changed for all samples alike, and what tells them apart.

In the last layers of a net whose signal has collapsed, all samples look the same: whatever the
optimizer does, it moves all outputs together, and the net learns how frequent the classes are and
nothing else. In terms of the neural tangent kernel, its eigenvalue for the constant direction
exceeds all others by the condition number (Xiao, Pennington & Schoenholz 2020, "Disentangling
trainability and generalization in deep neural networks"). Here both are measured on the update
that the optimizer really made, by running the same batch again.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gradcheckup import statistics
from gradcheckup.capture.readings import Readings, Tray, floating_tensors
from gradcheckup.records import Response

_SAMPLES = 2


@dataclass(frozen=True, slots=True)
class Output:
    """One output layer's part in a step.

    Attributes:
        key: Name and call index of the layer.
        before: Its output y, of shape (batch, ...), before the update.
        gradient: dL/dy.
    """

    key: tuple[str, int]
    before: Tensor
    gradient: Tensor


def respond(
    outputs: Sequence[Output], modules: Mapping[str, nn.Module], evaluate: Callable[[], Any]
) -> Response | None:
    """Runs the batch again, after the update, and compares.

    Args:
        outputs: The output layers before the update.
        modules: By name.
        evaluate: Runs the model on the same batch, with the same random numbers.

    Returns:
        The response, or None where an output is not there again or has no samples to tell apart.
    """
    if not outputs:
        return None
    with _listening({output.key[0] for output in outputs}, modules) as after:
        evaluate()
    parts = [_parts(output, after.get(output.key)) for output in outputs]
    if any(part is None for part in parts):
        return None
    tray = Tray()
    slots = [{name: tray.put(value) for name, value in (part or {}).items()} for part in parts]
    return _combined(slots, tray.carry())


@contextmanager
def _listening(
    names: set[str], modules: Mapping[str, nn.Module]
) -> Iterator[dict[tuple[str, int], Tensor]]:
    """Collects the outputs of some modules."""
    calls: Counter[str] = Counter()
    heard: dict[tuple[str, int], Tensor] = {}

    def listen(name: str, module: nn.Module, args: Any, output: Any) -> None:
        del module, args
        value = next(floating_tensors(output), None)
        if value is not None:
            heard[name, calls[name]] = value.detach()
        calls[name] += 1

    handles = [modules[name].register_forward_hook(partial(listen, name)) for name in names]
    try:
        yield heard
    finally:
        for handle in handles:
            handle.remove()


def _parts(output: Output, after: Tensor | None) -> dict[str, Tensor] | None:
    """Norms of gradient and change, of the mean over the batch and of the deviations from it."""
    before, gradient = output.before, output.gradient
    if after is None or after.shape != before.shape or gradient.shape != before.shape:
        return None
    if before.is_complex() or before.ndim == 0 or before.shape[0] < _SAMPLES:
        return None
    resolution = torch.finfo(before.dtype).eps * statistics.norm(after)
    before, after, gradient = (_wide(each) for each in (before, after, gradient))
    change = after - before
    samples = math.sqrt(before.shape[0])
    pull, shift = gradient.mean(dim=0), change.mean(dim=0)
    return {
        "gradient_common": samples * statistics.norm(pull),
        "gradient_distinct": statistics.norm(gradient - pull),
        "change_common": samples * statistics.norm(shift),
        "change_distinct": statistics.norm(change - shift),
        "resolution": resolution,
        "progress": -((gradient - pull) * (change - shift)).sum(),
    }


def _wide(tensor: Tensor) -> Tensor:
    """Half precision cannot hold a mean; float64 holds products of small numbers."""
    tensor = statistics.flat_values(tensor)
    return tensor.float() if tensor.device.type == "mps" else tensor.double()


def _combined(slots: Sequence[Mapping[str, int | None]], readings: Readings) -> Response:
    """All outputs as one long vector."""

    def values(name: str) -> list[float]:
        return [value for slot in slots if (value := readings.get(slot[name])) is not None]

    return Response(
        gradient_common=math.hypot(*values("gradient_common")),
        gradient_distinct=math.hypot(*values("gradient_distinct")),
        change_common=math.hypot(*values("change_common")),
        change_distinct=math.hypot(*values("change_distinct")),
        resolution=math.hypot(*values("resolution")),
        progress=sum(values("progress")),
    )
