"""Loops of tests that are watched: what passes, fails and is written down, and what is refused."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from xml.etree import ElementTree as ET

import pytest

import gradcheckup
from pytest_gradcheckup.options import WatchOptions

Run = Callable[..., pytest.RunResult]

TRAIN = """
import copy

def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1)

def train(model, optimizer, steps=8):
    x, y = batch()
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model(x), y).backward()
        optimizer.step()
"""


def test_every_step_is_sampled_and_the_loop_is_what_it_was(run: Run) -> None:
    source = """
left_open = []

def test_with(gradcheckup):
    model = healthy()
    unwatched = copy.deepcopy(model)
    train(unwatched, sgd(unwatched))
    optimizer = sgd(model)
    with gradcheckup.watch(model, optimizer, subject="the net") as monitor:
        train(model, optimizer)
    assert monitor.closed
    gradcheckup.assert_healthy(monitor)
    gradcheckup.assert_healthy(monitor.report())
    gradcheckup.assert_no("GC101", monitor)
    gradcheckup.assert_reaches(monitor, "0")
    gradcheckup.assert_all_parameters_train(monitor)
    assert [each.index for each in monitor.report().recording.history.samples] == [*range(8)]
    assert monitor.report().subject == "the net"
    assert all(map(torch.equal, unwatched.parameters(), model.parameters()))

def test_open_at_the_end(gradcheckup):
    model = healthy()
    optimizer = sgd(model)
    monitor = gradcheckup.watch(model, optimizer, every=3)
    train(model, optimizer)
    gradcheckup.assert_healthy(monitor)
    assert [each.index for each in monitor.report().recording.history.samples] == [0, 3, 6]
    assert not monitor.closed
    left_open.append((monitor, model))

def test_closed_after_it():
    (monitor, model), = left_open
    assert monitor.closed
    assert not any(each._forward_hooks for each in model.modules())

def test_without_an_optimizer_that_steps(gradcheckup):
    model = healthy()
    monitor = gradcheckup.watch(model)
    for _ in range(4):
        loss(model(batch()[0]), batch()[1]).backward()
        with torch.no_grad():
            for each in model.parameters():
                each -= 0.1 * each.grad
        monitor.step()
        model.zero_grad()
    gradcheckup.assert_healthy(monitor)

def test_never_asserted(gradcheckup):
    model = sick()
    optimizer = sgd(model)
    gradcheckup.watch(model, optimizer)
    train(model, optimizer)
"""
    result = run(TRAIN + source, "-p", "no:randomly")
    result.assert_outcomes(passed=5)
    result.stdout.fnmatch_lines(["7 checks, all hold"])


def test_a_loop_that_fails_reads_as_any_check(run: Run, pytester: pytest.Pytester) -> None:
    source = """
def test_sick(gradcheckup):
    model = sick()
    optimizer = sgd(model)
    with gradcheckup.watch(model, optimizer) as monitor:
        train(model, optimizer)
    gradcheckup.assert_healthy(monitor)
"""
    keep = ("--gradcheckup-report=out", "--gradcheckup-github", "--junit-xml=junit.xml")
    result = run(TRAIN + source, *keep, "--gradcheckup-seed=5")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*unhealthy gradient flow: GC101 vanishing-gradient",
            "*UNHEALTHY  Sequential, 7 layers*8 *steps*",
            "*rule   layer*value  limit*",
            "*GC101  0 *gradient ratio*at least 0.0*",
            "*so with seed 5; again: --gradcheckup-seed=5*",
            "*wanted so? @pytest.mark.gradcheckup(ignore=*GC101*",
            "test_flow.py:*: UnhealthyError",
            "1 check, 1 failed",
            "::error file=test_flow.py,line=*assert_healthy fails for Sequential (GC101 critical*",
        ]
    )
    assert "fixture.py" not in result.stdout.str()
    report = gradcheckup.load_report(next((pytester.path / "out").glob("*.json")))
    assert not report.healthy
    assert report.recording.history is not None
    assert report.recording.history.steps == 8
    tree = ET.parse(pytester.path / "junit.xml")  # noqa: S314 - written a moment ago
    (entry,) = [json.loads(each.get("value", "")) for each in tree.iter("property")]
    assert (entry["check"], entry["holds"], entry["seeds"]) == ("assert_healthy", False, [5])


def test_settings_of_the_test_judge_unless_the_call_says_otherwise(
    run: Run, pytester: pytest.Pytester
) -> None:
    pytester.makepyprojecttoml("[tool.gradcheckup.thresholds]\ndead_warning = 0.2\n")
    source = """
@pytest.fixture
def monitor(gradcheckup, request):
    model = sick()
    optimizer = sgd(model)
    monitor = gradcheckup.watch(model, optimizer, **getattr(request, "param", {}))
    train(model, optimizer)
    return monitor

@pytest.mark.gradcheckup(ignore="GC1,GC2")
def test_mark(gradcheckup, monitor):
    gradcheckup.assert_healthy(monitor)
    limits = monitor.report().thresholds
    assert (limits.dead_warning, limits.dead_critical) == (0.2, 0.6)

@pytest.mark.parametrize("monitor", [{"select": "GC4", "thresholds": {"dead_warning": 0.3}}], indirect=True)
def test_call(gradcheckup, monitor):
    gradcheckup.assert_healthy(monitor)
    limits = monitor.report().thresholds
    assert (limits.dead_warning, limits.dead_critical) == (0.3, 0.6)

def test_neither(gradcheckup, monitor):
    gradcheckup.assert_healthy(monitor)

def test_fail_on(gradcheckup):
    model = healthy()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with gradcheckup.watch(model, optimizer) as monitor:
        train(model, optimizer)
    gradcheckup.assert_healthy(monitor)
    gradcheckup.assert_healthy(monitor, fail_on="warning")
