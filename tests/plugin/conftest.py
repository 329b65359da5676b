"""Runs pytest inside pytest, with the plugin and a few nets at hand."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.metadata import entry_points

import pytest
import torch
from torch import nn

import gradcheckup
import pytest_gradcheckup.fixture  # noqa: F401

# Everything that a check imports is loaded now: `pytester` forgets what an inner run imports, and
# parts of torch cannot be imported twice.
str(gradcheckup.diagnose(nn.Linear(2, 2), (torch.ones(4, 2), torch.ones(4, 2)), nn.MSELoss()))

Run = Callable[..., pytest.RunResult]

# Hands every inner run to xdist workers: minutes of starting processes.
_SPREAD = bool(os.environ.get("GRADCHECKUP_TESTS_SPREAD"))
# Where the entry point is installed, pytest loads the plugin on its own, and refuses it twice.
_REGISTERED = any(each.name == "gradcheckup" for each in entry_points(group="pytest11"))
_LOADED = ("-p", "pytest_gradcheckup.plugin")

NETS = '''
import torch
from torch import nn

torch.set_num_threads(1)
loss = nn.CrossEntropyLoss()
loss_elsewhere = nn.CrossEntropyLoss(torch.ones(4, device="meta"))


def batch():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(32, 16, generator=generator)
    return x, x[:, :4].argmax(1)


def healthy():
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))


def sick():
    """Each sigmoid passes a quarter of the gradient at most."""
    hidden = [each for _ in range(6) for each in (nn.Linear(16, 16), nn.Sigmoid())]
    return nn.Sequential(*hidden, nn.Linear(16, 4))


def HEAD(model):
    return torch.optim.Adam(model[2].parameters())


IGNORED = ["stem.*", "spare.*"]


def with_frozen_backbone():
    model = healthy()
    model[0].requires_grad_(False)
    return model


class Exits(nn.Linear):
    def __init__(self):
        super().__init__(16, 4)

    def forward(self, x):
        raise SystemExit(3)


class Detached(nn.Module):
    """The gradient ends between stem and head; the spare layer never runs."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Linear(16, 16), nn.ReLU())
        self.head = nn.Linear(16, 4)
        self.spare = nn.Linear(16, 4)

    def forward(self, x):
        return self.head(self.stem(x).detach())
'''


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs pytest on a test file: `run(source, "--option", ini="key = value")`.

    The file may use what `NETS` defines. Warnings are errors, and markers are strict. In this
    process, unless it runs `apart`: then with all plugins that are installed, as a user has it.
    """
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    pytester.syspathinsert()

    def _run(source: str, *arguments: str, apart: bool = False, ini: str = "") -> pytest.RunResult:
        head = "import pytest, torch\nfrom torch import nn\nfrom nets import *\n"
        pytester.makepyfile(nets=NETS)
        pytester.makepyfile(test_flow=head + source)
        if ini:
            pytester.makeini(f"[pytest]\n{ini}")
        fixed = ("-W", "error", "--strict-markers", "-p", "no:cacheprovider")
        if _SPREAD and "-n" not in arguments:
            arguments = (*arguments, "-n", "2", "--dist", "loadfile")
        if apart or _SPREAD:
            loaded = () if _REGISTERED else _LOADED
            return pytester.runpytest_subprocess(*loaded, *fixed, *arguments)
        # Others take seconds to be rewritten, in each run anew.
        monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        return pytester.runpytest_inprocess(*_LOADED, *fixed, *arguments)

    return _run
