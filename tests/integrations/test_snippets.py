"""The snippets of docs/watching.md that need packages which are not installed everywhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import gradcheckup

PAGE = Path(__file__).parents[2] / "docs" / "watching.md"
SECTION = PAGE.read_text("utf-8").partition("## Trainers and loggers\n")[2].partition("\n## ")[0]
SNIPPETS = re.findall(r"^```py\n(.*?)^```$", SECTION, re.MULTILINE | re.DOTALL)
# Packages that take a fixture to write into the folder of the test alone.
OWN = {"wandb": "wandb_alone", "mlflow": "mlflow_store"}
PACKAGES = ("tensorboard", "wandb", "mlflow", "lightning", "transformers")


def _train(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for _ in range(20):
        optimizer.zero_grad()
        model(torch.randn(8, 4)).square().mean().backward()
        optimizer.step()


def _module() -> Any:
    lightning = pytest.importorskip("lightning")

    class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))

        def training_step(self, batch: Any, _: int) -> torch.Tensor:
            loss: torch.Tensor = self.net(batch[0]).square().mean()
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters())

    return Module()


def _language_model() -> Any:
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 20, "n_positions": 8, "n_embd": 8, "n_layer": 1, "n_head": 1}
    configuration = transformers.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)
    return transformers.GPT2LMHeadModel(configuration)


def test_every_package_has_its_snippet() -> None:
    assert len(SNIPPETS) == len(PACKAGES)
    for package, snippet in zip(PACKAGES, SNIPPETS, strict=True):
        assert f"gradcheckup.integrations import {package}" in snippet or (
            f"gradcheckup.integrations.{package} import" in snippet
        )


# What trainers have to say of trainings this short is not of interest; warnings of ours are.
@pytest.mark.filterwarnings("ignore", "error::RuntimeWarning")
@pytest.mark.parametrize(
    ("package", "snippet"), [*zip(PACKAGES, SNIPPETS, strict=True)], ids=PACKAGES
)
def test_the_snippet_runs(
    package: str,
    snippet: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    if package in OWN:
        request.getfixturevalue(OWN[package])
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    tokens = [{"input_ids": each, "labels": each} for each in torch.randint(0, 20, (16, 8))]
    names: dict[str, Any] = {
        "gradcheckup": gradcheckup,
        "model": model,
        "optimizer": torch.optim.Adam(model.parameters()),
        "train": _train,
        "loader": DataLoader(TensorDataset(torch.randn(32, 4)), batch_size=4),
        "tokens": tokens,
    }
    if package == "lightning":
        names["module"] = _module()
    if package == "transformers":
        names["language_model"] = _language_model()
    exec(compile(snippet, str(PAGE), "exec"), names)  # noqa: S102 - our own page
    monitors = names["callback"].monitors.values() if "callback" in names else [names["monitor"]]
    for monitor in monitors:
        assert monitor.closed
        assert monitor.failure is None
        assert monitor.steps == (40 if package == "lightning" else 20)
        assert len(monitor.report().steps) >= 2
