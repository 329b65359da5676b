"""Several processes that train one model: their monitors have the numbers of one process."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from torch import Tensor, nn
from torch.nn import functional as F

from gradcheckup import UsageError, load_run, watch
from gradcheckup.capture import class_name
from gradcheckup.capture.pooling import Pooling
from gradcheckup.capture.readings import Readings, Tray
from gradcheckup.watching.processes import of_glance

if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
    pytest.skip("torch was built without gloo", allow_module_level=True)

ROOT = Path(__file__).parents[2]
WORKER = Path(__file__).with_name("processes_worker.py")
TOGETHER = ("ddp", "fsdp", "hybrid")
LAYERS = ["first", "blocks.0", "blocks.1", "blocks.2", "head"]


@pytest.fixture(scope="module")
def ranks(
    tmp_path_factory: pytest.TempPathFactory, torchrun: Callable[..., None]
) -> list[dict[str, Any]]:
    """What each of two processes under torchrun says; see `processes_worker`.

    They run once, also where several workers of xdist share these tests.
    """
    shared = tmp_path_factory.getbasetemp()
    folder = (shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared) / "ranks"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            unfinished = folder.with_name("ranks-unfinished")
            unfinished.mkdir(exist_ok=True)
            torchrun(WORKER, unfinished)
            unfinished.rename(folder)
    told: list[dict[str, Any]] = [
        {**json.loads((folder / f"{rank}.json").read_text()), "folder": folder} for rank in range(2)
    ]
    return told


def close(one: Any, other: Any) -> bool:
    """Whether two numbers are the same but for rounding in float32, or both were not measured."""
    if one is None or other is None:
        return one is other
    return math.isclose(one, other, rel_tol=1e-4, abs_tol=1e-12)


def recording(told: dict[str, Any], scenario: str) -> dict[str, Any]:
    if scenario not in told:
        pytest.skip("fully_shard needs a GPU before torch 2.6")
    found: dict[str, Any] = told[scenario]["report"]["recording"]
    return found


@pytest.mark.parametrize("scenario", TOGETHER)
def test_two_processes_have_the_numbers_of_one_on_the_whole_batch(
    ranks: list[dict[str, Any]], scenario: str
) -> None:
    together, alone = recording(ranks[0], scenario), recording(ranks[0], "alone")
    assert together["model"] == alone["model"] == "Net"
    assert [step["index"] for step in together["steps"]] == [0, 1, 3, 7]
    for here, there in zip(together["steps"], alone["steps"], strict=True):
        assert here["loss"] == pytest.approx(there["loss"], rel=1e-5)
        for one, other in zip(here["layers"], there["layers"], strict=True):
            assert (one["name"], one["role"]) == (other["name"], other["role"])
            for what in ("gradient_norm", "gradient_ratio", "gain", "update_ratio", "saturation"):
                assert close(one[what], other[what]), (one["name"], what)
        for one, other in zip(here["parameters"], there["parameters"], strict=True):
            assert one["shape"] == other["shape"]
            for what in ("gradient_norm", "weight_norm", "update_norm", "learning_rate"):
                assert close(one[what], other[what]), (one["name"], what)
    samples = zip(together["history"]["samples"], alone["history"]["samples"], strict=True)
    for here, there in samples:
        assert all(map(close, here["norms"], there["norms"]))
        assert close(here["gradient_norm"], there["gradient_norm"])
        assert close(here["end_to_end_ratio"], there["end_to_end_ratio"])
    assert together["history"]["processes"] == 2


def test_norms_and_signals_are_those_worked_out_by_hand(ranks: list[dict[str, Any]]) -> None:
    hand = ranks[0]["by_hand"]
    layers = {each["name"]: each for each in recording(ranks[0], "ddp")["steps"][0]["layers"]}
    assert [layers[name]["gradient_norm"] for name in LAYERS] == pytest.approx(hand["norms"])
    assert [layers[name]["signal"] for name in LAYERS] == pytest.approx(hand["signals"])


@pytest.mark.parametrize("scenario", [*TOGETHER, "poisoned_unstopped", "different"])
def test_all_processes_report_the_same(ranks: list[dict[str, Any]], scenario: str) -> None:
    here, there = (json.dumps(recording(told, scenario)) for told in ranks)
    assert here == there
    assert [told[scenario]["rank"] for told in ranks] == [0, 1]
    assert ranks[0][scenario]["failure"] is None


def test_the_training_is_bitwise_the_same(ranks: list[dict[str, Any]]) -> None:
    assert all(told["ddp"]["same"] for told in ranks)


def test_one_small_sum_a_sampled_step_and_none_in_between(ranks: list[dict[str, Any]]) -> None:
    sums = ranks[0]["rarely"]["sums"]
    # Two to meet; then steps 0, 4 and 8, of which the first look of each kind makes room.
    assert [after - before for before, after in pairwise(sums)] == [2, 0, 0, 0, 1, 0, 0, 0, 2]
    assert sums[0] == 2
    glance = 2 + 2 + len(LAYERS)  # a word of each process, loss, gradient, a norm a layer
    assert ranks[0]["ddp"]["sums"][-1] == glance


def test_glances_that_share_the_layers_out_make_one_sum_each(ranks: list[dict[str, Any]]) -> None:
    told = ranks[0]["deep"]
    found, whole = (
        each["report"]["recording"]["history"]["samples"] for each in (told, told["whole"])
    )
    assert len(found) == len(whole) == 9
    for one, other in zip(found, whole, strict=True):
        assert len(one["norms"]) == 14
        assert all(map(close, one["norms"], other["norms"]))
    read = [sum(each is not None for each in sample["norms"]) for sample in found]
    assert sorted(set(read)) == [4, 5, 6, 14]
    # Two to meet, one a step, and one for each time that there was no room.
    assert len(told["sums"]) <= 2 + 9 + 1 + 2


def test_a_nan_in_one_process_is_told_with_its_rank(ranks: list[dict[str, Any]]) -> None:
    told = ranks[0]["poisoned_unstopped"]
    history = told["report"]["recording"]["history"]
    assert (history["first_bad"], history["first_culprits"]) == (5, [[1, "loss"]])
    text = " ".join(told["text"].split())
    assert "first NaN or Inf at step 5, in loss on rank 1 of 2" in text
    assert "Seen first on rank 1 of 2, at step 5 in loss." in text


def test_all_processes_stop_at_the_same_step(ranks: list[dict[str, Any]]) -> None:
    for told in ranks:
        assert told["poisoned"]["caught"].startswith("UnhealthyError")
        assert told["poisoned"]["findings"] == ["GC401"]
    assert ranks[0]["poisoned"]["reached"] == ranks[1]["poisoned"]["reached"] == 6


def test_steps_in_which_processes_ran_different_layers_are_left_out(
    ranks: list[dict[str, Any]],
) -> None:
    told = ranks[0]["different"]
    history = told["report"]["recording"]["history"]
    assert [each["index"] for each in history["samples"]] == [0, 1, 3, 4, 6, 7, 8]
    assert (history["apart"], history["skipped"]) == (2, 0)
    assert "2 sampled steps left out: the processes ran different layers" in told["text"]


def test_a_monitor_that_fails_ends_the_others_and_no_training(ranks: list[dict[str, Any]]) -> None:
    whole, broken = (told["broken"] for told in ranks)
    assert whole["steps"] == broken["steps"] == 9
    assert whole["seconds"] < 20
    assert "TypeError" in broken["failure"]
    assert "another of the 2 processes stopped watching" in whole["failure"]
    for told in (whole, broken):
        (warning,) = [each for each in told["warnings"] if "gradcheckup" in each]
        assert "at step 3, your training goes on" in warning


def test_the_first_process_writes_the_log_and_all_count_as_it_does(
    ranks: list[dict[str, Any]],
) -> None:
    assert [told["resumed"]["steps"] for told in ranks] == [18, 18]
    history = load_run(ranks[0]["folder"] / "run.jsonl").recording.history
    assert history is not None
    assert [each.index for each in history.samples] == [0, 4, 8, 12, 16]
    assert (history.processes, history.steps) == (2, 18)


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("alone", "expected watch() in all 2 processes, but they could not connect"),
        ("every", "but rank 1 is called with others than rank 0"),
        ("group", "expected process_group to be a torch.distributed.ProcessGroup"),
        ("tensor", "first.weight is split as (Shard(dim=0),): tensor parallel models cannot"),
        ("mesh", "to be split over the 1 watched processes, but its mesh has 2"),
        ("flat", "FullyShardedDataParallel (FSDP1) flattens them: use"),
    ],
)
def test_what_cannot_be_watched_is_refused_at_once(
    ranks: list[dict[str, Any]], case: str, expected: str
) -> None:
    answer = ranks[0]["refusals"][case]
    assert answer.startswith("UsageError: ")
    assert expected in answer
    assert "\n" not in answer
    assert ranks[0]["refusals"]["own"] == "not refused"


def test_a_monitor_that_was_there_before_the_others_says_so(ranks: list[dict[str, Any]]) -> None:
    text = " ".join(ranks[0]["early"]["text"].split())
    assert "watch() came before init_process_group()" in text
    assert "init_process_group" not in ranks[0]["alone"]["text"]


def test_a_group_needs_torch_distributed() -> None:
    with pytest.raises(UsageError, match=r"only where torch\.distributed is initialised"):
        watch(nn.Linear(2, 2), process_group=object())


def test_threads_of_data_parallel_are_refused() -> None:
    model = nn.DataParallel(nn.Linear(2, 2))
    watch(model).close()  # on one device it calls the model itself
    model.device_ids = [0, 1]
    with pytest.raises(UsageError, match="use DistributedDataParallel"):
        watch(model)


@pytest.mark.parametrize(
    ("pooling", "shares", "expected"),
    [
        (Pooling.MEAN, [1.0, 2.0, 6.0], 3.0),
        (Pooling.GRADIENT, [2.0, 3.0, 6.0], 7 / 3),
        (Pooling.SPREAD, [1.0, 5.0, 7.0], 5.0),
        (Pooling.SCORE, [1.0, 2.0, 3.0], 6 / math.sqrt(3)),
        (Pooling.GRADIENT, [1e-140, 1e-140], 1e-140 / math.sqrt(2)),
        (Pooling.GRADIENT, [1e300, 1.0], math.inf),
    ],
)
def test_numbers_of_shares_become_one(
    pooling: Pooling, shares: list[float], expected: float
) -> None:
    assert pooling.pooled(sum(map(pooling.term, shares)), len(shares)) == pytest.approx(expected)


def test_a_norm_over_shares_is_that_of_the_mean_loss() -> None:
    x = torch.randn(12, 4, dtype=torch.float64, requires_grad=True)
    (x**3).mean().backward()
    local = []
    for share in x.detach().chunk(3):
        share.requires_grad_()
        (share**3).mean().backward()
        local.append(share.grad.norm().item())
    pooled = Pooling.GRADIENT.pooled(sum(map(Pooling.GRADIENT.term, local)), 3)
    assert pooled == pytest.approx(x.grad.norm().item(), rel=1e-12)


class Block(nn.Module):
    """Of a language model of 7B parameters, but for its width."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(8, bias=False) for _ in range(2))
        self.mixers = nn.ModuleList(nn.Linear(8, 8, bias=False) for _ in range(7))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value, out, gate, up, down = self.mixers
        y = self.norms[0](x)
        heads = (each(y).unflatten(-1, (2, 4)).transpose(1, 2) for each in (query, key, value))
        mixed = F.scaled_dot_product_attention(*heads, is_causal=True)
        x = x + out(mixed.transpose(1, 2).flatten(2))
        y = self.norms[1](x)
        return x + down(F.silu(gate(y)) * up(y))


