"""What somebody who mistyped a name probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(word: str, names: Iterable[str], *, form: str = "{}") -> str:
    """``; did you mean adamw?`` for the nearest of `names`, or an empty string.

    Args:
        word: What was typed.
        names: What would have been right.
        form: How to write the suggestion, with ``{}`` for the name.
    """
    found = nearest(word, names)
    return f"; did you mean {form.format(found)}?" if found else ""


def nearest(word: str, names: Iterable[str]) -> str | None:
    """The name most like `word` whatever the case, or None when none is."""
    spellings = {name.lower(): name for name in names}
    matches = difflib.get_close_matches(word.lower(), spellings, n=1, cutoff=0.6)
    return spellings[matches[0]] if matches else None
