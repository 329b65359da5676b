"""Baselines: what is written, what is noticed, and that two processes do not spoil one."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gradcheckup import ReportError
from pytest_gradcheckup.baseline import Baseline, LayerLine
from pytest_gradcheckup.baseline_text import dumped, loaded
from pytest_gradcheckup.comparing import compared
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


def test_what_is_stored_is_what_autograd_and_the_outputs_say(run: Run) -> None:
    """By hand: signals over the first layer's, gradients over those of the last hidden one."""
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


NORMED = """
def normed(norm=True, width=16):
    layers = {
        "a": nn.Linear(16, width),
        **({"norm": nn.BatchNorm1d(width)} if norm else {}),
        "relu": nn.ReLU(),
        "b": nn.Linear(width, 8),
        "head": nn.Linear(8, 4),
    }
    model = nn.Sequential()
    for name, layer in layers.items():
        model.add_module(name, layer)
    return model
"""


def test_normalisation_and_width_are_kept(run: Run, pytester: pytest.Pytester) -> None:
    run(NORMED + MATCHES.format(model="normed()")).assert_outcomes(passed=1)
    kept = json.loads(stored(pytester).read_text("utf-8"))["layers"]
    assert [(each["kind"], each["weight"]) for each in kept[:2]] == [
        ("linear", [16, 16]),
        ("batchnorm1d", [16]),
    ]
    bare = run(NORMED + MATCHES.format(model="normed(norm=False)"))
    bare.assert_outcomes(failed=1)
    bare.stdout.fnmatch_lines(["*removed: norm*"])
    wider = run(NORMED + MATCHES.format(model="normed(width=20)"))
    wider.assert_outcomes(passed=1)
    wider.stdout.fnmatch_lines(["test_flow.json: resized: a was 16x16, is 20x16, norm was 16, *"])


def test_a_failure_explains_itself(run: Run) -> None:
    """As that of assert_healthy does: verdict, cause, picture, prescription, seeds."""
    source = "def net(act): return nn.Sequential(*(act() if i % 2 else nn.Linear(16, 16)"
    source += " for i in range(12)), nn.Linear(16, 4))\n"
    matches = MATCHES.replace("steps=2, seeds=1", "steps=4, seed=5")
    run(source + matches.format(model="net(nn.Tanh)")).assert_outcomes(passed=1)
    result = run(source + matches.format(model="net(nn.Sigmoid)"))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*gradient flow is not that of the baseline test_flow.json*",
            "*beyond a factor of 2:*",
            "*  gradient  was  ?*",
            "*            is   ?*",
            "*UNHEALTHY  Sequential, 7 layers*",
            "*likely cause: 6 sigmoids*",
            "*likely to help: *",
            "*gradient  ▁*",
            "*GC101  0 *gradient ratio*at least 0.02*",
            "*so with seeds 5, 6, 7; again: --gradcheckup-seed=5*",
            "*wanted so? --gradcheckup-update*",
        ]
    )


def test_what_is_not_finite_is_told_and_never_stored(run: Run, pytester: pytest.Pytester) -> None:
    broken = """
def broken():
    model = healthy()
    with torch.no_grad():
        model[2].weight[0, 0] = float("nan")
    return model
"""
    source = broken + MATCHES.format(model="broken()").replace("steps=2", "steps=4")
    for option in ("--gradcheckup-update", "-v"):
        result = run(source, option)
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(
            ["*expected finite numbers to store in test_flow.json: NaN or Inf at step 0, *of 2;*"]
        )
        assert not list(pytester.path.glob("__gradcheckup__/**/*.json"))
    run(MATCHES.format(model="healthy()").replace("steps=2", "steps=4")).assert_outcomes(passed=1)
    result = run(source)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*not that of the baseline*",
            "*NaN or Inf at step 0, first in the output of 2*",
            "*GC401*",
        ]
    )
    result.stdout.no_fnmatch_line("*number of steps*")


