"""An unchanged training script, run as Python runs it and watched from outside.

`script` runs a file or a module as ``__main__``, `arrival` notices when the script imports torch,
`session` is told of the optimizers from then on, `seeker` finds the models that they train and
watches them.
"""

from __future__ import annotations
