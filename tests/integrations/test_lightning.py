"""The Lightning callback, with the real trainer."""

from __future__ import annotations

import copy
import importlib
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import gradcheckup
from gradcheckup.integrations.lightning import GradcheckupCallback

L = pytest.importorskip("lightning.pytorch")
loggers = pytest.importorskip("lightning.pytorch.loggers.logger")

pytestmark = [
    # A data loader with workers, a checkpoint folder, a number of batches: none is of these tests.
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec"),
]


class _Kept(loggers.Logger):  # type: ignore[misc]
    """A logger that keeps what it gets."""

    name, version = "kept", 0

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int, dict[str, float]]] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows.append((-1 if step is None else step, dict(metrics)))

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Keeps none."""


def _coder(base: Any) -> Any:
    """A module as in Lightning's first steps: `training_step` calls its parts, not itself."""

    class Coder(base):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Sequential(nn.Linear(6, 12), nn.Sigmoid(), nn.Linear(12, 3))
            self.decoder = nn.Sequential(nn.Linear(3, 12), nn.Dropout(0.1), nn.Linear(12, 6))

        def _loss(self, batch: Any) -> Tensor:
            return nn.functional.mse_loss(self.decoder(self.encoder(batch[0])), batch[0])

        def training_step(self, batch: Any, _: int) -> Tensor:
            loss = self._loss(batch)
            self.log("train_loss", loss)
            return loss

        def validation_step(self, batch: Any, _: int) -> None:
            self.log("val_loss", self._loss(batch))

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), lr=1e-2)

    return Coder()


