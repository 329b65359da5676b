"""What batches and outputs are made of, taken apart and put together again."""

from __future__ import annotations

from collections import OrderedDict, UserDict, defaultdict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradcheckup.nesting import mapped, rebuilt, tensors

Pair = namedtuple("Pair", ["x", "y"])  # noqa: PYI024 - as users write it


@dataclass
class Record:
    x: Tensor
    y: Tensor
    name: str = "none"


@dataclass(frozen=True)
class Frozen:
    x: Tensor
    y: Tensor

    def __post_init__(self) -> None:
        assert isinstance(self.x, Tensor)


class Encoding(UserDict[str, Tensor]):
    """Like that of a well-known tokenizer: made of a dict, with something beside it."""

    def __init__(self, data: dict[str, Tensor], encodings: str) -> None:
        super().__init__(data)
        self.encodings = encodings


class Output(OrderedDict[str, Tensor]):
    """Like that of a well-known library: entries are set one by one, and are attributes."""

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        super().__setattr__(key, value)

    def update(self, *_: Any, **__: Any) -> None:
        raise TypeError("not of this one")


def _output(x: Tensor, y: Tensor) -> Output:
    found = Output()
    found["x"], found["y"] = x, y
    return found


def _default(x: Tensor, y: Tensor) -> dict[str, Any]:
    found: dict[str, Any] = defaultdict(list)
    found.update(x=x, y=y)
    return found


MADE: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "tuple": lambda x, y: (x, y),
    "list": lambda x, y: [x, y],
    "dict": lambda x, y: {"x": x, "y": y},
    "nested": lambda x, y: {"x": (x, [y])},
    "named tuple": Pair,
    "dataclass": Record,
    "frozen dataclass": Frozen,
    "mapping beside others": lambda x, y: Encoding({"x": x, "y": y}, "kept"),
    "mapping with attributes": _output,
    "default": _default,
    "read-only": lambda x, y: MappingProxyType({"x": x, "y": y}),
}


@pytest.mark.parametrize("made", MADE.values(), ids=list(MADE))
def test_what_is_made_anew_is_alike_and_spares_the_first(made: Callable[..., Any]) -> None:
    x, y = torch.arange(3.0), torch.ones(2)
    value = made(x, y)
    found = mapped(lambda each: each + 1, value)
    assert type(found) is type(value)
    assert [each.tolist() for each in tensors(found)] == [[1.0, 2.0, 3.0], [2.0, 2.0]]
    first, second = tensors(value)
    assert first is x
    assert second is y


def test_what_stands_beside_the_tensors_stays() -> None:
    x, y = torch.ones(1), torch.ones(2)
    assert mapped(torch.neg, Record(x, y, "a name")).name == "a name"
    assert mapped(torch.neg, Encoding({"x": x}, "kept")).encodings == "kept"
    assert mapped(torch.neg, _output(x, y)).y.tolist() == [-1.0, -1.0]
    assert mapped(torch.neg, _default(x, y))["other"] == []
    assert mapped(torch.neg, (x, "text", None))[1:] == ("text", None)


def test_leaves_come_in_order() -> None:
    found: list[Any] = []
    rebuilt(found.append, {"a": (1, "two"), "b": [Pair(3, None)]})
    assert found == [1, "two", 3, None]


def test_a_module_is_no_structure() -> None:
    @dataclass(eq=False)
    class Made(nn.Module):
        width: int

        def __post_init__(self) -> None:
            super().__init__()

    found = Made(3)
    assert mapped(torch.neg, found) is found
    assert mapped(torch.neg, Record) is Record
    assert list(tensors(found)) == []
