"""Several processes that train one model, each on its share of every batch.

All of them look at the same steps. What they read becomes one set of numbers in one sum over the
processes, by the rules of `capture.pooling`, so that each of them reports and decides alike.

The sum goes over connections of its own, from host to host: it never mixes with the collectives of
the training, and a process that does not come costs the others their monitor and not their run.
Leaving closes the connections, which ends the monitors of the others too, at once.
"""

from __future__ import annotations

import hashlib
import math
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from gradcheckup.capture.pooling import Pooling
from gradcheckup.capture.readings import Measured, Readings
from gradcheckup.errors import GradcheckupError, UsageError
from gradcheckup.tracebacks import one_line
from gradcheckup.watching.sharding import check_shards

PATIENCE = timedelta(seconds=120)
"""How long a process waits for the others."""

_PLACE_BITS = 20

_MEETINGS: Counter[tuple[int, ...]] = Counter()
"""How often these processes have met."""


class LeftAloneError(GradcheckupError):
    """Another process has stopped watching, has ended or does not come."""


@dataclass(frozen=True, slots=True)
class Told:
    """What one process tells the others of a look, beside its numbers.

    Attributes:
        names: What ran, in execution order; empty where no backward pass was seen.
        culprit: Where the first NaN or Inf of its own was: 0 for nowhere, 1 for the loss, 2 for the
            first layer, and so on.
    """

    names: tuple[str, ...] = ()
    culprit: int = 0


def of_look(layers: Sequence[Measured], loss: float | None) -> Told:
    """What a full look tells: a layer whose output is not finite comes before the loss."""
    names = tuple(each.name for each in layers)
    outputs = [each.peak if each.signal is None else each.signal for each in layers]
    broken = next((place for place, value in enumerate(outputs) if not _finite(value)), None)
    if broken is not None:
        return Told(names, 2 + broken)
    return of_glance(names, [each.gradient_norm for each in layers], loss)


def of_glance(names: Sequence[str], norms: Sequence[float | None], loss: float | None) -> Told:
    """What a glance tells: the loss, or the layer whose gradient broke first, so the last one."""
    broken = [place for place, norm in enumerate(norms) if not _finite(norm)]
    culprit = 1 if not _finite(loss) else 2 + broken[-1] if broken else 0
    return Told(tuple(names), culprit)


@dataclass(frozen=True, slots=True)
class Exchange:
    """What the processes told each other about one step.

    Attributes:
        seen: How many of them saw a backward pass.
        readings: Of all together; None where not all saw one, or not the same layers.
        culprits: Of each process that read a NaN or Inf, its rank and the layer, or ``loss``.
    """

    seen: int
    readings: Readings | None = None
    culprits: tuple[tuple[int, str], ...] = ()


class Processes:
    """Those that train one model together, seen from one of them.

    Attributes:
        ranks: Of all, in the whole training.
        rank: Of this one.
    """

    def __init__(self, group: Any, ranks: Sequence[int]) -> None:
        """Takes connections that nobody else uses.

        Args:
            group: A `ProcessGroupGloo`.
            ranks: Of its members, in the order of their places in it.
        """
        self.ranks = tuple(ranks)
        self.rank = dist.get_rank()
        self._place = self.ranks.index(self.rank)
        self._group = group
        self._room: dict[bool, int] = {}

    @property
    def size(self) -> int:
        """How many they are."""
        return len(self.ranks)

    @property
    def leads(self) -> bool:
        """Whether this one is the first, which writes the log."""
        return self._place == 0

    def agree(self, what: str) -> None:
        """Makes sure that all of them watch the same.

        Args:
            what: A text that has to be the same in all.

        Raises:
            UsageError: It is another one in some.
        """
        marks, _ = self._told(1 + zlib.crc32(what.encode()), ())
        others = [rank for rank, mark in zip(self.ranks, marks, strict=True) if mark != marks[0]]
        if others:
            raise UsageError(
                f"expected watch() with the same model and arguments in all {self.size} processes, "
                f"but {_named(others)} is called with others than rank {self.ranks[0]}: pass "
                "process_group= of the processes that train the same model"
            )

    def exchange(
        self, told: Told, readings: Iterable[float], poolings: Sequence[Pooling], *, full: bool
    ) -> Exchange:
        """Tells the others what this process read, and returns what all read together.

        One sum of `size` numbers and as many as any look of this kind has needed so far; a second
        one where there was no room for these.

        Args:
            told: What was seen.
            readings: The numbers of this process.
            poolings: The rule for each of them.
            full: The kind of look, which all of them make at a time.

        Raises:
            LeftAloneError: Another process has left, or does not come.
        """
        terms = [rule.term(value) for rule, value in zip(poolings, readings, strict=True)]
        room = self._room.get(full, 0)
        fits = bool(told.names) and len(terms) <= room
        padding = [0.0] * (room - len(terms))
        words, totals = self._told(
            _word(told, poolings), [*terms, *padding] if fits else [0.0] * room
        )
        seen = [each for each in words if each]
        if len(seen) < self.size or len({each >> _PLACE_BITS for each in seen}) > 1:
            return Exchange(len(seen))
        if not fits:
            totals = self._sum(terms)
            self._room[full] = len(terms)
        pooled = [
            rule.pooled(total, self.size)
            for rule, total in zip(poolings, totals[: len(terms)], strict=True)
        ]
        places = (each % (1 << _PLACE_BITS) - 1 for each in words)
        culprits = tuple(
            (rank, ("loss", *told.names)[place - 1])
            for rank, place in zip(self.ranks, places, strict=True)
            if place
        )
        return Exchange(len(seen), Readings(pooled), culprits)

    def first(self, number: int) -> int:
        """The number that the first process gives.

        Raises:
            LeftAloneError: Another process has left, or does not come.
        """
        return self._told(number, ())[0][0]

    def leave(self) -> None:
        """Closes the connections. The others notice at their next exchange, if there is one."""
        self._group = None

    def _told(self, word: int, terms: Sequence[float]) -> tuple[list[int], list[float]]:
        """One word from each process, and the sums of the terms."""
        words = [0.0] * self.size
        words[self._place] = float(word)
        totals = self._sum([*words, *terms])
        return [int(each) for each in totals[: self.size]], totals[self.size :]

    def _sum(self, terms: Sequence[float]) -> list[float]:
        totals = torch.tensor(terms, dtype=torch.float64, device="cpu")
        try:
            self._group.allreduce([totals]).wait()
        except RuntimeError as error:
            raise LeftAloneError(
                f"another of the {self.size} processes stopped watching, ended or did not come "
                f"within {PATIENCE.total_seconds():g} s ({one_line(error)})"
            ) from None
        return totals.tolist()


