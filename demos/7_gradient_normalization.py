"""7 of 7: gradient_normalization, give the gradient one size at every layer.

    python demos/7_gradient_normalization.py --plot gradient_normalization.png

On its way back, the gradient of each hidden layer's output is multiplied until
it has the norm that it has at the last one. The forward pass stays the same to
the bit: nothing is added to the model but hooks.

So every layer moves from the first step on. But forward, what tells one input
from another still fades, by 0.14 a layer, until the weights have grown.
"""

from __future__ import annotations

import showing
from experiment import Case, flow

import gradcheckup

MEASURE = flow
REMARK = (
    "The gradient arrives, but the signal does not yet (GC203), so that the verdict at the "
    "start stays unhealthy, and accuracy comes late."
)


def apply(case: Case) -> gradcheckup.Treated:
    return case.treat("gradient_normalization")


if __name__ == "__main__":
    showing.run(__doc__, apply, MEASURE, REMARK)