def test_the_cost_on_paper_is_that_of_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    carried: list[int] = []

    class Counting(Tray):
        def carry(self) -> Readings:
            carried.append(len(self.poolings))
            return super().carry()

    monkeypatch.setattr("gradcheckup.watching.sampler.Tray", Counting)

    def sizes(blocks: int) -> list[int]:
        carried.clear()
        body = [Block() for _ in range(blocks)]
        head = nn.Linear(8, 5, bias=False)
        model = nn.Sequential(nn.Embedding(5, 8), *body, nn.LayerNorm(8, bias=False), head)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        tokens = torch.arange(12).reshape(3, 4) % 5
        with watch(model, optimizer, every=4):
            for _ in range(9):  # a full look, a full look, a glance
                optimizer.zero_grad()
                F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten()).backward()
                optimizer.step()
        return carried[1:]

    (full, glance), (more, further) = sizes(2), sizes(3)
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    for numbers, block in ((full, more - full), (glance, further - glance)):
        whole = numbers + 30 * block
        assert f"{whole - 32 * block} + 32 · {block} = {whole} " in text
        assert f"8 · (512 + {whole}) = {8 * (512 + whole)} bytes" in text


def test_the_culprit_is_where_the_backward_pass_broke() -> None:
    names = ("a", "b", "c")
    assert of_glance(names, (1.0, None, 2.0), 0.5).culprit == 0
    assert of_glance(names, (math.nan, math.inf, 2.0), 0.5).culprit == 3
    assert of_glance(names, (math.nan, math.inf, 2.0), math.nan).culprit == 1


def test_a_class_made_on_the_fly_keeps_the_name_its_author_gave() -> None:
    class Mixer(nn.Linear):
        pass

    mixer = Mixer(3, 3)
    nn.utils.parametrizations.orthogonal(mixer)
    assert type(mixer).__name__ == "ParametrizedMixer"
    assert class_name(mixer) == "Mixer"
    assert class_name(nn.Linear(1, 1)) == "Linear"
