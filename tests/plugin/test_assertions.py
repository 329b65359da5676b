"""What passes, what fails, and what a failure shows; the nets decide, not the plugin."""

from __future__ import annotations

from collections.abc import Callable

import pytest

Run = Callable[..., pytest.RunResult]

HEALTHY = "gradcheckup.assert_healthy(healthy(), batch(), loss)"
SICK = "gradcheckup.assert_healthy(sick(), batch(), loss)"


def one_test(body: str) -> str:
    return f"def test_flow(gradcheckup):\n    {body}\n"


@pytest.mark.parametrize(
    "body",
    [
        HEALTHY,
        "gradcheckup.assert_healthy(healthy, batch(), loss)",  # a function that builds it
        "gradcheckup.assert_healthy(healthy(), (batch() for _ in range(3)), loss, steps=3)",
        "gradcheckup.assert_healthy(healthy(), batch(), optimizer=torch.optim.Adam)",
        "gradcheckup.assert_healthy(gradcheckup.diagnose(healthy(), batch(), loss))",
        "gradcheckup.assert_healthy(sick(), batch(), loss, ignore=['GC1', 'GC2', 'GC3'])",
        "gradcheckup.assert_healthy(sick(), batch(), loss, select='GC4')",
        "gradcheckup.assert_no('GC101', healthy(), batch(), loss)",
        "gradcheckup.assert_no('exploding-gradient', sick(), batch(), loss)",
        "gradcheckup.assert_no('GC4', gradcheckup.diagnose(sick(), batch(), loss))",
        "gradcheckup.assert_reaches(sick(), '0', batch(), loss)",  # faint, and there
        "gradcheckup.assert_reaches(Detached(), 'head', batch(), loss)",
        "gradcheckup.assert_all_parameters_train(healthy(), batch(), loss)",
        "gradcheckup.assert_all_parameters_train(Detached(), batch(), loss, ignore=IGNORED)",
    ],
)
def test_passes(run: Run, body: str) -> None:
    run(one_test(body)).assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (
            SICK,
            [
                "*unhealthy gradient flow: GC101 vanishing-gradient",
                "*UNHEALTHY  Sequential, 7 layers*",
                "*likely cause: 6 sigmoids*",
                "*likely to help: *",
                "*gradient  ▁▂▃*",
                "*rule   layer*value  limit*",
                "*GC101  0 *gradient ratio*at least 0.02*",
                "*GC203*signal ratio*at least*",
                "*so with seeds 0, 1; again: --gradcheckup-seed=0*",
                "*wanted so? @pytest.mark.gradcheckup(ignore=*GC101*",
            ],
        ),
        ("gradcheckup.assert_healthy(sick, batch(), loss)", ["*GC101 vanishing-gradient*"]),
        (
            "gradcheckup.assert_healthy(gradcheckup.diagnose(sick(), batch(), loss))",
            ["*GC101 vanishing-gradient*"],
        ),
        (
            "gradcheckup.assert_no('GC101', sick(), batch(), loss)",
            ["*expected no GC101, found GC101*"],
        ),
        # Folded under GC101 where all rules judge.
        (
            "gradcheckup.assert_no('GC203', gradcheckup.diagnose(sick(), batch(), loss))",
            ["*found GC203 collapsed-signal*"],
        ),
        (
            "gradcheckup.assert_reaches(Detached(), 'stem.0', batch(), loss)",
            ["*no gradient reaches stem.0: none arrives*"],
        ),
        (
            "gradcheckup.assert_reaches(Detached(), 'stem', batch(), loss)",
            ["*no gradient reaches stem: none arrives*"],
        ),
        ("gradcheckup.assert_reaches(Detached(), 'spare', batch(), loss)", ["*did not run*"]),
        (
            "gradcheckup.assert_all_parameters_train(Detached(), batch(), loss)",
            ["*4 of the parameters*", "*stem.0.weight*no gradient*", "*spare.bias*did not run*"],
        ),
        (
            "gradcheckup.assert_all_parameters_train(with_frozen_backbone(), batch(), loss)",
            ["*2 of the parameters*", "*0.weight*frozen*", "*0.bias*frozen*"],
        ),
        (
            "gradcheckup.assert_all_parameters_train(healthy(), batch(), loss, optimizer=HEAD)",
            [
                "*2 of the parameters*",
                "*0.weight*not among the optimizer's parameters*",
                "*0.bias *not among the optimizer's parameters*",
            ],
        ),
    ],
)
def test_fails(run: Run, body: str, told: list[str]) -> None:
    result = run(one_test(body))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(told)
    # The last line of the traceback is the test's own.
    result.stdout.fnmatch_lines(["test_flow.py:*: UnhealthyError"])
    assert "fixture.py" not in result.stdout.str()


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("gradcheckup.assert_healthy(nn.Linear, batch(), loss)", "*got the class Linear*"),
        ("gradcheckup.assert_healthy('model.py', batch(), loss)", "*got str*"),
        ("gradcheckup.assert_healthy(healthy())", "*expected a batch*got NoneType*"),
        ("gradcheckup.assert_healthy(healthy(), [], loss)", "*at least one batch*"),
        ("gradcheckup.assert_healthy(healthy(), (x for x in []), loss)", "*generator is empty*"),
        ("gradcheckup.assert_healthy(Exits(), batch(), loss)", "*SystemExit: 3, at *nets.py:*"),
        ("gradcheckup.assert_healthy(lambda: exit(3), batch(), loss)", "*builds*SystemExit: 3*"),
        ("gradcheckup.assert_healthy(healthy(), batch(), loss, step=3)", "*'step'*mean steps?*"),
        ("gradcheckup.assert_healthy(healthy(), batch(), loss, steps=0)", "*at least 1, got 0*"),
        ("gradcheckup.assert_healthy(healthy(), batch(), loss, select='GC9')", "*got 'GC9'*"),
        ("gradcheckup.assert_no('GC1O1', healthy(), batch(), loss)", "*'GC1O1'*mean GC101?*"),
        ("gradcheckup.assert_no(healthy(), batch(), loss)", "*a rule code first*got Sequential*"),
        ("gradcheckup.assert_reaches(healthy(), 'stem', batch(), loss)", "*got 'stem'*"),
        ("gradcheckup.assert_reaches(healthy(), '0', batch(), select='GC1')", "*select: no bear*"),
        ("gradcheckup.assert_no('GC101', healthy(), batch(), ignore='GC2')", "*ignore: no bear*"),
        ("gradcheckup.assert_all_parameters_train(healthy(), batch(), ignore=5)", "*names*got 5"),
        ("gradcheckup.assert_all_parameters_train(healthy(), ignore=[5])", "*names*got [[]5]"),
        ("gradcheckup.assert_reaches(healthy(), batch(), loss)", "*a layer second*got tuple*"),
        (
            "gradcheckup.assert_healthy(gradcheckup.diagnose(healthy(), batch(), loss), batch())",
            "*a report or a watched loop is judged as it is: leave out data*",
        ),
        (
            "gradcheckup.assert_healty(healthy(), batch(), loss)",
            "*AttributeError: no *assert_healty,*mean assert_healthy?",
        ),
        (
            "gradcheckup.assert_healthy(healthy(), (torch.randn(8, 3), torch.zeros(8)), loss)",
            "*ModelError*",
        ),
        (
            "gradcheckup.assert_healthy(healthy().to('meta'), batch(), loss)",
            "*ModelError*meta*",
        ),
        # A device that no machine has, wherever it is asked for.
        (
            "gradcheckup.assert_healthy(lambda: healthy().to('cuda:99'), batch(), loss)",
            "*ModelError: the function that builds the model failed: *",
        ),
        (
            "gradcheckup.assert_healthy(healthy(), (x.to('cuda:99') for x in batch()), loss)",
            "*DataError: the data failed after 0 batches: *",
        ),
        (
            "gradcheckup.assert_healthy(healthy(), batch(), loss_elsewhere)",
            "*ModelError: the loss failed: *",
        ),
        (
            "gradcheckup.assert_healthy(lambda width: healthy(), batch(), loss)",
            "*ModelError: the function that builds the model failed: TypeError: *width*",
        ),
    ],
)
def test_misuse_is_a_clear_failure(run: Run, body: str, told: str) -> None:
    result = run(one_test(body))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([told])
    assert "INTERNALERROR" not in result.stdout.str()
    result.stdout.no_fnmatch_line("*pytest_gradcheckup?*.py*")  # no frames of the plugin


