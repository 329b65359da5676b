"""The net that does not learn: seven hidden layers of sigmoids behind PyTorch's default weights.

    gradcheckup diagnose demos/deep_sigmoid.py
    python demos/deep_sigmoid.py
    python demos/deep_sigmoid.py --data fashion-mnist --data-root data

Each sigmoid passes at most a quarter of the gradient, and the weights shrink it further: the first
layer receives about 100,000 times less of it than the last hidden one. Diagnosed as GC101,
vanishing-gradient; the exit code is 1.
"""

from __future__ import annotations

import argparse
import sys

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import gradcheckup

HIDDEN_LAYERS = 7
WIDTH = 128
BATCH_SIZE = 64
LEARNING_RATE = 1e-2
SEED = 0


class DeepSigmoid(nn.Module):
    def __init__(self, inputs: int = 64, classes: int = 10) -> None:
        super().__init__()
        widths = [inputs] + [WIDTH] * HIDDEN_LAYERS
        for index in range(HIDDEN_LAYERS):
            setattr(self, f"layer{index + 1}", nn.Linear(widths[index], widths[index + 1]))
        self.output = nn.Linear(WIDTH, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.flatten(1)
        for index in range(HIDDEN_LAYERS):
            layer = getattr(self, f"layer{index + 1}")
            x = nn.Sigmoid()(layer(x))  # built here, as in many tutorials: no registered module
        return self.output(x)


def digits() -> Dataset:
    """1797 handwritten digits of 8x8 pixels, which scikit-learn has on board."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return TensorDataset(
        torch.tensor(images / 16.0, dtype=torch.float32), torch.tensor(labels, dtype=torch.int64)
    )


def fashion_mnist(root: str) -> Dataset:
    """60000 pictures of clothes of 28x28 pixels, fetched by torchvision when they are not there."""
    from torchvision import datasets, transforms

    try:
        return datasets.FashionMNIST(root, download=True, transform=transforms.ToTensor())
    except (OSError, RuntimeError) as error:
        print(
            f"FashionMNIST could not be fetched into {root!r}: {error}\n"
            "run this once where there is a network, or use --data digits",
            file=sys.stderr,
        )
        sys.exit(2)


def build_data(data: str = "digits", root: str = "data", seed: int = SEED) -> DataLoader:
    dataset = digits() if data == "digits" else fashion_mnist(root)
    order = torch.Generator().manual_seed(seed)
    return DataLoader(dataset, batch_size=BATCH_SIZE, shuffle=True, generator=order)


def build_model(inputs: int = 64) -> DeepSigmoid:
    return DeepSigmoid(inputs)


def build_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)


criterion = nn.CrossEntropyLoss()


def main() -> None:
    parser = argparse.ArgumentParser(description="Diagnose a deep sigmoid net.")
    parser.add_argument("--data", choices=["digits", "fashion-mnist"], default="digits")
    parser.add_argument("--data-root", default="data", help="where FashionMNIST is or goes")
    parser.add_argument("--seed", type=int, default=SEED)
    options = parser.parse_args()

    data = build_data(options.data, options.data_root, options.seed)
    torch.manual_seed(options.seed)
    model = build_model(inputs=64 if options.data == "digits" else 28 * 28)
    report = gradcheckup.diagnose(
        model, data, criterion, optimizer=build_optimizer(model), seed=options.seed
    )
    print(report)
    sys.exit(0 if report.healthy else 1)


if __name__ == "__main__":
    main()