def test_ci_never_writes(run: Run, pytester: pytest.Pytester) -> None:
    result = run(HEALTHY, "--gradcheckup-ci")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*there is no baseline test_flow.json*"])
    result.stdout.fnmatch_lines(["1 check, 1 failed"])
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
    """Per module: what became of another one, or was asked of it, says nothing of this one."""
    source = HEALTHY + "\ndef test_other(gradcheckup): pass\n"
    pytester.makepyfile(test_failing="def test_it(): assert False\ndef test_that(): pass")
    run(source).assert_outcomes(passed=3, failed=1)
    path = stored(pytester)
    path.with_name("test_gone.json").write_text(path.read_text("utf-8"))
    listed = "unused baseline: test_gone.json (in *test_flow)"
    for arguments in ((), ("--deselect", "test_failing.py::test_that"), ("-k", "not test_that")):
        run(source, *arguments).stdout.fnmatch_lines([listed])
    failing = source.replace("pass", "assert False")
    for part, arguments in (
        (source, ("-k", "flow and not other")),
        (source, ("-k", "test_other")),
        (source, ("test_flow.py::test_other",)),
        (source, ("--deselect", "test_flow.py::test_flow")),
        (failing, ()),
        (failing, ("-x", "test_failing.py", "test_flow.py")),
        (source.replace("pass", "pytest.skip()"), ()),
    ):
        run(part, *arguments).stdout.no_fnmatch_line("unused*")


