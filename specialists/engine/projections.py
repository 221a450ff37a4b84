"""Matrix products with the model's fixed weights: float32 arithmetic over half-width storage where that loses nothing.

Decoding reads every weight once a token, so bytes are time. FBGEMM multiplies float32 activations by float16 weights
and sums in float32; a checkpoint saved in bf16 or fp16 whose values all survive float16 gives float32's results from
half the bytes, and a row's result does not depend on its neighbours in the batch. Any other weight stays float32.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

Projection = Callable[[Tensor], Tensor]
"""(tokens, in_features) -> (tokens, out_features), float32."""


def project(weight: Tensor, bias: Tensor | None = None) -> Projection:
    """Prepares `x @ weight.T + bias`; `weight` is (out_features, in_features) in any float type."""
    if _packs_exactly(weight):
        packed = torch.ops.quantized.linear_prepack_fp16(weight.float(), None if bias is None else bias.float())
        multiply = torch.ops.quantized.linear_dynamic_fp16.default
        return lambda x: multiply(x, packed)
    wide, wide_bias = weight.float().contiguous(), None if bias is None else bias.float()
    return lambda x: functional.linear(x, wide, wide_bias)


def _packs_exactly(weight: Tensor) -> bool:
    """Whether float16 holds every value as it is, and this build of torch has FBGEMM."""
    if "fbgemm" not in torch.backends.quantized.supported_engines or weight.device.type != "cpu":
        return False
    return torch.equal(weight.to(torch.float16).to(torch.float32), weight.to(torch.float32))
