"""Tells which softmax is that of a hand-written attention, from the products around it.

A softmax is one when its scores are a product of two things that the net computed (queries and
keys), and it weighs a third in another product, over the very dimension that it sums to 1 in
(values). A classifier's softmax weighs nothing, a router's and a squeeze's scores come from a
product with a parameter, a loss over similarities has no values.

The way from product to softmax to product is read off the autograd graph, through operations that
keep the entries where they are or move them whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gradcheckup.capture import attention
from gradcheckup.capture.functions import PRODUCTS, Call
from gradcheckup.capture.readings import Event
from gradcheckup.capture.structure import Node

# Masks, biases, temperatures, dropout, casts; the numbers at the end of a name differ.
_PASSING = (
    *("AddBackward", "SubBackward", "MulBackward", "DivBackward", "NegBackward", "TanhBackward"),
    *("MaskedFillBackward", "WhereBackward", "ClampBackward", "NativeDropoutBackward"),
    *("FusedDropoutBackward", "ToCopyBackward", "CloneBackward", "CatBackward"),
    *("ViewBackward", "UnsafeViewBackward", "ReshapeAliasBackward", "AsStridedBackward"),
    *("ExpandBackward", "UnsqueezeBackward", "SqueezeBackward", "SliceBackward"),
    *("TransposeBackward", "PermuteBackward", "TBackward"),
)
_TURNING = ("TransposeBackward", "PermuteBackward", "TBackward")
_NORMALISING = ("NormBackward", "LinalgVectorNormBackward", "ClampMinBackward", "ExpBackward")
_FAR = 100

Operand = tuple[Tensor, int]
"""A factor of a product, and which of its dimensions (from the end) is summed over."""


@dataclass(frozen=True, slots=True)
class _Softmax:
    """A softmax whose scores are a product; `scores` are a few of its rows."""

    node: Node
    event: Event
    scores: Tensor
    shape: tuple[int, ...]
    dim: int


class Weighing:
    """Follows products and softmaxes through one step, and gives attention its entropy."""

    def __init__(self) -> None:
        self._scores: dict[int, Node] = {}
        self._softmaxes: dict[int, _Softmax] = {}

    def clear(self) -> None:
        """Forgets all; holding nodes holds their graph."""
        self._scores.clear()
        self._softmaxes.clear()

    def product(self, call: Call, result: Any) -> None:
        """A matrix product has been made: of queries and keys, or of weights and values."""
        operands = _operands(call)
        if operands is None or not isinstance(result, Tensor) or result.grad_fn is None:
            return
        if any(_is_weight(tensor) for tensor, _ in operands):
            return
        self._scores[id(result.grad_fn)] = result.grad_fn
        for weights, dim in operands:
            for found in self._weighing(weights, dim):
                if found.event.attention_entropy is None:
                    found.event.attention_entropy = attention.entropy(found.scores)

    def softmax(self, event: Event, given: Tensor, result: Tensor, dim: Any) -> None:
        """A softmax has been made; it is kept if its scores are a product."""
        if not isinstance(dim, int) or result.grad_fn is None or given.ndim < 2:
            return
        dim = dim % given.ndim - given.ndim
        if given.shape[dim] > 1 and any(
            id(node) in self._scores for node, _ in _behind(given.grad_fn)
        ):
            few = attention.thinned(given.movedim(dim, -1))
            kept = _Softmax(result.grad_fn, event, few, tuple(result.shape), dim)
            self._softmaxes[id(result.grad_fn)] = kept

    def _weighing(self, weights: Tensor, dim: int) -> list[_Softmax]:
        """The softmaxes that weights come from, if the product sums over their dimension."""
        if not self._softmaxes:
            return []
        return [
            found
            for node, turned in _behind(weights.grad_fn)
            if (found := self._softmaxes.get(id(node))) is not None
            and weights.shape[dim] == found.shape[found.dim]
            and (turned or dim == found.dim)
        ]


def _behind(start: Node | None) -> list[tuple[Node, bool]]:
    """Nodes from which a value came with its entries kept, and whether it was turned since."""
    found: list[tuple[Node, bool]] = []
    seen = set()
    front: list[tuple[Node | None, bool]] = [(start, False)]
    while front and len(found) < _FAR:
        node, turned = front.pop()
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        found.append((node, turned))
        name = node.name()
        if name.startswith(_PASSING):
            turned = turned or name.startswith(_TURNING)
            front += [(child, turned) for child, _ in node.next_functions]
    return found


def _operands(call: Call) -> tuple[Operand, Operand] | None:
    """Left and right operand of a product."""
    places = PRODUCTS.get(call.function)
    if places is None:
        return None
    if call.function is torch.einsum:
        return _einsum(call.args)
    tensors = list(call.operands())
    if len(tensors) <= max(places):
        return None
    left, right = (tensors[place] for place in places)
    return (left, -1), (right, -2 if right.ndim > 1 else -1)


def _einsum(args: tuple[Any, ...]) -> tuple[Operand, Operand] | None:
    """The operands, where there are two, which share one letter that the result has not."""
    if not args or not isinstance(args[0], str):
        return None
    given = args[1] if isinstance(args[1], (list, tuple)) else args[1:]
    inputs, _, output = args[0].replace(" ", "").partition("->")
    terms = inputs.split(",")
    if len(terms) != 2 or len(given) != 2:
        return None
    summed = (set(terms[0]) & set(terms[1])) - set(output) - {"."}
    if len(summed) != 1:
        return None
    (letter,) = summed
    # Counted from the end, which an ellipsis further in front does not move.
    if any("..." in term[term.index(letter) :] for term in terms):
        return None
    left, right = (
        (tensor, term.index(letter) - len(term)) for tensor, term in zip(given, terms, strict=True)
    )
    return left, right


def _is_weight(tensor: Tensor) -> bool:
    """Whether a tensor is a parameter, or one that was moved, scaled or normalised."""
    if tensor.grad_fn is None:
        return isinstance(tensor, nn.Parameter)
    front: list[Node | None] = [tensor.grad_fn]
    seen: dict[int, Node] = {}  # holding nodes keeps their ids theirs
    while front:
        node = front.pop()
        if node is None:  # data, or a constant
            return False
        if id(node) in seen:
            continue
        seen[id(node)] = node
        if node.name().endswith("AccumulateGrad"):
            if not isinstance(node.variable, nn.Parameter):
                return False  # the input of a reentrant checkpoint
        elif not node.name().startswith((*_PASSING, *_NORMALISING)):
            return False
        front += [child for child, _ in node.next_functions]
    return True
