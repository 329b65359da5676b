"""Which layer of a net is which one of the net that it was before somebody changed it."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher

from pytest_gradcheckup.baseline import LayerLine

Pair = tuple[LayerLine, LayerLine]

# What speaks for two layers being the same one. A name that somebody chose says most; a number is
# a place in a sequence, which moves where something before it goes.
_NAME = 4.0
_SHAPE = 2.0
_KIND = 1.0
_LIKENESS = 1.0
_OTHER_KIND = 0.5


def matched(
    before: Sequence[LayerLine], now: Sequence[LayerLine]
) -> tuple[list[Pair], list[LayerLine], list[LayerLine]]:
    """Pairs of the same layer in the order of `now`, layers that are new, layers that are gone.

    Of all ways to pair layers in order (an alignment, as of texts), the one for which most speaks:
    kind, shape, and likeness of names. A pair has the same name, or the same kind and shape. Of
    what is left over, layers of the same name and kind are paired as well: they run in another
    order.
    """
    pairs = _aligned(before, now)
    old = {id(each) for each, _ in pairs}
    new = {id(each) for _, each in pairs}
    gone = {(line.layer, line.kind): line for line in before if id(line) not in old}
    for line in now:
        if id(line) not in new and (line.layer, line.kind) in gone:
            pairs.append((gone.pop((line.layer, line.kind)), line))
    old = {id(each) for each, _ in pairs}
    new = {id(each) for _, each in pairs}
    place = {id(line): number for number, line in enumerate(now)}
    pairs.sort(key=lambda pair: place[id(pair[1])])
    added = [line for line in now if id(line) not in new]
    removed = [line for line in before if id(line) not in old]
    return pairs, added, removed


def _aligned(before: Sequence[LayerLine], now: Sequence[LayerLine]) -> list[Pair]:
    """The best alignment, by Needleman & Wunsch (1970); a layer without a partner costs nothing."""
    start = _common(before, now)
    end = _common(before[start:][::-1], now[start:][::-1])
    first = list(zip(before[:start], now[:start], strict=True))
    last = list(zip(before[len(before) - end :], now[len(now) - end :], strict=True))
    old, new = before[start : len(before) - end], now[start : len(now) - end]
    # `best[i][j]`: what speaks for the best alignment of all from `old[i]` and `new[j]` on.
    best = [[0.0] * (len(new) + 1) for _ in range(len(old) + 1)]
    likes = [[_like(one, other) for other in new] for one in old]
    for i in reversed(range(len(old))):
        for j in reversed(range(len(new))):
            together = likes[i][j] + best[i + 1][j + 1] if likes[i][j] else 0.0
            best[i][j] = max(together, best[i + 1][j], best[i][j + 1])
    middle: list[Pair] = []
    i = j = 0
    while i < len(old) and j < len(new):
        if likes[i][j] and best[i][j] == likes[i][j] + best[i + 1][j + 1]:
            middle.append((old[i], new[j]))
            i, j = i + 1, j + 1
        elif best[i][j] == best[i + 1][j]:
            i += 1
        else:
            j += 1
    return [*first, *middle, *last]


def _common(before: Sequence[LayerLine], now: Sequence[LayerLine]) -> int:
    """How many layers at the beginning are the same in all but what was measured."""
    count = 0
    for old, new in zip(before, now, strict=False):
        if (old.layer, old.kind, old.weight) != (new.layer, new.kind, new.weight):
            break
        count += 1
    return count


def _like(old: LayerLine, new: LayerLine) -> float:
    """What speaks for these two being the same layer; 0 where they cannot be."""
    same_name = old.layer == new.layer
    if old.kind != new.kind:
        return _OTHER_KIND if same_name else 0.0
    same_shape = old.weight == new.weight
    if not (same_name or same_shape):
        return 0.0
    likeness = _KIND + _SHAPE * same_shape
    if same_name and not old.layer.rpartition(".")[2].isdecimal():
        return likeness + _NAME
    ratio = SequenceMatcher(None, old.layer, new.layer, autojunk=False).ratio()
    return likeness + _LIKENESS * ratio
