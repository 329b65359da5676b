"""Tensors that stand for parts or copies in several processes: what this one holds of them."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gradcheckup.errors import UsageError


def is_distributed(tensor: Tensor) -> bool:
    """Whether a tensor stands for parts or copies in several processes."""
    return _placements(tensor) is not None


def own_part(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor: all of it, or a shard."""
    if not is_distributed(tensor):
        return tensor.detach()
    with torch.no_grad():
        part: Tensor = tensor.to_local()  # type: ignore[attr-defined]
    return part.detach()


def shards(tensor: Tensor) -> int:
    """Into how many parts a tensor is split over the processes; 1 where each holds all of it."""
    placements = _placements(tensor)
    if placements is None:
        return 1
    mesh: Any = tensor.device_mesh  # type: ignore[attr-defined]
    split = (dim for dim, each in enumerate(placements) if not each.is_replicate())
    return math.prod(int(mesh.size(dim)) for dim in split)


def _placements(tensor: Tensor) -> Any:
    """Of a DTensor; None for others. Importing its class would cost every single process."""
    return getattr(tensor, "placements", None) if hasattr(tensor, "to_local") else None


def check_wrappers(model: nn.Module) -> None:
    """Refuses what runs a model out of our sight.

    Raises:
        UsageError: It is wrapped in that.
    """
    known: Any = sys.modules.get("torch.distributed.fsdp")
    for module in model.modules():
        if isinstance(module, nn.DataParallel) and len(module.device_ids) > 1:
            raise UsageError(
                "expected one device in a process, but nn.DataParallel runs copies of the model in "
                "threads: use DistributedDataParallel, started with torchrun"
            )
        if known is not None and isinstance(module, known.FullyShardedDataParallel):
            raise UsageError(
                "expected parameters that stay what they are, but FullyShardedDataParallel (FSDP1) "
                "flattens them: use torch.distributed.fsdp.fully_shard, which replaced it"
            )


def check_shards(model: nn.Module, ranks: Sequence[int]) -> None:
    """Refuses parameters that are split in another way than by `fully_shard`.

    A layer that is split itself, as by tensor parallelism, hands on a part of its output, or all,
    and nothing tells which.

    Args:
        model: The whole of it.
        ranks: Of the processes that watch it.

    Raises:
        UsageError: It has such parameters, or is split over other processes.
    """
    split = {name: each for name, each in model.named_parameters() if _placements(each) is not None}
    if not split:
        return
    whole = _sharded_data_parallel(model)
    for name, parameter in split.items():
        mesh: Any = parameter.device_mesh  # type: ignore[attr-defined]
        placements = _placements(parameter)
        shards = [each for each in placements if not each.is_replicate()]
        if id(parameter) not in whole or len(shards) > 1 or any(map(_is_partial, shards)):
            raise UsageError(
                f"expected parameters that are whole or split by fully_shard alone, but {name} is "
                f"split as {tuple(placements)}: tensor parallel models cannot be watched; "
                "diagnose() the model in one process"
            )
        if sorted(mesh.mesh.flatten().tolist()) != sorted(ranks):
            raise UsageError(
                f"expected {name} to be split over the {len(ranks)} watched processes, but its "
                f"mesh has {mesh.size()}: pass process_group= of those"
            )


def _sharded_data_parallel(model: nn.Module) -> set[int]:
    """The `id` of all parameters inside of a module that `fully_shard` was applied to."""
    room: Any = sys.modules.get("torch.distributed.fsdp")
    kind = getattr(room, "FSDPModule", None)
    if kind is None:  # torch < 2.6
        early: Any = sys.modules.get("torch.distributed._composable.fsdp")
        kind = getattr(early, "FSDPModule", None) or getattr(early, "FSDP", None)
    if kind is None:
        return set()
    return {
        id(parameter)
        for module in model.modules()
        if isinstance(module, kind)
        for parameter in module.parameters()
    }


def _is_partial(placement: Any) -> bool:
    return bool(placement.is_partial())
