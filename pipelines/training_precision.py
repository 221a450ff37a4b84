"""In which numbers a training computes here: 32-bit floats, bfloat16, 4 bits. Knows nothing of data or loss."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Final

import torch
from transformers import AttentionInterface, AttentionMaskInterface, BitsAndBytesConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from pipelines.training_config import TrainingConfig
from registry.errors import EnvironmentFaultError

ATTENTION: Final = "journeyman_sdpa_in_float32"
"""Attention that autocast on a CPU leaves alone, as transformers is told to use it."""


def dtype_of(config: TrainingConfig) -> torch.dtype:
    """In what the matrix products of a training are computed on this machine."""
    if config.precision != "auto":
        return torch.float32 if config.precision == "float32" else torch.bfloat16
    return torch.bfloat16 if _is_bfloat16_native() else torch.float32


def _is_bfloat16_native() -> bool:
    """Whether this machine multiplies bfloat16 by itself; emulated, it is slower than 32-bit floats."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    cpu: Any = torch.cpu  # the names of these two questions are private
    asked = [getattr(cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")]
    return any(question is not None and question() for question in asked)


@contextlib.contextmanager
def frozen_in_bfloat16(model: Any) -> Iterator[None]:
    """Hold the weights that are multiplied but not learnt in bfloat16, and give them back as they were.

    Autocast rounds them anew on every pass, to the same numbers; on a CPU that is a tenth of a step.
    """
    head = model.get_output_embeddings()  # shares its weights with the embeddings, which are not multiplied
    frozen = [
        module
        for module in model.modules()
        if isinstance(module, torch.nn.Linear) and module is not head and not module.weight.requires_grad
    ]
    kept = [module.weight.data for module in frozen]
    for module in frozen:
        module.weight.data = module.weight.data.to(torch.bfloat16)
    try:
        yield
    finally:
        for module, weight in zip(frozen, kept, strict=True):
            module.weight.data = weight


def four_bits(cuda: bool, dtype: torch.dtype) -> Any:
    """Return transformers' settings of QLoRA. Raises EnvironmentFaultError without CUDA or bitsandbytes."""
    if not cuda:
        raise EnvironmentFaultError(
            "quantization '4bit' needs an NVIDIA GPU, and torch finds none. Use quantization 'none'."
        )
    try:
        import bitsandbytes  # type: ignore[import-not-found]  # noqa: F401, PLC0415 - only where CUDA is
    except ImportError as error:
        raise EnvironmentFaultError(
            f"quantization '4bit' needs bitsandbytes ({error}): pip install bitsandbytes."
        ) from error
    bits: Any = BitsAndBytesConfig  # untyped
    return bits(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def _attention_in_float32(
    module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **options: Any
) -> tuple[Any, Any]:
    """Attention outside of autocast: on a CPU its backward pass takes ten times as long in bfloat16."""
    with torch.autocast("cpu", enabled=False):
        mixed, weights = sdpa_attention_forward(
            module, query.float(), key.float(), value.float(), attention_mask, **options
        )
    return mixed.to(query.dtype), weights


AttentionInterface.register(ATTENTION, _attention_in_float32)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
