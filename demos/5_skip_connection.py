"""5 of 7: skip_connection, lead signal and gradient around the layers.

    python demos/5_skip_connection.py --plot skip_connection.png

Around each layer that keeps the width, what goes in is added to what comes out:
x + sigmoid(layer(x)). The derivative of that is 1 and a little more, so that
the gradient reaches the first layer however little a sigmoid passes.

Here the hidden layers 2 to 7 are bypassed; the first one changes the width, and
has nothing it could be added to.
"""

from __future__ import annotations

import showing
from experiment import Case, flow

import gradcheckup

MEASURE = flow
REMARK = (
    "The sum grows with each sigmoid, since all of them are positive. In a net of your own put "
    "a norm in front of each layer as well."
)


def apply(case: Case) -> gradcheckup.Treated:
    return case.treat("skip_connection")


if __name__ == "__main__":
    showing.run(__doc__, apply, MEASURE, REMARK)
