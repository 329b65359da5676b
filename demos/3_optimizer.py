"""3 of 7: optimizer, divide each gradient by its own size.

    python demos/3_optimizer.py --plot optimizer.png

SGD moves a weight in proportion to its gradient, so the first layer, which gets
140,000 times less of it, moves 140,000 times less. Adam divides the gradient of
each weight by its usual size: however faint it is, the step is about the
learning rate.

The gradient that arrives stays as faint as it was. What has to become healthy
is the update: by which share of its weights the slowest layer moves in a step.
"""

from __future__ import annotations

import showing
from experiment import Case, updates

import gradcheckup

LEARNING_RATE = 3e-3  # 1e-3, as usual, is slower here; 1e-2 saturates the sigmoids
MEASURE = updates
REMARK = (
    "It works on updates and not on the gradient that arrives first. What tells inputs apart "
    "stays small until the weights have grown, so that the verdict at the start stays as it "
    "was, and accuracy comes late."
)


def apply(case: Case) -> gradcheckup.Treated:
    return case.treat("optimizer", lr=LEARNING_RATE)


if __name__ == "__main__":
    showing.run(__doc__, apply, MEASURE, REMARK)
