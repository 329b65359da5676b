"""The command line as its user meets it: in process where that suffices, else as a process."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from gradcheckup import __version__, load_report
from gradcheckup.cli import main
from gradcheckup.cli.console import color_wanted
from gradcheckup.rules import RULES
from gradcheckup.treatments import TREATMENTS

ROOT = Path(__file__).resolve().parents[1]
Run = Callable[..., Result]

HEALTHY = """
import torch
from torch import nn
model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))
data = (torch.randn(32, 6), torch.randint(3, (32,)))
"""
# Seven sigmoids behind default weights: ground truth 7.9e-6, whatever the data.
SICK = """
import torch
from torch import nn
print("imported")
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(7))
        self.head = nn.Linear(64, 10)
    def forward(self, x):
        for layer in self.layers:
            x = nn.Sigmoid()(layer(x))
        return self.head(x)
"""
# Healthy but for a layer that its user froze by accident: no critical finding.
WARNED = HEALTHY + "model[0].weight.require_grad = False\n"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command in an empty folder; files are given as keyword arguments."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    def _run(*arguments: str, **files: str) -> Result:
        for name, text in files.items():
            (tmp_path / f"{name}.py").write_text(text)
        result = CliRunner().invoke(main, list(arguments))
        # Nothing that a user reads is wider than a terminal, but for words as long as paths.
        for line in [] if "--traceback" in arguments else result.stderr.splitlines():
            assert len(line) <= 80 or len(line.split()) == 1 or str(tmp_path) in line, line
        return result

    return _run


def process(*arguments: str, folder: Path, **streams: Any) -> subprocess.Popen[str]:
    """The command as a process of its own, on one thread."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TERM": "xterm"}
    command = [sys.executable, "-m", "gradcheckup", *arguments]
    return subprocess.Popen(command, cwd=folder, env=env, text=True, **streams)  # noqa: S603 - ours


# -- verdicts ------------------------------------------------------------------------------------


def test_a_healthy_model(run: Run) -> None:
    result = run("diagnose", "model.py", model=HEALTHY)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("HEALTHY")
    assert "data from model.py:data" in result.stdout
    assert "CrossEntropyLoss" in result.stdout
    assert result.stderr == ""


def test_a_sick_model(run: Run) -> None:
    result = run("diagnose", "model.py", model=SICK)
    assert result.exit_code == 1, result.output
    assert "GC101" in result.stdout
    assert "layers.0" in result.stdout
    assert "random normal inputs 32x64 and" in result.stdout
    assert "\x1b" not in result.output


def test_json_is_all_there_is_on_stdout(run: Run) -> None:
    result = run("diagnose", "model.py", "--format", "json", model=SICK)
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    assert document["healthy"] is False
    assert document["subject"] == "model.py"
    assert result.stderr == "imported\n"


def test_output_file_and_show(run: Run, tmp_path: Path) -> None:
    done = run("diagnose", "model.py", "--format", "json", "--output", "r.json", model=SICK)
    assert done.exit_code == 1
    assert done.stdout == "imported\n"
    assert done.stderr == "unhealthy; report written to r.json\n"
    report = load_report(tmp_path / "r.json")
    assert report.findings[0].code == "GC101"
    shown = run("show", "r.json")
    assert shown.exit_code == 0
    assert shown.stdout == str(report) + "\n"
    assert len(run("show", "r.json", "--verbose").stdout) > len(shown.stdout)
    assert run("show", "r.json", "--format", "json").stdout == (tmp_path / "r.json").read_text()
    text = run("diagnose", "model.py", "--output", "r.txt")
    assert text.exit_code == 1
    assert (tmp_path / "r.txt").read_text().startswith("UNHEALTHY")


