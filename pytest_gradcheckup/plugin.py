"""The hooks that pytest calls, and the options. Imports pytest alone, since every run imports it.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from collections.abc import Iterator
from operator import methodcaller
from typing import TYPE_CHECKING, Literal

import pytest

if TYPE_CHECKING:
    from pytest_gradcheckup.fixture import Checker

# A setting that makes no sense is told without the plugin's own frames.
__tracebackhide__ = methodcaller("errisinstance", pytest.UsageError)

_MARKER = (
    "gradcheckup(*, steps, seed, seeds, select, ignore, thresholds, fail_on): settings of gradient "
    "checks for a test, a class or a module (pytestmark)"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options and the ini keys; `settings` reads them."""
    group = parser.getgroup("gradcheckup", "gradient flow (gradcheckup)")
    _add(parser, group, "steps", "Steps of each probe (default: 8).", metavar="N")
    _add(parser, group, "seed", "First seed of the probes (default: 0).", metavar="N")
    _add(parser, group, "seeds", "With how many seeds to ask (default: 3).", metavar="N")
    _add(parser, group, "select", "Judge by these rules alone: GC101,GC2.", metavar="CODES")
    _add(parser, group, "ignore", "Do not judge by these rules.", metavar="CODES")
    _add(parser, group, "thresholds", "Judge by other limits: dead_warning=0.3.", metavar="LIMITS")
    _add(parser, group, "fail_on", "What fails: critical (default) or warning.", metavar="SEVERITY")
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


def _add(
    parser: pytest.Parser, group: pytest.OptionGroup, name: str, text: str, *, metavar: str
) -> None:
    """One setting, as ``--gradcheckup-NAME`` and as the ini key ``gradcheckup_NAME``."""
    option = f"--gradcheckup-{name.replace('_', '-')}"
    several = name in {"select", "ignore", "thresholds"}
    kind: Literal["args", "string"] = "args" if several else "string"
    group.addoption(
        option,
        dest=f"gradcheckup_{name}",
        action="append" if several else "store",
        default=None,
        metavar=metavar,
        help=f"{text} May be repeated." if several else text,
    )
    parser.addini(
        f"gradcheckup_{name}",
        f"The same as {option}.",
        type=kind,
        default=None,
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker; refuse options that make no sense before any test runs."""
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
        config.option.gradcheckup_report = str(config.invocation_params.dir / folder)
    if any(value is not None for value in _given(config)):
        from pytest_gradcheckup.settings import of_run

        of_run(config)


def _given(config: pytest.Config) -> Iterator[object]:
    for name in ("steps", "seed", "seeds", "select", "ignore", "thresholds", "fail_on"):
        yield config.getoption(f"gradcheckup_{name}")
        yield config.getini(f"gradcheckup_{name}")


@pytest.fixture(name="gradcheckup")
def _gradcheckup(request: pytest.FixtureRequest) -> Iterator[Checker]:
    """Gradient checks: assert_healthy, assert_no, assert_reaches, assert_all_parameters_train ...

    While a test has it, random numbers start from the first seed, so that a model built in the
    test is the same in every run; afterwards the random states are as they were.
    """
    from pytest_gradcheckup.fixture import Checker
    from pytest_gradcheckup.journal import journal_of
    from pytest_gradcheckup.randomness import seeded
    from pytest_gradcheckup.settings import of_test
    from pytest_gradcheckup.shelf import shelf_of

    settings = of_test(request.config, list(request.node.iter_markers("gradcheckup")))
    with seeded(settings.seed):
        yield Checker(settings, shelf_of(request.node), journal_of(request.node))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what became of checks and baselines, where there were any."""
    reports = [
        report
        for reports in terminalreporter.stats.values()
        for report in reports
        if isinstance(report, pytest.TestReport) and report.when == "call"
    ]
    if any(name.startswith("gradcheckup_") for each in reports for name, _ in each.user_properties):
        from pytest_gradcheckup.terminal import summarise

        summarise(terminalreporter, reports)
