"""What somebody who mistyped a name probably meant."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def suggestion(word: str, known: Iterable[str], otherwise: str) -> str:
    """``did you mean steps?`` for the nearest known name; `otherwise` where none is near."""
    close = get_close_matches(word, list(known), n=1)
    return f"did you mean {close[0]}?" if close else otherwise
