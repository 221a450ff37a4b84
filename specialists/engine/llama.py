"""The forward pass of a Llama-family model over one mixed step: decoding rows and prompt chunks, each under its own
adapter.

Written out rather than taken from transformers because a token costs 30 layers of small operations, and half of
transformers' time there is Python. Equality with it is a test, not a hope. Source: Touvron et al., arXiv:2302.13971;
LoRA: Hu et al., arXiv:2106.09685.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor
from torch.nn import functional

from registry.errors import ConfigError
from specialists.engine.architecture import Shape, interleave_heads, read_tensors, rotary_table
from specialists.engine.batch import Batch, Chunk, Run
from specialists.engine.kv_cache import KvCache
from specialists.engine.projections import Projection, project


class _Layer(msgspec.Struct, frozen=True):
    attention_norm: Tensor
    qkv: Projection
    o: Projection
    mlp_norm: Tensor
    gate_up: Projection
    down: Projection


class LlamaModel:
    """Weights ready to compute. `forward` is the only way in; it is called from one thread."""

    def __init__(self, folder: Path, config: Any, shape: Shape, max_context_tokens: int) -> None:
        self.shape = shape
        tensors = read_tensors(folder)
        try:
            self._embedding = tensors["model.embed_tokens.weight"].float()
            self._layers = [_read_layer(tensors, index, shape) for index in range(shape.layers)]
            self._norm = tensors["model.norm.weight"].float()
            tied = config.tie_word_embeddings or "lm_head.weight" not in tensors
            self._head = project(tensors["model.embed_tokens.weight" if tied else "lm_head.weight"])
        except KeyError as error:
            raise ConfigError(f"{folder}: the weights lack tensor {error}; the download is incomplete") from error
        self._rotations = rotary_table(config, max_context_tokens)

    @torch.inference_mode()
    def forward(self, batch: Batch, cache: KvCache) -> Tensor:
        """Computes a step: writes its keys and values to `cache`, gives the logits (sampled, vocabulary) in float32."""
        hidden = self._embedding.index_select(0, batch.token_ids)
        rotations = self._rotations.index_select(0, batch.positions)[:, None]
        for index, layer in enumerate(self._layers):
            self._attend(hidden, index, layer, batch, cache.layer(index), rotations)
            self._mlp(hidden, index, layer, batch)
        if not len(batch.sampled):
            return hidden.new_zeros(0, self.shape.vocabulary)
        last = hidden.index_select(0, batch.sampled)
        return self._head(self._normalize(last, self._norm))

    def _normalize(self, x: Tensor, gain: Tensor) -> Tensor:
        scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True).add_(self.shape.norm_eps))
        return (x * scale).mul_(gain)

    def _attend(
        self, hidden: Tensor, index: int, layer: _Layer, batch: Batch, cache: Tensor, rotations: Tensor
    ) -> None:
        s = self.shape
        x = self._normalize(hidden, layer.attention_norm)
        qkv = layer.qkv(x)
        _add_low_rank(qkv, x, "qkv", index, batch)
        rotating = qkv[:, : s.q_width + s.kv_width].view(len(x), -1, s.head_dim // 2, 2)
        torch.view_as_complex(rotating).mul_(rotations)
        keys_values = qkv[:, s.q_width :].view(len(x), 2, s.kv_heads, s.head_dim)
        cache.flatten(0, 1).index_copy_(0, batch.cache_slots, keys_values)
        mixed = self._mix(qkv[:, : s.q_width], batch, cache)
        out = layer.o(mixed)
        _add_low_rank(out, mixed, "o", index, batch)
        hidden.add_(out)

    def _mix(self, queries: Tensor, batch: Batch, cache: Tensor) -> Tensor:
        """Attention of every token over its own row: (tokens, heads * head_dim)."""
        if batch.decoding is None:
            return self._decode(queries, batch.runs, cache)
        mixed = torch.empty(queries.shape)
        if batch.runs:
            decoded = self._decode(queries.index_select(0, batch.decoding), batch.runs, cache)
            mixed.index_copy_(0, batch.decoding, decoded)
        for chunk in batch.chunks:
            mixed[chunk.begin : chunk.end] = self._prefill(queries[chunk.begin : chunk.end], chunk, cache)
        return mixed

    def _decode(self, queries: Tensor, runs: tuple[Run, ...], cache: Tensor) -> Tensor:
        """A few queries a row."""
        parts, done = [], 0
        for run in runs:
            count = (run.last - run.first) * run.queries
            parts.append(self._decode_run(queries[done : done + count], run, cache))
            done += count
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _decode_run(self, queries: Tensor, run: Run, cache: Tensor) -> Tensor:
        """The query heads that share a key head are taken as positions of that head: no key is copied."""
        s, rows = self.shape, run.last - run.first
        sharing = s.heads // s.kv_heads
        grouped = queries.view(rows, run.queries, s.kv_heads, sharing, s.head_dim).transpose(1, 2).flatten(2, 3)
        keys, values = cache[run.first : run.last, : run.length].permute(2, 0, 3, 1, 4).unbind(0)
        mask = run.mask if run.mask is None or run.queries == 1 else run.mask.repeat_interleave(sharing, 2)
        mixed = functional.scaled_dot_product_attention(grouped, keys, values, attn_mask=mask)
        return mixed.view(rows, s.kv_heads, run.queries, -1).transpose(1, 2).reshape(rows * run.queries, -1)

    def _prefill(self, queries: Tensor, chunk: Chunk, cache: Tensor) -> Tensor:
        s = self.shape
        q = queries.view(len(queries), s.heads, s.head_dim).transpose(0, 1)[None]
        length = chunk.start + chunk.end - chunk.begin
        keys, values = cache[chunk.row, :length].permute(1, 2, 0, 3)[:, None].unbind(0)
        mixed = functional.scaled_dot_product_attention(
            q, keys, values, attn_mask=chunk.mask, is_causal=chunk.mask is None, enable_gqa=True
        )
        return mixed[0].transpose(0, 1).flatten(1)

    def _mlp(self, hidden: Tensor, index: int, layer: _Layer, batch: Batch) -> None:
        x = self._normalize(hidden, layer.mlp_norm)
        gate_up = layer.gate_up(x)
        _add_low_rank(gate_up, x, "gate_up", index, batch)
        gate, up = gate_up.chunk(2, dim=1)
        inner = functional.silu(gate).mul_(up)
        out = layer.down(inner)
        _add_low_rank(out, inner, "down", index, batch)
        hidden.add_(out)


def _add_low_rank(out: Tensor, x: Tensor, product: str, layer: int, batch: Batch) -> None:
    """Adds each adapter's part to its own slice of the tokens; tokens of the bare model are touched by none."""
    for adapter, begin, end in batch.groups:
        low_rank = adapter.layers[layer].get(product)
        if low_rank is not None:
            out[begin:end].addmm_(torch.mm(x[begin:end], low_rank.down), low_rank.up)


