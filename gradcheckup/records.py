"""What gradcheckup knows, as frozen records of plain Python values.

No tensor lives here, and nothing formats itself. A value that was not measured or does not apply
is None, never 0.0; infinities and NaN are themselves. `serialization` turns records into JSON,
`rules` turn a `Recording` into `Finding`s, `reports` turn both into something to read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

from gradcheckup.history import History


class Role(str, Enum):
    """What a layer is for on the way from the input to the loss."""

    WEIGHT = "weight"
    """Mixes features: linear, convolution, recurrent layer, attention, embedding."""
    NORM = "norm"
    """Normalises: batch, layer, group, instance or RMS normalisation."""
    ACTIVATION = "activation"
    """An element-wise nonlinearity, as a module or as a function."""
    ATTENTION = "attention"
    """Weighs values by a softmax, in one function call without parameters."""
    SCALE = "scale"
    """Owns only vectors or scalars: LayerScale, a learnt temperature."""
    CONTAINER = "container"
    """Owns parameters of its own beside layers inside it: a ViT with its class token."""


class Severity(str, Enum):
    """How bad a finding is; `Report.healthy` is false exactly when a critical one stands."""

    INFORMATION = "information"
    WARNING = "warning"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        """0 for information, 1 for warning, 2 for critical."""
        return list(Severity).index(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRecord:
    """One layer (one call of it) at one step.

    Attributes:
        name: Qualified module name, without wrapper prefixes. A functional activation is named
            after the module it is called in: ``block1.relu``, or ``sigmoid`` at the top; so is
            the attention of ``F.scaled_dot_product_attention``: ``block1.attention``.
        call: 0 for the first call in a step, 1 for the second, where one is used more than once.
        kind: ``linear``, ``conv2d``, ``sigmoid``, ``lstm`` ...
        role: What the layer is for.
        functional: True for a layer that is no registered module of the model.
        shape: Shape of the output `y`.
        output: True for layers at the loss end: the weight layers from which the loss is reached
            through no other weight layer, and what follows them.
        bottleneck: True when every path from the first layer to the loss passes through this one,
            None where the autograd graph could not tell.
        gate: True for an activation whose output only multiplies something else.
        gradient_norm: L2 norm of dL/dy over the batch tensor; None when no gradient arrived.
        gradient_ratio: `gradient_norm` over that of the reference layer of the step (over all
            calls of it).
        gain: `gradient_norm` over that of the next layer of the same role, like with like.
        gradient_underflow: Share of the non-zero elements of dL/dy below the smallest normal number
            of their format (6.1e-5 in float16), where bits are lost; 1 where all are 0. None for
            formats that reach as far down as float32, such as bfloat16.
        signal: RMS over features of the standard deviation of y over the batch.
        signal_ratio: `signal` over that of the first layer (see `first_layer`).
        saturation: Share of pre-activations where the derivative is below a fraction of its
            maximum; None for activations without a saturating zone and for other layers.
        dead_fraction: Share of units that fired for no sample in this step and the ones before it
            in the same half of the probe; None where a unit cannot be dead.
        attention_entropy: Mean over rows of the entropy of attention weights, over ln(number of
            keys that the row may see): 1 for equal weights, 0 where one key gets all. On the
            attention's module or function, or on its softmax where it is written by hand; over a
            few samples, heads and queries. None where there is no attention with a choice.
        update_ratio: Norm of the change over norm of the layer's own trainable parameters.
        time_profile: L2 norms of dL/dx_t over batch and features at the time steps
            `time_points(time_steps)` of a recurrent layer. A layer that is called once a time
            step, each call behind the one before it (a cell in a loop), has them on its first
            call: its gradient norms over the calls.
        time_steps: Length of the sequence that `time_profile` runs through.
        dependence: Of a recurrent layer: by how many standard deviations what it hands on has more
            to do with the gradient it gets for it than in shuffled samples. About 0 where what it
            says has no bearing on the targets, as a state that has forgotten the input.
        finite: False when y had a NaN or Inf; None when y has no floating-point values.
    """

    name: str
    call: int
    kind: str
    role: Role
    functional: bool = False
    shape: tuple[int, ...] = ()
    output: bool = False
    bottleneck: bool | None = None
    gate: bool = False
    gradient_norm: float | None = None
    gradient_ratio: float | None = None
    gain: float | None = None
    gradient_underflow: float | None = None
    signal: float | None = None
    signal_ratio: float | None = None
    saturation: float | None = None
    dead_fraction: float | None = None
    attention_entropy: float | None = None
    update_ratio: float | None = None
    time_profile: tuple[float, ...] | None = None
    time_steps: int | None = None
    dependence: float | None = None
    finite: bool | None = None

    @property
    def key(self) -> tuple[str, int]:
        """Name and call index, which identify the layer across steps."""
        return self.name, self.call


_MOST_TIME_POINTS = 33


def time_points(length: int) -> tuple[int, ...]:
    """The time steps at which a sequence of this length is looked at: evenly spaced, ends included.

    All of up to 33, and 33 of longer ones, so that long sequences make no large reports.
    """
    if length <= _MOST_TIME_POINTS:
        return tuple(range(length))
    last = _MOST_TIME_POINTS - 1
    return tuple(round(index * (length - 1) / last) for index in range(_MOST_TIME_POINTS))


def over_calls(norms: Iterable[float | None]) -> float | None:
    """The norm over all calls of a layer, of those that are known; None if none is."""
    known = [norm for norm in norms if norm is not None]
    return math.hypot(*known) if known else None


def first_layer(layers: Iterable[LayerRecord]) -> LayerRecord | None:
    """The first weight layer that received a gradient (else the first layer with one).

    An embedding only looks up its rows; the first layer that mixes features goes before it.
    """
    reached = [layer for layer in layers if layer.gradient_norm is not None]
    weights = [layer for layer in reached if layer.role is Role.WEIGHT]
    mixing = [layer for layer in weights if "embedding" not in layer.kind and not layer.output]
    return next(iter(mixing or weights or reached), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterRecord:
    """One parameter at one step. A tied parameter appears once, under its first name.

    Attributes:
        name: Qualified name.
        layer: Qualified name of the module that owns it.
        shape: Its shape.
        trainable: `requires_grad`.
        learning_rate: That of its parameter group; None when it is in no group.
        gradient_norm: L2 norm of its gradient; None when there is none.
        gradient_lost: Share of its gradient g that a 16-bit format rounds away:
            1 - <g, g'> / ||g'||^2, where g' is that of the loss times a power of two. Measured in
            the second half of the probe, where layers have gradients below the format's range;
            None elsewhere, and where g' is 0 as well.
        carried_norm: L2 norm of what stood in `.grad` when the step began, after `zero_grad`.
        weight_norm: L2 norm before the step.
        update_norm: L2 norm of the change that the optimizer made.
        row_spread: ||W - mean of its rows|| / ||W||: 0 when all units share one weight vector;
            None for vectors and single rows.
    """

    name: str
    layer: str
    shape: tuple[int, ...]
    trainable: bool
    learning_rate: float | None = None
    gradient_norm: float | None = None
    gradient_lost: float | None = None
    carried_norm: float | None = None
    weight_norm: float | None = None
    update_norm: float | None = None
    row_spread: float | None = None

    @property
    def update_ratio(self) -> float | None:
        """`update_norm` / `weight_norm`; None when not measured or the weights are all zero."""
        if self.update_norm is None or not self.weight_norm:
            return None
        return self.update_norm / self.weight_norm


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """How the model's outputs f answered the update of a step, on the batch of that step.

    Every norm is split into what all samples of the batch share, the mean over the batch, and what
    tells them apart, the deviations from it.

    Attributes:
        gradient_common: L2 norm of the shared part of dL/df.
        gradient_distinct: L2 norm of the other part.
        change_common: L2 norm of the shared part of what the update changed in f.
        change_distinct: L2 norm of the other part.
        resolution: What rounding alone makes of f: below it a change means nothing.
        progress: By how much the loss falls, to first order, through what tells samples apart.
    """

    gradient_common: float
    gradient_distinct: float
    change_common: float
    change_distinct: float
    resolution: float
    progress: float

    @property
    def condition(self) -> float | None:
        """How many times faster outputs move together than apart, for gradients of equal size.

        The condition number of the neural tangent kernel, of which the constant direction has the
        largest eigenvalue in nets that forget their input (Xiao, Pennington & Schoenholz 2020).
        None where one of the two is not asked for, or nothing moves.
        """
        distinct = max(self.change_distinct, self.resolution)
        if not (self.gradient_common and self.gradient_distinct and distinct):
            return None
        together = self.change_common / self.gradient_common
        return together / (distinct / self.gradient_distinct)


def _extreme(
    choose: Callable[[list[float]], float], values: Iterable[float | None]
) -> float | None:
    """The extreme of what was measured; NaN where one is NaN, None without any."""
    known = [value for value in values if value is not None]
    if any(map(math.isnan, known)):
        return math.nan
    return choose(known) if known else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One optimizer step.

    Attributes:
        index: 0 for the step at initialisation.
        loss: The loss before the update.
        layers: In execution order.
        parameters: In the model's order.
        reference: Key of the layer that gradient ratios refer to: the last hidden weight layer, or
            the output layer where a path leads around it, as in a residual net.
        response: How the outputs answered the update; None where it was not measured: in the
            first half of the probe, with `compute_loss`, and for a batch of one.
    """

    index: int
    loss: float
    layers: tuple[LayerRecord, ...]
    parameters: tuple[ParameterRecord, ...]
    reference: tuple[str, int] | None = None
    response: Response | None = None

    def layer(self, key: tuple[str, int] | None) -> LayerRecord | None:
        """The layer with this key, or None."""
        return next((layer for layer in self.layers if layer.key == key), None)

    @property
    def first(self) -> LayerRecord | None:
        """The first layer of the depth profile; see `first_layer`."""
        return first_layer(self.layers)

    @property
    def end_to_end_ratio(self) -> float | None:
        """Gradient ratio of the first layer, over all calls of it.

        A layer that is used at every time step or depth learns from all of them together.
        """
        first = self.first
        if first is None or first.gradient_ratio is None:
            return None
        return over_calls(each.gradient_ratio for each in self.layers if each.name == first.name)

    @property
    def signal_reference(self) -> LayerRecord | None:
        """The last hidden layer that every path to the loss passes through; else the reference.

        An activation or normalisation will do: behind the last sum of a residual net the signal is
        whole, in the output layer a small initialisation may hide it.
        """
        shared = [layer for layer in self.layers if layer.bottleneck and not layer.output]
        behind = [layer for layer in shared if layer.role is not Role.CONTAINER]
        last = behind[-1] if behind else None
        reference = self.layer(self.reference)
        hidden = reference is not None and reference.bottleneck and not reference.output
        if last is None or last is self.first or hidden:
            return reference
        return last

    @property
    def worst_saturation(self) -> float | None:
        """The largest saturation of a hidden activation; None where none can saturate.

        As GC201 looks at it: gates saturate to do their work.
        """
        return _extreme(
            max, (each.saturation for each in self.layers if not (each.output or each.gate))
        )

    @property
    def smallest_update_ratio(self) -> float | None:
        """The smallest update ratio of a weight layer; None where none was updated."""
        return _extreme(
            min, (each.update_ratio for each in self.layers if each.role is Role.WEIGHT)
        )

    @property
    def end_to_end_signal(self) -> float | None:
        """Signal ratio of the signal reference: what is left of the first layer's signal."""
        reference = self.signal_reference
        return reference.signal_ratio if reference else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Generalization:
    """What a net that was trained on for longer knows of batches that it was not trained on.

    Attributes:
        steps: After how many steps in all.
        batches: How many different batches these went through.
        unlearnt: As `Recording.unlearnt`, of the other batches.
        regression: The share of the variance of their targets that kernel ridge regression, fitted
            to the batches of the net, does not explain; None where the net knows something, or
            where this was not measured.
        readout: The same of regression on the outputs of the net in place of its inputs, whatever
            their size; None likewise.
    """

    steps: int
    batches: int
    unlearnt: float
    regression: float | None = None
    readout: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """What was measured, before anyone judged it.

    Attributes:
        model: Class name of the model.
        optimizer: How the optimizer is configured: ``SGD(lr=0.01, momentum=0.9)``.
        objective: Where the loss came from: ``criterion``, ``compute_loss``, ``model`` (its own,
            or inferred from its output) or ``loop`` (a training loop that is watched).
        steps: One or more, in order; the last may have ended in NaN.
        course: The loss at each step that was made, where the net was followed beyond the steps
            that were measured; empty otherwise.
        paces: The share of the loss that a step won by telling samples apart, at each look back
            from a plateau: after a quarter of the course, and at its end.
        unlearnt: As `unexplained`, at the end of the course, as a mean over all batches.
        generalization: What it knows of other batches, where the net was trained on to tell.
        batches: How many different batches they were made with.
        never_called: Modules that own parameters and did not run.
        without_effect: Layers that ran and received no gradient, and whose values do not reach the
            loss either: an auxiliary head that the loss leaves out.
        telling: Recurrent layers with a fading `time_profile` whose states the loss knows how to
            use: it rises by more than a tenth where the samples of a batch exchange them.
        unexplained: The loss over what it is where the samples of a batch exchange the model's
            outputs: 0 for a net that has learnt its batch, 1 for one that knows nothing of it. Only
            measured where a parameter stands still, and None where the outputs do not tell. Of a
            run that is watched, the latest loss over the first.
        accounted: How much of what outputs do to the user's own criterion its gradient accounts
            for: 1, and about 0 where the part that matters is computed from detached outputs. None
            for torch's own losses, and where differences do not tell.
        rate_share: The learning rate over the one that a scheduler started from, where it holds it
            lower; the smallest of all parameter groups.
        unregistered: Tensors with a gradient that the model keeps where `model.parameters()` does
            not look, as in a list of layers, and that the optimizer does not have either.
        misspelt: Attributes that look like a misspelt or misplaced `requires_grad`, as
            ``fc1.weight.require_grad``.
        history: The course of the run, where a training loop was watched.
    """

    model: str
    optimizer: str
    objective: str = "criterion"
    steps: tuple[Step, ...]
    course: tuple[float, ...] = ()
    paces: tuple[float, ...] = ()
    unlearnt: float | None = None
    generalization: Generalization | None = None
    batches: int = 1
    never_called: tuple[str, ...] = ()
    without_effect: tuple[str, ...] = ()
    telling: tuple[str, ...] = ()
    unexplained: float | None = None
    accounted: float | None = None
    rate_share: float = 1.0
    unregistered: tuple[ParameterRecord, ...] = ()
    misspelt: tuple[str, ...] = ()
    history: History | None = None

    def at(self, index: int) -> Step:
        """The measured step of this number."""
        return next(step for step in self.steps if step.index == index)

    @property
    def settled(self) -> tuple[Step, ...]:
        """The second half of the steps: what still holds there has persisted."""
        return self.steps[len(self.steps) // 2 :]

    @property
    def last_loss(self) -> float:
        """The loss at the last step that was made, measured or not."""
        return self.course[-1] if self.course else self.steps[-1].loss

    @property
    def late(self) -> bool:
        """Whether these are the last steps of a course, measured because it got nowhere."""
        return 0 < len(self.course) == self.steps[-1].index + 1 > len(self.steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that a rule found, as evidence; sentences are written by the reports.

    Attributes:
        code: Stable code, ``GC101``.
        rule: Its name, ``vanishing-gradient``.
        severity: How bad.
        layers: Names of the layers or parameters concerned, in execution order.
        culprit: The one where it starts, when that can be said.
        observed: The measured value that broke the limit; None when it is not a number.
        limit: The limit it broke.
        steps: Indices of the steps at which it held.
        cause: A key for the likely cause, as ``squashing-activation``; None when not known.
        evidence: Further facts as (name, value) pairs.
        consequences: Findings that this one explains.
        prescriptions: Keys of treatments that are likely to help, best first.
    """

    code: str
    rule: str
    severity: Severity
    layers: tuple[str, ...] = ()
    culprit: str | None = None
    observed: float | None = None
    limit: float | None = None
    steps: tuple[int, ...] = ()
    cause: str | None = None
    evidence: tuple[tuple[str, float | int | str], ...] = ()
    consequences: tuple[Finding, ...] = ()
    prescriptions: tuple[str, ...] = ()

    def fact(self, name: str) -> float | int | str | None:
        """The piece of evidence with this name, or None."""
        return dict(self.evidence).get(name)

    def walk(self) -> Iterator[Finding]:
        """This finding, then everything folded under it."""
        yield self
        for consequence in self.consequences:
            yield from consequence.walk()
