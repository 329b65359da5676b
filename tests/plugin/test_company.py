"""Beside other plugins: the same outcomes in workers, in any order, in processes of their own."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., pytest.RunResult]

SUITE = """
def test_healthy(gradcheckup):
    gradcheckup.assert_healthy(healthy(), batch(), loss)

def test_sick(gradcheckup):
    gradcheckup.assert_healthy(sick(), batch(), loss)

@pytest.mark.gradcheckup(stepz=3)
def test_mark(gradcheckup):
    pass

def test_misuse(gradcheckup):
    gradcheckup.assert_no("GC000", healthy(), batch(), loss)
"""


def test_in_workers(run: Run) -> None:
    result = run(SUITE, "-p", "xdist", "-n", "2", "--dist", "worksteal", "--gradcheckup-steps=4")
    result.assert_outcomes(passed=1, failed=2, errors=1)
    result.stdout.fnmatch_lines(["*GC101 vanishing-gradient*"])
    result.stdout.no_fnmatch_line("*INTERNALERROR*")


@pytest.mark.slow
def test_options_are_refused_before_workers_start(run: Run) -> None:
    result = run(SUITE, "-p", "xdist", "-n", "2", "--gradcheckup-steps=0")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--gradcheckup-steps*"])


def test_in_a_process_of_its_own_and_in_any_order(run: Run) -> None:
    result = run(SUITE, apart=True)
    result.assert_outcomes(passed=1, failed=2, errors=1)


def test_costs_nothing_where_it_is_not_used(run: Run, pytester: pytest.Pytester) -> None:
    """Neither torch nor gradcheckup is loaded by a run that checks nothing."""
    pytester.makepyfile(
        test_apart="""
        import sys

        def test_nothing():
            assert not {"torch", "gradcheckup"} & set(sys.modules)
        """
    )
    run("", "test_apart.py", apart=True).assert_outcomes(passed=1)


@pytest.mark.parametrize(("page", "passed"), [("docs/pytest.md", 3)])
def test_examples_of_the_documentation(
    run: Run, pytester: pytest.Pytester, page: str, passed: int
) -> None:
    text = (Path(__file__).parents[2] / page).read_text("utf-8")
    blocks = re.findall(r"^```py\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    pytester.makepyfile(test_page="\n".join(blocks))
    run("", "test_page.py").assert_outcomes(passed=passed)
