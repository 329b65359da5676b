"""What one random input looks like, and how ``--input 8,3,64,64`` says so."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from gradcheckup.errors import UsageError
from gradcheckup.suggestions import did_you_mean

_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
        *(torch.int32, torch.int64, torch.bool),
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSpec:
    """What one random input looks like.

    Attributes:
        shape: Its shape, batch included.
        dtype: None for the model's own floating-point type.
        high: Exclusive upper bound of integers.
        batch_axis: Which axis is the batch.
        note: What else was assumed.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype | None = None
    high: int = 2
    batch_axis: int = 0
    note: str = ""

    @property
    def batch(self) -> int:
        """The batch size."""
        return self.shape[self.batch_axis]

    @property
    def integers(self) -> bool:
        """True for tokens, labels and masks."""
        return self.dtype is not None and not self.dtype.is_floating_point

    def draw(self, generator: torch.Generator, dtype: torch.dtype) -> torch.Tensor:
        """A random tensor on the CPU; `dtype` is the model's own."""
        if self.integers:
            values = torch.randint(self.high, self.shape, generator=generator)
            return values.to(self.dtype)
        return torch.randn(self.shape, generator=generator).to(self.dtype or dtype)

    def __str__(self) -> str:
        size = "x".join(map(str, self.shape))
        if self.integers:
            return f"random integers {size} below {self.high}"
        return f"random normal inputs {size}"


def parse_input(text: str) -> InputSpec:
    """``8,3,64,64``, ``8,128:int64`` or ``8,128:1000`` (integers below 1000).

    Raises:
        UsageError: It has another form.
    """
    shape_text, *suffixes = text.replace("x", ",").split(":") if text else [""]
    try:
        shape = tuple(int(size) for size in shape_text.strip("()[] ").removesuffix(",").split(","))
    except ValueError:
        raise UsageError(
            f"--input {text!r} is no shape; expected sizes with the batch first, as 8,3,64,64, "
            "or 8,128:1000 for integers below 1000"
        ) from None
    if any(size < 1 for size in shape):
        raise UsageError(f"--input {text!r}: every size must be at least 1")
    spec = InputSpec(shape=shape)
    for suffix in suffixes:
        if suffix.isdigit() and int(suffix) > 0:
            integer = spec.dtype if spec.integers else torch.int64
            spec = replace(spec, high=int(suffix), dtype=integer)
        elif suffix in _DTYPES:
            spec = replace(spec, dtype=_DTYPES[suffix])
        else:
            raise UsageError(
                f"--input {text!r}: {suffix!r} is neither a type nor an upper bound"
                f"{did_you_mean(suffix, _DTYPES) or '; expected one of ' + ', '.join(_DTYPES)}"
            )
    return spec