def test_a_fault_of_a_minority_of_seeds_passes(run: Run) -> None:
    """The net is sick with one seed in three, whichever that is."""
    source = """
pytestmark = pytest.mark.gradcheckup(steps=2)

def flaky(sick_at):
    return sick() if torch.initial_seed() in sick_at else healthy()

@pytest.mark.parametrize("sick_at", [{0}, {1}, {2}])
def test_minority(gradcheckup, sick_at):
    gradcheckup.assert_healthy(lambda: flaky(sick_at), batch(), loss)

@pytest.mark.parametrize("sick_at", [{0, 1}, {0, 2}, {1, 2}])
def test_majority(gradcheckup, sick_at):
    gradcheckup.assert_healthy(lambda: flaky(sick_at), batch(), loss)

@pytest.mark.gradcheckup(seeds=1, seed=2)
def test_one_seed(gradcheckup):
    gradcheckup.assert_healthy(lambda: flaky({2}), batch(), loss)
"""
    result = run(source)
    result.assert_outcomes(passed=3, failed=4)
    result.stdout.fnmatch_lines(["*with seeds 0, 2, not with seed 1; again*seed=0*"])


def test_tests_are_the_same_in_every_run_and_leave_no_trace(run: Run) -> None:
    source = """
import random
import numpy
seen = []

def draw():
    return torch.rand(1).item(), random.random(), numpy.random.rand()

@pytest.fixture(autouse=True)
def outside():
    torch.manual_seed(7), random.seed(7), numpy.random.seed(7)
    expected = draw()
    torch.manual_seed(7), random.seed(7), numpy.random.seed(7)
    yield
    assert draw() == expected

@pytest.mark.parametrize("time", [0, 1])
def test_twice(gradcheckup, time):
    model = healthy()
    before = [p.clone() for p in model.parameters()]
    gradcheckup.assert_healthy(model, batch(), loss)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters()))
    seen.append((before[0], draw()))
    assert torch.equal(seen[0][0], seen[-1][0]) and seen[0][1] == seen[-1][1]
"""
    run(source, "-p", "no:randomly").assert_outcomes(passed=2)


