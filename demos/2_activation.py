"""2 of 7: activation, take one that passes the gradient on.

    python demos/2_activation.py --plot activation.png

The slope of a sigmoid is a quarter at most and less nearly everywhere: seven of
them in a row pass 0.00006 of the gradient at best. A ReLU has slope 1 wherever
it fires.

That alone does not do. A ReLU at PyTorch's default weights still passes 0.41 a
layer, since half of its units are silent; so weights are drawn to match, here
those of He et al. (2015).
"""

from __future__ import annotations

import showing
from experiment import Case, flow

import gradcheckup

MEASURE = flow
REMARK = (
    'Other ones are variants, as treat(model, "activation:gelu"): leaky_relu, gelu and selu. '
    "Under each the weights are drawn to match."
)


def apply(case: Case) -> gradcheckup.Treated:
    return case.treat("activation")


if __name__ == "__main__":
    showing.run(__doc__, apply, MEASURE, REMARK)
