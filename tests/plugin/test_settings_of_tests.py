"""Marks over options over ini keys over [tool.gradcheckup]; and what is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest

Run = Callable[..., pytest.RunResult]

STEPS = """
def test_flow(gradcheckup):
    report = gradcheckup.diagnose(healthy(), [batch()] * 9, loss)
    taken = len(report.steps), report.recording.batches, report.thresholds.dead_warning
    with open("taken.txt", "w") as file:  # what a worker prints is not shown
        file.write(repr(taken))
"""
PROJECT = """
[tool.gradcheckup]
steps = 2
batches = 1
[tool.gradcheckup.thresholds]
dead_warning = 0.2
"""
INI = "gradcheckup_steps = 3\ngradcheckup_batches = 2\ngradcheckup_thresholds = dead-warning=0.3\n"
OPTIONS = ("--gradcheckup-steps=4", "--gradcheckup-batches=3",
           "--gradcheckup-thresholds=dead_warning=0.4")  # fmt: skip


def test_the_closest_wins(run: Run, pytester: pytest.Pytester) -> None:
    def taken(source: str, *arguments: str, ini: str = "") -> str:
        run(source, *arguments, ini=ini).assert_outcomes(passed=1)
        return (pytester.path / "taken.txt").read_text("utf-8")

    pytester.makepyprojecttoml(PROJECT)
    assert taken(STEPS) == "(2, 1, 0.2)"
    assert taken(STEPS, ini=INI) == "(3, 2, 0.3)"
    assert taken(STEPS, *OPTIONS, ini=INI) == "(4, 3, 0.4)"
    mark = "@pytest.mark.gradcheckup(steps=5, batches=4, thresholds={'dead_warning': 0.5})"
    assert taken(mark + STEPS, *OPTIONS, ini=INI) == "(5, 4, 0.5)"
    module = f"pytestmark = {mark[1:]}\n@pytest.mark.gradcheckup(steps=6)"
    assert taken(module + STEPS, *OPTIONS, ini=INI) == "(6, 4, 0.5)"
    call = STEPS.replace("loss)", "loss, steps=7, batches=6)")
    assert taken(module + call, *OPTIONS, ini=INI) == "(7, 6, 0.5)"


@pytest.mark.skipif(pytest.version_tuple < (9,), reason="[tool.pytest] is of pytest 9")
def test_numbers_of_toml_are_numbers(run: Run, pytester: pytest.Pytester) -> None:
    pytester.makepyprojecttoml("[tool.pytest]\ngradcheckup_steps = 6\ngradcheckup_batches = 2\n")
    run(STEPS).assert_outcomes(passed=1)
    assert (pytester.path / "taken.txt").read_text("utf-8").startswith("(6, 2, ")
    pytester.makepyprojecttoml("[tool.pytest]\ngradcheckup_steps = 1.5\n")
    result = run(STEPS)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*gradcheckup_steps: expected a whole number*1.5*"])


def test_marks_decide_what_fails(run: Run) -> None:
    source = """
@pytest.mark.gradcheckup(ignore="GC1,GC2,GC3")
class TestWanted:
    def test_ignored(self, gradcheckup):
        gradcheckup.assert_healthy(sick(), batch(), loss)

    @pytest.mark.gradcheckup(ignore=[])
    def test_not_ignored(self, gradcheckup):
        gradcheckup.assert_healthy(sick(), batch(), loss)

def test_frozen_backbone(gradcheckup):
    gradcheckup.assert_healthy(with_frozen_backbone(), batch(), loss)
"""
    run(source).assert_outcomes(passed=2, failed=1)


@pytest.mark.parametrize(
    ("mark", "told"),
    [
        ("stepz=3", "*unknown setting 'stepz'; did you mean steps?*"),
        ("3", "*takes keywords alone*"),
        ("steps='many'", "*steps: expected a whole number of at least 1, got 'many'*"),
        ("select=['GC9']", "*select: expected a rule code*got 'GC9'*"),
        ("ignore=3", "*ignore: expected rule codes or names, got 3*"),
        ("thresholds={'dead': 1}", "*unknown threshold 'dead'*"),
        ("thresholds={'dead_warning': 'x'}", "*expected a number for dead_warning, got 'x'*"),
        ("thresholds=3", "*expected a mapping of limits, got 3*"),
        ("fail_on='never'", "*expected critical or warning, got 'never'*"),
        ("batches=9", "*at most as many batches as steps*got batches=9 and steps=8*"),
    ],
)
def test_marks_that_make_no_sense(run: Run, mark: str, told: str) -> None:
    result = run(f"@pytest.mark.gradcheckup({mark}){STEPS}")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([told])
    assert "settings.py" not in result.stdout.str()


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("--gradcheckup-steps=0", "*--gradcheckup-steps: expected*at least 1, got '0'*"),
        ("--gradcheckup-ignore=GC000", "*--gradcheckup-ignore: *got 'GC000'*"),
        ("--gradcheckup-fail-on=never", "*--gradcheckup-fail-on: expected critical or warning*"),
        ("--gradcheckup-thresholds=dead_warning", "*expected NAME=NUMBER*"),
        ("--gradcheckup-thresholds=dead_warning=0", "*thresholds: *dead_warning must be above 0*"),
        ("--gradcheckup-thresholds=dead_warning=nan", "*dead_warning must be above 0, got nan*"),
        ("--gradcheckup-thresholds=dead_warning=1,dead_critical=0.5", "*must not be above*"),
        ("--gradcheckup-seed=4294967296", "*--gradcheckup-seed: expected*at most 2147483648*"),
        ("--gradcheckup-batches=9", "*at most as many batches as steps*batches=9 and steps=8*"),
        ("--gradcheckup-batches=two", "*--gradcheckup-batches: expected*at least 1, got 'two'*"),
    ],
)
def test_options_that_make_no_sense_stop_the_run(run: Run, option: str, told: str) -> None:
    result = run(STEPS, option)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([told])


def test_ini_keys_and_projects_that_make_no_sense(run: Run, pytester: pytest.Pytester) -> None:
    result = run(STEPS, ini="gradcheckup_seeds = none\n")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*gradcheckup_seeds: expected a whole number*'none'*"])
    pytester.path.joinpath("tox.ini").unlink()
    pytester.makepyprojecttoml("[tool.gradcheckup]\nstepz = 2\n")
    result = run(STEPS)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*unknown setting 'stepz'*"])


def test_help_and_markers_are_listed(run: Run) -> None:
    run("", "--help").stdout.fnmatch_lines(["*--gradcheckup-steps=N*", "*gradcheckup_steps*"])
    run("", "--markers").stdout.fnmatch_lines(["@pytest.mark.gradcheckup(*steps*"])
