"""Beside other plugins: the same outcomes in workers, in any order, in processes of their own."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

import gradcheckup

Run = Callable[..., pytest.RunResult]

SUITE = """
import asyncio, unittest

pytestmark = pytest.mark.gradcheckup(steps=4)

def test_healthy(gradcheckup):
    gradcheckup.assert_healthy(healthy(), batch(), loss)

def test_sick(gradcheckup):
    gradcheckup.assert_healthy(sick(), batch(), loss)

@pytest.mark.gradcheckup(stepz=3)
def test_mark(gradcheckup):
    pass

def test_misuse(gradcheckup):
    gradcheckup.assert_no("GC000", healthy(), batch(), loss)

def test_loop(gradcheckup):
    model, (x, y) = healthy(), batch()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = gradcheckup.watch(model, optimizer)
    for _ in range(8):
        optimizer.zero_grad()
        loss(model(x), y).backward()
        optimizer.step()
    gradcheckup.assert_healthy(monitor)

@pytest.mark.parametrize("time", range(4))
def test_one_baseline(gradcheckup, time):
    report = gradcheckup.diagnose(healthy(), batch(), loss)
    gradcheckup.assert_matches_baseline(report, name="shared")

async def test_async(gradcheckup):
    await asyncio.sleep(0)
    gradcheckup.assert_healthy(healthy(), batch(), loss)

class TestAsync(unittest.IsolatedAsyncioTestCase):
    @pytest.fixture(autouse=True)
    def _checker(self, gradcheckup):
        self.gradcheckup = gradcheckup

    async def test_in_a_class(self):
        await asyncio.sleep(0)
        self.gradcheckup.assert_healthy(healthy(), batch(), loss)
"""
# What plugins for async tests do.
AWAITS = """
import asyncio, inspect

def pytest_pyfunc_call(pyfuncitem):
    if inspect.iscoroutinefunction(pyfuncitem.obj):
        names = pyfuncitem._fixtureinfo.argnames
        asyncio.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
        return True
"""


@pytest.mark.parametrize("dist", ["loadfile", pytest.param("worksteal", marks=pytest.mark.slow)])
def test_in_workers_in_any_order(run: Run, pytester: pytest.Pytester, dist: str) -> None:
    """In processes of their own with all plugins that are installed; two files of tests."""
    pytester.makeconftest(AWAITS)
    second = "from test_flow import *\nfrom test_flow import test_sick as test_sick_too\n"
    names = (
        "test_healthy",
        "test_mark",
        "test_misuse",
        "test_loop",
        "test_one_baseline",
        "test_async",
    )
    pytester.makepyfile(test_second=second + "del " + ", ".join((*names, "test_sick", "TestAsync")))
    keep = ("--gradcheckup-report=out", "--gradcheckup-github", "--junit-xml=junit.xml")
    result = run(SUITE, "-n", "2", "--dist", dist, "--gradcheckup-update", *keep, apart=True)
    result.assert_outcomes(passed=8, failed=3, errors=1)
    result.stdout.fnmatch_lines(["*GC101 vanishing-gradient*"])
    result.stdout.fnmatch_lines(["*= gradcheckup =*", "11 checks, 3 failed"])
    result.stdout.no_fnmatch_line("*INTERNALERROR*")
    assert result.outlines.count("shared.json written: 2 layers") == 1

    (baseline,) = pytester.path.glob("__gradcheckup__/**/*.*")
    assert baseline.name == "shared.json"
    out = pytester.path / "out"
    reports = [gradcheckup.load_report(path).healthy for path in out.glob("*.json")]
    assert sorted(reports) == [False] * 2 + [True] * 8
    index = (out / "index.md").read_text("utf-8")
    assert all(f"({path.name})" in index for path in (*out.glob("*.json"), *out.glob("*.txt")))
    tree = ET.parse(pytester.path / "junit.xml")  # noqa: S314 - written a moment ago
    kept = [each for each in tree.iter("property") if each.get("name") == "gradcheckup_check"]
    held = [json.loads(each.get("value", ""))["holds"] for each in kept]
    assert sorted(held) == sorted([False, *reports])  # of what could not be asked is no report
    sick, misuse = (
        3 + 1 + SUITE[: SUITE.index(f"def {name}")].count("\n")
        for name in ("test_sick", "test_misuse")
    )
    told = [each.partition(",title")[0] for each in result.outlines if each.startswith("::error")]
    places = [f"::error file=test_flow.py,line={line}" for line in (sick, sick, misuse)]
    assert sorted(told) == sorted(places)


@pytest.mark.slow
def test_options_are_refused_before_workers_start(run: Run) -> None:
    result = run(SUITE, "-p", "xdist", "-n", "2", "--gradcheckup-steps=0")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--gradcheckup-steps*"])


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


@pytest.mark.parametrize(("page", "passed"), [("docs/pytest.md", 4)])
def test_examples_of_the_documentation(
    run: Run, pytester: pytest.Pytester, page: str, passed: int
) -> None:
    text = (Path(__file__).parents[2] / page).read_text("utf-8")
    blocks = re.findall(r"^```py\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    pytester.makepyfile(test_page="\n".join(blocks))
    run("", "test_page.py").assert_outcomes(passed=passed)