def test_plain_helpers_take_a_report(run: Run) -> None:
    source = """
import gradcheckup as plain
from pytest_gradcheckup import assert_all_parameters_train, assert_no, assert_reaches

def report(model):
    return plain.diagnose(model, batch(), loss, steps=4)

def test_holds():
    assert_no("GC1", report(healthy()))
    assert_no("exploding-gradient", report(sick()))
    assert_reaches(report(Detached()), "head")
    assert_all_parameters_train(report(healthy()))
    assert_all_parameters_train(report(Detached()), ignore=IGNORED)

def test_no():
    assert_no("GC101", report(sick()))

def test_reaches():
    assert_reaches(report(Detached()), "stem.0")

def test_train():
    assert_all_parameters_train(report(with_frozen_backbone()), ignore="*.bias")

@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: assert_no("GC000", report(healthy())), "got 'GC000'"),
        (lambda: assert_no(5, report(healthy())), "a rule code first, got int"),
        (lambda: assert_no("GC1", healthy()), "a report of diagnose, as in .* got Sequential"),
        (lambda: assert_reaches("head", report(Detached())), "a report of .* got str"),
        (lambda: assert_reaches(report(Detached()), "heed"), "got 'heed'; did you mean head"),
        (lambda: assert_reaches(report(Detached()), 5), "the name of a layer second, got int"),
        (lambda: assert_all_parameters_train(report(healthy()), ignore=5), "names.*got 5"),
    ],
)
def test_misuse(call, told):
    with pytest.raises(plain.UsageError, match=told):
        call()
"""
    result = run(source, "-p", "no:randomly")
    result.assert_outcomes(passed=8, failed=3)
    result.stdout.fnmatch_lines(
        [
            "*expected no GC101, found GC101*",
            "*UNHEALTHY  Sequential*",
            "test_flow.py:*: UnhealthyError",
            "*no gradient reaches stem.0: none arrives*",
            "*1 of the parameters did not change in 4 steps*",
            "*0.weight*frozen*",
            "*wanted so? ignore=[[]'0.weight', ...]*",
        ]
    )
    assert "plain.py" not in result.stdout.str()


def test_unittest_classes_and_plain_helpers(run: Run) -> None:
    source = """
import unittest
import gradcheckup as plain

class TestFlow(unittest.TestCase):
    @pytest.fixture(autouse=True)
    def _checker(self, gradcheckup):
        self.gradcheckup = gradcheckup

    def test_healthy(self):
        self.gradcheckup.assert_healthy(healthy(), batch(), loss)

    def test_sick(self):
        self.gradcheckup.assert_healthy(sick(), batch(), loss)

def test_without_the_fixture():
    plain.assert_healthy(plain.diagnose(healthy(), batch(), loss))

def test_sick_without_the_fixture():
    plain.assert_healthy(plain.diagnose(sick(), batch(), loss))
"""
    result = run(source, "--import-mode=importlib")
    result.assert_outcomes(passed=2, failed=2)
    result.stdout.fnmatch_lines_random(["*GC101 vanishing-gradient*"] * 2)
    result.stdout.no_fnmatch_line("*checkup.py:*")
