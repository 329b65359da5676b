"""From ``model.py`` to something that can be diagnosed.

`loading` imports the user's module, `discovery` and `optimizers` find its parts by name, `inputs`,
`candidates`, `outputs` and `inference` guess what is missing and say so, and `assembly` puts the
target together.
"""

from __future__ import annotations

from gradcheckup.targets.assembly import Target, TargetOptions, load_target

__all__ = ["Target", "TargetOptions", "load_target"]
