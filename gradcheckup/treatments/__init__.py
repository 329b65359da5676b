"""Treatments: ways to make a network learn, a file each, applied to a copy of the user's model.

`treatment` says what each of them is, and `course` applies one or several in turn. They find and
exchange parts of a model by `editing`, draw its `weights`, and leave `mechanisms` in it.
"""

from __future__ import annotations

from gradcheckup.treatments import (
    activation,
    gradient_clipping,
    gradient_normalization,
    layerwise_training,
    normalization,
    optimizer,
    skip_connection,
    weight_scale,
)
from gradcheckup.treatments.treatment import Change, Effect, Patient, Treatment

TREATMENTS: tuple[Treatment, ...] = (
    weight_scale.TREATMENT,
    activation.TREATMENT,
    optimizer.TREATMENT,
    normalization.TREATMENT,
    skip_connection.TREATMENT,
    layerwise_training.TREATMENT,
    gradient_normalization.TREATMENT,
    gradient_clipping.TREATMENT,
)
"""Every treatment, in the order in which they are listed."""

__all__ = ["TREATMENTS", "Change", "Effect", "Patient", "Treatment"]
