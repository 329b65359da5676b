"""GC204 on recordings made by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from gradcheckup.records import Finding, Recording, Role, Severity
from gradcheckup.rules import judge, saturated_attention
from gradcheckup.rules.folding import fold
from gradcheckup.thresholds import Thresholds

Make = Callable[..., Any]
Build = Callable[..., Recording]
LIMITS = Thresholds(attention_entropy_warning=0.1, attention_entropy_critical=0.01)
# The root mean square of an update over the learning rate: 1 for Adam, the gradient's for SGD.
ADAM = {"update_norm": 0.01 * 8, "gradient_norm": 1e-4}
SGD = {"update_norm": 0.01 * 1e-4, "gradient_norm": 1e-4}


@pytest.fixture
def attending(layer: Make, step: Make, parameter: Make, recording: Make) -> Build:
    """A net of attention layers with these entropies at every step (or at each, where a list)."""

    def make(
        *entropies: float | Sequence[float] | None,
        losses: Sequence[float] = (1.0, 0.9, 0.8, 0.7),
        optimizer: dict[str, float] = SGD,
        norm: float | None = math.sqrt(8),
        bias: float = 0.0,
        ratio: float = 1.0,
        around: bool = True,
    ) -> Recording:
        vectors = [
            parameter("norm.weight", shape=(8,), weight_norm=norm),
            parameter("norm.bias", shape=(8,), weight_norm=bias),
        ]
        matrix = parameter("early.weight", **optimizer)
        return recording(
            step(
                index,
                [
                    layer("early", gradient_ratio=ratio),
                    layer("norm", kind="layernorm", role=Role.NORM, gradient_ratio=ratio),
                    *(
                        block
                        for place, each in enumerate(entropies)
                        for block in (
                            layer(
                                f"blocks.{place}.attention",
                                kind="attention",
                                role=Role.ATTENTION,
                                attention_entropy=each[index] if isinstance(each, list) else each,
                            ),
                            layer(f"blocks.{place}.norm", role=Role.NORM, bottleneck=not around),
                        )
                    ),
                    layer("late"),
                    layer("head", output=True),
                ],
                [matrix, *(vectors if norm else [])],
                loss=losses[index],
            )
            for index in range(4)
        )

    return make


def found(recording: Recording) -> Finding | None:
    return next(saturated_attention.check(recording, LIMITS), None)


def severity(recording: Recording) -> str | None:
    finding = found(recording)
    return finding.severity.value if finding else None


@pytest.mark.parametrize(
    ("entropies", "expected"),
    [
        ((0.099,), "warning"),
        ((0.101,), None),
        ((None,), None),
        ((), None),
        ((0.05, 0.9), "warning"),  # half of them
        ((0.05, 0.9, 0.9), None),  # a minority may be sharp
        ((0.05, None), "warning"),
        (([0.9, 0.9, 0.05, 0.05],), "warning"),
        (([0.05, 0.05, 0.05, 0.2],), None),  # it recovers
        (([0.05, 0.05, 0.2, 0.05],), None),
    ],
)
def test_limit(attending: Build, entropies: tuple[Any, ...], expected: str | None) -> None:
    assert severity(attending(*entropies)) == expected


@pytest.mark.parametrize(
    ("entropies", "settings", "expected"),
    [
        ((0.005, 0.009), {}, "critical"),
        ((0.005, 0.02), {}, "warning"),  # a layer that still has a choice
        ((0.005,), {}, "warning"),  # a single layer
        ((0.05, 0.05), {"around": False}, "critical"),  # post-norm
        ((0.05, 0.05), {"around": False, "optimizer": ADAM}, "warning"),
        ((0.05, 0.05), {"around": False, "norm": 2.9}, "warning"),
        ((0.05,), {"around": False}, "warning"),
        ((0.005, 0.005), {"optimizer": ADAM}, "warning"),
        ((0.005, 0.005), {"norm": 2.9}, "warning"),  # it was trained, and may have learnt it
        ((0.005, 0.005), {"bias": 0.1}, "warning"),
        ((0.005, 0.005), {"norm": None}, "warning"),  # nothing tells
        ((0.05,), {"losses": (1.0, 1.5, 2.1, 2.1)}, "critical"),
        ((0.05,), {"losses": (1.0, 9.0, math.nan, math.nan)}, "critical"),
        ((0.05,), {"losses": (1.0, 3.0, 3.0, 1.9)}, "warning"),  # it comes back
        ((0.05,), {"losses": (1.0, 1.5, 2.1, 2.1), "norm": 2.9}, "warning"),
        ((0.2,), {"losses": (1.0, 1.5, 2.1, 2.1)}, None),
        ((0.05,), {"optimizer": ADAM, "ratio": 1e6}, "critical"),
        ((0.2,), {"ratio": 1e6}, None),
    ],
)
def test_severity(
    attending: Build, entropies: tuple[Any, ...], settings: dict[str, Any], expected: str | None
) -> None:
    assert severity(attending(*entropies, **settings)) == expected


def test_evidence(attending: Build) -> None:
    finding = found(attending(0.05, [0.9, 0.02, 0.03, 0.02], 0.9))
    assert finding is not None
    assert finding.severity is Severity.WARNING
    assert finding.layers == ("blocks.0.attention", "blocks.1.attention")
    assert finding.culprit == "blocks.0.attention"
    assert (finding.observed, finding.limit) == (0.025, 0.1)  # the median of 0.03 and 0.02
    assert finding.steps == (1, 2, 3)
    assert (finding.fact("loss_first"), finding.fact("loss_last")) == (1.0, 0.7)
    assert finding.fact("worst") == "blocks.1.attention"
    assert (finding.fact("saturated"), finding.fact("attention")) == (2, 3)
    assert finding.cause == "large-logits"


def test_a_gradient_that_explodes_with_it_is_its_consequence(attending: Build) -> None:
    recording = attending(0.05, ratio=1e6)
    (finding,) = (each for each in judge(recording, LIMITS) if each.code in ("GC204", "GC102"))
    assert finding.code == "GC204"
    assert [each.code for each in finding.consequences] == ["GC102"]


@pytest.mark.parametrize(
    ("layers", "folded"),
    [
        (("blocks.0.q", "blocks.0.k"), True),
        (("blocks.0.attention",), True),
        (("blocks.0.attention.in_proj_weight",), True),
        (("blocks.0.q", "stem"), False),
        (("blocks.1.q",), False),
        ((), False),
    ],
)
def test_only_queries_and_keys_starve_of_it(
    finding: Make, layers: tuple[str, ...], folded: bool
) -> None:
    lead = finding("GC204", "warning", layers=("blocks.0.attention",))
    top = fold([finding("GC301", "warning", layers=layers), lead])
    assert len(top) == (1 if folded else 2)
