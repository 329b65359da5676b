"""The data of a probe: the batches that its steps go through, and more where it asks for them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gradcheckup.errors import DataError
from gradcheckup.probe.batches import Taken, take
from gradcheckup.probe.safekeeping import RandomStates

_MOST_BYTES = 2**28
"""What is held at once where more is asked for."""


class Supply:
    """Batches of what the user calls data.

    Attributes:
        batches: The first of them.
        notes: What had to be assumed to get them.
    """

    def __init__(self, data: Any, count: int, *, has_more: bool) -> None:
        """Takes the first batches.

        Args:
            data: As for `take`.
            count: The most to take.
            has_more: Whether others may be taken later.

        Raises:
            DataError: There is no batch, or one holds NaN or Inf.
        """
        self._data = data
        self._has_more = has_more
        self._states = RandomStates()
        self.batches, self.notes = take(data, count)

    def more(self, count: int) -> Taken:
        """Batches that follow the first ones: up to so many, and none where there are no more.

        A loader is gone through again with the random numbers of the first time, so that it
        shuffles alike and these are other samples.
        """
        if not self._has_more:
            return Taken()
        known = 0 if isinstance(self._data, Iterator) else len(self.batches)
        now = RandomStates()
        self._states.put_back()
        try:
            found, _ = take(self._data, known + count, _MOST_BYTES)
        except DataError:  # what cannot be had was not asked for by the user
            return Taken()
        finally:
            now.put_back()
        return Taken(found[known:])
