"""Time profiles: of a recurrent layer as it was measured, of a cell in a loop over its calls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from gradcheckup.capture.readings import Measured
from gradcheckup.records import time_points

Profile = tuple[tuple[float, ...], int]
"""Norms at `time_points(length)`, and the length."""


def time_profiles(measured: Sequence[Measured]) -> Mapping[tuple[str, int], Profile]:
    """The time profile of each call that has one, by name and call.

    Calls that stand one behind the other are one sequence, and have theirs on the first call:
    cells, a hand-written `h = tanh(wx(x[:, t]) + wh(h))`, a recurrent layer that is given one step
    (or chunk) after the other. Others are sequences of their own.
    """
    calls: dict[str, list[Measured]] = {}
    for each in measured:
        if each.gradient_norm is not None:
            calls.setdefault(each.name, []).append(each)
    found: dict[tuple[str, int], Profile] = {}
    for name, group in calls.items():
        if group[0].place.recurrent:
            found[name, group[0].call] = _joined(group)
        else:
            found.update(
                ((name, each.call), (each.time_profile, each.time_steps))
                for each in group
                if each.time_profile
            )
    return found


def _joined(group: Sequence[Measured]) -> Profile:
    known: dict[int, float] = {}
    start = 0
    for each in group:
        points = dict(_points(each))
        known.update((start + time, norm) for time, norm in points.items())
        start += each.time_steps or 1
    return tuple(known[_nearest(known, time)] for time in time_points(start)), start


def _points(one: Measured) -> Iterator[tuple[int, float]]:
    if one.time_profile:
        yield from zip(time_points(one.time_steps), one.time_profile, strict=True)
    elif one.gradient_norm is not None:
        yield 0, one.gradient_norm


def _nearest(known: Mapping[int, float], time: int) -> int:
    return time if time in known else min(known, key=lambda each: abs(each - time))
