"""What all tests share: one thread, and random numbers that a test can rely on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

# The tests of the plugin run pytest inside pytest.
pytest_plugins = ["pytester"]

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    """Start every test with the same torch seed; leave the global state as it was."""
    state = torch.get_rng_state()
    torch.manual_seed(0)
    yield
    torch.set_rng_state(state)
