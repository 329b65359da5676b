"""A test for a model in one line."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from pytest_gradcheckup.fixture import Checker
from pytest_gradcheckup.tracebacks import HIDDEN

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from pytest_gradcheckup.options import CheckOptions

__tracebackhide__ = HIDDEN


def healthy_test(
    build_model: Any, batch: Any, criterion: Any = None, **options: Unpack[CheckOptions]
) -> Callable[[Checker], None]:
    """A test that `assert_healthy` holds, to be given a name that pytest collects.

        test_flow = pytest_gradcheckup.healthy_test(Net, batch, nn.CrossEntropyLoss())

    Args:
        build_model: A function or class without arguments that gives the model, which each seed
            calls anew; or a model.
        batch: What `gradcheckup.diagnose` takes as data; or a function that gives it, called when
            the test runs.
        criterion: Of `gradcheckup.diagnose`.
        options: See `CheckOptions`.

    Returns:
        The test function.
    """

    def test(gradcheckup: Checker) -> None:
        model = partial(build_model) if isinstance(build_model, type) else build_model
        data = batch() if callable(batch) else batch
        gradcheckup.assert_healthy(model, data, criterion, **options)

    if hasattr(build_model, "__code__"):
        test.place_as = build_model  # type: ignore[attr-defined]  # pytest names its line
    return test
