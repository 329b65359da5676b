"""Snippets in the user's own names."""

from __future__ import annotations

import io
import tokenize
from collections.abc import Mapping

_OPENING, _CLOSING = "([{", ")]}"


def renamed(snippet: str, names: Mapping[str, str]) -> str:
    """A snippet with other names for some of its variables.

    Attributes, keyword arguments and comments stay as they are.

    Args:
        snippet: Python code.
        names: What to call which variable: ``{"model": "net"}``.
    """
    tokens = list(tokenize.generate_tokens(io.StringIO(snippet).readline))
    lines = snippet.splitlines(keepends=True)
    places = []
    depth = 0
    for index, token in enumerate(tokens):
        depth += (token.string in _OPENING) - (token.string in _CLOSING) if token.string else 0
        if token.type != tokenize.NAME or token.string not in names:
            continue
        attribute = index > 0 and tokens[index - 1].string == "."
        keyword = depth > 0 and tokens[index + 1].string == "="
        if not attribute and not keyword:
            places.append((token.start, token.end, names[token.string]))
    for (row, start), (_, end), name in reversed(places):
        line = lines[row - 1]
        lines[row - 1] = line[:start] + name + line[end:]
    return "".join(lines)
