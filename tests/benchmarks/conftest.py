"""Makes `benchmarks` importable, which is no part of what is installed."""

from __future__ import annotations

import sys
from pathlib import Path

# At the end of the path: an installed gradcheckup is the one to test.
sys.path.append(str(Path(__file__).resolve().parents[2]))
