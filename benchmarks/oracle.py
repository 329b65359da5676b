"""What is wrong with a net as a whole, and where: told by autograd in float64, without gradcheckup.

The gain of a hidden weight layer is ||dL/dy|| at its output over that at the next one's. A net of n
gains is in order while each stays in the n-th root of the band for the end-to-end ratio,
[0.02, 100]: the first one outside is at fault. The ratio, and the same of the signal, are followed
through the first training steps as well: what leaves the band there is a cause; and further, where
a verdict is about later steps. Blocks of a transformer count as layers. Of a recurrent net, the
gradient of the input is followed along time.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from sklearn.kernel_ridge import KernelRidge  # type: ignore[import-untyped]
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
from torch import Tensor, nn

from benchmarks.cases import PROBE_STEPS, Case
from benchmarks.networks import Residual

_BAND = (0.02, 100.0)
_LIMITS = (
    ("GC101", "gradient", _BAND[0], math.inf),
    ("GC102", "gradient", 0.0, _BAND[1]),
    ("GC203", "signal", _BAND[0], math.inf),
    ("GC105", "first time step", 1e-4, math.inf),
    ("GC105", "through time", 0.0, _BAND[1]),
    ("GC204", "attention", 0.1, math.inf),
    ("GC305", "won", 8e-5, math.inf),
)
"""Codes, the ratio that decides, and between which limits it is in order."""
RUNAWAY = 1e3
"""As many times what it was at first, a gradient or a loss runs away."""
_DEAD = 0.9
_FLAT, _SATURATED = 0.1, 0.9
_LAYERS = (nn.Linear, nn.Conv2d, nn.TransformerEncoderLayer)
_SKIPS = (Residual, nn.TransformerEncoderLayer)
_BOUNDED = (nn.Sigmoid, nn.Tanh, nn.ELU, nn.SELU)

CAUSES = frozenset(code for code, *_ in _LIMITS) | {"GC201", "GC401"}
"""Codes that `causes` can tell."""


def layers_at_fault(case: Case, seed: int, code: str, made: int = PROBE_STEPS) -> frozenset[str]:
    """The first layer whose gain leaves the band of a code; empty where there is none to name.

    Only for nets whose layers are called once, in one line; of a net with one recurrent layer, that
    one is at fault through time. At initialisation, or at the last of the steps `made` where these
    are more than the eight of a probe.
    """
    if code == "GC105":
        names = _Net(case, seed).recurrent
        return frozenset(names if len(names) == 1 else [])
    limits = [
        (low, high) for each, ratio, low, high in _LIMITS if (each, ratio) == (code, "gradient")
    ]
    trained = made - 1 if made > PROBE_STEPS else 0
    found = gains(case, seed, trained) if limits else {}
    if not found:
        return frozenset()
    low, high = (limit ** (1 / len(found)) for limit in limits[0])
    return frozenset([name for name, gain in found.items() if not low <= gain <= high][:1])


def causes(case: Case, seed: int, made: int = PROBE_STEPS) -> frozenset[str]:
    """What is out of order at the first of some training steps, or when they end.

    Args:
        case: The net.
        seed: Of it and its batches.
        made: How many steps, on the batches of the first eight in turn.

    Returns:
        The codes whose limits a ratio breaks at the first step, or its median over the later half
        of eight steps, or the last eight of more.
        Of recurrent nets: of the gradient of the first time step, to the largest and to the last
        one's; of others, of gradient and signal from end to end, and of the entropy of attention
        weights in the median layer to that of equal ones. And GC102, where the gradient of
        all parameters grew a thousandfold; GC202, where nine of ten units of a ReLU that no path
        leads around fire for no sample of those late steps; GC201, where nine of ten inputs of an
        activation lie where it has less than a tenth of its largest slope, as a median over them;
        GC401, where the first loss is no finite number in float32; GC305 of more than eight
        steps, where what the samples' outputs move apart lowers the loss by less than 8e-5 of it.
    """
    net = _Net(case, seed)
    optimizer = case.make_optimizer(net.model.parameters())
    flows, totals, fired, flat = [], [], [], []
    for batch in _batches(case, seed, made):
        if len(totals) < PROBE_STEPS or len(totals) >= made - PROBE_STEPS:
            flows.append(net.through_time(batch) if net.recurrent else net.flow(batch).ratios)
            fired.append(dict(net.fires))
            flat.append(dict(net.flat))
        before = net.outputs(batch)
        totals.append(net.backward(batch))
        optimizer.step()
        if len(totals) > max(PROBE_STEPS, made - PROBE_STEPS):
            flows[-1]["won"] = net.won(batch, before)
        if not math.isfinite(totals[-1]):
            break
    late = flows[len(flows) // 2 :]
    names = set[str]().union(*late)
    settled = {
        name: statistics.median(each[name] for each in late if name in each) for name in names
    }
    found = {
        code
        for code, name, low, high in _LIMITS
        for ratios in (flows[0], settled)
        if name in ratios and (ratios[name] < low or ratios[name] > high)
    }
    if not all(each < RUNAWAY * totals[0] for each in totals):
        found.add("GC102")
    found |= _of_units(fired[len(fired) // 2 :], flat[len(flat) // 2 :])
    if not math.isfinite(_first_loss(case, seed)):
        found.add("GC401")
    return frozenset(found)


def _of_units(fired: list[dict[str, Tensor]], flat: list[dict[str, float]]) -> set[str]:
    """Codes of units that are dead or saturated over some steps."""
    found = set()
    for name in fired[0]:
        ever = torch.stack([each[name] for each in fired]).any(dim=0)
        if float(ever.double().mean()) < 1 - _DEAD:
            found.add("GC202")
    for name in flat[0]:
        if statistics.median(each[name] for each in flat) >= _SATURATED:
            found.add("GC201")
    return found


def _first_loss(case: Case, seed: int) -> float:
    """Of the net as it is, in its own precision."""
    torch.manual_seed(seed)
    model = case.build()
    inputs, targets = next(case.task.batches(case.batch_size, seed))
    with torch.no_grad():
        return float(case.task.criterion()(model(inputs), targets))


def learns_nothing(case: Case, seed: int, steps: int = 2048) -> bool:
    """Whether so much training teaches a net nothing, where there is something to learn.

    The net, in float64, fails its task by the score on samples that were held out; logistic
    regression (kernel ridge regression, where targets are numbers) on the same samples learns it.
    """
    task, net = case.task, _Net(case, seed)
    optimizer = case.make_optimizer(net.model.parameters())
    for batch in itertools.islice(task.batches(case.batch_size, seed), steps):
        net.backward(batch)
        optimizer.step()
    net.model.eval()
    score = task.score(net.outputs((task.held_inputs, task.held_targets)), task.held_targets)
    if task.targets.is_floating_point():
        other = KernelRidge(kernel="rbf").fit(task.inputs.flatten(1), task.targets)
        told = task.score(
            torch.tensor(other.predict(task.held_inputs.flatten(1))), task.held_targets
        )
    else:
        other = LogisticRegression(max_iter=1000).fit(task.inputs.flatten(1), task.targets)
        told = other.score(task.held_inputs.flatten(1), task.held_targets)
    return score <= task.fails and told >= task.learns


def runs_away(case: Case, seed: int, steps: int = 2048) -> bool:
    """Whether the loss of so much training, in float64, leaves the finite numbers or comes near."""
    net, first = _Net(case, seed), math.nan
    optimizer = case.make_optimizer(net.model.parameters())
    for batch in itertools.islice(case.task.batches(case.batch_size, seed), steps):
        net.backward(batch)
        optimizer.step()
        first = net.loss if math.isnan(first) else first
        if not net.loss <= RUNAWAY * first:
            return True
    return False


def gains(case: Case, seed: int, trained: int = 0) -> dict[str, float]:
    """Gains of the hidden layers after some steps, in execution order."""
    net = _Net(case, seed)
    if net.recurrent:
        return {}
    optimizer = case.make_optimizer(net.model.parameters())
    for batch in _batches(case, seed, trained):
        net.backward(batch)
        optimizer.step()
    gradients = net.flow(next(case.task.batches(case.batch_size, seed))).gradients
    hidden = list(gradients)[:-1]
    return {
        name: _over(gradients[name], gradients[behind])
        for name, behind in itertools.pairwise(hidden)
    }


def _batches(case: Case, seed: int, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """As a probe is given them: those of its first steps, in turn."""
    first = itertools.islice(case.task.batches(case.batch_size, seed), PROBE_STEPS)
    return itertools.islice(itertools.cycle(first), steps)


@dataclass(frozen=True, slots=True)
class _Flow:
    """||dL/dy|| of each layer, the output layer last; and the ratios from end to end."""

    gradients: dict[str, float]
    ratios: dict[str, float]


class _Net:
    """The net of a case in float64, with what its layers return.

    Attributes:
        model: The net.
        recurrent: Names of its recurrent layers.
        loss: At the last backward pass.
        fires: Of ReLUs that no path leads around, which units fired in the last forward pass.
        flat: Of sigmoids, tanhs, ELUs and SELUs, the share of their inputs where they are flat.
    """

    def __init__(self, case: Case, seed: int) -> None:
        torch.manual_seed(seed)
        self.model = case.build().double()
        modules = dict(self.model.named_modules())
        self.recurrent = [name for name, each in modules.items() if isinstance(each, nn.RNNBase)]
        self.loss = math.nan
        self._criterion = case.task.criterion()
        self._outputs: dict[str, Tensor] = {}
        blocks = [
            f"{name}."
            for name, each in modules.items()
            if isinstance(each, nn.TransformerEncoderLayer)
        ]
        self.fires: dict[str, Tensor] = {}
        self.flat: dict[str, float] = {}
        self._entropies: dict[nn.Module, float] = {}
        around = tuple(f"{name}." for name, each in modules.items() if isinstance(each, _SKIPS))
        for name, module in modules.items():
            if isinstance(module, nn.MultiheadAttention):
                module.register_forward_pre_hook(self._attend)
            if isinstance(module, nn.ReLU) and not name.startswith(around):
                module.register_forward_hook(self._listen(name))
            if isinstance(module, _BOUNDED):
                module.register_forward_hook(self._weigh(name, module))
            if isinstance(module, _LAYERS) and not name.startswith(tuple(blocks)):
                module.register_forward_hook(self._keep(name))

    def flow(self, batch: tuple[Tensor, Tensor]) -> _Flow:
        """Without touching the gradients of parameters."""
        outputs = self._outputs
        loss = self._loss(batch)
        found = torch.autograd.grad(
            loss, list(outputs.values()), allow_unused=True, materialize_grads=True
        )
        gradients = {name: float(each.norm()) for name, each in zip(outputs, found, strict=True)}
        names = list(gradients)
        # A path leads around every hidden layer of a residual net.
        around = any(isinstance(each, _SKIPS) for each in self.model.modules())
        first, last = names[0], names[-1 if around or len(names) == 1 else -2]
        ratios = {
            "gradient": _over(gradients[first], gradients[last]),
            "signal": _spread(outputs[last]) / max(_spread(outputs[first]), math.ulp(0)),
        }
        if self._entropies:
            ratios["attention"] = statistics.median(self._entropies.values())
        return _Flow(gradients, ratios)

    def through_time(self, batch: tuple[Tensor, Tensor]) -> dict[str, float]:
        """The norm of dL/dx of the first time step, over the largest and over the last one's."""
        inputs = batch[0].double().requires_grad_()
        (found,) = torch.autograd.grad(self._loss((inputs, batch[1])), inputs)
        norms = found.norm(dim=(0, 2))
        return {
            "first time step": _over(norms[0], norms.max()),
            "through time": _over(norms[0], norms[-1]),
        }

    def outputs(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """What the net says of a batch."""
        with torch.no_grad():
            found: Tensor = self.model(batch[0].double())
        return found

    def won(self, batch: tuple[Tensor, Tensor], before: Tensor) -> float:
        """The share of the loss that is gone where samples alone have moved apart since."""
        change = self.outputs(batch) - before
        plain = self._criterion(before, batch[1])
        apart = self._criterion(before + change - change.mean(dim=0), batch[1])
        return float((plain - apart) / plain)

    def backward(self, batch: tuple[Tensor, Tensor]) -> float:
        """Leaves gradients on the parameters; returns their norm."""
        self.model.zero_grad()
        loss = self._loss(batch)
        loss.backward()  # type: ignore[no-untyped-call] # torch's own gap
        self.loss = float(loss.detach())
        found = [each.grad for each in self.model.parameters() if each.grad is not None]
        return math.hypot(*(float(each.norm()) for each in found))

    def _loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        inputs, targets = batch
        targets = targets.double() if targets.is_floating_point() else targets
        self._outputs.clear()
        loss: Tensor = self._criterion(self.model(inputs.double()), targets)
        return loss

    def _attend(self, module: nn.MultiheadAttention, inputs: tuple[Tensor, ...]) -> None:
        """Keeps the mean entropy of a layer's weights, over that of equal ones."""
        query, key, value = (each.detach() for each in inputs[:3])
        found = nn.functional.multi_head_attention_forward(
            *(each.transpose(0, 1) if module.batch_first else each for each in (query, key, value)),
            module.embed_dim,
            module.num_heads,
            module.in_proj_weight.detach(),
            module.in_proj_bias.detach(),
            None,
            None,
            add_zero_attn=False,
            dropout_p=0.0,
            out_proj_weight=module.out_proj.weight.detach(),
            out_proj_bias=module.out_proj.bias.detach(),
            average_attn_weights=False,
        )[1]
        assert found is not None  # noqa: S101 - weights were asked for
        entropy = torch.special.entr(found).sum(dim=-1).mean()
        self._entropies[module] = float(entropy) / math.log(found.shape[-1])

    def _listen(self, name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            del module, inputs
            units = output.detach().transpose(0, 1).flatten(1)
            self.fires[name] = (units > 0).any(dim=1)

        return hook

    def _weigh(self, name: str, activation: nn.Module) -> Any:
        largest = _slopes(activation, torch.linspace(-5, 5, 10_001).double()).max()

        def hook(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
            del output
            flat = _slopes(module, inputs[0]) < _FLAT * largest
            self.flat[name] = float(flat.double().mean())

        return hook

    def _keep(self, name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            del module, inputs
            self._outputs[name] = output

        return hook


def _slopes(activation: nn.Module, inputs: Tensor) -> Tensor:
    """Derivatives, by autograd."""
    with torch.enable_grad():
        at = inputs.detach().clone().requires_grad_()
        (found,) = torch.autograd.grad(activation.forward(at).sum(), at)
    return found.abs()


def _over(part: float | Tensor, whole: float | Tensor) -> float:
    return float(part) / float(whole) if whole else math.nan


def _spread(values: Tensor) -> float:
    """Root mean square of the deviations within a batch."""
    return float(values.detach().std(dim=0).square().mean().sqrt())
