"""What the demos have in common: the net that does not learn, its training, and three measures."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from deep_sigmoid import build_model, digits, fashion_mnist
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

import gradcheckup
from gradcheckup import Report, Treated

# Tuned for the treated nets; without a treatment the net learns at no rate that was tried.
LEARNING_RATE = 0.1
MOMENTUM = 0.9
BATCH_SIZE = 256
EPOCHS = {"digits": 120, "fashion-mnist": 4}
HELD_OUT = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """The deep sigmoid net at one seed, with its optimizer and data.

    Attributes:
        model: As `deep_sigmoid.py` builds it.
        optimizer: Of the model.
        criterion: Cross entropy.
        training: Inputs and targets of four fifths of the samples.
        held_out: Those of the others, to count right answers on.
        epochs: Of each training.
        seed: Of weights, split and order.
    """

    model: nn.Module
    optimizer: Optimizer
    criterion: nn.Module
    training: tuple[Tensor, Tensor]
    held_out: tuple[Tensor, Tensor]
    epochs: int
    seed: int

    @classmethod
    def build(cls, options: Namespace, seed: int) -> Case:
        """The net and the data that the options name; the same for the same seed."""
        digital = options.data == "digits"
        samples = digits() if digital else fashion_mnist(options.data_root)
        inputs, targets = next(iter(DataLoader(samples, batch_size=len(samples))))
        order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed))
        aside = round(HELD_OUT * len(inputs))
        torch.manual_seed(seed)
        model = build_model(inputs[0].numel())
        return cls(
            model=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM),
            criterion=nn.CrossEntropyLoss(),
            training=(inputs[order[aside:]], targets[order[aside:]]),
            held_out=(inputs[order[:aside]], targets[order[:aside]]),
            epochs=options.epochs or EPOCHS[options.data],
            seed=seed,
        )

    def batches(self, epoch: int = 0) -> Sequence[tuple[Tensor, Tensor]]:
        """Those of an epoch, the same ones for every net."""
        inputs, targets = self.training
        shuffle = torch.Generator().manual_seed(10_000 * self.seed + epoch)
        order = torch.randperm(len(inputs), generator=shuffle)
        return [(inputs[part], targets[part]) for part in order.split(BATCH_SIZE)]

    def treat(self, text: str, **options: float) -> Treated:
        """A treated copy of the net and of its optimizer; both stay as they are."""
        return gradcheckup.treat(
            self.model,
            text,
            self.batches(),
            self.criterion,
            optimizer=self.optimizer,
            seed=self.seed,
            **options,
        )

    def diagnose(self, model: nn.Module, optimizer: Optimizer) -> Report:
        """A checkup on batches of the first epochs; changes neither of the two."""
        batches = [*self.batches(0), *self.batches(1)]
        return gradcheckup.diagnose(
            model, batches, self.criterion, optimizer=optimizer, seed=self.seed
        )

    def accuracy(self, model: nn.Module) -> float:
        """Share of right answers on what was held out."""
        inputs, targets = self.held_out
        model.eval()
        with torch.no_grad():
            right = model(inputs).argmax(1) == targets
        model.train()
        return float(right.float().mean())

    def train(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        epochs: Sequence[int],
        tick: Callable[[], None],
    ) -> None:
        """The training loop, as anyone would write it."""
        for epoch in epochs:
            for inputs, targets in self.batches(epoch):
                optimizer.zero_grad()
                self.criterion(model(inputs), targets).backward()
                optimizer.step()
            tick()


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """What became of a net.

    Attributes:
        report: Before it was trained.
        stages: At the start of each stage, where it was trained in stages; the last one trains all
            layers.
        trained: After the training.
        accuracy: Before and after.
    """

    report: Report
    stages: tuple[Report, ...]
    trained: Report
    accuracy: tuple[float, float]


def follow(case: Case, treated: Treated | None, tick: Callable[[], None]) -> Course:
    """Diagnoses a net, trains it, and diagnoses it again; the case's own without a treatment."""
    model = treated.model if treated else case.model
    optimizer = (treated.optimizer if treated else None) or case.optimizer
    report, accuracy = case.diagnose(model, optimizer), case.accuracy(model)
    stages: list[Report] = []
    if treated and treated.plan:
        plan = treated.plan.stages
        # As many epochs in all as any other net has, each stage an equal share of them.
        shares = torch.arange(case.epochs).tensor_split(len(plan))
        for stage, share in zip(plan, shares, strict=True):
            optimizer = stage.optimizer
            stages.append(case.diagnose(model, optimizer))
            case.train(model, optimizer, share.tolist(), tick)
    else:
        case.train(model, optimizer, range(case.epochs), tick)
    return Course(
        report=report,
        stages=tuple(stages),
        trained=case.diagnose(model, optimizer),
        accuracy=(accuracy, case.accuracy(model)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a mitigation is to put right.

    Attributes:
        measure: Its name.
        short: The same in one word.
        values: One, or one a stage.
        healthy: The range they are to lie in.
    """

    measure: str
    short: str
    values: tuple[float, ...]
    healthy: tuple[float, float]

    @property
    def is_healthy(self) -> bool:
        """Whether all of them do."""
        low, high = self.healthy
        return bool(self.values) and all(low <= value <= high for value in self.values)

    def __str__(self) -> str:
        return " … ".join(dict.fromkeys((number(min(self.values)), number(max(self.values)))))


Measure = Callable[[Course], Reading]


def flow(course: Course) -> Reading:
    """The gradient of the first layer over that of the last hidden one, before the training."""
    return _flow("gradient ratio", "gradient", course.report)


def flow_of_stages(course: Course) -> Reading:
    """The same of each shallow net that is trained on the way to the whole one."""
    return _flow("gradient ratio in each stage", "stages", *course.stages[:-1])


def updates(course: Course) -> Reading:
    """By which share of its weights the slowest layer moves at the last step of the probe."""
    limits = course.report.thresholds
    slowest = course.report.step(-1).smallest_update_ratio
    return Reading(
        measure="smallest update ratio",
        short="updates",
        values=() if slowest is None else (slowest,),
        healthy=(limits.moving_update, limits.oversized_update),
    )


def _flow(measure: str, short: str, *reports: Report) -> Reading:
    limits = reports[0].thresholds
    ratios = [report.end_to_end_ratio for report in reports]
    return Reading(
        measure=measure,
        short=short,
        values=tuple(0.0 if ratio is None else ratio for ratio in ratios),
        healthy=(limits.gradient_ratio_low, limits.gradient_ratio_high),
    )


def number(value: float) -> str:
    """Two digits: ``7.3e-6``, ``0.55``, ``990``."""
    return f"{float(f'{value:.2g}'):g}".replace("e-0", "e-")