def test_figures(run: Run, tmp_path: Path) -> None:
    done = run("diagnose", "model.py", "--format", "json", "--plot", "a.png", model=SICK)
    assert done.exit_code == 1
    assert json.loads(done.stdout)["healthy"] is False
    assert done.stderr == "imported\nfigure written to a.png\n"
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "r.json").write_text(done.stdout)
    shown = run("show", "r.json", "--plot", "b.svg")
    assert shown.exit_code == 0
    assert shown.stdout.startswith("UNHEALTHY")
    assert shown.stderr == "figure written to b.svg\n"
    assert "<svg" in (tmp_path / "b.svg").read_text("utf-8")


def test_compare(run: Run) -> None:
    run("diagnose", "model.py", "--output", "sick.json", model=SICK)
    run("diagnose", "model.py", "--output", "well.json", model=HEALTHY)
    better, worse = (
        run("compare", "sick.json", "well.json"),
        run("compare", "well.json", "sick.json"),
    )
    assert (better.exit_code, worse.exit_code) == (0, 1)
    assert better.stdout.startswith("BETTER  unhealthy before, healthy after\n")
    assert worse.stdout.startswith("WORSE  healthy before, unhealthy after\n")
    assert "gone       GC101 vanishing-gradient (critical)" in better.stdout
    assert run("compare", "sick.json", "sick.json").exit_code == 0
    document = json.loads(run("compare", "well.json", "sick.json", "--format", "json").stdout)
    assert document["worse"] is True
    assert document["new"][0]["code"] == "GC101"
    assert max(map(len, better.stdout.splitlines())) <= 80


@pytest.mark.parametrize("name", ["no/f.png", "f.jpg", ".", "model.py"])
def test_figures_are_checked_before_the_model_is_touched(run: Run, name: str) -> None:
    result = run("diagnose", "model.py", "--plot", name, model="print('ran')")
    assert result.exit_code == 2
    assert "ran" not in result.output


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([], 0),
        (["--fail-on", "warning"], 1),
        (["--fail-on", "critical"], 0),
        (["--fail-on", "never"], 0),
        (["--fail-on", "warning", "--ignore", "GC5"], 0),
        (["--fail-on", "warning", "--select", "gc101,GC2", "--select", "dead-units"], 0),
        (["--fail-on", "warning", "--select", "misspelt-requires-grad"], 1),
    ],
)
def test_fail_on_select_and_ignore(run: Run, arguments: list[str], code: int) -> None:
    result = run("diagnose", "model.py", *arguments, model=WARNED)
    assert result.exit_code == code, result.output


def test_options_reach_the_probe(run: Run) -> None:
    arguments = ["--steps", "3", "--follow", "9", "--optimizer", "adam", "--lr", "0.5"]
    arguments += ["--input", "4,6"]
    result = run("diagnose", "model.py", *arguments, "--criterion", "crossentropyloss",
                 "--fail-on", "never", model=HEALTHY)  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "3 of 9 steps measured with Adam(lr=0.5)" in result.stdout
    assert "random normal inputs 4x6" in result.stdout


def test_threshold(run: Run) -> None:
    limit = ["--threshold", "gradient-ratio-high=1e9", "--threshold", "gradient_ratio_low=1e-9"]
    result = run("diagnose", "model.py", *limit, "--select", "GC101", model=SICK)
    assert result.exit_code == 0, result.output


