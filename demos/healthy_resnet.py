"""A healthy control: torchvision's ResNet-18 on handwritten digits.

    gradcheckup diagnose demos/healthy_resnet.py
    python demos/healthy_resnet.py

Normalisation and skip connections carry the gradient through all of its layers. No finding; the
exit code is 0.
"""

from __future__ import annotations

import argparse
import sys

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import resnet18

import gradcheckup

PIXELS = 32
BATCH_SIZE = 16
LEARNING_RATE = 1e-2
MOMENTUM = 0.9
SEED = 0


def build_data(seed: int = SEED) -> DataLoader:
    """Handwritten digits of scikit-learn, enlarged from 8x8 to the colour images it expects."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.tensor(digits.images / 16.0, dtype=torch.float32)[: 16 * BATCH_SIZE, None]
    images = F.interpolate(images, size=PIXELS, mode="bilinear").expand(-1, 3, -1, -1)
    labels = torch.tensor(digits.target, dtype=torch.int64)[: 16 * BATCH_SIZE]
    order = torch.Generator().manual_seed(seed)
    return DataLoader(
        TensorDataset(images, labels), batch_size=BATCH_SIZE, shuffle=True, generator=order
    )


def build_model() -> nn.Module:
    return resnet18(num_classes=10)


def build_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)


criterion = nn.CrossEntropyLoss()


def main() -> None:
    parser = argparse.ArgumentParser(description="Diagnose a ResNet-18.")
    parser.add_argument("--seed", type=int, default=SEED)
    options = parser.parse_args()

    torch.manual_seed(options.seed)
    model = build_model()
    report = gradcheckup.diagnose(
        model,
        build_data(options.seed),
        criterion,
        optimizer=build_optimizer(model),
        seed=options.seed,
    )
    print(report)
    sys.exit(0 if report.healthy else 1)


if __name__ == "__main__":
    main()
