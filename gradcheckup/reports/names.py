"""Lists of layer names, folded until they can be taken in at a glance."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

ELLIPSIS = "…"

# A name in turn as text and numbers: "blocks.3.fc1" is ("blocks.", "3", ".fc", "1", "").
_Parts = tuple[str, ...]
_Family = tuple[int, _Parts]


def fold(names: Sequence[str], universe: Sequence[str] = (), *, most: int = 4) -> str:
    """The names as ``layer1 … layer5, head``: runs in one number become a range.

    A range never covers a name of `universe` that is not in `names`. Where `universe` is empty,
    the numbers have to be equally spaced. More than `most` pieces become ``first … last (24 of
    them)`` if they stand side by side in `universe`, else the first few and a count of the rest.

    Args:
        names: In execution order; repeated ones are named once.
        universe: All names of the same sort, in execution order.
        most: Pieces that may stand beside each other.
    """
    names = list(dict.fromkeys(names))
    pieces = [piece for run in _runs(names, _relatives(universe)) for piece in _pieces(run)]
    if len(pieces) <= most:
        return ", ".join(text for text, _ in pieces)
    if _side_by_side(names, list(dict.fromkeys(universe))):
        return f"{names[0]} {ELLIPSIS} {names[-1]} ({len(names)} of them)"
    shown = pieces[: most - 1]
    rest = len(names) - sum(covered for _, covered in shown)
    return f"{', '.join(text for text, _ in shown)} and {rest} more"


def shorten(name: str, width: int) -> str:
    """`name` in at most `width` characters; what is left out is its middle.

    The last number that stands between dots is kept where it fits: it tells one block from the
    next, as in ``encod…12.attention.proj``.
    """
    if len(name) <= width:
        return name
    parts = name.split(".")
    numbers = [at for at, part in enumerate(parts) if part.isdecimal()]
    end = ".".join(parts[numbers[-1] :]) if numbers else ""
    index, _, rest = end.partition(".")
    room = width - len(index) - 2
    if len(end) > width - 2 and rest and room > 2:
        return f"{ELLIPSIS}{index}.{shorten(rest, room)}"
    # Otherwise the end gets the larger half.
    tail = min(max(width // 2, len(end)), width - 1)
    return f"{name[: width - 1 - tail]}{ELLIPSIS}{name[len(name) - tail :]}"


def spoken(name: str) -> str:
    """`name` as it can stand in a sentence: those in an `nn.Sequential` are mere numbers."""
    return name if any(sign.isalpha() for sign in name) else f"layer {name}"


def _split(name: str) -> _Parts:
    return tuple(re.split(r"([0-9]+)", name))


def _families(parts: _Parts) -> list[tuple[_Family, int]]:
    """For every number in a name: what remains without it, and the number."""
    return [
        ((place, (*parts[:place], *parts[place + 1 :])), int(parts[place]))
        for place in range(1, len(parts), 2)
    ]


def _relatives(universe: Sequence[str]) -> dict[_Family, set[int]]:
    """Which numbers exist in each family of names that differ in one number."""
    found: dict[_Family, set[int]] = defaultdict(set)
    for name in universe:
        for family, value in _families(_split(name)):
            found[family].add(value)
    return found


class _Run:
    """Names that differ in one number, which grows."""

    def __init__(self, name: str) -> None:
        self.names = [name]
        self.numbers: list[int] = []
        self.families = dict(_families(_split(name)))

    def extend(self, name: str, relatives: dict[_Family, set[int]]) -> bool:
        """Take `name` in if it continues the run."""
        for family, after in _families(_split(name)):
            before = self.families.get(family)
            if before is None or after <= before:
                continue
            if relatives:
                gap = any(before < value < after for value in relatives.get(family, ()))
            else:
                gap = len(self.numbers) > 1 and after - before != self.numbers[1] - self.numbers[0]
            if not gap:
                self.numbers = [*(self.numbers or [before]), after]
                self.families = {family: after}
                self.names.append(name)
                return True
        return False


def _runs(names: list[str], relatives: dict[_Family, set[int]]) -> list[_Run]:
    runs: list[_Run] = []
    for name in names:
        if not any(run.extend(name, relatives) for run in runs):
            runs.append(_Run(name))
    return runs


def _pieces(run: _Run) -> list[tuple[str, int]]:
    """What to print and how many names it covers; two names are as short side by side."""
    if len(run.names) < 3:
        return [(name, 1) for name in run.names]
    return [(f"{run.names[0]} {ELLIPSIS} {run.names[-1]}", len(run.names))]


def _side_by_side(names: list[str], universe: list[str]) -> bool:
    if names[0] not in universe:
        return False
    start = universe.index(names[0])
    return universe[start : start + len(names)] == names
