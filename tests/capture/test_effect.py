"""A cut gradient is told from a part that the loss does not use, by what the values do."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gradcheckup
from gradcheckup.capture import unexplained

DATA = torch.randn(16, 8, generator=torch.Generator().manual_seed(1)), torch.arange(16) % 3


class Net(nn.Module):
    def __init__(self, ending: Callable[[Net, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.ending = ending
        self.first = nn.Linear(8, 8)
        self.dropout = nn.Dropout(0.5)
        self.second = nn.Linear(8, 8)
        self.table = nn.Embedding(8, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.ending(self, x, self.second(self.dropout(torch.relu(self.first(x)))))


def codes(ending: Callable[[Net, Tensor, Tensor], Tensor]) -> dict[str, tuple[str, ...]]:
    torch.manual_seed(0)
    report = gradcheckup.diagnose(Net(ending), DATA, nn.CrossEntropyLoss())
    return {finding.code: finding.layers for finding in report.findings}


@pytest.mark.parametrize(
    "ending",
    [
        lambda net, _, hidden: net.head(hidden.detach()),
        lambda net, _, hidden: net.head(net.table(hidden.argmax(dim=-1))),
        lambda net, x, hidden: net.head(x * hidden.mean().item()),
        lambda net, _, hidden: net.head(torch.tensor(hidden.tolist())),
        lambda net, _, hidden: net.head(torch.from_numpy(hidden.detach().numpy())),
        lambda net, x, hidden: net.head(torch.where(hidden > 0, x, -x)),
    ],
    ids=["detach", "argmax", "item", "tensor of a list", "numpy", "comparison"],
)
def test_a_cut_gradient_is_severed(ending: Callable[[Net, Tensor, Tensor], Tensor]) -> None:
    assert codes(ending)["GC103"] == ("first", "second")


def test_a_head_that_the_loss_leaves_out_is_unused() -> None:
    found = codes(lambda net, x, hidden: net.head(x + 0 * hidden.detach()))
    assert "GC103" not in found
    assert set(found["GC501"]) >= {"first.weight", "second.bias"}


def test_both_at_once_are_told_apart() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk, self.auxiliary, self.head = (
                nn.Linear(8, 8),
                nn.Linear(8, 3),
                nn.Linear(8, 3),
            )

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            hidden = torch.relu(self.trunk(x))
            return self.head(hidden.detach()), self.auxiliary(hidden)

    torch.manual_seed(0)
    report = gradcheckup.diagnose(
        Both(), DATA, lambda outputs, y: nn.functional.cross_entropy(outputs[0], y)
    )
    found = {finding.code: finding.layers for finding in report.findings}
    assert found["GC103"] == ("trunk",)
    assert found["GC501"] == ("auxiliary.weight", "auxiliary.bias")


def test_the_question_leaves_no_hook_and_no_random_number_behind() -> None:
    net = Net(lambda net, _, hidden: net.head(hidden.detach()))
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    gradcheckup.diagnose(net, DATA, nn.CrossEntropyLoss())
    assert torch.equal(torch.rand(1), expected)
    assert all(not module._forward_hooks for module in net.modules())


class Reader(nn.Module):
    """Reads the last output of a GRU, or of a loop over a cell."""

    def __init__(self, *, loop: bool, batch_first: bool) -> None:
        super().__init__()
        self.batch_first = batch_first
        self.rnn: nn.Module = nn.GRUCell(1, 8) if loop else nn.GRU(1, 8, batch_first=batch_first)
        self.head = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        if not self.batch_first:
            x = x.movedim(1, 0)
        if isinstance(self.rnn, nn.GRU):
            last = self.rnn(x)[0][:, -1] if self.batch_first else self.rnn(x)[0][-1]
        else:
            last = x.new_zeros(x.shape[int(not self.batch_first)], 8)
            for now in x.unbind(int(self.batch_first)):
                last = self.rnn(now, last)
        out: Tensor = self.head(last)
        return out


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("loop", [True, False])
@pytest.mark.parametrize("trained", [True, False])
def test_states_that_the_loss_can_use_are_missed(
    trained: bool, loop: bool, batch_first: bool
) -> None:
    """The target is the last of 20 inputs; a net that has learnt it cannot do with another's."""
    torch.manual_seed(0)
    net = Reader(loop=loop, batch_first=batch_first)
    x = torch.randn(64, 20, 1)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    for _ in range(60 if trained else 0):
        optimizer.zero_grad()
        nn.functional.mse_loss(net(x), x[:, -1]).backward()
        optimizer.step()
    y = x[:, -1] if trained else torch.randn(64, 1)
    report = gradcheckup.diagnose(net, (x, y), nn.MSELoss(), steps=2)
    assert report.recording.telling == (("rnn",) if trained else ())


@pytest.mark.parametrize(
    ("outputs", "targets", "expected"),
    [
        ([1.0, 2.0, 4.0], [1.0, 2.0, 4.0], 0.0),
        ([1.0, 2.0, 4.0], [1.0, 2.0, 3.0], 1 / (9 + 1 + 1)),  # against 4, 1, 2
        ([0.0, 0.0, 0.0], [1.0, 2.0, 3.0], 1.0),  # whose output it is makes no difference
        ([1.0, 1.0, 1.0], [1.0, 1.0, 1.0], None),  # nor is there a loss
    ],
)
def test_how_much_of_the_loss_is_left(
    outputs: list[float], targets: list[float], expected: float | None
) -> None:
    """The weights of a table are the outputs."""
    net = nn.Embedding(3, 1)
    net.weight.data = torch.tensor(outputs)[:, None]
    wanted = torch.tensor(targets)[:, None]
    found = unexplained(net, lambda: F.mse_loss(net(torch.arange(3)), wanted).item())
    assert found == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize("outputs", [[1.0, 2.0, 4.0], [0.0, 0.0, 0.0]])
def test_a_loss_that_does_not_ask_whose_output_it_is(outputs: list[float]) -> None:
    """As that of a differential equation; what the net knows cannot be told."""
    net = nn.Embedding(3, 1)
    net.weight.data = torch.tensor(outputs)[:, None]
    assert unexplained(net, lambda: (net(torch.arange(3)) - 3).square().mean().item()) is None


def test_what_is_left_is_asked_where_weights_stand_still() -> None:
    net = nn.Embedding(3, 1)
    net.weight.data = torch.tensor([[1.0], [2.0], [4.0]])
    report = gradcheckup.diagnose(
        net,
        (torch.arange(3), torch.tensor([[1.0], [2.0], [3.0]])),
        nn.MSELoss(),
        optimizer=lambda model: torch.optim.SGD(model.parameters(), lr=1e-30),
    )
    assert report.recording.unexplained == pytest.approx(1 / (9 + 1 + 1))


def test_what_is_left_is_only_asked_where_weights_stand_still() -> None:
    torch.manual_seed(0)
    report = gradcheckup.diagnose(nn.Linear(8, 3), DATA, nn.CrossEntropyLoss())
    assert report.recording.unexplained is None
