"""4 of 7: normalization, bring every unit back to mean 0 and variance 1.

    python demos/4_normalization.py --plot normalization.png

Behind each weight layer and before its sigmoid stands a BatchNorm. It subtracts
from each unit what all inputs share and brings what tells them apart back to
size 1: the signal cannot fade on the way forward, and as it is the same factor
in the backward pass, neither can the gradient.
"""

from __future__ import annotations

import showing
from experiment import Case, flow

import gradcheckup

MEASURE = flow
REMARK = (
    "A norm of the whole tensor at once leaves each unit its own offset, which is most of what "
    "there is behind a sigmoid: see all_seven.py."
)


def apply(case: Case) -> gradcheckup.Treated:
    return case.treat("normalization")


if __name__ == "__main__":
    showing.run(__doc__, apply, MEASURE, REMARK)
