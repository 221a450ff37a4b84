"""Reads a PEFT LoRA folder and proves that it fits the base model. Knows nothing of names in use or of requests.

Only safetensors are opened: a pickle would run code. What PEFT can express and this engine does not compute (DoRA,
biases, replaced modules, other base weights) is refused by name, because an adapter that is silently half applied
answers wrongly.
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from registry.errors import InvalidRequestError
from specialists.engine.architecture import Shape, interleave_heads

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
_KEY = re.compile(
    r"^base_model\.model\.model\.layers\.(\d+)\.(?:self_attn|mlp)\.(\w+)\.lora_([AB])(?:\.default)?\.weight$"
)
_REFUSED = (
    "use_dora",
    "modules_to_save",
    "lora_bias",
    "layer_replication",
    "trainable_token_indices",
    "fan_in_fan_out",
    "alora_invocation_tokens",
    "use_qalora",
    "use_bdlora",
    "arrow_config",
    "kasa_config",
    "target_parameters",
)
_REBASING = ("pissa", "olora", "corda", "loftq", "lora_ga")
_identities = itertools.count(1)

FUSED: dict[str, tuple[str, ...]] = {
    "qkv": ("q_proj", "k_proj", "v_proj"),
    "o": ("o_proj",),
    "gate_up": ("gate_proj", "up_proj"),
    "down": ("down_proj",),
}
"""Products that the runner computes as one, and the projections inside each, in order."""


class LowRank(msgspec.Struct, frozen=True):
    """`x @ down @ up` is what an adapter adds to a product. The scale is in `up`."""

    down: Tensor
    """(in_features, rank)"""
    up: Tensor
    """(rank, out_features)"""


class Adapter(msgspec.Struct, frozen=True):
    """A LoRA adapter, laid out for the runner. `identity` is never used twice, so a reload cannot meet old cached
    keys.
    """

    name: str
    path: str
    rank: int
    identity: int
    layers: tuple[dict[str, LowRank], ...]
    """For each layer, the fused products that it changes."""


class _PeftConfig(msgspec.Struct, frozen=True):
    peft_type: str
    r: int
    lora_alpha: float
    use_rslora: bool = False
    bias: str = "none"
    rank_pattern: dict[str, int] = {}
    alpha_pattern: dict[str, float] = {}
    init_lora_weights: bool | str = True


def read_adapter(name: str, path: str, shape: Shape, max_rank: int) -> Adapter:
    """Loads the folder `path` as adapter `name`. Raises InvalidRequestError naming what is missing, refused or
    misshapen.
    """
    folder = Path(path)
    config = _read_config(folder)
    tensors = _read_tensors(folder / WEIGHTS)
    pairs = _pair(tensors, folder)
    rank = max(down.shape[0] for down, _ in pairs.values())
    if rank > max_rank:
        raise _refuse(folder, f"rank {rank} is above this engine's limit of {max_rank} (--max-lora-rank)")
    _check_shapes(pairs, shape, folder)
    layers = tuple(_fuse_layer(index, pairs, config, shape) for index in range(shape.layers))
    return Adapter(name, path, rank, next(_identities), layers)


def _refuse(folder: Path, reason: str) -> InvalidRequestError:
    return InvalidRequestError(f"adapter {folder}: {reason}", param="lora_path")


def _read_config(folder: Path) -> _PeftConfig:
    try:
        raw: dict[str, Any] = msgspec.json.decode((folder / CONFIG).read_bytes(), type=dict[str, Any])
        config = msgspec.convert(raw, _PeftConfig)
    except OSError as error:
        raise _refuse(folder, f"no readable {CONFIG} ({error.strerror}); name a folder saved by PEFT") from error
    except msgspec.MsgspecError as error:
        raise _refuse(folder, f"{CONFIG}: {error}") from error
    used = [key for key in _REFUSED if raw.get(key)]
    if config.peft_type != "LORA" or config.bias != "none" or used:
        what = ", ".join(used) or f"peft_type {config.peft_type}, bias {config.bias}"
        raise _refuse(folder, f"{what}: not computed by this engine; train plain LoRA without biases")
    if str(config.init_lora_weights).lower().startswith(_REBASING):
        raise _refuse(
            folder, f"init_lora_weights {config.init_lora_weights!r} changes the base; convert it to plain LoRA first"
        )
    return config


def _read_tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise _refuse(path.parent, f"no {WEIGHTS}; only safetensors are loaded (save with save_pretrained)")
    try:
        with safe_open(str(path), framework="pt") as file:
            return {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as error:
        raise _refuse(path.parent, f"{WEIGHTS}: {error}") from error


def _pair(tensors: dict[str, Tensor], folder: Path) -> dict[tuple[int, str], tuple[Tensor, Tensor]]:
    """(layer, projection) -> (A, B). Every tensor must be one of a pair."""
    found: dict[tuple[int, str], dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        match = _KEY.match(key)
        if match is None:
            raise _refuse(
                folder, f"tensor {key!r} is not a LoRA matrix of an attention or MLP projection of this model"
            )
        found.setdefault((int(match[1]), match[2]), {})[match[3]] = tensor
    for (layer, projection), pair in found.items():
        if len(pair) != 2:
            raise _refuse(folder, f"layer {layer} {projection} has lora_{next(iter(pair))} but not its other half")
    if not found:
        raise _refuse(folder, f"{WEIGHTS} holds no tensors")
    return {key: (pair["A"], pair["B"]) for key, pair in found.items()}


def _check_shapes(pairs: dict[tuple[int, str], tuple[Tensor, Tensor]], shape: Shape, folder: Path) -> None:
    widths = shape.widths()
    for (layer, projection), (down, up) in pairs.items():
        where = f"layer {layer} {projection}"
        if layer >= shape.layers or projection not in widths:
            raise _refuse(folder, f"{where}: the base model has {shape.layers} layers with {', '.join(widths)}")
        out, width = widths[projection]
        rank = down.shape[0]
        if down.shape != (rank, width) or up.shape != (out, rank):
            raise _refuse(
                folder,
                f"{where}: A {tuple(down.shape)} and B {tuple(up.shape)} do not fit the base model's "
                f"({rank}, {width}) and ({out}, {rank}); it was trained on another model",
            )
        if not (torch.isfinite(down).all() and torch.isfinite(up).all()):
            raise _refuse(folder, f"{where}: holds NaN or infinite values; the training diverged")


def _fuse_layer(
    layer: int, pairs: dict[tuple[int, str], tuple[Tensor, Tensor]], config: _PeftConfig, shape: Shape
) -> dict[str, LowRank]:
    fused: dict[str, LowRank] = {}
    for product, projections in FUSED.items():
        downs, ups = [], []
        for projection in projections:
            out, width = shape.widths()[projection]
            down, up = pairs.get((layer, projection), (torch.zeros(0, width), torch.zeros(out, 0)))
            up = up * _scale(f"model.layers.{layer}.{_parent(projection)}.{projection}", down.shape[0], config)
            downs.append(down)
            ups.append(interleave_heads(up, shape.head_dim) if projection in ("q_proj", "k_proj") else up)
        if sum(down.shape[0] for down in downs):
            fused[product] = LowRank(torch.cat(downs).t().contiguous(), _block_diagonal(ups).t().contiguous())
    return fused


def _block_diagonal(blocks: list[Tensor]) -> Tensor:
    """Each block in its own rows and columns, so that one product applies them all."""
    joined = torch.zeros(sum(len(block) for block in blocks), sum(block.shape[1] for block in blocks))
    row = column = 0
    for block in blocks:
        joined[row : row + len(block), column : column + block.shape[1]] = block
        row, column = row + len(block), column + block.shape[1]
    return joined


def _parent(projection: str) -> str:
    return "self_attn" if projection in (*FUSED["qkv"], "o_proj") else "mlp"


def _scale(module: str, rank: int, config: _PeftConfig) -> float:
    """alpha / r, or alpha / sqrt(r) for rank-stabilised LoRA, with PEFT's per-module patterns."""
    if rank == 0:
        return 0.0
    alpha = float(_by_pattern(config.alpha_pattern, module, config.lora_alpha))
    r = float(_by_pattern(config.rank_pattern, module, config.r))
    return float(alpha / (r**0.5 if config.use_rslora else r))


def _by_pattern(patterns: dict[str, Any], module: str, default: float) -> float:
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return float(value)
    return default
