"""1 of 7: weight_scale, draw initial weights of the right size.

    python demos/1_weight_scale.py --plot weight_scale.png

PyTorch draws weights of a standard deviation of 0.58 / sqrt(inputs), and a
sigmoid passes at most a quarter of what it is given. So each layer passes 0.14
of the gradient, and as much of what tells one input from another.

Larger weights make up for the sigmoid; too large ones drive it to 0 and 1,
where its slope is gone. In between, at about 4 / sqrt(inputs), each layer
passes on as much as it gets.
"""

from __future__ import annotations

import showing
from experiment import Case, flow

import gradcheckup

MEASURE = flow
REMARK = (
    'Tutorials draw from N(0, 1), which is treat(model, "weight_scale:normal", std=1). '
    "With std=10 gradients explode: see all_seven.py."
)


def apply(case: Case) -> gradcheckup.Treated:
    return case.treat("weight_scale")


if __name__ == "__main__":
    showing.run(__doc__, apply, MEASURE, REMARK)
