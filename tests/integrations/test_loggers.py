"""TensorBoard, W&B and MLflow, each with the real package."""

from __future__ import annotations

import copy
import json
import math
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import gradcheckup
from gradcheckup.integrations import mlflow as mlflow_integration
from gradcheckup.integrations import tensorboard as tensorboard_integration
from gradcheckup.integrations import wandb as wandb_integration

STEPS = 10
EVERY = 3


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(
            {"größe [0]": nn.Linear(4, 6), "act": nn.Sigmoid(), "out": nn.Linear(6, 2)}
        )

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        for part in self.parts.values():
            given = part(given)
        return given


def _train(
    model: nn.Module, attach: Callable[[gradcheckup.Monitor], object] | None, **each: Any
) -> dict[int, dict[str, float]]:
    """Trains, and returns what is to be found in the log, by step."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    expected: dict[int, dict[str, float]] = {}
    monitor = None
    if attach is not None:
        monitor = gradcheckup.watch(model, optimizer, every=EVERY)
        monitor.on_sample(lambda one: expected.update({one.sampled_at or 0: one.scalars()}))
        attach(monitor)
    torch.manual_seed(1)
    for step in range(STEPS):
        optimizer.zero_grad()
        model(torch.randn(8, 4)).square().mean().backward()
        optimizer.step()
        for call in each.values():
            call(step)
    if monitor is not None:
        monitor.close()
        assert list(expected) == [0, 3, 6, 9]
    return expected


def _same(read: dict[int, dict[str, float]], expected: dict[int, dict[str, float]]) -> bool:
    return read == {
        step: pytest.approx(values, rel=1e-6, nan_ok=True) for step, values in expected.items()
    }


def _board(folder: Path) -> dict[int, dict[str, float]]:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found: dict[int, dict[str, float]] = {}
    accumulator = events.EventAccumulator(str(folder)).Reload()
    for tag in accumulator.Tags()["scalars"]:
        for event in accumulator.Scalars(tag):
            found.setdefault(event.step, {})[tag] = event.value
    return found


def test_tensorboard_has_each_sampled_step(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    plain = _Net()
    model = copy.deepcopy(plain)
    with SummaryWriter(tmp_path) as writer:  # type: ignore[no-untyped-call]
        expected = _train(model, lambda each: tensorboard_integration.log(each, writer))
    assert _same(_board(tmp_path), expected)
    assert "gradcheckup/saturation/parts.act" in expected[0]
    _train(plain, None)
    assert all(map(torch.equal, plain.state_dict().values(), model.state_dict().values()))


def test_values_that_are_not_finite_reach_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    model = _Net()
    with torch.no_grad():
        model.parts["out"].weight.fill_(math.nan)  # type: ignore[union-attr, operator]
    with SummaryWriter(tmp_path) as writer:  # type: ignore[no-untyped-call]
        _train(model, lambda each: tensorboard_integration.log(each, writer))
    assert math.isnan(_board(tmp_path)[0]["gradcheckup/loss"])


def test_what_is_no_writer_is_refused(tmp_path: Path) -> None:
    model = _Net()
    monitor = gradcheckup.watch(model, torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(gradcheckup.UsageError, match="SummaryWriter, got PosixPath"):
        tensorboard_integration.log(monitor, tmp_path)


@pytest.fixture
def wandb_run(tmp_path: Path, wandb_alone: Any) -> Any:
    run = wandb_alone.init(
        mode="offline",
        dir=str(tmp_path),
        project="watched",
        settings=wandb_alone.Settings(console="off", x_disable_stats=True, disable_git=True),
    )
    yield run
    run.finish()


def _records(path: Path) -> Iterator[bytes]:
    """The records of an offline run: a log as LevelDB writes it, in blocks, behind a header."""
    header, block, beginning = 7, 32768, 7
    data, record, place = path.read_bytes(), b"", header
    while place + beginning <= len(data):
        left = block - place % block
        if left < beginning:  # the end of a block, too short for another beginning
            place += left
            continue
        length, kind = struct.unpack("<4xHB", data[place : place + beginning])
        place += beginning
        record += data[place : place + length]
        place += length
        if kind in {1, 4}:  # whole, or the last piece
            yield record
            record = b""


def _rows(folder: Path) -> list[dict[str, Any]]:
    """The history of an offline run, as it was written."""
    messages = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    ended, deadline = False, time.monotonic() + 60
    while not ended:  # a process of W&B's own writes it, and `finish` does not wait for that
        assert time.monotonic() < deadline
        read = list(map(messages.Record.FromString, _records(path)))
        ended = any(record.HasField("exit") for record in read)
    rows = [record.history.item for record in read if record.HasField("history")]
    return [
        {each.key or "/".join(each.nested_key): json.loads(each.value_json) for each in row}
        for row in rows
    ]


def _ours(rows: list[dict[str, Any]]) -> dict[int, dict[str, float]]:
    return {
        int(row["gradcheckup/step"]): {
            name: value
            for name, value in row.items()
            if name.startswith("gradcheckup/") and name != "gradcheckup/step"
        }
        for row in rows
        if "gradcheckup/step" in row
    }


@pytest.mark.parametrize("pace", [None, 1, 4])
def test_wandb_has_each_sampled_step(pace: int | None, wandb_run: Any, tmp_path: Path) -> None:
    """Whether the loop logs nothing there, each step, or more rarely than steps are sampled."""
    plain = _Net()
    model = copy.deepcopy(plain)

    def own(step: int) -> None:
        if pace and step % pace == 0:
            wandb_run.log({"mine": step})

    expected = _train(model, wandb_integration.log, own=own)
    wandb_run.finish()
    rows = _rows(tmp_path)
    assert _same(_ours(rows), expected)
    assert [row["mine"] for row in rows if "mine" in row] == list(
        range(0, STEPS, pace or STEPS + 1)
    )[: None if pace else 0]
    if pace == 1:  # they joined the rows of the loop
        assert len(rows) == STEPS
    _train(plain, None)
    assert all(map(torch.equal, plain.state_dict().values(), model.state_dict().values()))


def test_wandb_loses_no_row_of_a_loop_that_counts_epochs(wandb_run: Any, tmp_path: Path) -> None:
    """`step=` of the loop may not go back, so none of ours may begin a row."""

    def own(step: int) -> None:
        if step % 5 == 4:
            wandb_run.log({"mine": step}, step=step // 5)

    _train(_Net(), lambda each: wandb_integration.log(each, wandb_run, commit=False), own=own)
    wandb_run.finish()
    rows = _rows(tmp_path)
    assert [row["mine"] for row in rows if "mine" in row] == [4, 9]
    # W&B fills row 0 until row 1 begins: the last sample of that time is kept.
    assert list(_ours(rows)) == [9]


def test_wandb_without_a_run_is_refused() -> None:
    pytest.importorskip("wandb")
    model = _Net()
    monitor = gradcheckup.watch(model, torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(gradcheckup.UsageError, match=r"call wandb\.init first"):
        wandb_integration.log(monitor)
    with pytest.raises(gradcheckup.UsageError, match=r"what wandb\.init returns, got str"):
        wandb_integration.log(monitor, "run")


mlflow_warnings = pytest.mark.filterwarnings(
    "ignore:.*filesystem (tracking|model registry) backend"
)


@mlflow_warnings
def test_mlflow_has_each_sampled_step(mlflow_store: Any) -> None:
    plain = _Net()
    model = copy.deepcopy(plain)
    with mlflow_store.start_run() as run:
        expected = _train(model, mlflow_integration.log)
    client = mlflow_store.MlflowClient()
    names = client.get_run(run.info.run_id).data.metrics
    found: dict[int, dict[str, float]] = {}
    for name in names:
        for metric in client.get_metric_history(run.info.run_id, name):
            found.setdefault(metric.step, {})[name] = metric.value
    # Names of metrics are ASCII there, without brackets.
    renamed = {
        step: {name.replace("größe [0]", "gr__e _0_"): value for name, value in values.items()}
        for step, values in expected.items()
    }
    assert _same(found, renamed)
    assert "gradcheckup/gradient_norm/parts.gr__e _0_" in names
    _train(plain, None)
    assert all(map(torch.equal, plain.state_dict().values(), model.state_dict().values()))


@mlflow_warnings
def test_more_than_mlflow_takes_at_once_is_logged(mlflow_store: Any) -> None:
    """1000 metrics a call; a look at 350 layers has more."""
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(350)))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    monitor = gradcheckup.watch(model, optimizer)
    with mlflow_store.start_run() as run:
        mlflow_integration.log(monitor, run.info.run_id)
        model(torch.randn(4, 2)).square().mean().backward()
        optimizer.step()
    expected = monitor.scalars()
    assert len(expected) > 1000
    assert set(mlflow_store.MlflowClient().get_run(run.info.run_id).data.metrics) == set(expected)


@mlflow_warnings
def test_mlflow_without_a_run_is_refused(mlflow_store: Any) -> None:
    del mlflow_store
    model = _Net()
    monitor = gradcheckup.watch(model, torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(gradcheckup.UsageError, match=r"call mlflow\.start_run first"):
        mlflow_integration.log(monitor)


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_package_is_named_with_the_command(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = _Net()
    monitor = gradcheckup.watch(model, torch.optim.SGD(model.parameters(), lr=0.1))
    monkeypatch.setitem(sys.modules, name, None)
    log = {"wandb": wandb_integration.log, "mlflow": mlflow_integration.log}[name]
    with pytest.raises(gradcheckup.MissingDependencyError, match=rf"'gradcheckup\[{name}\]'"):
        log(monitor)
