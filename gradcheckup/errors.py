"""The errors that gradcheckup raises on purpose.

Every message says what was expected, what came, and what to do about it::

    GradcheckupError
    ├── UsageError        arguments, settings or options that make no sense
    ├── TargetError       a file, module or name that does not lead to a model
    ├── DataError         batches that cannot be used: empty, NaN, unreadable
    ├── ModelError        the model failed to run, or has nothing to train
    ├── LossError         the loss is not a scalar that can be differentiated
    ├── ReportError       a report file that is unreadable or too new
    ├── TreatmentError    a treatment that does not apply to the model
    ├── MissingDependencyError   an optional package is not installed
    └── UnhealthyError    raised by `assert_healthy`; also an AssertionError
"""

from __future__ import annotations


class GradcheckupError(Exception):
    """Root of the errors that gradcheckup raises on purpose.

    Attributes:
        traceback_text: The part of a traceback that lies in the user's own code, when their code
            raised; shown below the message.
    """

    def __init__(self, message: str, *, traceback_text: str | None = None) -> None:
        super().__init__(message)
        self.traceback_text = traceback_text


class UsageError(GradcheckupError):
    """An argument, a setting or an option makes no sense."""


class TargetError(GradcheckupError):
    """A target does not lead to a model."""


class DataError(GradcheckupError):
    """The batches cannot be used."""


class ModelError(GradcheckupError):
    """The model failed to run, or has nothing to train."""


class LossError(GradcheckupError):
    """The loss is not a scalar that can be differentiated."""


class ReportError(GradcheckupError):
    """A report file is unreadable, damaged, or newer than this version."""


class TreatmentError(GradcheckupError):
    """A treatment does not apply to this model; the message says why."""


class MissingDependencyError(GradcheckupError):
    """An optional package is needed and not installed."""


class UnhealthyError(GradcheckupError, AssertionError):
    """A report has critical findings; raised by `assert_healthy`."""
