"""The callbacks of trainers, in two processes that torchrun starts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

pytest.importorskip("lightning")
pytest.importorskip("transformers")
pytest.importorskip("accelerate")
if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
    pytest.skip("torch was built without gloo", allow_module_level=True)

WORKER = Path(__file__).with_name("trainers_worker.py")


@pytest.mark.slow
def test_both_ranks_have_the_report_of_all(tmp_path: Path, torchrun: Callable[..., None]) -> None:
    torchrun(WORKER, tmp_path)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first == second
    for name, optimizer in (("lightning", "SGD(lr=0.1)"), ("transformers", "AdamW(")):
        recording = first[name]["recording"]
        assert recording["history"]["processes"] == 2
        # 96 samples in batches of 8 for each of two processes, twice.
        assert recording["history"]["steps"] == 12
        assert recording["optimizer"].startswith(optimizer)
        assert first[name]["findings"][0]["code"] == "GC101"
