"""The models: shapes, random weights made on the device itself, and the small real one where its folder is given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from msgspec import Struct
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

END, PAD = 1, 2


class Shape(Struct, frozen=True, kw_only=True):
    """What a model looks like, and what batches it is given."""

    name: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocabulary: int
    tied: bool = False
    batch: int = 8
    sequence_tokens: int = 512

    def config(self) -> LlamaConfig:
        """As transformers names it."""
        return LlamaConfig(
            hidden_size=self.hidden,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            intermediate_size=self.intermediate,
            vocab_size=self.vocabulary,
            tie_word_embeddings=self.tied,
            max_position_embeddings=2048,
            eos_token_id=END,
            pad_token_id=PAD,
            bos_token_id=None,
        )


SMALL = Shape(
    name="SmolLM2-135M", hidden=576, layers=30, heads=9, kv_heads=3, intermediate=1536, vocabulary=49152, tied=True
)
LARGE = Shape(
    name="7B shape", hidden=4096, layers=32, heads=32, kv_heads=8, intermediate=14336, vocabulary=32000, batch=4
)
TINY = {"hidden": 64, "layers": 2, "heads": 4, "kv_heads": 2, "intermediate": 96, "vocabulary": 300}


def dtype_on(device: str) -> torch.dtype:
    """Of the weights: bfloat16 on a GPU, 32-bit floats on a CPU."""
    return torch.bfloat16 if device == "cuda" else torch.float32


def random_model(shape: Shape, device: str) -> Any:
    """Random weights, made on the device in its own type: a shape of 7B never passes through the CPU's memory."""
    with torch.device("meta"):
        empty: Any = AutoModelForCausalLM.from_config(shape.config(), dtype=dtype_on(device))
    model = empty.to_empty(device=device)
    torch.manual_seed(7)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.fill_(1.0) if "norm" in name else weight.normal_(std=0.02)
    with torch.device(device):  # it holds tables that are no parameters
        model.model.rotary_emb = type(model.model.rotary_emb)(model.config)
    model.tie_weights()
    return model


def small_model(shape: Shape, device: str, folder: Path | None) -> tuple[Any, str]:
    """The real weights of a folder, or random ones of the same shape; and a note of which."""
    if folder is None:
        return random_model(shape, device), "random weights of that shape (--model DIR takes real ones)"
    model: Any = AutoModelForCausalLM.from_pretrained(str(folder), dtype=dtype_on(device))
    return model.to(device), f"weights of {folder.name}"


def four_bit_model(shape: Shape, device: str) -> Any:
    """The same random weights in nf4 with double quantization, as QLoRA has them. Needs bitsandbytes."""
    bits: Any = BitsAndBytesConfig
    quantization = bits(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    weights = random_model(shape, device).state_dict()
    load: Any = LlamaForCausalLM.from_pretrained
    place = 0 if device == "cuda" else device
    return load(
        None,
        config=shape.config(),
        state_dict=weights,
        quantization_config=quantization,
        device_map={"": place},
        dtype=torch.bfloat16,
    )


def parameters_of(shape: Shape) -> str:
    """How many parameters a shape has, in words."""
    width = shape.hidden // shape.heads
    attention = shape.hidden * width * (2 * shape.heads + 2 * shape.kv_heads)
    layer = attention + 3 * shape.hidden * shape.intermediate + 2 * shape.hidden
    embeddings = shape.vocabulary * shape.hidden * (1 if shape.tied else 2)
    return f"random weights, {(shape.layers * layer + embeddings + shape.hidden) / 1e6:,.1f} million"