class _Adversaries(L.LightningModule):  # type: ignore[misc]
    """Two optimizers, by hand, each for a net of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 6))
        self.critic = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1))

    def training_step(self, batch: Any, _: int) -> None:
        first, second = self.optimizers()
        real, judge = batch[0], nn.functional.softplus
        made = self.generator(torch.randn(len(real), 2))
        second.zero_grad()
        self.manual_backward((judge(-self.critic(real)) + judge(self.critic(made.detach()))).mean())
        second.step()
        first.zero_grad()
        self.manual_backward(judge(-self.critic(made)).mean())
        first.step()

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [
            torch.optim.Adam(self.generator.parameters(), lr=1e-3),
            torch.optim.SGD(self.critic.parameters(), lr=1e-2),
        ]


def _fit(module: Any, callbacks: list[Any], package: Any = L, **options: Any) -> Any:
    generator = torch.Generator().manual_seed(1)
    data = TensorDataset(torch.randn(48, 6, generator=generator))
    package.seed_everything(3, verbose=False)
    trainer = package.Trainer(
        **{
            "max_epochs": 2,
            "accelerator": "cpu",
            "callbacks": callbacks,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "log_every_n_steps": 1,
            **options,
        }
    )
    validation = DataLoader(data, batch_size=16) if hasattr(module, "_loss") else None
    trainer.fit(module, DataLoader(data, batch_size=4, shuffle=True), validation)
    return trainer


def _is_clean(model: nn.Module) -> bool:
    return not any(
        hooks
        for module in model.modules()
        for hooks in (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
    )


def _mixed() -> list[Any]:
    precision = pytest.importorskip("lightning.pytorch.plugins.precision")
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**15, growth_interval=3)
    return [precision.MixedPrecision("16-mixed", device="cpu", scaler=scaler)]


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(dict, id="automatic"),
        pytest.param(lambda: {"accumulate_grad_batches": 3}, id="accumulated"),
        pytest.param(lambda: {"gradient_clip_val": 0.1}, id="clipped"),
        pytest.param(lambda: {"precision": "bf16-mixed"}, id="bf16"),
        pytest.param(lambda: {"plugins": _mixed()}, id="16-mixed"),
        pytest.param(lambda: {"val_check_interval": 2}, id="often-validated"),
    ],
)
def test_the_training_is_bitwise_the_same(options: Callable[[], dict[str, Any]]) -> None:
    torch.manual_seed(0)
    plain = _coder(L.LightningModule)
    watched = copy.deepcopy(plain)
    start = copy.deepcopy(plain.state_dict())
    _fit(plain, [], **options())
    callback = GradcheckupCallback(every=1)
    trainer = _fit(watched, [callback], **options())
    # Lightning counts the steps that the gradient scaler left out.
    assert 0 < callback.monitors[""].steps <= trainer.global_step
    for name, value in watched.state_dict().items():
        assert torch.equal(value, plain.state_dict()[name])
        assert not torch.equal(value, start[name])
    assert _is_clean(watched)
    assert callback.monitors[""].failure is None


def test_the_training_of_adversaries_is_bitwise_the_same() -> None:
    plain = _Adversaries()
    watched = copy.deepcopy(plain)
    _fit(plain, [])
    callback = GradcheckupCallback(every=1)
    _fit(watched, [callback])
    for name, value in watched.state_dict().items():
        assert torch.equal(value, plain.state_dict()[name])
    assert list(callback.monitors) == ["generator", "critic"]
    with pytest.raises(gradcheckup.UsageError, match="one of 'generator', 'critic', got None"):
        callback.report()
    assert [layer.name for layer in callback.report("generator").layers] == ["0", "1", "2"]
    # Its loss comes from two passes.
    assert [layer.name for layer in callback.report("critic").layers] == ["0", "1", "2"] * 2
    assert callback.report("critic").recording.optimizer.startswith("SGD")


def test_what_is_measured_is_what_the_module_ran() -> None:
    """Gradient norms against autograd by hand, at the first step."""
    module = _coder(L.LightningModule)
    module.decoder[1].p = 0.0
    twin = copy.deepcopy(module).double()
    seen: list[Tensor] = []
    step = module.training_step

    def kept(batch: Any, batch_idx: int) -> Tensor:
        seen.append(batch[0].double())
        loss: Tensor = step(batch, batch_idx)
        return loss

    module.training_step = kept
    callback = GradcheckupCallback(every=1)
    _fit(module, [callback], max_steps=3)
    hidden = twin.encoder[0](seen[0])
    code = twin.encoder[2](torch.sigmoid(hidden))
    wide = twin.decoder[0](code)
    loss = (twin.decoder[2](wide) - seen[0]).square().mean()
    norms = [float(each.norm()) for each in torch.autograd.grad(loss, [hidden, code, wide])]
    first = callback.report().step(0)
    read = {layer.name: layer.gradient_norm for layer in first.layers}
    assert [read[f"{each}"] for each in ("encoder.0", "encoder.2", "decoder.0")] == pytest.approx(
        norms, rel=1e-4
    )
    assert first.loss == pytest.approx(loss.item(), rel=1e-5)
    assert {layer.kind for layer in first.layers} >= {"linear", "sigmoid"}
    # Lightning runs forward and backward pass inside of `optimizer.step`.
    assert all(each.gradient_norm for each in first.parameters)
    assert all(each.update_norm for each in first.parameters)


@pytest.mark.parametrize("accumulated", [1, 2])
def test_numbers_go_to_the_loggers_under_the_steps_of_lightning(accumulated: int) -> None:
    logger = _Kept()
    callback = GradcheckupCallback(every=4)
    _fit(_coder(L.LightningModule), [callback], logger=logger, accumulate_grad_batches=accumulated)
    rows = {step: row for step, row in logger.rows if "gradcheckup/loss" in row}
    steps = 24 // accumulated
    assert list(rows) == list(range(0, steps, 4))
    own = {step: row["train_loss"] for step, row in logger.rows if "train_loss" in row}
    if accumulated == 1:
        for step, row in rows.items():
            assert row["gradcheckup/loss"] == pytest.approx(own[step], rel=1e-6)
    assert "gradcheckup/saturation/encoder.1" in rows[0]
    assert "gradcheckup/gradient_norm/decoder.2" in rows[steps - 4]


def test_unscaled_gradients_are_reported_under_mixed_precision() -> None:
    module = _coder(L.LightningModule)
    module.decoder[1].p = 0.0
    plain = copy.deepcopy(module)
    callback, other = GradcheckupCallback(every=1), GradcheckupCallback(every=1)
    _fit(module, [callback], plugins=_mixed(), max_steps=1)
    _fit(plain, [other], max_steps=1)
    for scaled, exact in zip(
        callback.report().step(0).layers, other.report().step(0).layers, strict=True
    ):
        assert scaled.gradient_norm == pytest.approx(exact.gradient_norm, rel=0.05)


def test_parts_have_their_name_in_the_log(tmp_path: Path) -> None:
    logger = _Kept()
    callback = GradcheckupCallback(every=6, log=tmp_path / "run.jsonl")
    _fit(_Adversaries(), [callback], logger=logger)
    names = {name for _, row in logger.rows for name in row if name.startswith("gradcheckup/")}
    assert {"gradcheckup/generator/loss", "gradcheckup/critic/gradient_norm/0"} <= names
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "run-critic.jsonl",
        "run-generator.jsonl",
    ]


# It goes on in the folder that it began in, from the middle of an epoch.
@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
@pytest.mark.filterwarnings("ignore:.*from a checkpoint that ended before the epoch ended")
def test_a_checkpoint_holds_nothing_of_ours(tmp_path: Path) -> None:
    """Saved in the middle of the training, with hooks on the model; and it goes on from there."""
    save = L.callbacks.ModelCheckpoint(tmp_path, every_n_train_steps=5, save_top_k=-1)
    callback = GradcheckupCallback(every=1)
    module = _coder(L.LightningModule)
    trainer = _fit(module, [callback, save], enable_checkpointing=True, max_epochs=1)
    path = next(path for path in tmp_path.iterdir() if "step=5" in path.name)
    text = path.read_bytes()
    assert b"gradcheckup" not in text
    kept = torch.load(path, weights_only=False)
    assert set(kept["state_dict"]) == set(module.state_dict())
    again = GradcheckupCallback(every=1)
    resumed = _coder(L.LightningModule)
    trainer = L.Trainer(
        max_epochs=1,
        accelerator="cpu",
        callbacks=[again, L.callbacks.ModelCheckpoint(tmp_path, every_n_train_steps=5)],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = TensorDataset(torch.randn(48, 6))
    loader = DataLoader(data, batch_size=4)
    trainer.fit(resumed, loader, loader, ckpt_path=path)
    assert again.monitors[""].steps == trainer.global_step - 5


@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt])
def test_an_exception_leaves_the_model_clean(kind: type[BaseException]) -> None:
    module = _coder(L.LightningModule)
    step = module.training_step

    def fails(batch: Any, batch_idx: int) -> Tensor:
        loss: Tensor = step(batch, batch_idx)
        if batch_idx == 2:
            raise kind("in the middle of a sampled step")
        return loss

    module.training_step = fails
    callback = GradcheckupCallback(every=1)
    with pytest.raises((kind, SystemExit)):
        _fit(module, [callback])
    assert callback.monitors[""].closed
    assert _is_clean(module)
    assert len(callback.report().steps) == 2


def test_a_critical_finding_can_stop_the_training() -> None:
    module = _coder(L.LightningModule)
    module.encoder = nn.Sequential(
        nn.Linear(6, 6),
        *(each for _ in range(20) for each in (nn.Sigmoid(), nn.Linear(6, 6))),
        nn.Linear(6, 3),
    )
    callback = GradcheckupCallback(every=1, stop_on="critical")
    with pytest.raises(gradcheckup.UnhealthyError, match="GC101"):
        _fit(module, [callback])
    assert not callback.report().healthy


def test_it_is_a_callback_of_the_trainer_that_is_used() -> None:
    """`lightning` and `pytorch_lightning` are two packages with a class `Callback` each."""
    other = pytest.importorskip("pytorch_lightning")
    for package in (L, other):
        callback = GradcheckupCallback(every=2)
        assert isinstance(callback, package.Callback)
        _fit(_coder(package.LightningModule), [callback], package)
        assert callback.report().healthy


def test_copies_and_pickles_are_made_of_the_options() -> None:
    callback = GradcheckupCallback(every=7, ignore=["GC303"])
    for twin in (pickle.loads(pickle.dumps(callback)), copy.deepcopy(callback)):  # noqa: S301
        assert isinstance(twin, L.Callback)
        assert isinstance(twin, GradcheckupCallback)
        assert twin._options == {"every": 7, "ignore": ["GC303"]}


def test_metrics_on_the_module_are_no_layers() -> None:
    """Torchmetrics puts a sigmoid on logits, which saturates where a net is sure."""
    metrics = pytest.importorskip("torchmetrics.classification")

    class Sure(L.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1))
            self.accuracy = metrics.BinaryAccuracy()

        def training_step(self, batch: Any, _: int) -> Tensor:
            logits = 100 * self.net(batch[0]).squeeze(1)
            labels = (batch[0][:, 0] > 0).float()
            self.accuracy(logits, labels.int())
            self.log("accuracy", self.accuracy)
            return nn.functional.binary_cross_entropy_with_logits(logits, labels)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=1e-4)

    callback = GradcheckupCallback(every=1)
    _fit(Sure(), [callback])
    assert [layer.name for layer in callback.report().layers] == ["net.0", "net.1", "net.2"]


def test_options_are_checked_at_once() -> None:
    with pytest.raises(gradcheckup.UsageError, match=r"option of gradcheckup\.watch, got 'evry'"):
        GradcheckupCallback(evry=3)
    with pytest.raises(gradcheckup.UsageError, match="a training to report on"):
        GradcheckupCallback().report()


def test_a_missing_package_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("gradcheckup.integrations.lightning")
    monkeypatch.setattr(module, "_PACKAGES", ("no_such_lightning",))
    with pytest.raises(
        gradcheckup.MissingDependencyError, match=r"pip install 'gradcheckup\[lightning\]'"
    ):
        GradcheckupCallback()
