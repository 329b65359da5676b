"""Run by torchrun from `test_processes`: trainings by two processes, and what their monitors say.

Each process writes ``<rank>.json`` into the folder that is given as argument.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel
from typing_extensions import Self

from gradcheckup import GradcheckupError, watch
from gradcheckup.watching import processes

try:
    from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
except ImportError:  # torch < 2.6, where it needs a GPU
    from torch.distributed._composable.fsdp import fully_shard
    from torch.distributed.fsdp import FullyShardedDataParallel

    SHARDS = False
else:
    SHARDS = True

ROWS = 16
STEPS = 9


class Net(nn.Module):
    def __init__(self, depth: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(6, 11)
        self.blocks = nn.ModuleList(nn.Linear(11, 11) for _ in range(depth))
        self.head = nn.Linear(11, 3)
        self.short = False
        self.poison = False

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x))
        for block in self.blocks[:2] if self.short else self.blocks:
            x = torch.relu(block(x))
        return self.head(x / 0 if self.poison else x)


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(ROWS, 6, generator=generator)
    return x, torch.randn(ROWS, 3, generator=generator)


def train(
    model: nn.Module,
    monitored: Callable[[torch.optim.Optimizer], Any],
    *,
    rank: int = 0,
    size: int = 1,
    each: Callable[[int], object] = int,
) -> tuple[Any, list[float]]:
    """A monitor after `STEPS` steps on this process's share of each batch, and the losses."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    monitor = monitored(optimizer)
    losses = []
    for step in range(STEPS):
        each(step)
        x, y = (part.chunk(size)[rank] for part in batch(step))
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return monitor, losses