def known() -> int:
    """How many processes `torch.distributed` knows now."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def join(model: nn.Module, process_group: Any) -> Processes | None:
    """Meets the other processes that train a model.

    Args:
        model: The whole of it.
        process_group: Those among which the batches are shared out; None for all that
            `torch.distributed` knows.

    Returns:
        The processes; None where this one is alone.

    Raises:
        UsageError: The model is split in a way that is not supported, the others do not come, or
            this process is none of the group.
    """
    alone = not (dist.is_available() and dist.is_initialized())
    if alone:
        if process_group is not None:
            raise UsageError(
                "expected process_group only where torch.distributed is initialised: call "
                "torch.distributed.init_process_group() first"
            )
        return None
    whole = dist.group.WORLD
    chosen = whole if process_group is None else process_group
    if chosen is not None and not isinstance(chosen, dist.ProcessGroup):
        raise UsageError(
            "expected process_group to be a torch.distributed.ProcessGroup of which this process "
            f"is a member, got {type(chosen).__name__}"
        )
    ranks = dist.get_process_group_ranks(chosen)
    check_shards(model, ranks)
    if len(ranks) == 1:
        return None
    try:
        group = _connected(ranks)
    except (RuntimeError, ValueError) as error:
        raise UsageError(
            f"expected watch() in all {len(ranks)} processes, but they could not connect over gloo "
            f"within {PATIENCE.total_seconds():g} s ({one_line(error)}): call it in every process, "
            "or pass process_group= of those that do"
        ) from None
    return Processes(group, ranks)


def _connected(ranks: Sequence[int]) -> Any:
    """Connections of these processes.

    Not by `dist.new_group`: it numbers groups, and one that is made in some processes alone would
    get the numbers of all later ones out of step.
    """
    members = tuple(ranks)
    _MEETINGS[members] += 1
    together = hashlib.sha256(repr(members).encode()).hexdigest()
    whole = dist.distributed_c10d._get_default_store()  # noqa: SLF001 - the only way to it
    store = dist.distributed_c10d.PrefixStore(f"gradcheckup/{together}/{_MEETINGS[members]}", whole)
    return dist.ProcessGroupGloo(store, members.index(dist.get_rank()), len(members), PATIENCE)


def _word(told: Told, poolings: Sequence[Pooling]) -> int:
    """32 bits of what was seen and 20 of where it broke: exact as a float64. 0 for nothing."""
    if not told.names:
        return 0
    kinds = "".join(rule.name[:2] for rule in poolings)
    seen = zlib.crc32(f"{kinds} {told.names}".encode())
    return (seen << _PLACE_BITS) + 1 + min(told.culprit, (1 << _PLACE_BITS) - 2)


def _finite(value: float | None) -> bool:
    return value is None or math.isfinite(value)


def _named(ranks: Sequence[int]) -> str:
    """``rank 1``, ``ranks 1, 2, 3 …``."""
    shown = ", ".join(map(str, ranks[:3])) + (" …" if len(ranks) > 3 else "")
    return f"rank {shown}" if len(ranks) == 1 else f"ranks {shown}"
