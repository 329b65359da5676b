"""Scripts run as under plain Python, and are watched on the way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import gradcheckup
from gradcheckup.cli import main

ROOT = Path(__file__).parents[1]
Run = Callable[..., Result]

TRAIN = """
import torch
from torch import nn
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
x = torch.randn(32, 8)
for step in range(12):
    optimizer.zero_grad()
    loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
    loss.backward()
    optimizer.step()
print("trained")
"""

# Sick: sigmoids, whose gradient vanishes on the way back.
SICK = TRAIN.replace(
    "nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))",
    "nn.Sequential(*[f() for _ in range(9) for f in (lambda: nn.Linear(8, 8), nn.Sigmoid)],"
    " nn.Linear(8, 1))",
)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command in an empty folder, in this process; files are given by name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr(sys, "argv", ["gradcheckup"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])

    def _run(*arguments: str, **files: str) -> Result:
        for name, text in files.items():
            (tmp_path / f"{name}.py").write_text(text)
        return CliRunner().invoke(main, ["run", *arguments])

    return _run


# -- as under plain Python -----------------------------------------------------------------------

# As in the examples of PyTorch: epochs of training and testing, workers, a schedule, a checkpoint.
EXAMPLE = """
import argparse, hashlib, os, pickle, random, sys
import numpy
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from neighbour import CLASSES

class Digits(Dataset):
    def __init__(self, seed):
        generator = torch.Generator().manual_seed(seed)
        self.x = torch.randn(96, 1, 8, 8, generator=generator)
        self.y = torch.randint(CLASSES, (96,), generator=generator)
    def __len__(self):
        return len(self.y)
    def __getitem__(self, index):
        return self.x[index], self.y[index]

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.dropout = nn.Dropout(0.25)
        self.fc1 = nn.Linear(36, 16)
        self.fc2 = nn.Linear(16, CLASSES)
    def forward(self, x):
        x = nn.functional.max_pool2d(nn.functional.relu(self.conv(x)), 2)
        x = nn.functional.relu(self.fc1(torch.flatten(self.dropout(x), 1)))
        return nn.functional.log_softmax(self.fc2(x), dim=1)

def train(model, loader, optimizer):
    model.train()
    for x, y in loader:
        optimizer.zero_grad()
        nn.functional.nll_loss(model(x), y).backward()
        optimizer.step()

def test(model, loader):
    model.eval()
    with torch.no_grad():
        print(sum(nn.functional.nll_loss(model(x), y).item() for x, y in loader))

def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--every", default="the script's own")
    arguments = parser.parse_args()
    torch.manual_seed(1), random.seed(1), numpy.random.seed(1)
    model = Net()
    optimizer = torch.optim.Adadelta(model.parameters(), lr=1.0)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.7)
    workers = {
        "num_workers": 1, "multiprocessing_context": "spawn", "persistent_workers": True
    }
    loaders = DataLoader(Digits(0), 16, shuffle=True, **workers), DataLoader(Digits(1), 48)
    for epoch in range(arguments.epochs):
        train(model, loaders[0], optimizer)
        test(model, loaders[1])
        schedule.step()
    torch.save(model.state_dict(), "net.pt")
    assert type(pickle.loads(pickle.dumps(model))) is Net
    weights = b"".join(each.detach().numpy().tobytes() for each in model.parameters())
    print(hashlib.sha256(weights).hexdigest(), torch.rand(1), random.random(), numpy.random.rand())
    print(sys.argv, sys.path[0], os.getcwd(), __name__, __file__, __spec__, __package__)
    print(arguments.every, sys.modules["__main__"].main is main, sorted(os.listdir()))
    sys.stdout.flush()
    raise ValueError("at the end")

if __name__ == "__main__":
    main()