def test_settings_stand_for_options(run: Run, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        """
        [tool.gradcheckup]
        steps = 2
        follow = 0
        optimizer = "adam"
        lr = 0.25
        fail-on = "warning"
        format = "json"
        """
    )
    document = json.loads(run("diagnose", "model.py", model=WARNED).stdout)
    assert document["recording"]["optimizer"] == "Adam(lr=0.25)"
    assert len(document["recording"]["steps"]) == 2
    assert run("diagnose", "model.py").exit_code == 1
    result = run("diagnose", "model.py", "--format", "text", "--fail-on", "never", "--steps", "3")
    assert result.exit_code == 0
    assert "3 probe steps with Adam(lr=0.25)" in result.stdout
    own = WARNED + "optimizer = torch.optim.SGD(model.parameters(), lr=0.125)\n"
    result = run("diagnose", "model.py", "--format", "text", model=own)
    assert "SGD(lr=0.125)" in result.stdout
    (tmp_path / "pyproject.toml").write_text('[tool.gradcheckup]\nbatches = 3\nformat = "json"')
    for option, batches in ((), 3), (("--batches", "2"), 2):
        several = run("diagnose", "model.py", *option, model=WARNED + "data = [data] * 5\n")
        assert json.loads(several.stdout)["recording"]["batches"] == batches
    result = run("diagnose", "model.py", "--steps", "2")
    assert result.exit_code == 2
    assert "got batches=3: give steps=3 as well" in " ".join(result.stderr.split())
    (tmp_path / "pyproject.toml").write_text("[tool.gradcheckup]\nstpes = 3")
    result = run("diagnose", "model.py")
    assert result.exit_code == 2
    assert "did you mean steps?" in result.stderr


def test_seed(run: Run) -> None:
    texts = [
        run("diagnose", "model.py", "--seed", seed, "--format", "json", model=HEALTHY).stdout
        for seed in ("1", "1", "2")
    ]
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]


# -- mistakes ------------------------------------------------------------------------------------

NET = "from torch import nn\nclass Net(nn.Module):\n    pass\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["diagnos", "model.py"], "did you mean gradcheckup diagnose?"),
        (["model.py"], "did you mean gradcheckup diagnose model.py?"),
        (["torchvision.models:resnet18"], "diagnose torchvision.models:resnet18?"),
        (["treatments", "normalisation"], "did you mean"),
        (["lint"], "there are compare, diagnose, explain, prescribe, rules, run, show, treatments"),
        (["diagnose"], "Missing argument 'TARGET'"),
        (["diagnose", "model.py", "extra.py"], "unexpected extra argument"),
        (["diagnose", "model.py", "--setps", "3"], "'--steps'"),
        (["diagnose", "model.py", "--steps", "0"], "x>=1"),
        (["diagnose", "model.py", "--steps", "many"], "'many' is not a valid integer"),
        (["diagnose", "model.py", "--lr", "-1"], "x>=0"),
        (["diagnose", "model.py", "--format", "html"], "'text', 'json'"),
        (["diagnose", "model.py", "--fail-on", "error"], "'critical', 'warning', 'never'"),
        (["diagnose", "modle.py"], "did you mean model.py?"),
        (["diagnose", "model.py:Nett"], "it has data, model"),
        (["diagnose", "model.py", "--select", "GC909"], "'GC909'"),
        (["diagnose", "model.py", "--ignore", "dead-unit"], "did you mean dead-units?"),
        (["diagnose", "model.py", "--threshold", "dead_warning"], "NAME=VALUE"),
        (["diagnose", "model.py", "--threshold", "dead_warning=x"], "'x' is no number"),
        (["diagnose", "model.py", "--threshold", "dead_waring=1"], "did you mean dead_warning?"),
        (["diagnose", "model.py", "--threshold", "dead_warning=-1"], "must be above 0"),
        (["diagnose", "model.py", "--threshold", "dead_warning=nan"], "must be above 0"),
        (["diagnose", "model.py", "--optimizer", "adamm"], "did you mean Adam?"),
        (["diagnose", "model.py", "--optimizer", "adam", "--momentum", "1"], "no --momentum"),
        (["diagnose", "model.py", "--data", "dta"], "did you mean model.py:data?"),
        (["diagnose", "model.py", "--criterion", "MSELos"], "did you mean MSELoss?"),
        (["diagnose", "model.py", "--input", "3,a"], "--input '3,a'"),
        (["diagnose", "model.py", "--input", "8,7"], "failed in 0 (Linear)"),
        (["diagnose", "model.py", "--output", "no/where.json"], "there is no folder"),
        (["diagnose", "model.py", "--output", "."], "it is a folder"),
        (["explain", "GC10"], "no rule 'GC10'; there are GC101, GC102, GC103, GC104"),
        (["diagnose", "model.py", "--output", "model.py"], "would be overwritten"),
        (["diagnose", "model.py", "--plot", "f.gif"], "ends in .png, .svg or .pdf, got '.gif'"),
        (["diagnose", "model.py", "--plot", "no/f.png"], "there is no folder"),
        (["diagnose", "model.py", "--lr", "nan"], "not a finite number"),
        (["explain", "vanishing"], "did you mean vanishing-gradient?"),
        (["explain"], "Missing argument"),
        (["compare", "nothing.json", "model.py"], "no such file: nothing.json"),
        (["compare", "a.json"], "Missing argument 'AFTER'"),
        (["show", "nothing.json"], "no such file: nothing.json"),
        (["show", "model.py"], "not valid JSON"),
    ],
)
def test_mistakes_are_one_sentence_and_exit_2(run: Run, arguments: list[str], said: str) -> None:
    result = run(*arguments, model=HEALTHY)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert said in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr
    assert "bug" not in result.stderr


