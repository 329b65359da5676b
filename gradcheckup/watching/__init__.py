"""Watching: a training loop that is not ours, measured as it runs.

`clock` tells when an optimizer step begins and ends, `look` reads one sampled step, `trace` keeps
what was read in bounded memory, `monitor` puts them together and is what users hold.
"""

from __future__ import annotations

from gradcheckup.watching.monitor import Monitor, watch

__all__ = ["Monitor", "watch"]
