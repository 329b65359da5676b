"""Scripts of trainers, unchanged: what they print is the same, and the model is found."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

LIGHTNING = """
import logging, warnings
import lightning
import torch
from torch import nn
warnings.filterwarnings("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

class Classifier(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(8, 32), nn.Linear(32, 32)
        self.third = nn.Linear(32, 4)
    def loss(self, batch):
        hidden = torch.relu(self.second(torch.relu(self.first(batch[0]))))
        return nn.functional.cross_entropy(self.third(hidden), batch[1])
    def training_step(self, batch, index):
        return self.loss(batch)
    def validation_step(self, batch, index):
        self.log("loss", self.loss(batch))
    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)

if __name__ == "__main__":
    lightning.seed_everything(0, verbose=False)
    data = torch.utils.data.TensorDataset(torch.randn(128, 8), torch.randint(4, (128,)))
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar"), False)
    trainer = lightning.Trainer(
        max_epochs=2, accelerator="cpu", enable_model_summary=False, **quiet
    )
    loaders = [torch.utils.data.DataLoader(data, 16, shuffle=shuffle) for shuffle in (True, False)]
    trainer.fit(Classifier(), *loaders)
    print(trainer.callback_metrics["loss"].item(), torch.rand(1).item())
"""

TRANSFORMERS = """
import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments, set_seed

class Tokens(torch.utils.data.Dataset):
    def __len__(self):
        return 48
    def __getitem__(self, index):
        tokens = torch.randint(50, (12,), generator=torch.Generator().manual_seed(index))
        return {"input_ids": tokens, "labels": tokens}

if __name__ == "__main__":
    set_seed(0)
    sizes = {"vocab_size": 50, "n_positions": 16, "n_embd": 32, "n_layer": 2, "n_head": 2}
    model = GPT2LMHeadModel(GPT2Config(bos_token_id=0, eos_token_id=0, **sizes))
    arguments = TrainingArguments(
        "out", per_device_train_batch_size=4, gradient_accumulation_steps=2, num_train_epochs=2,
        report_to=[], save_strategy="no", use_cpu=True, disable_tqdm=True, logging_strategy="no",
    )
    loss = Trainer(model, arguments, train_dataset=Tokens()).train().training_loss
    weights = sum(each.double().sum().item() for each in model.parameters())
    print("result", loss, weights, torch.rand(1).item())
"""


@pytest.mark.parametrize(
    ("needed", "script", "found"),
    [
        ("lightning", LIGHTNING, "Classifier, 3 layers, watched for 16 steps with Adam("),
        ("transformers", TRANSFORMERS, "GPT2LMHeadModel, 11 layers, watched for 12 steps with"),
    ],
    ids=["lightning", "transformers"],
)
def test_a_script_of_a_trainer(tmp_path: Path, needed: str, script: str, found: str) -> None:
    pytest.importorskip(needed)
    if needed == "transformers":
        pytest.importorskip("accelerate")
    (tmp_path / "train.py").write_text(script)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}

    def started(*command: str) -> subprocess.Popen[str]:
        command = (sys.executable, *command, "train.py")
        return subprocess.Popen(command, cwd=tmp_path, env=env, text=True, **streams)  # type: ignore[call-overload, no-any-return]  # noqa: S603 - ours

    with started() as plain, started("-m", "gradcheckup", "run") as watched:
        expected, _ = plain.communicate(timeout=300)
        printed, report = watched.communicate(timeout=300)
    assert (plain.returncode, watched.returncode) == (0, 0), report
    # The line before tells how long it took.
    assert printed.splitlines()[-1] == expected.splitlines()[-1]
    assert found in report
