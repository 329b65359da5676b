"""The transformers callback, with the real trainer."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from gradcheckup.integrations.transformers import GradcheckupCallback  # noqa: E402 - skipped above

pytestmark = [
    # CPU tensors are pinned for an accelerator by default, and there is none.
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
]


def _gpt() -> Any:
    torch.manual_seed(0)
    configuration = transformers.GPT2Config(
        vocab_size=40,
        n_positions=16,
        n_embd=16,
        n_layer=2,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
    )
    return transformers.GPT2LMHeadModel(configuration)


def _data() -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, 40, (32, 12), generator=generator)
    return [{"input_ids": each, "labels": each} for each in tokens]


def _trainer(model: Any, folder: Path, callbacks: list[Any], **options: Any) -> Any:
    arguments = transformers.TrainingArguments(
        **{
            "output_dir": str(folder),
            "max_steps": 12,
            "per_device_train_batch_size": 4,
            "logging_steps": 2,
            "report_to": "none",
            "save_strategy": "no",
            "disable_tqdm": True,
            "use_cpu": True,
            "seed": 5,
            "dataloader_pin_memory": False,
            **options,
        }
    )
    return transformers.Trainer(
        model, arguments, train_dataset=_data(), eval_dataset=_data(), callbacks=callbacks
    )


def _hooks(model: nn.Module) -> int:
    return sum(
        len(hooks)
        for module in model.modules()
        for hooks in (module._forward_hooks, module._forward_pre_hooks)
    )


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="plain"),
        pytest.param({"gradient_accumulation_steps": 2}, id="accumulated"),
        pytest.param({"bf16": True}, id="bf16"),
        pytest.param({"max_grad_norm": 0.1, "optim": "sgd"}, id="clipped"),
        pytest.param({"eval_strategy": "steps", "eval_steps": 3}, id="evaluated"),
        pytest.param({"save_strategy": "steps", "save_steps": 5}, id="saved"),
    ],
)
def test_the_training_is_bitwise_the_same(options: dict[str, Any], tmp_path: Path) -> None:
    plain = _gpt()
    watched = copy.deepcopy(plain)
    start = copy.deepcopy(plain.state_dict())
    _trainer(plain, tmp_path / "plain", [], **options).train()
    callback = GradcheckupCallback(every=1)
    _trainer(watched, tmp_path / "watched", [callback], **options).train()
    for name, value in watched.state_dict().items():
        assert torch.equal(value, plain.state_dict()[name])
    assert not torch.equal(watched.lm_head.weight, start["lm_head.weight"])
    assert callback.monitors[""].steps == 12
    assert callback.monitors[""].failure is None
    assert callback.monitors[""].closed
    assert not _hooks(watched)
    assert callback.report().recording.history is not None


def test_entries_of_the_log_have_the_steps_of_the_trainer(tmp_path: Path) -> None:
    model = _gpt()
    callback = GradcheckupCallback(every=4)
    trainer = _trainer(model, tmp_path, [callback], logging_steps=1)
    trainer.train()
    ours = [each for each in trainer.state.log_history if "gradcheckup/loss" in each]
    own = {each["step"]: each["loss"] for each in trainer.state.log_history if "loss" in each}
    # The trainer counts a step when it is over.
    assert [each["step"] for each in ours] == [1, 5, 9]
    for each in ours:
        assert each["gradcheckup/loss"] == pytest.approx(own[each["step"]], abs=1e-3)
        assert not any("gradient_norm" in name for name in each)
    assert [each["epoch"] for each in ours] == [0.125, 0.625, 1.125]


def test_the_first_step_is_what_autograd_says(tmp_path: Path) -> None:
    model = _gpt().eval()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    # Version 5 has a new name for it.
    enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
    enable({"use_reentrant": False})
    twin = copy.deepcopy(model).double()
    callback = GradcheckupCallback(every=1)
    seen: list[Any] = []
    model.register_forward_pre_hook(
        lambda _, __, given: seen.append(given["input_ids"]), with_kwargs=True
    )
    _trainer(model, tmp_path, [callback], max_steps=2).train()
    outputs = []
    twin.transformer.h[0].mlp.c_fc.register_forward_hook(lambda *given: outputs.append(given[2]))
    # The trainer divides by all tokens, also by the first, which nothing predicts.
    loss = twin(input_ids=seen[0], labels=seen[0]).loss * 11 / 12
    (gradient,) = torch.autograd.grad(loss, outputs)
    first = callback.report().step(0)
    (layer,) = (each for each in first.layers if each.name == "transformer.h.0.mlp.c_fc")
    assert first.loss == pytest.approx(loss.item(), rel=1e-4)
    assert layer.gradient_norm == pytest.approx(gradient.norm().item(), rel=1e-3)


def test_attached_it_reports_where_the_trainer_does(tmp_path: Path) -> None:
    """To TensorBoard here, with the numbers of layers, under the names that the trainer gives."""
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    callback = GradcheckupCallback(every=5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
        trainer = _trainer(_gpt(), tmp_path, [], report_to="tensorboard")
        assert callback.attach(trainer) is callback
        callback.attach(trainer)
        trainer.train()
    read = events.EventAccumulator(str(tmp_path / "board")).Reload()
    tags = set(read.Tags()["scalars"])
    name = "train/gradcheckup/gradient_norm/transformer.h.0.mlp.c_fc"
    assert {name, "train/gradcheckup/loss", "train/loss"} <= tags
    assert [each.step for each in read.Scalars(name)] == [1, 6, 11]


def test_a_reporter_that_fails_is_left_out_and_the_training_goes_on(tmp_path: Path) -> None:
    board = pytest.importorskip("transformers.integrations").TensorBoardCallback
    pytest.importorskip("tensorboard")

    class Away(board):  # type: ignore[misc, valid-type]
        def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
            if "gradcheckup/loss" in logs:
                raise ConnectionError("the server is away")

    trainer = _trainer(_gpt(), tmp_path, [Away()])
    callback = GradcheckupCallback(every=1).attach(trainer)
    with pytest.warns(RuntimeWarning, match="calls Away no more.*the server is away") as caught:
        trainer.train()
    assert len([each for each in caught if "Away" in str(each.message)]) == 1
    assert callback.monitors[""].steps == 12


def test_an_exception_leaves_the_model_clean_with_the_callback_as_a_context(tmp_path: Path) -> None:
    model = _gpt()
    calls = []

    def fails(*_: Any) -> None:
        calls.append(None)
        if len(calls) == 3:
            raise RuntimeError("in the middle of a sampled step")

    model.transformer.h[1].register_forward_hook(fails)
    with (
        pytest.raises(RuntimeError, match="in the middle"),
        GradcheckupCallback(every=1) as callback,
    ):
        _trainer(model, tmp_path, [callback]).train()
    assert _hooks(model) == 1  # the test's own
    assert len(callback.report().steps) == 2


def test_a_training_that_is_taken_up_again_is_watched_from_there(tmp_path: Path) -> None:
    options = {"save_strategy": "steps", "save_steps": 5, "max_steps": 8}
    _trainer(_gpt(), tmp_path, [GradcheckupCallback(every=1)], **options).train()
    assert b"gradcheckup" not in (tmp_path / "checkpoint-5" / "model.safetensors").read_bytes()
    callback = GradcheckupCallback(every=1)
    trainer = _trainer(_gpt(), tmp_path, [callback], **options)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    assert callback.monitors[""].steps == 3
    ours = [each["step"] for each in trainer.state.log_history if "gradcheckup/loss" in each]
    assert ours == [1, 2, 3, 4, 5, 6, 7, 8]


def test_a_missing_package_is_named_with_the_command() -> None:
    """In a process of its own, where transformers cannot be imported."""
    code = """
import sys
sys.modules["transformers"] = None
import gradcheckup
try:
    import gradcheckup.integrations.transformers
except gradcheckup.MissingDependencyError as error:
    assert "pip install 'gradcheckup[transformers]'" in str(error), error
else:
    raise AssertionError("no error")
"""
    subprocess.run([sys.executable, "-c", code], check=True)  # noqa: S603 - our own code
