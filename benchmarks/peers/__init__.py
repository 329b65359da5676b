"""Other detectors, on the same nets, seeds and batches: the probe's steps, which they train on.

Most of them are made to watch a whole training. They get the steps that gradcheckup gets, since the
question is what can be told before the training is paid for; limits are the published ones.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

from benchmarks.cases import Case
from benchmarks.peers import autotrainer, dlcheck, torchmortem
from benchmarks.peers.opinion import Opinion

PEERS: dict[str, Callable[[Case, int], Opinion]] = {
    "torchmortem": torchmortem.judge,
    "AUTOTRAINER": autotrainer.judge,
    "DLCheck": dlcheck.judge,
}
"""By name: from a case and a seed to an opinion."""

_PACKAGES = {"torchmortem": "torchmortem"}


def installed() -> list[str]:
    """The peers that can run here: rules need nothing, a package has to be there."""
    return [
        name
        for name in PEERS
        if name not in _PACKAGES or importlib.util.find_spec(_PACKAGES[name]) is not None
    ]


__all__ = ["PEERS", "Opinion", "installed"]
