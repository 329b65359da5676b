"""Snippets in the names of the user's file."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from gradcheckup.cli import main
from gradcheckup.treatments.editing.naming import renamed

FILE = """
import torch
from torch import nn

torch.manual_seed(0)
layers = [each for _ in range(7) for each in (nn.Linear(16, 16), nn.Sigmoid())]
net = nn.Sequential(*layers, nn.Linear(16, 4))
groups = [{"params": net[:2].parameters(), "lr": 0.01}, {"params": net[2:].parameters()}]
opt = torch.optim.SGD(groups, lr=0.1)
x = torch.randn(64, 16)
loader = [(x, (x[:, 0] > 0).long())]
"""

SNIPPET = """# model and optimizer, once they are made:
model.model = nn.Sequential(model.model, model[3])
treated = gradcheckup.treat(
    model, "optimizer", optimizer=optimizer)
optimizer = treated.optimizer"""
RENAMED = """# model and optimizer, once they are made:
net.model = nn.Sequential(net.model, net[3])
treated = gradcheckup.treat(
    net, "optimizer", optimizer=opt_1)
opt_1 = treated.optimizer"""


def test_variables_are_renamed_and_nothing_else() -> None:
    assert renamed(SNIPPET, {"model": "net", "optimizer": "opt_1"}) == RENAMED
    assert renamed(SNIPPET, {}) == SNIPPET


def test_the_terminal_tells_the_change_in_the_names_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "train.py"
    file.write_text(FILE)
    arguments = ["--model", "net", "--optimizer", "opt", "--data", "loader", "--budget", "60"]
    treatments = ["--treatments", "weight_scale + optimizer"]
    done = CliRunner().invoke(main, ["prescribe", str(file), *arguments, *treatments])
    assert "(net[0]," in done.stdout, done.output
    assert "opt = torch.optim.Adam(" in done.stdout
    assert "for group in opt.param_groups" in done.stdout
    assert "model[" not in done.stdout
