"""What is left of a run: files and an index, properties in JUnit, annotations, and a summary."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from xml.etree import ElementTree as ET

import pytest

import gradcheckup

Run = Callable[..., pytest.RunResult]

SUITE = """
def test_healthy(gradcheckup):
    gradcheckup.assert_healthy(healthy(), batch(), loss)
    gradcheckup.assert_all_parameters_train(healthy(), batch(), loss)

class TestSick:
    @pytest.mark.parametrize("which", ["a|b"])
    def test_sick(self, gradcheckup, which):
        gradcheckup.assert_healthy(sick(), batch(), loss)
"""


def test_files_properties_and_annotations(run: Run, pytester: pytest.Pytester) -> None:
    """What workers send home is in test_company."""
    result = run(
        SUITE, "--gradcheckup-report=out/reports", "--gradcheckup-github", "--junit-xml=junit.xml"
    )
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*= gradcheckup =*", "3 checks, 1 failed", "reports: *index.md"])

    folder = pytester.path / "out" / "reports"
    reports = {path.stem: gradcheckup.load_report(path) for path in folder.glob("*.json")}
    assert sorted(report.healthy for report in reports.values()) == [False, True, True]
    assert {path.stem for path in folder.glob("*.txt")} == set(reports)
    index = (folder / "index.md").read_text("utf-8")
    for stem, report in reports.items():
        assert f"[text]({stem}.txt), [JSON]({stem}.json)" in index
        assert (folder / f"{stem}.txt").read_text("utf-8") == f"{report}\n"
    rows = [line for line in index.splitlines() if "test_flow.py" in line]
    assert len(rows) == 3
    # Five columns and the report: a name with a bar does not add one.
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {7}

    tree = ET.parse(pytester.path / "junit.xml")  # noqa: S314 - written a moment ago
    found = [json.loads(each.get("value", "")) for each in tree.iter("property")]
    assert [each["check"] for each in found if not each["holds"]] == ["assert_healthy"]
    assert len(found) == 3

    (annotation,) = [line for line in result.outlines if line.startswith("::error")]
    # Where the test begins, with its decorator: three lines of imports stand before the source.
    line = 3 + 1 + SUITE[: SUITE.index("    @pytest")].count("\n")
    place = f"::error file=test_flow.py,line={line},title=gradcheckup::"
    assert annotation.startswith(place)
    assert "GC101 critical" in annotation


def annotated(result: pytest.RunResult) -> list[str]:
    return [line for line in result.outlines if line.startswith("::error")]


def test_what_a_test_expects_is_no_failure(run: Run, pytester: pytest.Pytester) -> None:
    source = """
def test_raises(gradcheckup):
    with pytest.raises(AssertionError):
        gradcheckup.assert_healthy(sick(), batch(), loss)

@pytest.mark.xfail(strict=True)
def test_expected(gradcheckup):
    gradcheckup.assert_healthy(sick(), batch(), loss)
"""
    result = run(source, "--gradcheckup-report=out", "--gradcheckup-github")
    result.assert_outcomes(passed=1, xfailed=1)
    result.stdout.fnmatch_lines(["2 checks, 2 failed as expected"])
    assert not annotated(result)
    index = (pytester.path / "out" / "index.md").read_text("utf-8")
    assert index.count("no, as expected") == 2
    assert "**no**" not in index


def test_checks_that_could_not_be_made_are_told(run: Run, pytester: pytest.Pytester) -> None:
    source = """
def test_missing(gradcheckup):
    gradcheckup.assert_matches_baseline(healthy(), batch(), loss)

def test_unusable(gradcheckup):
    gradcheckup.assert_healthy(nn.Linear, batch(), loss)

@pytest.fixture
def checked(gradcheckup):
    gradcheckup.assert_healthy(sick(), batch(), loss)

def test_set_up(checked):
    pass
"""
    keep = ("--gradcheckup-report=out", "--gradcheckup-github", "--junit-xml=junit.xml")
    result = run(source, "--gradcheckup-ci", "-p", "no:randomly", *keep)
    result.assert_outcomes(failed=2, errors=1)
    result.stdout.fnmatch_lines(["3 checks, 3 failed"])
    said = [line.partition("title=gradcheckup::test_flow.py::")[2] for line in annotated(result)]
    for line, start in zip(
        said,
        (
            "test_missing: assert_matches_baseline: there is no baseline test_missing.json",
            "test_unusable: assert_healthy: expected a model, got the class Linear",
            "test_set_up: assert_healthy fails for Sequential (GC101 critical)",
        ),
        strict=True,
    ):
        assert line.startswith(start)
    index = (pytester.path / "out" / "index.md").read_text("utf-8")
    assert index.count("**no**") == 3
    assert "there is no baseline test_missing.json" in index
    tree = ET.parse(pytester.path / "junit.xml")  # noqa: S314 - written a moment ago
    kept = [each for each in tree.iter("property") if each.get("name") == "gradcheckup_check"]
    found = [json.loads(each.get("value", "")) for each in kept]
    assert ["error" in each for each in found] == [True, True, False]


def test_a_check_in_a_subtest_is_told_once(run: Run) -> None:
    source = """
