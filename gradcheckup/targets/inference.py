"""Random data for a model that came without any: inputs that run, and targets that fit."""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
import random
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gradcheckup.errors import TargetError
from gradcheckup.probe import batches
from gradcheckup.probe.objective import main_output
from gradcheckup.probe.safekeeping import in_eval_mode
from gradcheckup.targets.candidates import candidates
from gradcheckup.targets.discovery import required_arguments
from gradcheckup.targets.inputs import InputSpec
from gradcheckup.targets.outputs import guess_targets
from gradcheckup.tracebacks import one_line, user_traceback


@dataclass(frozen=True, slots=True, kw_only=True)
class Inferred:
    """Random data and how it came about.

    Attributes:
        data: One batch.
        criterion: A loss that only fits this output, or None.
        assumptions: What was guessed, one line each.
    """

    data: Any
    criterion: nn.Module | None
    assumptions: tuple[str, ...]


def infer_data(model: nn.Module, given: Sequence[InputSpec], seed: int) -> Inferred:
    """Random inputs of the given or a guessed shape, and targets that fit what comes out.

    Args:
        model: Left as it is; trials run on copies.
        given: The user's shapes, one an input; guessed where empty.
        seed: For the random numbers.

    Raises:
        TargetError: No guessed shape runs, or no loss can be guessed for the output.
    """
    generator = torch.Generator().manual_seed(seed)
    with _quiet():
        if given:
            specs: tuple[InputSpec, ...] = tuple(given)
            inputs = _draw(specs, model, generator)
            outputs = _try(model, inputs)
            if isinstance(outputs, Exception):
                # The probe fails in the same way, and can tell in which layer.
                return Inferred(data=(*inputs, None), criterion=None, assumptions=())
        else:
            specs, inputs, outputs = _first_that_runs(model, generator)
        guess = guess_targets(model, inputs[0], outputs, generator)
    targets = None if guess.targets is None else guess.targets.to(inputs[0].device)
    lines = [f"data: {_list(specs)} and {guess.described}", *(s.note for s in specs if s.note)]
    if guess.targets is not None:
        lines[0] += " (a verdict on real data is worth more: give build_data())"
    if targets is None:
        data: Any = _by_name(model, inputs)
    else:
        data = (*inputs, targets)
    return Inferred(data=data, criterion=guess.criterion, assumptions=tuple(lines))


def materialize(model: nn.Module, data: Any) -> bool:
    """Give lazy parameters their shapes by a forward on the first batch; True where needed.

    Raises:
        TargetError: The forward failed.
    """
    if not any(nn.parameter.is_lazy(each) for each in (*model.parameters(), *model.buffers())):
        return False
    (batch, *_), _ = batches.take(data, 1)
    inputs, _ = batches.split(batch, model, keep_targets=True)
    still = in_eval_mode(model)
    try:
        with still, torch.no_grad(), _quiet(), torch.random.fork_rng(devices=[]):
            batches.call(model, inputs)
    except Exception as error:
        raise TargetError(
            f"the model does not run on its data: {one_line(error)}",
            traceback_text=user_traceback(error),
        ) from error
    return True


def _first_that_runs(
    model: nn.Module, generator: torch.Generator
) -> tuple[tuple[InputSpec, ...], tuple[Tensor, ...], Any]:
    """The likeliest inputs that run and whose output has the batch in its shape."""
    failures: dict[str, Exception] = {}
    doubtful = None
    for specs in _combinations(model):
        inputs = _draw(specs, model, generator)
        outputs = _try(model, inputs)
        if isinstance(outputs, Exception):
            failures.setdefault("x".join(map(str, specs[0].shape)), outputs)
            continue
        scores, _ = main_output(outputs)
        batch = specs[0].batch
        if isinstance(scores, Tensor) and (scores.dim() == 0 or batch in scores.shape):
            return specs, inputs, outputs
        doubtful = doubtful or (specs, inputs, outputs)
    if doubtful:
        return doubtful
    several = " once for each of its inputs" if len(required_arguments(model.forward)) > 1 else ""
    advice = (
        f"give the shape with --input 8,3,64,64 or the like{several}, or build_data() in the file"
    )
    if not failures:
        raise TargetError(f"no layer of the model tells what inputs it takes: {advice}")
    tried = list(failures)
    error = failures[tried[0]]
    more = f" and {len(tried) - 4} more" if len(tried) > 4 else ""
    raise TargetError(
        f"the model ran on none of the inputs that were guessed ({', '.join(tried[:4])}{more}); "
        f"on the first: {one_line(error)}; {advice}",
        traceback_text=user_traceback(error),
    ) from error


def _combinations(model: nn.Module) -> Iterator[tuple[InputSpec, ...]]:
    """Candidates for all required inputs of `forward`: alike, or a second one of small integers."""
    count = max(1, len(required_arguments(model.forward)))
    specs = candidates(model)
    for spec in specs:
        yield (spec,) * count
    if count == 2:  # noisy images and time steps, sequences and lengths
        for spec in specs:
            yield spec, InputSpec(shape=(spec.batch,), dtype=torch.int64, high=16)


def _try(model: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
    """The output of a copy in training mode, as the probe will run it, or the exception."""
    try:
        twin = copy.deepcopy(model).train()
    except Exception as error:
        raise TargetError(
            f"the model cannot be copied to find out what inputs it takes ({one_line(error)}): "
            "give build_data()"
        ) from error
    python = random.getstate()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            return twin(*inputs)
    except Exception as error:  # noqa: BLE001 - whatever does not run is not the shape
        return error
    finally:
        random.setstate(python)


def _draw(
    specs: Sequence[InputSpec], model: nn.Module, generator: torch.Generator
) -> tuple[Tensor, ...]:
    """Random inputs in the type and on the device of the model."""
    tensors = [*model.parameters(), *model.buffers()]
    floating = [each for each in tensors if each.is_floating_point()]
    dtype = floating[0].dtype if floating else torch.get_default_dtype()
    device = tensors[0].device if tensors else torch.device("cpu")
    return tuple(spec.draw(generator, dtype).to(device) for spec in specs)


def _by_name(model: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
    """A batch without targets, as keyword arguments where there are several inputs."""
    if len(inputs) == 1:
        return (inputs[0],)
    return dict(zip(inspect.signature(model.forward).parameters, inputs, strict=False))


def _list(specs: Sequence[InputSpec]) -> str:
    return " and ".join(map(str, specs))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Trials that fail are normal; what the model prints in them is not for the user."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