class Counter:
    """Counts the sums over processes that a monitor makes."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self._original = processes.Processes._sum

    def __enter__(self) -> Self:
        def counted(these: processes.Processes, terms: Any) -> Any:
            self.sizes.append(len(terms))
            return self._original(these, terms)

        processes.Processes._sum = counted
        return self

    def __exit__(self, *_: object) -> None:
        processes.Processes._sum = self._original


def told(monitor: Any) -> dict[str, Any]:
    report = monitor.report()
    return {
        "report": json.loads(report.to_json()),
        "text": str(report),
        "failure": monitor.failure,
        "rank": monitor.rank,
    }


def refused(make: Callable[[], Any]) -> str:
    try:
        make()
    except GradcheckupError as error:
        return f"{type(error).__name__}: {error}"
    return "not refused"


def alone(rank: int) -> dict[str, Any]:
    """One process, which sees the whole batches."""
    own = dist.new_group([rank], use_local_synchronization=True)
    monitor, losses = train(
        (net := Net()), lambda made: watch(net, made, every=1, process_group=own)
    )
    return {**told(monitor), "losses": losses}


def by_hand(_: int) -> dict[str, Any]:
    """||dL/dy|| of the layers over the first batch, and their spread in halves of it."""
    net = Net().double()
    x, y = (part.double() for part in batch(0))
    outputs = []
    for layer in (net.first, *net.blocks, net.head):
        layer.register_forward_hook(lambda *passed: outputs.append(passed[-1]))
    loss = nn.functional.mse_loss(net(x), y)
    gradients = torch.autograd.grad(loss, outputs)
    halves = [torch.stack([half.var(0) for half in each.chunk(2)]) for each in outputs]
    return {
        "norms": [each.norm().item() for each in gradients],
        "signals": [each.mean().sqrt().item() for each in halves],
    }


def ddp(rank: int) -> dict[str, Any]:
    """Seen at every step."""
    model = DistributedDataParallel(Net())
    with Counter() as counter:
        monitor, losses = train(model, lambda made: watch(model, made, every=1), rank=rank, size=2)
    plain = DistributedDataParallel(Net())
    _, without = train(plain, lambda _: None, rank=rank, size=2)
    return {**told(monitor), "sums": counter.sizes, "same": losses == without}


def rarely(rank: int) -> dict[str, Any]:
    """Seen at every fourth step; counts the sums of each step."""
    model = DistributedDataParallel(Net())
    sums = []
    with Counter() as counter:
        monitor, _ = train(
            model,
            lambda made: watch(model.module, made, every=4),
            rank=rank,
            size=2,
            each=lambda _: sums.append(len(counter.sizes)),
        )
    return {**told(monitor), "sums": [*sums, len(counter.sizes)]}


def deep(rank: int) -> dict[str, Any]:
    """So many layers that glances share them out; beside one process with the whole batches."""
    own = dist.new_group([rank], use_local_synchronization=True)
    net = Net(12)
    whole, _ = train(net, lambda made: watch(net, made, every=1, process_group=own))
    model = DistributedDataParallel(Net(12))
    with Counter() as counter:
        monitor, _ = train(model, lambda made: watch(model, made, every=1), rank=rank, size=2)
    return {**told(monitor), "whole": told(whole), "sums": counter.sizes}


def fsdp(rank: int) -> dict[str, Any]:
    model = Net()
    for layer in (model.first, *model.blocks):
        fully_shard(layer)
    fully_shard(model)
    monitor, _ = train(model, lambda made: watch(model, made, every=1), rank=rank, size=2)
    return told(monitor)


def hybrid(rank: int) -> dict[str, Any]:
    """Each parameter whole in both processes, as a DTensor."""
    mesh = init_device_mesh("cpu", (2, 1), mesh_dim_names=("replicate", "shard"))
    model = Net()
    fully_shard(model, mesh=mesh)
    monitor, _ = train(model, lambda made: watch(model, made, every=1), rank=rank, size=2)
    return told(monitor)


def poisoned(rank: int) -> dict[str, Any]:
    """From step 5 on, one process has NaN in its share of the batch."""
    net = Net()
    model = DistributedDataParallel(net)
    findings: list[str] = []
    reached = []

    def poison(step: int) -> None:
        reached.append(step)
        net.poison = step == 5 and rank == 1

    caught = refused(
        lambda: train(
            model,
            lambda made: watch(
                model,
                made,
                every=1,
                on_finding=lambda finding: findings.append(finding.code),
                stop_on="critical",
            ),
            rank=rank,
            size=2,
            each=poison,
        )
    )
    return {"caught": caught, "findings": findings, "reached": reached[-1]}


def poisoned_unstopped(rank: int) -> dict[str, Any]:
    net = Net()
    model = DistributedDataParallel(net)

    def poison(step: int) -> None:
        net.poison = step == 5 and rank == 1

    with warnings.catch_warnings():
        monitor, _ = train(
            model, lambda made: watch(model, made, every=1), rank=rank, size=2, each=poison
        )
    return told(monitor)


def different(rank: int) -> dict[str, Any]:
    """At two steps one process leaves a layer out."""
    net = Net()
    model = DistributedDataParallel(net, find_unused_parameters=True)

    def shorten(step: int) -> None:
        net.short = step in {2, 5} and rank == 1

    monitor, _ = train(
        model, lambda made: watch(model, made, every=1), rank=rank, size=2, each=shorten
    )
    return told(monitor)


def broken(rank: int) -> dict[str, Any]:
    """One monitor fails; the training goes on in both processes, without delay."""
    model = DistributedDataParallel(Net())
    made: list[Any] = []

    def start(optimizer: torch.optim.Optimizer) -> Any:
        made.append(watch(model, optimizer, every=1))
        return made[0]

    def break_one(step: int) -> None:
        if step == 2 and rank == 1:
            made[0]._sampler._glance.put = None  # what a mistake of ours would look like

    begun = time.monotonic()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        monitor, losses = train(model, start, rank=rank, size=2, each=break_one)
    return {
        **told(monitor),
        "steps": len(losses),
        "seconds": time.monotonic() - begun,
        "warnings": [str(each.message) for each in said],
    }


def refusals(rank: int) -> dict[str, str]:
    answers = {}
    own = dist.new_group([rank], use_local_synchronization=True)
    answers["own"] = refused(lambda: watch(Net(), process_group=own).close())
    answers["every"] = refused(lambda: watch(Net(), every=1 + rank))
    answers["group"] = refused(lambda: watch(Net(), process_group="all"))
    mesh = init_device_mesh("cpu", (2,))
    split = parallelize_module(Net(), mesh, {"first": ColwiseParallel()})
    answers["tensor"] = refused(lambda: watch(split))
    sharded = fully_shard(Net())
    answers["mesh"] = refused(lambda: watch(sharded, process_group=own))
    flat = FullyShardedDataParallel(Net(), device_id=torch.device("cpu"))
    answers["flat"] = refused(lambda: watch(flat))
    processes.PATIENCE = timedelta(seconds=2)
    answers["alone"] = refused(lambda: watch(Net())) if rank == 0 else ""
    dist.barrier()
    return answers


def resumed(rank: int, folder: Path) -> dict[str, Any]:
    """A log that goes on, with an `every` that only fits if all count from the same step."""

    def part() -> Any:
        net = Net()
        model = DistributedDataParallel(net)
        monitor, _ = train(
            model,
            lambda made: watch(net, made, every=4, log=folder / "run.jsonl"),
            rank=rank,
            size=2,
        )
        monitor.close()
        return monitor

    part()
    monitor = part()
    return {"steps": monitor.steps, "failure": monitor.failure}


def main() -> None:
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    net = Net()
    early, _ = train(net, lambda made: watch(net, made))
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    rank = dist.get_rank()
    scenarios = (
        alone,
        by_hand,
        ddp,
        rarely,
        deep,
        *((fsdp, hybrid) if SHARDS else ()),
        poisoned,
        poisoned_unstopped,
        different,
        broken,
    )
    results: dict[str, Any] = {each.__name__: each(rank) for each in scenarios}
    results["early"] = told(early)
    results["resumed"] = resumed(rank, folder)
    results["refusals"] = refusals(rank)
    (folder / f"{rank}.json").write_text(json.dumps(results))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
