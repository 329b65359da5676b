"""A test for a model in one line."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from types import CodeType, FrameType, FunctionType
from typing import TYPE_CHECKING, Any

from pytest_gradcheckup.fixture import Checker
from pytest_gradcheckup.silence import ATTRIBUTE, Silence
from pytest_gradcheckup.tracebacks import HIDDEN

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from pytest_gradcheckup.options import CheckOptions

__tracebackhide__ = HIDDEN


def healthy_test(
    build_model: Any, batch: Any, criterion: Any = None, **options: Unpack[CheckOptions]
) -> Callable[..., None]:
    """A test that `assert_healthy` holds, to be given a name that pytest collects.

        test_flow = pytest_gradcheckup.healthy_test(Net, build_batch, nn.CrossEntropyLoss())

    Args:
        build_model: A function or class without arguments that gives the model, which each seed
            calls anew; or a model.
        batch: What `gradcheckup.diagnose` takes as data; or a function that gives it, called when
            the test runs, with random numbers that start from the first seed.
        criterion: Of `gradcheckup.diagnose`.
        options: See `CheckOptions`.

    Returns:
        The test function, for a module or a class.
    """

    def check(gradcheckup: Checker) -> None:
        model = partial(build_model) if isinstance(build_model, type) else build_model
        data = batch() if callable(batch) else batch
        gradcheckup.assert_healthy(model, data, criterion, **options)

    # A class binds it to an instance, which a parameter that is positional alone takes: pytest
    # then takes no other for it.
    frame = inspect.currentframe()
    caller = frame and frame.f_back
    return _placed(lambda _=None, /, *, gradcheckup: check(gradcheckup), caller)


def _placed(test: Callable[..., None], caller: FrameType | None) -> Callable[..., None]:
    """The function of one line as if it stood where it was asked for: there pytest shows it."""
    if caller is None:  # a Python without frames
        return test
    template: Any = test
    code: CodeType = template.__code__
    placed = FunctionType(
        code.replace(
            co_filename=caller.f_code.co_filename,
            co_firstlineno=caller.f_lineno,
            co_name="healthy_test",
        ),
        caller.f_globals,
        "healthy_test",
        template.__defaults__,
        template.__closure__,
    )
    setattr(placed, ATTRIBUTE, Silence.CALL)
    return placed