"""


def test_an_example_is_bitwise_the_same(tmp_path: Path) -> None:
    """Output, weights, random numbers, workers, traceback and exit code; a report besides."""
    folder = tmp_path / "scripts"
    folder.mkdir()
    (folder / "train.py").write_text(EXAMPLE)
    (folder / "neighbour.py").write_text("CLASSES = 4\n")
    arguments = ["scripts/train.py", "--epochs", "2", "--every", "7"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "80"}
    env["PYTHONDONTWRITEBYTECODE"] = "1"

    def ended(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(  # noqa: S603 - our own code, in a new interpreter
            [sys.executable, *command],
            cwd=tmp_path,
            env=env,
            text=True,
            capture_output=True,
            check=False,
        )

    plain = ended(*arguments)
    watched = ended("-m", "gradcheckup", "run", "--every", "3", *arguments)
    assert plain.returncode == watched.returncode == 1
    assert "ValueError: at the end" in plain.stderr
    assert watched.stdout == plain.stdout
    assert watched.stderr.startswith(plain.stderr)
    report = watched.stderr.removeprefix(plain.stderr)
    assert "Net, 3 layers, watched for 12 steps with Adadelta" in report
    assert max(map(len, report.splitlines())) <= 80


@pytest.mark.parametrize(
    ("statement", "code", "said"),
    [
        ("", 0, ""),
        ("sys.exit()", 0, ""),
        ("sys.exit(7)", 7, ""),
        ("sys.exit(False)", 0, ""),
        ("sys.exit('no data')", 1, "no data\n"),
        ("raise KeyboardInterrupt", 130, "KeyboardInterrupt\n"),
        ("assert_here = 1 / 0", 1, "ZeroDivisionError: division by zero\n"),
        ("raise sys.modules['gradcheckup'].TargetError('theirs')", 1, "TargetError: theirs\n"),
    ],
)
def test_the_exit_code_is_kept_and_the_report_comes(
    run: Run, statement: str, code: int, said: str
) -> None:
    result = run("train.py", train=f"import sys{TRAIN}\n{statement}\n")
    assert result.exit_code == code
    assert result.stdout == "trained\n"
    error, _, _ = result.stderr.rpartition("\n\n") if said else ("", "", result.stderr)
    assert f"{error}\n".endswith(said)
    assert "Sequential, 2 layers, watched for 12 steps with SGD(lr=0.1)" in result.stderr
    assert ("Traceback" in error) == (":" in said or "Key" in said)
    assert str(ROOT / "gradcheckup") not in result.stderr


def test_a_syntax_error_is_shown_as_python_does(run: Run, tmp_path: Path) -> None:
    result = run("train.py", train="x = = 1\n")
    assert result.exit_code == 1
    place = tmp_path / "train.py"
    assert result.stderr.startswith(f'  File "{place}", line 1\n    x = = 1\n')
    assert "SyntaxError: invalid syntax" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_module_of_a_package(run: Run, tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "sizes.py").write_text("LR = 0.1\n")
    told = (
        "import sys\nprint(sys.argv, sys.path[0], __name__, __package__, __spec__.name, __file__)"
    )
    text = f"from .sizes import LR\n{TRAIN.replace('lr=0.1', 'lr=LR')}{told}\n"
    (package / "train.py").write_text(text)
    (package / "__main__.py").write_text("from .sizes import LR\nprint(__spec__.name)\n")
    result = run("-m", "package.train", "--lr", "-m", "--", "x")
    file = str(package / "train.py")
    argv = [file, "--lr", "-m", "--", "x"]
    said = f"{argv} {tmp_path} __main__ package package.train {file}"
    assert result.stdout == f"trained\n{said}\n", result.output
    assert "watched for 12 steps" in result.stderr
    assert run("-m", "package").stdout == "package.__main__\n"


def test_what_the_script_asks_for_is_its_own(run: Run) -> None:
    text = "import argparse\nparser = argparse.ArgumentParser()\nparser.add_argument('--lr')\n"
    helped = run("train.py", "--help", train=text + "parser.parse_args()")
    assert helped.exit_code == 0
    assert "--lr LR" in helped.stdout
    assert run("train.py", "--every", "5").exit_code == 2


def test_no_torch_is_imported_before_the_script_does(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(
        "import sys\nassert not {'torch', 'numpy'} & set(sys.modules)\n"
        "import torch\nassert 'gradcheckup.watching' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "gradcheckup", "run", "train.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "\ngradcheckup: no optimizer stepped in this process\n"


LEFT = {
    "thread": "import threading\nthreading.Thread(target=train).start()\n",
    # Both are told to end when the main thread is over, and not before.
    "pool": "import concurrent.futures as f\npool = f.ThreadPoolExecutor(1)\npool.submit(train)\n",
    "waiting": "import threading\nmain = threading.main_thread()\n"
    "threading.Thread(target=lambda: (main.join(), train())).start()\n",
}


@pytest.mark.parametrize(
    "way",
    ["thread", *(pytest.param(way, marks=pytest.mark.slow) for way in LEFT if way != "thread")],
)
def test_the_report_waits_for_threads_as_python_does(tmp_path: Path, way: str) -> None:
    before, loop = SICK.replace("range(12)", "range(40)").split("for step")
    train = "\n    ".join(f"for step{loop}".splitlines())
    last = "import atexit, sys\natexit.register(print, 'last')\n"
    code = f"{before}\ndef train():\n    {train}\n{last}{LEFT[way]}print('left')\n"
    (tmp_path / "train.py").write_text(code)

    def ended(*options: str, end: str = "") -> tuple[int, str, str]:
        (tmp_path / "train.py").write_text(code + end)
        done = subprocess.run(  # noqa: S603 - our own code, in a new interpreter
            [sys.executable, "-m", "gradcheckup", "run", "--every", "2", *options, "train.py"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        return done.returncode, done.stdout, done.stderr

    status, out, told = ended("--fail-on", "critical")
    assert sorted(out.split()) == ["last", "left", "trained"]
    assert "UNHEALTHY  Sequential, 10 layers, watched for 40 steps" in told
    assert status == 1
    if way == "thread":
        assert ended()[0] == 0
        assert ended("--fail-on", "critical", end="sys.exit(7)\n")[0] == 7


# -- options -------------------------------------------------------------------------------------


def test_findings_change_the_exit_code_when_asked(run: Run) -> None:
    text = SICK.replace("range(12)", "range(40)")
    kept = run("--every", "2", "train.py", train=text)
    assert kept.exit_code == 0
    assert "UNHEALTHY  Sequential, 10 layers, watched for 40 steps" in kept.stderr
    assert "GC101 vanishing-gradient  critical" in kept.stderr
    assert run("--every", "2", "--fail-on", "critical", "train.py").exit_code == 1
    ignored = ("--fail-on", "critical", "--select", "GC502")
    assert run("--every", "2", *ignored, "train.py").exit_code == 0
    exits = run("--every", "2", "--fail-on", "critical", "train.py", train=text + "exit(5)")
    assert exits.exit_code == 5


def test_stop_on_ends_the_training(run: Run) -> None:
    text = SICK.replace("range(12)", "range(400)")
    result = run("--every", "2", "--stop-on", "critical", "train.py", train=text)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "stopped by --stop-on" in result.stderr
    assert "Traceback" not in result.stderr
    assert "GC101 vanishing-gradient  critical" in result.stderr


TWO = TRAIN.replace("model = ", "other = nn.Linear(8, 1)\nmodel = ").replace(
    'print("trained")',
    "more = torch.optim.Adam(other.parameters())\n"
    "for _ in range(5):\n    other(x).sum().backward()\n    more.step()\n",
)


def test_files_are_numbered_where_there_are_several_models(run: Run, tmp_path: Path) -> None:
    result = run("--output", "r.json", "--log", "run.jsonl", "train.py", train=TWO)
    assert result.exit_code == 0, result.output
    first, second = (gradcheckup.load_report(tmp_path / name) for name in ("r.json", "r-2.json"))
    assert (first.recording.model, second.recording.model) == ("Sequential", "Linear")
    assert first.subject == "train.py"
    assert first.recording.history
    assert first.recording.history.steps == 12
    assert result.stderr == (
        "\nHEALTHY  Sequential; report written to r.json\n"
        "HEALTHY  Linear; report written to r-2.json\n"
    )
    for name in ("run.jsonl", "run-2.jsonl"):
        lines = (tmp_path / name).read_text().splitlines()
        assert "end" in json.loads(lines[-1])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_log_that_finds_no_room_costs_the_log_alone(run: Run) -> None:
    with pytest.warns(RuntimeWarning, match="cannot write run log /dev/full: no space") as warned:
        result = run("--log", "/dev/full", "train.py", train=TRAIN)
    assert len(warned) == 1
    assert result.exit_code == 0
    assert result.stdout == "trained\n"
    assert "Sequential, 2 layers, watched for 12 steps" in result.stderr
    assert "gradcheckup:" not in result.stderr


def test_one_of_several_processes_reports(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    result = run("--output", "r.json", "train.py", train=TRAIN)
    assert (result.exit_code, result.stderr) == (0, "")
    assert not Path("r.json").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["trian.py"], "error: no such file: trian.py; did you mean train.py?"),
        (["package.train"], "error: no such file: package.train; for a module: gradcheckup run -m"),
        (["."], "error: expected a script, got the folder ."),
        (["-m", "nope"], "error: no module named nope"),
        (["-m", "nope.deep"], "error: no module named nope.deep"),
        (["-m", "train.py"], "without -m: gradcheckup run train.py"),
        (["-m", "json.nope"], "error: no module named json.nope"),
        (["-m", "email"], "error: email is a package without a module __main__"),
        (["--evry", "3", "train.py"], "--every"),
        (["--every", "0", "train.py"], "error: Invalid value for '--every'"),
        (["--select", "GC9", "train.py"], "GC9"),
        (["--format", "json", "train.py"], "give --output too"),
        (["--output", "nowhere/r.json", "train.py"], "there is no folder nowhere"),
        (["--log", "train.py", "train.py"], "would be overwritten"),
        ([], "Missing argument 'SCRIPT'"),
    ],
)
def test_mistakes_are_one_sentence_and_exit_2(run: Run, arguments: list[str], said: str) -> None:
    result = run(*arguments, train="raise AssertionError('ran')")
    assert result.exit_code == 2, result.output
    assert said in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_a_package_that_fails_to_import(run: Run, tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "__init__.py").write_text("import not_there\n")
    (tmp_path / "broken" / "train.py").write_text("")
    result = run("-m", "broken.train")
    assert result.exit_code == 1
    assert result.stderr.startswith(
        f'Traceback (most recent call last):\n  File "{tmp_path / "broken" / "__init__.py"}"'
    )
    assert "ModuleNotFoundError: No module named 'not_there'" in result.stderr
