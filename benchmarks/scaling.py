"""How the cost of watching grows with layers and with the batch, and memory with the steps.

    python -m benchmarks.scaling

Timed as `benchmarks.overhead` does, on its MLP made shallower and deeper, and with smaller and
larger batches. "One pass" is one `torch.linalg.vector_norm` over every gradient that is read: what
no monitor of these norms can do without, and the one part that grows with the batch.
"""

from __future__ import annotations

import gc
import statistics
import time

import click
import torch
from torch import Tensor

import gradcheckup
from benchmarks.overhead import TURN, Loop, every, measure
from benchmarks.workloads import WIDTH, Workload, mlp

_DEPTHS = (10, 20, 40, 80)
_BATCHES = (32, 128, 512)


def _workload(depth: int, batch: int) -> Workload:
    return Workload(
        lambda: mlp(depth), lambda: (torch.randn(batch, WIDTH), torch.randint(0, 10, (batch,)))
    )


def extra(depth: int, batch: int, rounds: int) -> float:
    """Seconds that a watched step takes longer than a plain one, as the median over turns."""
    ways = {"watched": every(1)}
    times = measure(_workload(depth, batch), ways, rounds, torch.device("cpu"))["watched"]
    pairs = zip(times.watched, times.plain, strict=True)
    return statistics.median(watched - plain for watched, plain in pairs) / TURN


def one_pass(depth: int, batch: int) -> float:
    """Seconds of the norms alone."""
    read: list[Tensor] = [torch.randn(batch, WIDTH) for _ in range(depth)]
    taken = []
    for _ in range(50):
        began = time.thread_time()
        for each in read:
            torch.linalg.vector_norm(each)
        taken.append(time.thread_time() - began)
    return statistics.median(taken)


def tensor_bytes() -> int:
    """Bytes of all tensors that Python reaches."""
    gc.collect()
    held = {
        each.untyped_storage().data_ptr(): each.untyped_storage().nbytes()
        for each in gc.get_objects()
        if issubclass(type(each), Tensor)
    }
    return sum(held.values())


@click.command()
@click.option("--rounds", default=30, show_default=True, type=click.IntRange(min=3))
@click.option("--steps", default=2000, show_default=True, type=click.IntRange(min=200))
def main(rounds: int, steps: int) -> None:
    """Print what a watched step costs by depth and batch, and what is held along a run."""
    torch.set_num_threads(1)
    click.echo("| layers | batch | extra a step | extra a layer | of that, one pass |")
    click.echo("|---|---|---|---|---|")
    settings = [(depth, 128) for depth in _DEPTHS] + [(40, batch) for batch in _BATCHES]
    for depth, batch in dict.fromkeys(settings):
        cost, least = extra(depth, batch, rounds), one_pass(depth, batch)
        click.echo(
            f"| {depth} | {batch} | {cost * 1e3:.2f} ms | {cost / depth * 1e6:.0f} us "
            f"| {least / depth * 1e6:.0f} us |"
        )
    click.echo("\n| steps, every one watched | bytes of tensors | Python objects |")
    click.echo("|---|---|---|")
    loop = Loop(_workload(10, 32), torch.device("cpu"))
    monitor = gradcheckup.watch(loop.model, loop.optimizer, every=1)
    while monitor.steps < steps:
        for _ in range(steps // 4):
            loop.step()
        click.echo(f"| {monitor.steps} | {tensor_bytes():,} | {len(gc.get_objects()):,} |")


if __name__ == "__main__":
    main()