import unittest

class TestFlow(unittest.TestCase):
    @pytest.fixture(autouse=True)
    def _checker(self, gradcheckup):
        self.gradcheckup = gradcheckup

    def test_parts(self):
        for net in (sick, healthy, sick):
            with self.subTest(net=net):
                self.gradcheckup.assert_healthy(net(), batch(), loss)
"""
    result = run(source, "--gradcheckup-github")
    failed = 2 if pytest.version_tuple >= (9,) else 1
    result.stdout.fnmatch_lines([f"3 checks, {failed} failed"] if failed == 2 else ["* failed"])
    assert len(annotated(result)) == failed


def test_paths_are_those_of_the_workspace(
    run: Run, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A project may be a folder of what GitHub checks out."""
    monkeypatch.setenv("GITHUB_WORKSPACE", str(pytester.path.parent))
    (line, *_) = annotated(run(SUITE, "--gradcheckup-github"))
    assert line.startswith(f"::error file={pytester.path.name}/test_flow.py,line=")
    monkeypatch.setenv("GITHUB_WORKSPACE", str(pytester.path / "elsewhere"))
    (line, *_) = annotated(run(SUITE, "--gradcheckup-github"))
    assert line.startswith("::error file=test_flow.py,line=")


def test_no_files_and_no_annotations_unless_asked_for(run: Run, pytester: pytest.Pytester) -> None:
    result = run(SUITE)
    assert not [line for line in result.outlines if line.startswith("::")]
    assert not list(pytester.path.glob("**/index.md"))
    assert "= gradcheckup =" not in run("def test_other(): pass").stdout.str()


def test_reports_that_cannot_be_written_are_told(run: Run, pytester: pytest.Pytester) -> None:
    (pytester.path / "taken").write_text("a file")
    result = run(SUITE, "--gradcheckup-report=taken")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--gradcheckup-report: cannot make the folder: *taken*"])
    # Folders stand where files are to be written, as if the disk were full by then.
    for name in ("test_flow.py.test_healthy-1.txt", "index.md"):
        (pytester.path / "out" / name).mkdir(parents=True)
    result = run(SUITE, "--gradcheckup-report=out", "-k", "healthy or sick")
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["*ReportError: --gradcheckup-report: *test_healthy-1.txt*"])
    result.stdout.fnmatch_lines(["cannot write *index.md: *"])
    result.stdout.no_fnmatch_line("*INTERNALERROR*")


def test_a_test_in_one_line(run: Run) -> None:
    source = """
import pytest_gradcheckup

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))

test_function = pytest_gradcheckup.healthy_test(healthy, batch, loss)
test_class = pytest_gradcheckup.healthy_test(Net, batch(), loss, optimizer=torch.optim.Adam)
test_model = pytest_gradcheckup.healthy_test(Net(), batch, loss)
test_sick = pytest_gradcheckup.healthy_test(sick, batch, loss)

class TestInAClass:
    test_function = pytest_gradcheckup.healthy_test(healthy, batch, loss)
    test_sick = pytest.mark.gradcheckup(steps=4)(
        pytest_gradcheckup.healthy_test(sick, batch, loss)
    )
"""
    result = run(source, "--gradcheckup-github", "-p", "no:randomly")
    result.assert_outcomes(passed=4, failed=2)
    line = 3 + source[: source.index("test_sick =")].count("\n") + 1
    result.stdout.fnmatch_lines(
        [
            ">*test_sick = pytest_gradcheckup.healthy_test(sick, batch, loss)",
            "*GC101 vanishing-gradient*",
            "*8 probe steps*",
            '*wanted so? healthy_test(..., ignore=[[]"GC101"*',
            f"test_flow.py:{line}: UnhealthyError",
            "*4 probe steps*",
            f"::error file=test_flow.py,line={line},*",
        ]
    )
    assert "generated.py" not in result.stdout.str()


def test_data_of_a_generated_test_is_seeded_where_a_function_draws_it(
    run: Run, pytester: pytest.Pytester
) -> None:
    source = """
import pytest_gradcheckup

def drawn():
    x = torch.randn(32, 16)
    with open("drawn.txt", "a") as file:
        print(x.sum().item(), file=file)
    return x, x[:, :4].argmax(1)

torch.seed()
test_flow = pytest_gradcheckup.healthy_test(healthy, drawn, loss)
"""
    for _ in range(2):
        run(source).assert_outcomes(passed=1)
    first, second = (pytester.path / "drawn.txt").read_text("utf-8").splitlines()
    assert first == second
