"""The hooks that pytest calls, and the options. Imports pytest alone, since every run imports it.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Generator, Iterator
from operator import methodcaller
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

if TYPE_CHECKING:
    from pytest_gradcheckup.fixture import Checker

# A setting that makes no sense is told without the plugin's own frames.
__tracebackhide__ = methodcaller("errisinstance", pytest.UsageError)

# Settings of checks, each an option and an ini key: placeholder, help, and whether it may be
# repeated. `settings` reads their values.
_SETTINGS = {
    "steps": ("N", "Steps of each probe (default: 8).", False),
    "batches": ("N", "Batches that the steps go through in turn (default: one a step).", False),
    "follow": (
        "STEP",
        "Follow the loss of a net to this step (default: 64, if small).",
        False,
    ),
    "seed": ("N", "First seed of the probes (default: 0).", False),
    "seeds": ("N", "With how many seeds to ask (default: 3).", False),
    "select": ("CODES", "Judge by these rules alone: GC101,GC2.", True),
    "ignore": ("CODES", "Do not judge by these rules.", True),
    "thresholds": ("LIMITS", "Judge by other limits: dead_warning=0.3.", True),
    "fail_on": ("SEVERITY", "What fails: critical (default) or warning.", False),
}
_WHOLE = {"steps", "batches", "follow", "seed", "seeds"}
_MARKER = (
    f"gradcheckup(*, {', '.join(_SETTINGS)}): settings of gradient checks for a test, a class or a "
    "module (pytestmark)"
)


BEGAN = pytest.StashKey[float]()
"""When the run began."""
COLLECTED = pytest.StashKey[Counter[str]]()
"""How many tests each module has, by the beginning of their node ids: before any is deselected."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options and the ini keys."""
    group = parser.getgroup("gradcheckup", "gradient flow (gradcheckup)")
    for name, (metavar, text, several) in _SETTINGS.items():
        kind: Literal["args", "int", "string"] = "args" if several else "string"
        if name in _WHOLE and pytest.version_tuple >= (9,):
            # `[tool.pytest]` has numbers that are no text.
            kind = "int"
        option = f"--gradcheckup-{name.replace('_', '-')}"
        group.addoption(
            option,
            dest=f"gradcheckup_{name}",
            action="append" if several else "store",
            default=None,
            metavar=metavar,
            help=f"{text} May be repeated." if several else text,
        )
        parser.addini(f"gradcheckup_{name}", f"The same as {option}.", type=kind, default=None)
    group.addoption(
        "--gradcheckup-update",
        action="store_true",
        dest="gradcheckup_update",
        help="Write all baselines that are compared with, in place of comparing.",
    )
    group.addoption(
        "--gradcheckup-report",
        dest="gradcheckup_report",
        default=None,
        metavar="DIR",
        help="Write the report of each check, as JSON and text, and an index.md.",
    )
    group.addoption(
        "--gradcheckup-github",
        action="store_true",
        dest="gradcheckup_github",
        help="Print failed checks as annotations of GitHub Actions.",
    )
    group.addoption(
        "--gradcheckup-ci",
        action="store_true",
        dest="gradcheckup_ci",
        help="Never write a baseline: a test without one fails.",
    )
    parser.addini(
        "gradcheckup_targets",
        "Files whose models are checked without a test: models/*.py, or models/net.py:Net.",
        type="args",
        default=[],
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker; refuse options that make no sense before any test runs."""
    config.stash[BEGAN] = time.time()
    config.addinivalue_line("markers", _MARKER)
    if config.getoption("gradcheckup_update") and config.getoption("gradcheckup_ci"):
        raise pytest.UsageError(
            "--gradcheckup-update writes baselines and --gradcheckup-ci never does: leave one out"
        )
    if config.getini("gradcheckup_targets"):
        from pytest_gradcheckup.targets import Targets

        config.pluginmanager.register(Targets(config), "gradcheckup_targets")
    folder = config.getoption("gradcheckup_report")
    if folder:
        # Absolute before a test or a worker changes the folder; options are handed to workers.
        config.option.gradcheckup_report = _made(config.invocation_params.dir / folder)
    if any(
        config.getoption(f"gradcheckup_{name}") is not None or of_ini(config, name) is not None
        for name in _SETTINGS
    ):
        from pytest_gradcheckup.settings import of_run

        of_run(config)


def of_ini(config: pytest.Config, name: str) -> Any:
    """What the ini file says of a setting; None where it does not.

    Raises:
        pytest.UsageError: It is of another type.
    """
    try:
        return config.getini(f"gradcheckup_{name}")
    except (TypeError, ValueError, pytest.UsageError) as error:
        expected = "expected a whole number: " if name in _WHOLE else ""
        raise pytest.UsageError(f"gradcheckup_{name}: {expected}{error}") from None


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> Generator[None, None, None]:
    """Count the tests before any is deselected."""
    config.stash[COLLECTED] = Counter(item.nodeid.partition("::")[0] for item in items)
    return (yield)


def _made(folder: Path) -> str:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise pytest.UsageError(f"--gradcheckup-report: cannot make the folder: {error}") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise pytest.UsageError(f"--gradcheckup-report: no permission to write to {folder}")
    return str(folder)


@pytest.fixture(name="gradcheckup")
def _gradcheckup(request: pytest.FixtureRequest) -> Iterator[Checker]:
    """Gradient checks: assert_healthy, assert_no, assert_reaches, assert_all_parameters_train ...

    While a test has it, random numbers start from the first seed, so that a model built in the
    test is the same in every run; afterwards the random states are as they were.
    """
    from pytest_gradcheckup.fixture import checking
    from pytest_gradcheckup.settings import of_test

    settings = of_test(request.config, list(request.node.iter_markers("gradcheckup")))
    with checking(request.node, settings) as checker:
        yield checker


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what became of checks and baselines, where there were any."""
    reports = [
        report
        for reports in terminalreporter.stats.values()
        for report in reports
        if isinstance(report, pytest.TestReport)
    ]
    if any(name.startswith("gradcheckup_") for each in reports for name, _ in each.user_properties):
        from pytest_gradcheckup.terminal import summarise

        summarise(terminalreporter, reports)
