"""Batches of the user's data: the first of them, and those that follow."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from gradcheckup.errors import DataError
from gradcheckup.probe.batches import Taken
from gradcheckup.probe.supply import Supply

Batch = tuple[Tensor, Tensor]
ROWS = TensorDataset(torch.arange(40.0)[:, None], torch.zeros(40))


def rows(batches: Taken) -> list[float]:
    """The samples of some batches, which are numbers."""
    return [value for inputs, _ in batches for value in inputs.flatten().tolist()]


@pytest.mark.parametrize("own_generator", [False, True])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_that_shuffles_has_others(own_generator: bool, workers: int) -> None:
    generator = torch.Generator().manual_seed(5) if own_generator else None
    data = DataLoader(ROWS, 4, shuffle=True, generator=generator, num_workers=workers)
    supply = Supply(data, 3, has_more=True)
    more = supply.more(20)
    assert len(supply.batches) == 3
    assert len(more) == 7
    assert sorted(rows(supply.batches) + rows(more)) == list(range(40))


def test_a_dataset_has_others() -> None:
    supply = Supply(ROWS, 1, has_more=True)
    assert supply.notes == ("batches of 32 from the dataset",)
    assert sorted(rows(supply.batches) + rows(supply.more(5))) == list(range(40))


def test_a_generator_goes_on() -> None:
    def endless() -> Iterator[Batch]:
        for index in range(10**6):
            yield torch.tensor([[float(index)]]), torch.zeros(1)

    supply = Supply(endless(), 2, has_more=True)
    assert rows(supply.more(3)) == [2.0, 3.0, 4.0]


def test_a_list_goes_on_where_it_was_left() -> None:
    data = [(torch.tensor([[float(index)]]), torch.zeros(1)) for index in range(5)]
    for given in (data, Taken(data)):
        supply = Supply(given, 2, has_more=True)
        assert rows(supply.more(2)) == [2.0, 3.0]
        assert rows(supply.more(9)) == [2.0, 3.0, 4.0]


def test_where_there_are_no_more() -> None:
    batch = (torch.zeros(2, 1), torch.zeros(2))
    assert Supply(batch, 8, has_more=True).more(4) == ()
    assert Supply([batch, batch], 8, has_more=True).more(4) == ()
    assert Supply(iter([batch]), 8, has_more=True).more(4) == ()
    assert Supply([batch] * 9, 2, has_more=False).more(4) == ()


def test_others_that_are_no_good_are_left() -> None:
    """Nobody asked for them: the first are what is judged."""
    data = [(torch.zeros(2, 1), torch.zeros(2))] * 4
    data.append((torch.full((2, 1), torch.nan), torch.zeros(2)))
    assert Supply(data, 4, has_more=True).more(3) == ()
    with pytest.raises(DataError, match="NaN"):
        Supply(data, 5, has_more=True)


def test_random_numbers_are_left_where_they_were() -> None:
    supply = Supply(DataLoader(ROWS, 4, shuffle=True), 2, has_more=True)
    random.seed(3)
    torch.manual_seed(3)
    before = torch.get_rng_state(), random.getstate()
    assert len(supply.more(4)) == 4
    assert bool((torch.get_rng_state() == before[0]).all())
    assert random.getstate() == before[1]
