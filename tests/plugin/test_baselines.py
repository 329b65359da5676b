"""Baselines: what is written, what is noticed, and that two processes do not spoil one."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gradcheckup import ReportError
from pytest_gradcheckup.baseline import Baseline, LayerLine, compared, dumped, loaded
from pytest_gradcheckup.files import write_whole
from pytest_gradcheckup.shelf import Mode, Shelf

Run = Callable[..., pytest.RunResult]

# What is asked is what becomes of files; few steps and seeds will do.
MATCHES = """
pytestmark = pytest.mark.gradcheckup(steps=2, seeds=1)

def test_flow(gradcheckup):
    gradcheckup.assert_matches_baseline({model}, batch(), loss)
"""
HEALTHY = MATCHES.format(model="healthy()")
# Three times the weights: three times the gradient behind them, against the last hidden layer.
DEEPER = """
def deep(scale=1.0, names="abc", extra=False):
    model = nn.Sequential()
    for name in names:
        model.add_module(name, nn.Linear(16, 16))
        model.add_module(name + "_relu", nn.ReLU())
    if extra:
        model.add_module("extra", nn.Linear(16, 8))
        model.add_module("head", nn.Linear(8, 4))
    else:
        model.add_module("head", nn.Linear(16, 4))
    with torch.no_grad():
        model[2].weight.mul_(scale)
    return model
"""


def stored(pytester: pytest.Pytester) -> Path:
    (path,) = pytester.path.glob("__gradcheckup__/*/*.json")
    return path


def test_written_once_then_compared(run: Run, pytester: pytest.Pytester) -> None:
    source = DEEPER + MATCHES.format(model="deep()")
    result = run(source)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*= gradcheckup =*", "test_flow.json written: 4 layers"])
    path = stored(pytester)
    assert path.parent == pytester.path / "__gradcheckup__" / "test_flow"
    lines = path.read_text("utf-8").splitlines()
    assert sum('"layer": ' in line for line in lines) == 4  # one line each, to be reviewed
    document = json.loads(path.read_text("utf-8"))
    assert [each["weight"] for each in document["layers"]] == [[16, 16]] * 3 + [[4, 16]]
    assert document["layers"][2]["gradient"] == 1.0  # the reference: the last hidden layer

    again = run(source, "--gradcheckup-ci")
    again.assert_outcomes(passed=1)
    again.stdout.fnmatch_lines(["1 check, all hold"])
    again.stdout.no_fnmatch_line("*written: *")
    # The gradient behind the second layer is 5 times as large, which only the first layer sees.
    other = run(DEEPER + MATCHES.format(model="deep(scale=5)"))
    other.assert_outcomes(failed=1)
    other.stdout.fnmatch_lines(
        [
            "*gradient flow is not that of the baseline test_flow.json*",
            "*beyond a factor of 2:*",
            "*  a  *gradient  was*",
            "*wanted so? --gradcheckup-update*",
            "test_flow.py:*: UnhealthyError",
        ]
    )
    assert json.loads(path.read_text("utf-8")) == document
    run(DEEPER + MATCHES.format(model="deep(scale=5)"), "--gradcheckup-update").assert_outcomes(
        passed=1
    )
    assert json.loads(path.read_text("utf-8")) != document


def test_what_is_stored_is_what_autograd_and_the_outputs_say(
    run: Run, pytester: pytest.Pytester
) -> None:
    """By hand, at initialisation: signals over the first layer's, gradients over the last hidden's."""
    source = """
def built():
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 8), nn.Tanh(), nn.Linear(8, 8), nn.Linear(8, 4)
    )

def test_flow(gradcheckup):
    gradcheckup.assert_matches_baseline(built, batch(), loss, steps=1, seeds=1)

