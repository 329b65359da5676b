"""6 of 7: layerwise_training, train a shallow net and let it grow.

    python demos/6_layerwise_training.py --plot layerwise_training.png

Two layers can be trained where seven cannot. So the first two are trained with
the output layer right behind them, all others out of the way; then the next two
on top of those, which are frozen meanwhile; and at last the whole net, whose
layers by then say something about the input.

Frozen is frozen: p.requires_grad = False. With p.require_grad = False, as found
in tutorials, nothing happens (GC503). All stages together get as many epochs as
the net that is not treated.
"""

from __future__ import annotations

import showing
from experiment import Case, flow_of_stages

import gradcheckup

MEASURE = flow_of_stages
REMARK = (
    "At first the whole net is as sick as ever, and so is its verdict: what is healthy is each "
    "shallow net at the start of its stage."
)


def apply(case: Case) -> gradcheckup.Treated:
    return case.treat("layerwise_training")


if __name__ == "__main__":
    showing.run(__doc__, apply, MEASURE, REMARK)