def _read_layer(tensors: dict[str, Tensor], index: int, shape: Shape) -> _Layer:
    at = f"model.layers.{index}."

    def joined(part: str, names: tuple[str, ...], kind: str) -> Tensor | None:
        found = [tensors.get(f"{at}{part}.{name}.{kind}") for name in names]
        if kind == "bias" and found[0] is None:
            return None
        rows = [tensors[f"{at}{part}.{name}.{kind}"] for name in names]
        return torch.cat([_reordered(name, row, shape) for name, row in zip(names, rows, strict=True)])

    def product(part: str, *names: str) -> Projection:
        weight = joined(part, names, "weight")
        assert weight is not None
        return project(weight, joined(part, names, "bias"))

    return _Layer(
        attention_norm=tensors[at + "input_layernorm.weight"].float(),
        qkv=product("self_attn", "q_proj", "k_proj", "v_proj"),
        o=product("self_attn", "o_proj"),
        mlp_norm=tensors[at + "post_attention_layernorm.weight"].float(),
        gate_up=product("mlp", "gate_proj", "up_proj"),
        down=product("mlp", "down_proj"),
    )


def _reordered(name: str, rows: Tensor, shape: Shape) -> Tensor:
    return interleave_heads(rows, shape.head_dim) if name in ("q_proj", "k_proj") else rows
