"""What all tests share: one thread, random numbers to rely on, and a way to start processes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

# The tests of the plugin run pytest inside pytest.
pytest_plugins = ["pytester"]

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    """Start every test with the same torch seed; leave the global state as it was."""
    state = torch.get_rng_state()
    torch.manual_seed(0)
    yield
    torch.set_rng_state(state)


@pytest.fixture(autouse=True)
def _forgetful(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Forget the files that a test wrote and imported: many are called model.py."""
    modules, path, written = set(sys.modules), list(sys.path), tmp_path_factory.getbasetemp()
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        file = getattr(sys.modules[name], "__file__", None)
        if file and Path(file).is_relative_to(written):
            del sys.modules[name]


@pytest.fixture(scope="session")
def torchrun() -> Callable[..., None]:
    """`torchrun(script, *arguments)` runs a script in two processes, which have to end well."""

    def run(script: Path, *arguments: object) -> None:
        module = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        done = subprocess.run(  # noqa: S603 - our own workers
            [sys.executable, *module, str(script), *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-4000:]

    return run
