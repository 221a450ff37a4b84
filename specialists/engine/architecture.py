"""Reads a model folder's shape and weights, for the Llama family. Knows nothing of requests, caches or adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from registry.errors import ConfigError

FAMILY = ("llama", "mistral", "qwen2")


class Shape(msgspec.Struct, frozen=True):
    """The numbers that fix the computation."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    vocabulary: int
    max_context_tokens: int
    norm_eps: float
    eos_token_ids: tuple[int, ...]

    @property
    def q_width(self) -> int:
        """Features of the queries of one token."""
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Features of the keys (or of the values) of one token."""
        return self.kv_heads * self.head_dim

    @property
    def kv_token_bytes(self) -> int:
        """What one token holds in the cache, in float32, over all layers."""
        return self.layers * 2 * self.kv_width * 4

    def widths(self) -> dict[str, tuple[int, int]]:
        """(out, in) features of each projection that an adapter may change."""
        q, kv, h = self.q_width, self.kv_width, self.hidden
        attention = {"q_proj": (q, h), "k_proj": (kv, h), "v_proj": (kv, h), "o_proj": (h, q)}
        return attention | {"gate_proj": (self.mlp, h), "up_proj": (self.mlp, h), "down_proj": (h, self.mlp)}


def read_config(folder: Path) -> Any:
    """The folder's transformers config. No code from the folder is run."""
    return AutoConfig.from_pretrained(str(folder), trust_remote_code=False)


def read_shape(config: Any, eos_token_ids: tuple[int, ...]) -> Shape:
    """Shape of a Llama-family config. Raises ConfigError when the family or a feature is not computed here."""
    _check_family(config)
    heads = config.num_attention_heads
    return Shape(
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        heads=heads,
        kv_heads=config.num_key_value_heads or heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        mlp=config.intermediate_size,
        vocabulary=config.vocab_size,
        max_context_tokens=config.max_position_embeddings,
        norm_eps=config.rms_norm_eps,
        eos_token_ids=eos_token_ids,
    )


def _check_family(config: Any) -> None:
    if config.model_type not in FAMILY:
        raise ConfigError(
            f"model_type {config.model_type!r} is not one of {', '.join(FAMILY)}; serve other architectures with vLLM"
        )
    windowed = getattr(config, "use_sliding_window", config.model_type == "mistral")
    if windowed and getattr(config, "sliding_window", None):
        raise ConfigError("sliding-window attention is not computed by the embedded engine; serve this model with vLLM")
    if config.hidden_act != "silu" or getattr(config, "mlp_bias", False):
        raise ConfigError(
            "only the silu MLP without biases is computed by the embedded engine; serve this model with vLLM"
        )


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Every tensor of the folder's safetensors files, in the type they were saved in."""
    tensors: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(str(path), framework="pt") as file:
            tensors.update({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 - not a dict
    return tensors


def rotary_table(config: Any, positions: int) -> Tensor:
    """(positions, head_dim / 2) complex rotations, from transformers' own frequencies, so that each rope type
    agrees.
    """
    rotary = LlamaRotaryEmbedding(config)
    cos, sin = rotary(torch.zeros(1, dtype=torch.float32), torch.arange(positions)[None])
    half = cos.shape[-1] // 2
    return torch.complex(cos[0, :, :half].float(), sin[0, :, :half].float())


def interleave_heads(rows: Tensor, head_dim: int) -> Tensor:
    """Reorders a projection's output rows so that the two halves of a head alternate.

    Hugging Face keeps the pairs that rotate together half a head apart; side by side, one complex product rotates
    them. Queries and keys are reordered alike, so their dot products are unchanged.
    """
    paired = rows.reshape(len(rows) // head_dim, 2, head_dim // 2, *rows.shape[1:]).transpose(1, 2)
    return paired.reshape(rows.shape).contiguous()
