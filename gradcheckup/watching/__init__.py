"""Watching: a training loop that is not ours, measured as it runs.

`start` checks what is asked, `clock` tells when an optimizer step begins and ends, `look` which
passes of it count, `sampler` makes numbers of them, `ledger` of the parameters; `monitor` puts them
together and is what users hold. What was read is kept by `gradcheckup.runs`.
"""

from __future__ import annotations

from gradcheckup.watching.monitor import Monitor
from gradcheckup.watching.start import watch, watching

__all__ = ["Monitor", "watch", "watching"]
