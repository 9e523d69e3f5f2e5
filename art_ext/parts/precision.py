"""Number types: formulas that half precision would spoil are computed in float32."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(values: Tensor) -> Tensor:
    """The values in float32 where they are in half precision, whose numbers near 1 are 0.001 to 0.008 apart."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
