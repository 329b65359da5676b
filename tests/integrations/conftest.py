"""What tests of loggers share: packages that forget at the end of a test where they wrote."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def mlflow_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The package, tracking into files; without it the test is skipped."""
    package = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a database takes the whole of MLflow
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    package.set_tracking_uri(f"file:{tmp_path}/store")
    yield package
    package.end_run()
    package.set_tracking_uri(None)


@pytest.fixture
def wandb_alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The package, which remembers the folder of the test before until it is torn down."""
    package = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    yield package
    package.teardown()
