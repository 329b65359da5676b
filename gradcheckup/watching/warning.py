"""How a watch speaks up without ending the training that it watches."""

from __future__ import annotations

import sys
import warnings


def warn(text: str) -> None:
    """Warns; where warnings are errors, on stderr, since no error of ours ends a training."""
    try:
        warnings.warn(text, RuntimeWarning, stacklevel=3)
    except RuntimeWarning:
        sys.stderr.write(f"{text}\n")
