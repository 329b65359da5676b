"""A pytest plugin that asserts healthy gradient flow.

    def test_flow(gradcheckup):
        gradcheckup.assert_healthy(Net(), batch, nn.CrossEntropyLoss())

Importing this package imports neither torch nor gradcheckup; a check does.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_gradcheckup.fixture import Checker
    from pytest_gradcheckup.generated import healthy_test
    from pytest_gradcheckup.plain import assert_all_parameters_train, assert_no, assert_reaches

# Imported when they are first used: the package is imported in every run of pytest.
_LAZY = {
    "Checker": "pytest_gradcheckup.fixture",
    "assert_all_parameters_train": "pytest_gradcheckup.plain",
    "assert_no": "pytest_gradcheckup.plain",
    "assert_reaches": "pytest_gradcheckup.plain",
    "healthy_test": "pytest_gradcheckup.generated",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)


__all__ = [
    "Checker",
    "assert_all_parameters_train",
    "assert_no",
    "assert_reaches",
    "healthy_test",
]