def test_last_failed_lists_no_unused_baselines(
    run: Run, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here pytest leaves out tests without a word to any hook."""
    source = HEALTHY + "\ndef test_other(gradcheckup): assert {}\n"
    run(source.format(False)).assert_outcomes(passed=1, failed=1)
    assert stored(pytester).name == "test_flow.json"
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.runpytest_inprocess("-p", "pytest_gradcheckup.plugin")  # it has a cache
    pytester.makepyfile(
        test_flow=(pytester.path / "test_flow.py").read_text("utf-8").replace("False", "True")
    )
    result = pytester.runpytest_inprocess("-p", "pytest_gradcheckup.plugin", "--lf")
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("unused*")


def test_folders_of_modules_that_are_gone_are_listed(run: Run, pytester: pytest.Pytester) -> None:
    run(HEALTHY).assert_outcomes(passed=1)
    kept = pytester.makepyfile(test_kept="from test_flow import *")
    run(HEALTHY).assert_outcomes(passed=2)
    run(HEALTHY).stdout.no_fnmatch_line("unused*")
    kept.rename(kept.with_name("test_renamed.py"))
    (pytester.path / "__gradcheckup__" / "test_empty").mkdir()
    gone = "unused baseline: 1 in *__gradcheckup__?test_kept, whose module is gone"
    run(HEALTHY, "test_flow.py").stdout.fnmatch_lines([gone])
    run(HEALTHY, "test_flow.py").stdout.no_fnmatch_line("*test_empty*")


def test_two_nets_are_not_written_to_one_file(run: Run, pytester: pytest.Pytester) -> None:
    source = """
pytestmark = pytest.mark.gradcheckup(steps=2, seeds=1)

@pytest.mark.parametrize("time", [0, 1])
def test_a(gradcheckup, time):
    gradcheckup.assert_matches_baseline(healthy(), batch(), loss, name="net")

def test_b(gradcheckup):
    gradcheckup.assert_matches_baseline(sick(), batch(), loss, name="net")
"""
    for _ in range(2):
        result = run(source, "-p", "no:randomly", "--gradcheckup-update")
        result.assert_outcomes(passed=2, failed=1)
        result.stdout.fnmatch_lines(
            ["*UsageError: another test of this run wrote *net.json*(Sequential, 2 layers)*name=*"]
        )
        assert len(loaded(stored(pytester).read_text("utf-8"), "net").layers) == 2


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


def line(layer: str, gradient: float | None, *, size: int = 4, kind: str = "linear") -> LayerLine:
    return LayerLine(layer=layer, kind=kind, weight=(size, 4), gradient=gradient, signal=1.0)


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
        (1.0, float("nan"), True),
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


def lines(names: str, kinds: str = "", *, size: int = 4) -> list[LayerLine]:
    """``"a b"`` with kinds ``"linear norm"``; all are linear where kinds are left out."""
    each = names.split()
    of = kinds.split() or ["linear"] * len(each)
    return [line(name, 1.0, kind=kind, size=size) for name, kind in zip(each, of, strict=True)]


@pytest.mark.parametrize(
    ("before", "now", "renamed", "added", "removed"),
    [
        # One of three alike is gone, and the others have new names, which say which one it was.
        (lines("h1 h2 h3 head"), lines("h2x h3x headx"), "h2>h2x h3>h3x head>headx", "", "h1"),
        (lines("h1 h2 h3"), lines("h1x h3x"), "h1>h1x h3>h3x", "", "h2"),
        # In a sequence, what comes after the one that is gone moves up.
        (
            lines("0 1 2 3", "linear norm linear linear"),
            lines("0 1 2"),
            "2>1 3>2",
            "",
            "1",
        ),
        (lines("0 1 2"), lines("0 1 2 3", "linear norm linear linear"), "1>2 2>3", "1", ""),
        # Names that somebody chose say more than the order in which the layers run.
        (lines("a b c"), lines("b a c"), "", "", ""),
        (lines("a c"), lines("a b c"), "", "b", ""),
        (lines("a b"), lines("net.a net.b"), "a>net.a b>net.b", "", ""),
        (lines("a b", "linear norm"), lines("a"), "", "", "b"),
        (lines("a b"), lines("c d", size=8), "", "c d", "a b"),
    ],
)
def test_which_layer_is_which(
    before: list[LayerLine], now: list[LayerLine], renamed: str, added: str, removed: str
) -> None:
    found = compared(net(*before), net(*now), 2.0)
    pairs = [tuple(pair.split(">")) for pair in renamed.split()]
    assert found.renamed == tuple(pairs)
    assert found.added == tuple(added.split())
    assert found.removed == tuple(removed.split())
    assert not found.replaced
    assert not found.resized
    assert found.broken is bool(added or removed)


def test_another_kind_and_another_width_under_the_same_name() -> None:
    before = net(line("a", 1.0), line("b", 1.0))
    wider = compared(before, net(line("a", 1.0, size=8), line("b", 1.0)), 2.0)
    assert (wider.resized, wider.broken) == ((("a", (4, 4), (8, 4)),), False)
    other = compared(before, net(line("a", 1.0), line("b", 1.0, kind="bilinear")), 2.0)
    assert (other.replaced, other.broken) == ((("b", "linear", "bilinear"),), True)


def test_long_nets_are_matched() -> None:
    """A net of 200 layers that moved into another module as a whole, and lost one of its layers."""
    names = [f"layer{number}.conv{part}" for number in range(100) for part in (1, 2)]
    before = net(*lines(" ".join(names)))
    now = net(*lines(" ".join(f"backbone.{name}" for name in names if name != "layer99.conv2")))
    found = compared(before, now, 2.0)
    assert found.removed == ("layer99.conv2",)
    assert all(new == f"backbone.{old}" for old, new in found.renamed)


def test_text_and_back() -> None:
    baseline = net(line("a", None), line("ünï", 1e-12), line("c", 0.0))
    assert loaded(dumped(baseline), "here") == baseline
    with pytest.raises(ValueError, match="JSON"):
        dumped(net(line("c", float("nan"))))


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", "3", '{"gradcheckup_baseline": 1}', '{"gradcheckup_baseline": 99}']
    + ["[" * 200_000]
    + [
        dumped(net(line("a", 1.0))).replace(old, new)
        for old, new in (
            ("1.0", '"x"'),
            ("1.0", "NaN"),
            ("1.0", "1e999"),
            ("1.0", "-1.0"),
            ("1.0", "true"),
            ("8", "[]"),
            ("8", "1e999"),
            ("8", "true"),
            ("4, 4", "4, 1e999"),
        )
    ],
    ids=lambda text: text[-40:],
)
def test_what_is_no_baseline(text: str) -> None:
    with pytest.raises(ReportError, match=r"here is (no|a) baseline.*--gradcheckup-update"):
        loaded(text, "here")