def test_by_hand():
    import json
    from pathlib import Path

    (path,) = Path("__gradcheckup__").glob("*/test_flow.json")
    stored = json.loads(path.read_text())["layers"]
    y, target = batch()
    outputs = []
    for layer in built():
        y = layer(y)
        if isinstance(layer, nn.Linear):
            y.retain_grad()
            outputs.append(y)
    loss(y, target).backward()
    signals = [each.std(0).square().mean().sqrt().item() for each in outputs]
    gradients = [each.grad.norm().item() for each in outputs]
    for line, signal, gradient in zip(stored, signals, gradients, strict=True):
        assert line["signal"] == pytest.approx(signal / signals[0], rel=0.006)
        assert line["gradient"] == pytest.approx(gradient / gradients[2], rel=0.006)
"""
    run(source, "-p", "no:randomly").assert_outcomes(passed=2)


def test_names_are_but_names_and_layers_are_not(run: Run) -> None:
    run(DEEPER + MATCHES.format(model="deep()")).assert_outcomes(passed=1)
    renamed = run(DEEPER + MATCHES.format(model='deep(names="axc")'), "--gradcheckup-ci")
    renamed.assert_outcomes(passed=1)
    renamed.stdout.fnmatch_lines(["test_flow.json: renamed: b is now x; --gradcheckup-update*"])
    grown = run(DEEPER + MATCHES.format(model="deep(extra=True)"))
    grown.assert_outcomes(failed=1)
    grown.stdout.fnmatch_lines(["*added: extra*"])
    shrunk = run(DEEPER + MATCHES.format(model='deep(names="ab")'))
    shrunk.assert_outcomes(failed=1)
    shrunk.stdout.fnmatch_lines(["*removed: c*"])


def test_ci_never_writes(run: Run, pytester: pytest.Pytester) -> None:
    result = run(HEALTHY, "--gradcheckup-ci")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*there is no baseline test_flow.json*"])
    result.stdout.no_fnmatch_line("*= gradcheckup =*")  # there is nothing to sum up
    assert not list(pytester.path.glob("__gradcheckup__/**/*"))
    both = run(HEALTHY, "--gradcheckup-ci", "--gradcheckup-update")
    assert both.ret == pytest.ExitCode.USAGE_ERROR
    both.stderr.fnmatch_lines(["*leave one out*"])


def test_corrupt_baselines_are_told(run: Run, pytester: pytest.Pytester) -> None:
    run(HEALTHY).assert_outcomes(passed=1)
    path = stored(pytester)
    path.write_text(path.read_text("utf-8")[:80])
    result = run(HEALTHY)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*ReportError: __gradcheckup__*test_flow.json is no baseline*"])
    run(HEALTHY, "--gradcheckup-update").assert_outcomes(passed=1)
    run(HEALTHY, "--gradcheckup-ci").assert_outcomes(passed=1)


def test_names_of_files_and_misuse(run: Run, pytester: pytest.Pytester) -> None:
    source = """
class TestFlow:
    @pytest.mark.parametrize("rate", ["a/b", "a-b", "adam"])
    def test_it(self, gradcheckup, rate):
        gradcheckup.assert_matches_baseline(healthy(), batch(), loss, steps=1, seeds=1)

def test_named(gradcheckup):
    gradcheckup.assert_matches_baseline(healthy(), batch(), loss, name="net", steps=1, seeds=1)
    gradcheckup.assert_matches_baseline(sick(), batch(), loss, name="other", steps=1, seeds=1)
    report = gradcheckup.diagnose(sick(), batch(), loss, steps=1)
    gradcheckup.assert_matches_baseline(report, name="third")

def test_twice(gradcheckup):
    gradcheckup.assert_matches_baseline(healthy(), batch(), loss, steps=1, seeds=1)
    gradcheckup.assert_matches_baseline(healthy(), batch(), loss, steps=1, seeds=1)

def test_tolerance(gradcheckup):
    gradcheckup.assert_matches_baseline(healthy(), batch(), loss, tolerance=0.5)
