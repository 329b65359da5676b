"""How spread the weights of an attention are: the entropy of its rows, over that of equal weights.

Attention that torch computes in one call (`F.scaled_dot_product_attention`, and what
`nn.MultiheadAttention` calls) never shows its weights, and must keep its fused kernel. Its scores
are computed once more here, from what the call was given: for a few samples, heads and queries,
always the same ones, detached, in float32. Dropout comes after the softmax and has no part in it.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Most samples (or samples times heads, where they are one dimension), heads and queries looked at.
_SAMPLES = 4
_HEADS = 8
_ROWS = 64
# Masks are -inf, the lowest number of their type, or -1e9; old models for float16 use -1e4. No
# score of a query and a key comes near.
_HIDDEN = -9e3

_Sequence = TypeVar("_Sequence", Tensor, range)

_MULTI_HEAD = inspect.signature(F.multi_head_attention_forward)
_SCALED_DOT_PRODUCT = inspect.Signature(
    [
        inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default)
        for name, default in (
            *(("query", None), ("key", None), ("value", None), ("attn_mask", None)),
            *(("dropout_p", 0.0), ("is_causal", False), ("scale", None), ("enable_gqa", False)),
        )
    ]
)


def entropy(scores: Tensor) -> Tensor:
    """Mean entropy of the rows' softmax, each over ln(number of keys that the row may see).

    1 for equal weights, 0 for one key that gets all. Rows that see one key or none have no choice
    and do not count; without any other the result is NaN.

    Args:
        scores: Shape (..., queries, keys), masks added.
    """
    scores = scores.detach().float()
    scores = scores.masked_fill(scores <= _HIDDEN, -math.inf)
    keys = (scores > -math.inf).sum(-1)
    keys = torch.where(scores.isnan().any(-1), scores.shape[-1], keys)
    rows = torch.special.entr(torch.softmax(scores, -1)).sum(-1) / keys.clamp_min(2).log()
    counts = keys > 1
    return torch.where(counts, rows, 0.0).sum() / counts.sum()


def of_scaled_dot_product(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
    """The entropy of a call of `F.scaled_dot_product_attention`; None where it cannot be told."""
    given = _bound(_SCALED_DOT_PRODUCT, args, kwargs)
    query, key, mask = given["query"], given["key"], given["attn_mask"]
    if not _plain(query, key, mask):
        return None
    batch = torch.broadcast_shapes(query.shape[:-3], key.shape[:-3])  # type: ignore[no-untyped-call]
    heads = query.shape[-3:-2]
    shape = (*batch, *heads, query.shape[-2], key.shape[-2])
    if given["enable_gqa"] and key.ndim > 2:
        key = key.repeat_interleave(heads[0] // key.shape[-3], -3)
    query, key = (each.detach().expand(*shape[:-2], *each.shape[-2:]) for each in (query, key))
    query, key = _thinned(query, rows=True), _thinned(key, rows=False)
    scale = given["scale"]
    with _precise(query):
        scores = query.float() @ key.float().transpose(-2, -1)
        scores *= 1 / math.sqrt(query.shape[-1]) if scale is None else scale
        if mask is not None:
            mask = _thinned(mask.detach().expand(shape), rows=True)
            scores = _masked(scores, ~mask if mask.dtype is torch.bool else mask)
        if given["is_causal"]:
            ahead = torch.ones(shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
            scores = scores.masked_fill(_thinned(ahead, rows=True), -math.inf)
        return entropy(scores)


def of_multi_head(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
    """The entropy of a call of `F.multi_head_attention_forward`; None where it cannot be told."""
    given = _bound(_MULTI_HEAD, args, kwargs)
    query, key = given["query"], given["key"]
    if not _plain(query, key, given["attn_mask"], given["key_padding_mask"]):
        return None
    padding = given["key_padding_mask"]
    if query.ndim == 2:
        query, key = query.unsqueeze(1), key.unsqueeze(1)
        padding = None if padding is None else padding.unsqueeze(0)
    (queries, batch), heads = query.shape[:2], given["num_heads"]
    samples, picked = _every(range(batch), _SAMPLES), _every(range(queries), _ROWS)
    query = query.detach()[picked.start :: picked.step, samples.start :: samples.step]
    key = key.detach()[:, samples.start :: samples.step]
    with _precise(query):
        queried, keyed = _projected(given, query, key)
        if given["bias_k"] is not None:
            extra = given["bias_k"].detach().float().expand(1, keyed.shape[1], -1)
            keyed = torch.cat([keyed, extra])
        width = queried.shape[-1] // heads
        queried, keyed = (
            each.reshape(*each.shape[:2], heads, width).permute(1, 2, 0, 3)
            for each in (queried, keyed)
        )
        if given["static_k"] is not None:
            static = given["static_k"].detach().float()
            keyed = static.reshape(batch, heads, -1, width)[samples.start :: samples.step]
        if given["add_zero_attn"]:
            keyed = torch.cat([keyed, torch.zeros_like(keyed[..., :1, :])], -2)
        scores = queried @ keyed.transpose(-2, -1) / math.sqrt(width)
        mask = given["attn_mask"]
        if mask is not None:
            mask = mask.detach()
            if mask.ndim == 3:
                mask = mask.unflatten(0, (batch, heads))[samples.start :: samples.step]
            scores = _masked(scores, mask[..., picked.start :: picked.step, :])
        if padding is not None:
            padding = padding.detach()[samples.start :: samples.step]
            scores = _masked(scores, padding[:, None, None, :])
        return entropy(scores)


def thinned(scores: Tensor) -> Tensor:
    """A few rows of scores of shape (..., keys), copied: the training may change them in place."""
    return _thinned(scores.detach(), rows=True).clone()


def _projected(given: Mapping[str, Any], query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """Queries and keys, of shape (sequence, batch, width)."""
    biases: Any = given["in_proj_bias"]
    bias_q, bias_k = (None, None) if biases is None else biases.detach().float().chunk(3)[:2]
    if given["use_separate_proj_weight"]:
        weight_q, weight_k = given["q_proj_weight"], given["k_proj_weight"]
    else:
        weight_q, weight_k, _ = given["in_proj_weight"].chunk(3)
    return (
        F.linear(query.float(), weight_q.detach().float(), bias_q),
        F.linear(key.float(), weight_k.detach().float(), bias_k),
    )


def _masked(scores: Tensor, mask: Tensor) -> Tensor:
    """Scores under a mask that is True where hidden, or is added; keys beyond it are seen."""
    mask = F.pad(mask, (0, scores.shape[-1] - mask.shape[-1]))
    if mask.dtype is torch.bool:
        return scores.masked_fill(mask, -math.inf)
    return scores + mask.float()


def _every(dimension: _Sequence, most: int) -> _Sequence:
    """Evenly spaced entries, at most so many.

    The step has no factor in common with the size, so that no head is left out where samples and
    heads are one dimension.
    """
    size = len(dimension)
    step = max(1, -(-size // most))
    while step > 1 and math.gcd(step, size) > 1:
        step += 1
    return dimension[::step]


def _thinned(tensor: Tensor, *, rows: bool) -> Tensor:
    """Some samples, heads and (where `rows`) queries of a tensor (..., queries, keys)."""
    leading = tensor.ndim - 2
    for dim in range(leading):
        joined = leading == 1  # samples and heads may be one dimension
        most = _HEADS if dim == leading - 1 and not joined else _SAMPLES
        tensor = _every(tensor.movedim(dim, 0), _SAMPLES * _HEADS if joined else most)
        tensor = tensor.movedim(0, dim)
    if rows and tensor.ndim > 1:
        tensor = _every(tensor.movedim(-2, 0), _ROWS).movedim(0, -2)
    return tensor


def _precise(tensor: Tensor) -> torch.autocast:
    """Without autocast, which would compute the scores in half precision."""
    return torch.autocast(tensor.device.type, enabled=False)


def _plain(*tensors: Tensor | None) -> bool:
    """Whether all are ordinary tensors with elements: not nested, and of no subclass."""
    return all(
        each is None
        or (type(each) in (Tensor, nn.Parameter) and not each.is_nested and each.numel() > 0)
        for each in tensors
    )


def _bound(
    signature: inspect.Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Arguments by name, with defaults."""
    bound = signature.bind(*args, **kwargs)
    bound.apply_defaults()
    return bound.arguments
