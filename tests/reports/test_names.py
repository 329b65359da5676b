"""Folding and shortening of layer names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradcheckup.reports.names import fold, shorten

BLOCKS = [f"blocks.{block}.fc{half}" for block in range(6) for half in (1, 2)]


@pytest.mark.parametrize(
    ("names", "universe", "folded"),
    [
        ([], [], ""),
        (["fc"], [], "fc"),
        (["layer1", "layer2"], [], "layer1, layer2"),
        (["layer1", "layer2", "layer3"], [], "layer1 … layer3"),
        (["layer9", "layer10", "layer11"], [], "layer9 … layer11"),
        (["blocks.3", "blocks.4", "blocks.5", "head"], [], "blocks.3 … blocks.5, head"),
        # An equal stride may be a range, an unequal one hides something.
        (["f.0", "f.2", "f.4"], [], "f.0 … f.4"),
        (["f.0", "f.2", "f.5"], [], "f.0, f.2, f.5"),
        # The model says what lies between.
        (["f.0", "f.3", "f.8"], ["f.0", "f.3", "f.8", "f.11"], "f.0 … f.8"),
        (["f.0", "f.3", "f.8"], ["f.0", "f.3", "f.6", "f.8"], "f.0, f.3, f.8"),
        # Two numbers differ: not one range.
        (["a1.b1", "a2.b2", "a3.b3"], [], "a1.b1, a2.b2, a3.b3"),
        (["l1.0.c", "l1.1.c", "l1.2.c", "l2.0.c"], [], "l1.0.c … l1.2.c, l2.0.c"),
        # Going down is no range; calls of one layer are one name.
        (["layer3", "layer2", "layer1"], [], "layer3, layer2, layer1"),
        (["rnn", "rnn", "fc"], [], "rnn, fc"),
        # Many pieces: side by side in the model, or not.
        (BLOCKS[2:8], BLOCKS, "blocks.1.fc1 … blocks.3.fc2 (6 of them)"),
        (list("abcdef"), list("abxcdef"), "a, b, c and 3 more"),
        (["x1", "x2", "x3", *"abcde"], [], "x1 … x3, a, b and 3 more"),
    ],
)
def test_fold(names: list[str], universe: list[str], folded: str) -> None:
    assert fold(names, universe) == folded


def test_fold_shows_all_when_asked() -> None:
    assert fold(list("abcdef"), most=6) == "a, b, c, d, e, f"


def test_huge_numbers_cost_nothing() -> None:
    names = ["t0", "t5000000000", "t10000000000"]
    assert fold(names, names) == "t0 … t10000000000"


@pytest.mark.parametrize(
    ("name", "width", "short"),
    [
        ("layer1", 6, "layer1"),
        ("attention.projection", 11, "atten…ction"),
        ("encoder.blocks.12.attention.proj", 23, "encod…12.attention.proj"),
        ("blocks.12.a_very_long_module_name.projection", 20, "…12.a_very_…ojection"),
        ("layers.12345", 8, "la…12345"),
    ],
)
def test_shorten(name: str, width: int, short: str) -> None:
    assert shorten(name, width) == short


@given(name=st.text("ab.12", max_size=40), width=st.integers(5, 45))
def test_shortened_names_fit(name: str, width: int) -> None:
    short = shorten(name, width)
    assert len(short) <= width
    assert (short == name) == (len(name) <= width)