"""
    result = run(source)
    result.assert_outcomes(passed=4, failed=2)
    result.stdout.fnmatch_lines_random(
        ["*two baselines in one test*", "*a factor above 1, as 2.0, got 0.5*"]
    )
    names = {path.stem for path in pytester.path.glob("__gradcheckup__/test_flow/*.json")}
    assert {"net", "other", "third", "test_twice"} < names
    assert len(names) == 7
    assert all(name.isascii() and "/" not in name for name in names)


def test_unused_baselines_are_listed_where_all_tests_ran(
    run: Run, pytester: pytest.Pytester
) -> None:
    run(HEALTHY).assert_outcomes(passed=1)
    path = stored(pytester)
    path.with_name("test_gone.json").write_text(path.read_text("utf-8"))
    run(HEALTHY).stdout.fnmatch_lines(["unused baseline: test_gone.json*"])
    run(HEALTHY, "-k", "flow").stdout.no_fnmatch_line("unused baseline*")


def test_workers_write_one_baseline(tmp_path: Path) -> None:
    """All write the same file, many times, while others read it: it is whole at any time."""
    path = tmp_path / "folder" / "shared.json"
    large = net(*(line(f"layer{number}", 1.0) for number in range(200)))
    shelves = [Shelf(tmp_path, "test", Mode.UPDATE, lambda *_: None) for _ in range(4)]

    def write_and_read(shelf: Shelf) -> int:
        for _ in range(10):
            shelf.write(path, large)
            assert shelf.read(path) == large
        return 10

    with ThreadPoolExecutor(len(shelves)) as pool:
        assert sum(pool.map(write_and_read, shelves)) == 40
    assert [each.name for each in path.parent.iterdir()] == ["shared.json"]
    # Who opened it before keeps what it was: it is exchanged, not written over.
    with path.open(encoding="utf-8") as opened:
        shelves[0].write(path, net(line("a", 1.0)))
        assert loaded(opened.read(), "opened") == large
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "half of it, then what is no UTF-8: \ud800")
    assert shelves[0].read(path) == net(line("a", 1.0))
    assert [each.name for each in path.parent.iterdir()] == ["shared.json"]


def line(layer: str, gradient: float | None, *, size: int = 4) -> LayerLine:
    return LayerLine(layer=layer, kind="linear", weight=(size, 4), gradient=gradient, signal=1.0)


def net(*layers: LayerLine) -> Baseline:
    return Baseline(model="Net", optimizer="SGD(lr=0.1)", steps=8, layers=layers)


@pytest.mark.parametrize(
    ("then", "now", "broken"),
    [
        (1.0, 1.99, False),
        (1.0, 2.01, True),
        (1.0, 0.51, False),
        (1.0, 0.49, True),
        (1e-30, 1.9e-30, False),
        (1e-30, 1e-29, True),
        (None, None, False),
        (None, 1.0, True),
        (1.0, None, True),
        (0.0, 0.0, False),
        (0.0, 1e-30, True),
        (float("nan"), float("nan"), False),
        (1.0, float("inf"), True),
    ],
)
def test_tolerance_is_a_factor_in_both_directions(
    then: float | None, now: float | None, broken: bool
) -> None:
    assert compared(net(line("a", then)), net(line("a", now)), 2.0).broken is broken


def test_renamed_layers_are_compared_as_well() -> None:
    before = net(line("a", 0.5), line("b", 1.0, size=8))
    found = compared(before, net(line("x", 0.5), line("y", 4.0, size=8)), 2.0)
    assert found.renamed == (("a", "x"), ("b", "y"))
    assert found.moved == (("y", "gradient", 1.0, 4.0),)
    swapped = compared(before, net(line("x", 0.5, size=16), line("b", 1.0, size=8)), 2.0)
    assert (swapped.added, swapped.removed, swapped.renamed) == (("x",), ("a",), ())


def test_text_and_back() -> None:
    baseline = net(line("a", None), line("ünï", 1e-12), line("c", float("nan")))
    again = loaded(dumped(baseline), "here")
    assert again.layers[:2] == baseline.layers[:2]
    assert dumped(again) == dumped(baseline)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", "3", '{"gradcheckup_baseline": 1}', '{"gradcheckup_baseline": 99}']
    + [dumped(net(line("a", 1.0))).replace(old, new) for old, new in (("1.0", '"x"'), ("8", "[]"))],
)
def test_what_is_no_baseline(text: str) -> None:
    with pytest.raises(ReportError, match=r"here is (no|a) baseline.*--gradcheckup-update"):
        loaded(text, "here")