"""  # noqa: E501
    result = run(TRAIN + source, "--gradcheckup-thresholds=dead_critical=0.6")
    result.assert_outcomes(passed=2, failed=2)
    result.stdout.fnmatch_lines(["*unhealthy gradient flow: GC303 unchanged-parameters*"])


def test_an_embedding_of_which_few_rows_are_seen_trains(run: Run) -> None:
    """So few that the weights that a monitor reads of it hardly tell; the other one is frozen."""
    source = """
@pytest.mark.parametrize("trains", [True, False])
def test_embedding(gradcheckup, trains):
    model = nn.Sequential(nn.Embedding(3000, 8), nn.Linear(8, 4))
    model[0].weight.requires_grad_(trains)
    before = model[0].weight.detach().clone()
    optimizer = sgd(model)
    with gradcheckup.watch(model, optimizer) as monitor:
        for _ in range(4):
            optimizer.zero_grad()
            loss(model(torch.tensor([7])), torch.tensor([1])).backward()
            optimizer.step()
    assert torch.equal(before, model[0].weight) != trains
    gradcheckup.assert_all_parameters_train(monitor)
"""
    result = run(TRAIN + source)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*1 of the parameters*", "*0.weight  frozen*"])


def test_what_no_optimizer_got_stands_still_unless_there_is_none(run: Run) -> None:
    """Whether the loop moved it is compared by hand."""
    source = """
def changed(model, step):
    before = [each.clone() for each in model.parameters()]
    x, y = batch()
    for _ in range(8):
        model.zero_grad()
        loss(model(x), y).backward()
        step()
    return [not torch.equal(a, b) for a, b in zip(before, model.parameters())]

def test_part(gradcheckup):
    model = healthy()
    head = torch.optim.SGD(model[2].parameters(), lr=0.1)
    with gradcheckup.watch(model, head) as monitor:
        assert changed(model, head.step) == [False, False, True, True]
    gradcheckup.assert_all_parameters_train(monitor)

def test_by_hand(gradcheckup):
    model = healthy()
    monitor = gradcheckup.watch(model)

    def step():
        with torch.no_grad():
            for each in model.parameters():
                each -= 0.1 * each.grad
        monitor.step()

    assert all(changed(model, step))
    gradcheckup.assert_all_parameters_train(monitor)
"""
    result = run(TRAIN + source)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        ["*2 of the parameters*", "*0.weight*not among the optimizer's parameters*"]
    )


MISUSE = {
    "gradcheckup.watch(nn.Linear)": "*UsageError: expected model to be an nn.Module, got type*",
    "gradcheckup.watch(model, 3)": "*UsageError: expected * got int*",
    "gradcheckup.watch(model, sgd(sick()))": "*UsageError: *SGD holds none of them*",
    "gradcheckup.watch(model, optimizer, every=0)": "*UsageError: expected every *at least 1*",
    "gradcheckup.watch(model, optimizer, evry=2)": "*'evry'; did you mean every?",
    "gradcheckup.watch(model, optimizer, steps=2)": "*unknown option 'steps'; there are every*",
    "gradcheckup.watch(model, optimizer, ignore='GC9')": "*gradcheckup.watch, ignore: *'GC9'*",
    "gradcheckup.watch(model, optimizer, log='no/where')": "*ReportError: cannot write run log*",
    "gradcheckup.watch(model, optimizer, stop_on='bad')": "*UsageError: *'bad'*",
    "gradcheckup.assert_healthy(gradcheckup.watch(model, optimizer))": (
        "*UsageError: expected a sampled training step to report on, but there is none: the "
        "optimizer has not stepped since watch()*"
    ),
    "gradcheckup.assert_healthy(gradcheckup.watch(model, optimizer), batch())": (
        "*a watched loop is judged as it is: leave out data*"
    ),
}


def test_misuse_is_one_clear_line(run: Run) -> None:
    head = "model = healthy()\n    optimizer = sgd(model)\n    "
    source = "".join(
        f"\ndef test_{number}(gradcheckup):\n    {head}{body}\n"
        for number, body in enumerate(MISUSE)
    )
    result = run(TRAIN + source, "-p", "no:randomly")
    result.assert_outcomes(failed=len(MISUSE))
    for told in MISUSE.values():
        result.stdout.fnmatch_lines([told])
    assert "INTERNALERROR" not in result.stdout.str()
    result.stdout.no_fnmatch_line("*gradcheckup?*.py:*")  # no frames that are not the test's


def test_a_monitor_that_gave_up_does_not_pass(run: Run) -> None:
    """Its verdict would be on the steps before."""
    source = """
def test_gave_up(gradcheckup, monkeypatch):
    model = healthy()
    optimizer = sgd(model)
    monitor = gradcheckup.watch(model, optimizer)
    train(model, optimizer, steps=4)

    def breaks(*_, **__):
        raise ZeroDivisionError("a fault of ours")

    monkeypatch.setattr(monitor._sampler, "before_update", breaks)
    monkeypatch.setattr(monitor._sampler, "take", breaks)
    with pytest.warns(RuntimeWarning, match="stopped watching"):
        train(model, optimizer, steps=4)
    gradcheckup.assert_healthy(monitor.report())
    gradcheckup.assert_healthy(monitor)
"""
    result = run(TRAIN + source)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*watched to its end*by itself: ZeroDivisionError: a fault*"])
    result.stdout.fnmatch_lines(["2 checks, 1 failed"])


def test_the_fixture_takes_what_watch_takes() -> None:
    taken = set(inspect.signature(gradcheckup.watch).parameters) - {"model", "optimizer"}
    assert taken == WatchOptions.__optional_keys__
