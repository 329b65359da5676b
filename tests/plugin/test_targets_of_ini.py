"""Models that pytest checks because the ini file names their files."""

from __future__ import annotations

from collections.abc import Callable

import pytest

Run = Callable[..., pytest.RunResult]

INI = """
pythonpath = .
testpaths = checks
gradcheckup_targets = models/*.py other/both.py:Sick other/both.py:Net
"""
GOOD = "from nets import *\nmodel, data, criterion = healthy(), batch(), loss\n"
BAD = "from nets import *\nmodel, data, criterion = sick(), batch(), loss\n"
BOTH = """
from nets import *

data, criterion = batch(), loss

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(*healthy())

class Sick(nn.Sequential):
    def __init__(self):
        super().__init__(*sick())
"""


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    """Models beside a folder of tests."""
    for place, text in (
        ("models/good.py", GOOD),
        ("models/bad.py", BAD),
        ("models/__init__.py", ""),
        ("other/both.py", BOTH),
        ("checks/test_other.py", "def test_other(): pass\n"),
    ):
        path = pytester.path / place
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return pytester


@pytest.mark.parametrize(
    "workers",
    [
        pytest.param((), id="alone"),
        pytest.param(("-p", "xdist", "-n", "2"), id="workers", marks=pytest.mark.slow),
    ],
)
@pytest.mark.usefixtures("project")
def test_all_models_are_checked(run: Run, workers: tuple[str, ...]) -> None:
    result = run("", "-rA", *workers, ini=INI)
    result.assert_outcomes(passed=3, failed=2)
    result.stdout.fnmatch_lines_random(
        [
            "*UNHEALTHY  Sequential*",
            "PASSED models/good.py::gradcheckup*",
            "FAILED models/bad.py::gradcheckup*",
            "PASSED other/both.py::Net*",
            "FAILED other/both.py::Sick*",
            "*wanted so? gradcheckup_ignore = GC101* in the ini file, or gradcheckup_thresholds",
            "4 checks, 2 failed",
        ]
    )
    assert "Traceback" not in result.stdout.str()


@pytest.mark.parametrize(
    ("arguments", "outcomes"),
    [
        (["checks"], {"passed": 1}),
        (["models"], {"passed": 1, "failed": 1}),
        (["models/good.py"], {"passed": 1}),
        (["other/both.py::Net"], {"passed": 1}),
        (["-k", "good"], {"passed": 1}),
        (["--ignore=models"], {"passed": 2, "failed": 1}),
        (["--ignore=models/bad.py"], {"passed": 3, "failed": 1}),
        (["--ignore-glob=oth*/*"], {"passed": 2, "failed": 1}),
    ],
)
@pytest.mark.usefixtures("project")
def test_paths_and_names_select(run: Run, arguments: list[str], outcomes: dict[str, int]) -> None:
    run("", *arguments, ini=INI).assert_outcomes(**outcomes)


def test_targets_that_cannot_be_used(run: Run, project: pytest.Pytester) -> None:
    result = run("", ini="gradcheckup_targets = modelz/*.py\n")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*no Python file matches 'modelz/[*].py'*"])
    (project.path / "models" / "bad.py").write_text("model = 1 / 0\n")
    result = run("", "models/bad.py", ini=INI)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["importing *bad.py failed: ZeroDivisionError*", "*line 1*"])
    (project.path / "models" / "bad.py").write_text(GOOD + "model.to('cuda:99')\n")
    elsewhere = run("", "models/bad.py", ini=INI)
    elsewhere.assert_outcomes(failed=1)
    elsewhere.stdout.fnmatch_lines(["importing *bad.py failed: *", "*model.to('cuda:99')*"])
    assert "INTERNALERROR" not in result.stdout.str() + elsewhere.stdout.str()
