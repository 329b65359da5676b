"""Runs: what is kept of a training that was watched, in memory and in a log.

`trace` is the bounded memory of a monitor, `log` writes it down line by line, `reading` makes a
report of the lines. Nothing here imports torch.
"""

from __future__ import annotations
