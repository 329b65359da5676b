"""One of two processes under torchrun: both trainers, each with its callback.

    torchrun --nproc-per-node 2 trainers_worker.py FOLDER

Writes `FOLDER/<rank>.json`: what each report says.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import lightning
import torch
import transformers
from torch import Tensor, nn

from gradcheckup import Report
from gradcheckup.integrations import lightning as of_lightning
from gradcheckup.integrations import transformers as of_transformers

DEPTH = 12


def sigmoid_net() -> nn.Sequential:
    """Twelve hidden sigmoids, behind which no gradient is left."""
    torch.manual_seed(0)
    hidden = [each for _ in range(DEPTH) for each in (nn.Linear(8, 8), nn.Sigmoid())]
    return nn.Sequential(*hidden, nn.Linear(8, 3))


def samples() -> list[dict[str, Tensor]]:
    """Noise, with labels of noise."""
    torch.manual_seed(1)
    return [{"inputs": torch.randn(8), "labels": torch.randint(3, ())} for _ in range(96)]


class Module(lightning.LightningModule):
    """The net, for Lightning."""

    def __init__(self) -> None:
        super().__init__()
        self.net = sigmoid_net()

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        """The loss of a batch."""
        return nn.functional.cross_entropy(self.net(batch["inputs"]), batch["labels"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Any."""
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Model(nn.Module):
    """The same, for transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.net = sigmoid_net()

    def forward(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Loss and outputs."""
        logits = self.net(inputs)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def with_lightning(folder: Path) -> Report:
    """Trains with Lightning, which finds the processes that torchrun has started."""
    callback = of_lightning.GradcheckupCallback(every=2)
    trainer = lightning.Trainer(
        default_root_dir=folder,
        max_epochs=2,
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loader: Any = torch.utils.data.DataLoader(samples(), batch_size=8)  # type: ignore[arg-type]
    trainer.fit(Module(), loader)
    return callback.report()


def with_transformers(folder: Path) -> Report:
    """Trains with transformers, in the processes that are there by now."""
    callback = of_transformers.GradcheckupCallback(every=2)
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=2,
        per_device_train_batch_size=8,
        learning_rate=1e-3,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        ddp_find_unused_parameters=False,
    )
    trainer = transformers.Trainer(
        Model(),
        arguments,
        train_dataset=samples(),  # type: ignore[arg-type]
        callbacks=[callback],
    )
    trainer.train()
    return callback.report()


def main() -> None:
    """Runs both."""
    folder = Path(sys.argv[1])
    found = {
        "lightning": with_lightning(folder),
        "transformers": with_transformers(folder),
    }
    told = {name: json.loads(report.to_json()) for name, report in found.items()}
    rank = os.environ["RANK"]
    (folder / f"{rank}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main()
