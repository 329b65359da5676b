"""What watching a training loop costs, against the same loop unwatched.

    python -m benchmarks.overhead

Every way of watching has a net and an optimizer of its own, from the same seed. In a round each
makes ten steps, in turns of one, in an order that is drawn anew each time: a round gives a pair for
each of them, and what slows the machine down slows both. On the CPU, seconds are those that one
thread computed; on a GPU, those of the clock behind `torch.cuda.synchronize()`, and turns are of
ten steps, so that one is queued while another runs, as in a real loop.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import itertools
import logging
import math
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import click
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

import gradcheckup
from benchmarks.workloads import WORKLOADS, Workload

ROUND = 10


class Loop:
    """A training loop of its own."""

    def __init__(self, workload: Workload, device: torch.device) -> None:
        torch.manual_seed(0)
        self.model = workload.model().to(device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)
        self.inputs, self.targets = (each.to(device) for each in workload.batch())
        self.clip = False
        self.device = device

    def step(self) -> None:
        """One step, as users write it."""
        self.optimizer.zero_grad()
        outputs = self.model(self.inputs)
        nn.functional.cross_entropy(outputs.flatten(0, -2), self.targets.flatten()).backward()
        if self.clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()

    def turn(self, steps: int) -> float:
        """Seconds of so many steps."""
        clock = time.thread_time if self.device.type == "cpu" else time.perf_counter
        self._wait()
        began = clock()
        for _ in range(steps):
            self.step()
        self._wait()
        return clock() - began

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


Way = Callable[[Loop], None]
"""Attaches something to a loop."""


def clipped(loop: Loop) -> None:
    """For scale: what many loops do anyway."""
    loop.clip = True


def every(steps: int) -> Way:
    """Gradcheckup at one of so many steps."""

    def attach(loop: Loop) -> None:
        gradcheckup.watch(loop.model, loop.optimizer, every=steps)

    return attach


def wandb_watched(loop: Loop) -> None:
    """Wandb's histograms of gradients, offline, at one of ten steps."""
    import wandb  # a peer, measured where it is installed

    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    run = wandb.init(mode="offline", dir=folder, settings=wandb.Settings(silent=True))
    run.watch(loop.model, log_freq=ROUND)
    # It logs what it saw with what the loop logs.
    loop.optimizer.register_step_post_hook(lambda *_: run.log({"step": 1}))


def torchmortem_watched(loop: Loop) -> None:
    """Torchmortem as it comes."""
    import torchmortem  # a peer, measured where it is installed

    logging.getLogger("torchmortem").setLevel(logging.CRITICAL)
    autopsy = torchmortem.Autopsy(loop.model, optimizer=loop.optimizer)
    autopsy.__enter__()
    with contextlib.suppress(AttributeError):  # it would write a report into this folder
        atexit.unregister(autopsy._atexit_handler)  # noqa: SLF001 - there is no public way
    loop.optimizer.register_step_post_hook(lambda *_: autopsy.step(loss=1.0))


WAYS: Mapping[str, Way] = {
    "clip_grad_norm_": clipped,
    "watch, every step": every(1),
    "watch, every 10th": every(ROUND),
    "wandb.watch, every 10th": wandb_watched,
    "torchmortem": torchmortem_watched,
}
_NEEDS = {"wandb.watch, every 10th": "wandb", "torchmortem": "torchmortem"}


@dataclass
class Times:
    """Seconds of each round, of a way of watching and of the plain loop beside it."""

    watched: list[float] = field(default_factory=list)
    plain: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Of the ratios, round by round."""
        return statistics.median(a / b for a, b in zip(self.watched, self.plain, strict=True))

    @property
    def error(self) -> float:
        """Standard error of the median, as of normal noise whose quartiles are the ratios'."""
        ratios = [a / b for a, b in zip(self.watched, self.plain, strict=True)]
        lower, _, upper = statistics.quantiles(ratios, n=4)
        # sqrt(pi / 2) errors of the mean; quartiles of a normal are 1.349 deviations apart
        return 1.2533 * (upper - lower) / 1.349 / math.sqrt(len(ratios))

    @property
    def whole(self) -> float:
        """Of all rounds together, so that steps measured in full count as often as they come."""
        return sum(self.watched) / sum(self.plain)


def measure(
    workload: Workload, ways: Mapping[str, Way], rounds: int, device: torch.device
) -> dict[str, Times]:
    """Times all ways of watching in turns, from their first step on.

    A peer that breaks the loop is left out.
    """
    loops = {name: Loop(workload, device) for name in ("plain", *ways)}
    for loop in loops.values():
        loop.turn(ROUND)  # allocators and caches
    for name in [name for name in ways if name in _NEEDS]:
        trial = Loop(workload, device)
        try:
            ways[name](trial)
            trial.step()
        except RuntimeError as error:
            click.echo(f"{name} fails: {str(error).splitlines()[0][:90]}", err=True)
            del loops[name]
    for name in loops.keys() - {"plain"}:
        ways[name](loops[name])
    found = {name: Times() for name in ways if name in loops}
    order, steps = list(loops), 1 if device.type == "cpu" else ROUND
    for _ in range(rounds):
        taken = dict.fromkeys(loops, 0.0)
        for _ in range(ROUND // steps):
            random.shuffle(order)
            for name in order:
                taken[name] += loops[name].turn(steps)
        for name, times in found.items():
            times.watched.append(taken[name])
            times.plain.append(taken["plain"])
    return found


def peak(workload: Workload, attach: Way | None) -> int:
    """The most bytes that torch holds at once on the CPU, from the model's first to its third step.

    The first two of them are measured in full, where the loop is watched.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        loop = Loop(workload, torch.device("cpu"))
        if attach:
            attach(loop)
        for _ in range(3):
            loop.step()
    changes = sorted(
        (event.start_ns(), event.nbytes())
        for event in profiled.profiler.kineto_results.events()
        if event.name() == "[memory]"
    )
    return max(itertools.accumulate(change for _, change in changes))


@click.command()
@click.option("--rounds", default=40, show_default=True, type=click.IntRange(min=3))
@click.option("--only", help="Workloads whose name begins like this.", default="")
@click.option("--memory/--no-memory", default=True, show_default=True)
@click.option("--peers/--no-peers", default=True, show_default=True, help="Time other tools too.")
def main(rounds: int, only: str, memory: bool, peers: bool) -> None:
    """Print the ratio of watched to plain training, for three loops."""
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    known = {
        name: way
        for name, way in WAYS.items()
        if name not in _NEEDS or (peers and importlib.util.find_spec(_NEEDS[name]))
    }
    click.echo(f"{rounds} rounds of {ROUND} steps on {device.type}, torch {torch.__version__}")
    click.echo("| loop | way | median ratio | of all steps | peak memory |")
    click.echo("|---|---|---|---|---|")
    for name, workload in WORKLOADS.items():
        if not name.startswith(only):
            continue
        plain = peak(workload, None) if memory else 0
        for way, times in measure(workload, known, rounds, device).items():
            share = f"{peak(workload, known[way]) / plain:.3f}" if plain else "–"
            ratio = f"{times.median:.3f} ± {times.error:.3f}"
            click.echo(f"| {name} | {way} | {ratio} | {times.whole:.3f} | {share} |")


if __name__ == "__main__":
    main()