CODE = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 4)
        self.second = nn.Linear(5, 3)
    def forward(self, x):
        return self.second(self.first(x))
data = (torch.randn(8, 6), torch.randint(3, (8,)))
"""
GOOD = CODE.replace("(5, 3)", "(4, 3)")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1", "no model in model.py"),
        (GOOD + GOOD.replace("Net", "Other"), "model.py:Net model.py:Other"),
        (GOOD.replace("(self):", "(self, width):"), "needs arguments: width"),
        (GOOD + "import no_such_package", "No module named 'no_such_package'"),
        (CODE, "second"),
        (GOOD + "def criterion(y, t): return y", "scalar"),
        (GOOD + "def criterion(y, t): return y.detach().sum()", "require grad"),
        (GOOD + "model = Net().requires_grad_(False)", "requires_grad=False"),
        (GOOD + "data = iter(())", "empty"),
        (GOOD + "data = []", "empty"),
        (GOOD + "data[0][2, 1] = float('nan')", "NaN"),
        (GOOD + "def compute_loss(model, batch): raise KeyError('y')", "KeyError: 'y'"),
        (GOOD.replace("return self", "import sys; sys.exit(3); return self"), "sys.exit(3)"),
        (GOOD + "optimizer = 'adam'", "expected an Optimizer"),
        (GOOD + "def build_optimizer(model): return torch.optim.Adam(model)", "TypeError"),
    ],
)
def test_models_that_cannot_be_diagnosed(run: Run, text: str, said: str) -> None:
    result = run("diagnose", "model.py", model=text)
    assert result.exit_code == 2, result.output
    assert said in " ".join(result.stderr.split())
    assert "bug" not in result.stderr
    assert str(ROOT / "gradcheckup") not in result.stderr


def test_wrong_shapes_name_the_layer_and_what_ran(run: Run) -> None:
    result = run("diagnose", "model.py", model=CODE)
    said = " ".join(result.stderr.split())
    assert "in second (Linear)" in said
    assert "first 8x6" in said
    assert "return self.second(self.first(x))" in said


def test_users_own_lines_and_the_whole_traceback(run: Run) -> None:
    files = {"helper": "def f():\n    return 1 / 0\n", "model": "import helper\nhelper.f()\n"}
    result = run("diagnose", "model.py", **files)
    assert '  File "helper.py", line 2, in f\n      return 1 / 0' in result.stderr.replace(
        "\n    File", "\n  File"
    )
    assert "ZeroDivisionError: division by zero" in result.stderr
    assert "--traceback shows everything" in result.stderr
    assert "Traceback (most recent call last)" not in result.stderr
    full = run("diagnose", "model.py", "--traceback", **files)
    assert full.exit_code == 2
    assert "Traceback (most recent call last)" in full.stderr
    assert "gradcheckup" in full.stderr


def test_output_is_checked_before_the_model_is_touched(run: Run) -> None:
    result = run("diagnose", "model.py", "--output", "no/r.json", model="print('ran')")
    assert "ran" not in result.output


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write all")
def test_folder_without_permission(run: Run, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    result = run("diagnose", "model.py", "--output", "locked/r.json", model=HEALTHY)
    assert "permission denied" in result.stderr


def test_a_failed_run_leaves_the_old_report(run: Run, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text("old")
    assert run("diagnose", "model.py", "--output", "r.json", model=CODE).exit_code == 2
    assert (tmp_path / "r.json").read_text() == "old"
    assert {path.name for path in tmp_path.iterdir()} <= {"r.json", "model.py", "__pycache__"}


def test_a_newer_report(run: Run, tmp_path: Path) -> None:
    run("diagnose", "model.py", "--format", "json", "--output", "r.json", model=HEALTHY)
    text = (tmp_path / "r.json").read_text()
    (tmp_path / "r.json").write_text(text.replace('"schema_version": 1', '"schema_version": 99'))
    result = run("show", "r.json")
    assert result.exit_code == 2
    assert "upgrade gradcheckup" in " ".join(result.stderr.split())
    assert "did you mean r.json?" in run("show", "rr.json").stderr


def test_a_bug_is_called_one(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("gradcheckup.checkup.diagnose", broken)
    result = run("diagnose", "model.py", model=HEALTHY)
    assert result.exit_code == 3
    assert result.stderr.startswith("error: this is a bug in gradcheckup: ZeroDivisionError: oops")
    assert "--traceback" in result.stderr
    full = run("diagnose", "model.py", "--traceback", model=HEALTHY)
    assert full.exit_code == 3
    assert "Traceback (most recent call last)" in full.stderr


def test_ctrl_c(run: Run) -> None:
    result = run("diagnose", "model.py", model="raise KeyboardInterrupt")
    assert result.exit_code == 130
    assert result.stderr.strip() == "interrupted"


def test_ctrl_c_while_the_probe_runs(run: Run, tmp_path: Path) -> None:
    """The signal itself, as a terminal sends it."""
    interrupted = (
        HEALTHY + "import pathlib, signal\n"
        "def compute_loss(model, batch):\n"
        "    pathlib.Path('started').touch()\n"
        "    signal.raise_signal(signal.SIGINT)\n"
    )
    # What runs in the background may have been told to ignore it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        result = run("diagnose", "model.py", model=interrupted)
    finally:
        signal.signal(signal.SIGINT, before)
    assert (tmp_path / "started").exists()
    assert result.exit_code == 130
    assert (result.stdout, result.stderr.strip()) == ("", "interrupted")


# -- what is known -------------------------------------------------------------------------------


def test_rules_lists_every_code(run: Run) -> None:
    result = run("rules")
    assert result.exit_code == 0
    assert all(f"{rule.code}  {rule.name} " in result.stdout for rule in RULES)
    assert max(map(len, result.stdout.splitlines())) <= 80


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
def test_explain_every_rule(run: Run, rule: Any) -> None:
    by_code, by_name = run("explain", rule.code.lower()), run("explain", rule.name.upper())
    assert by_code.exit_code == by_name.exit_code == 0
    assert by_code.stdout == by_name.stdout
    said = " ".join(by_code.stdout.split())
    for part in (rule.name, rule.measured, rule.default, rule.false_alarms, rule.remedy):
        assert " ".join(part.split()) in said
    assert max(map(len, by_code.stdout.splitlines())) <= 80


def test_treatments_lists_every_key_and_explains_each(run: Run) -> None:
    listed = run("treatments").stdout
    assert max(map(len, listed.splitlines())) <= 80
    for treatment in TREATMENTS:
        assert f"\n{treatment.key} " in f"\n{listed}"
        text = run("treatments", treatment.key.replace("_", "-").upper()).stdout
        assert max(map(len, text.splitlines())) <= 80
        said = " ".join(text.split())
        for part in (treatment.summary, treatment.limits, *treatment.variants.values()):
            assert " ".join(part.split()) in said


def test_help_and_version(run: Run) -> None:
    assert run("--version").stdout == f"gradcheckup {__version__}\n"
    assert run().exit_code == 2
    assert "exit codes" in run().stdout
    for name in main.commands:
        result = run(name, "--help")
        assert result.exit_code == 0
        assert f"gradcheckup {name}" in result.stdout
        assert "examples" in result.stdout
        assert max(map(len, result.stdout.splitlines())) <= 80


def test_every_setting_of_the_help_is_an_option(run: Run) -> None:
    command = main.get_command(click.Context(main), "diagnose")
    assert command is not None
    options = {name for each in command.params for name in each.opts}
    text = run("diagnose", "--help").stdout
    assert all(name in text for name in options if name.startswith("--"))


def test_cheap_commands_import_no_torch(run: Run, tmp_path: Path) -> None:
    """All of them in one process: whoever imports torch is the one that is named."""
    run("diagnose", "model.py", "--format", "json", "--output", "r.json", model=HEALTHY)
    cheap = [
        ["--help"],
        ["diagnose", "--help"],
        ["run", "--help"],
        ["rules"],
        ["explain", "GC101"],
        ["show", "r.json", "--verbose", "--plot", "f.png"],
        ["compare", "r.json", "r.json"],
    ]
    code = (
        "import sys\n"
        "from gradcheckup.cli import main\n"
        f"for arguments in {cheap}:\n"
        "    sys.argv[1:] = arguments\n"
        "    try: main()\n"
        "    except SystemExit as ended: assert not ended.code, arguments\n"
        "    assert 'torch' not in sys.modules, arguments\n"
    )
    done = subprocess.run(  # noqa: S603 - our own code, in a new interpreter
        [sys.executable, "-W", "error", "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


# -- as a process --------------------------------------------------------------------------------


@pytest.mark.skipif(os.name == "nt", reason="POSIX pipes")
def test_a_reader_that_leaves_early_does_not_change_the_verdict(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(SICK)
    read, write = os.pipe()
    os.close(read)
    arguments = ["diagnose", "model.py", "--format", "json"]
    with process(*arguments, folder=tmp_path, stdout=write, stderr=subprocess.PIPE) as child:
        os.close(write)
        _, err = child.communicate(timeout=60)
    assert child.returncode == 1
    assert err == "imported\n"
    assert [path.name for path in tmp_path.iterdir()] == ["model.py"]


@pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal")
def test_colour_and_progress_on_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pty

    monkeypatch.delenv("NO_COLOR", raising=False)
    (tmp_path / "model.py").write_text(
        SICK + "import time\n"
        "def compute_loss(model, batch):\n"
        "    time.sleep(0.5)\n"
        "    return nn.functional.cross_entropy(model(batch[0]), batch[1])\n"
    )
    arguments = ["diagnose", "model.py", "--steps", "4", "--follow", "0"]
    head, tail = pty.openpty()
    with process(*arguments, folder=tmp_path, stdout=tail, stderr=tail, stdin=tail) as child:
        os.close(tail)
        text = _read_all(head)
        child.wait(timeout=30)
    os.close(head)
    assert child.returncode == 1
    assert "probing" in text
    assert "UNHEALTHY" in text
    assert "\x1b[1;31mUNHEALTHY" in text


def _read_all(terminal: int) -> str:
    seen = b""
    while True:
        try:
            chunk = os.read(terminal, 4096)
        except OSError:  # Linux says so when the other side has closed
            chunk = b""
        if not chunk:
            return seen.decode()
        seen += chunk


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert color_wanted(Terminal(), refused=False)
    assert not color_wanted(Terminal(), refused=True)
    assert not color_wanted(io.StringIO(), refused=False)
    monkeypatch.setenv("NO_COLOR", "1")
    assert not color_wanted(Terminal(), refused=False)
