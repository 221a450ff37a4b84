"""Greedy tokens a second with many adapters mixed in one batch, beside one adapter after the other."""

from __future__ import annotations

import asyncio
import importlib.util
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from msgspec import Struct
from peft import LoraConfig, get_peft_model

from benchmarks.gpu.rows import Row, Side, begin_memory, peak_bytes, synchronize
from pipelines.training_config import ATTENTION, LoraSettings

PROMPT_TOKENS = 32


class Load(Struct, frozen=True, kw_only=True):
    """How much is generated."""

    vocabulary: int
    new_tokens: int
    adapters: tuple[int, ...]
    batches: tuple[int, ...]


def with_adapters(model: Any, count: int) -> Any:
    """The model with so many random adapters, none of which leaves an answer as it was."""
    settings = LoraConfig(**LoraSettings(dropout=0.0, target_modules=ATTENTION).to_dict())
    torch.manual_seed(11)
    adapted = get_peft_model(model, settings, adapter_name="a0")
    for number in range(1, count):
        adapted.add_adapter(f"a{number}", settings)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.02)
    return adapted.eval()


def rows_of(label: str, model: Any, load: Load, note: str) -> list[Row]:
    """A row for each number of adapters and batch size: mixed in one batch, beside each adapter's requests alone."""
    adapted = with_adapters(model, max(load.adapters))
    rows = []
    for count in load.adapters:
        for batch in load.batches:
            name = f"{label}, {count} adapters mixed, batch {batch}"
            names = [f"a{number % count}" for number in range(batch)]
            _generate(adapted, load, names, warm=True)
            mixed, by_turns = _generate(adapted, load, names), _by_turns(adapted, load, names)
            rows.append(
                Row(name=name, alternative="PEFT, one adapter after the other", ours=mixed, theirs=by_turns, note=note)
            )
    return rows


def _generate(model: Any, load: Load, names: list[str], warm: bool = False) -> Side:
    return _timed(model, load, [(len(names), {"adapter_names": names})], 2 if warm else load.new_tokens)


def _by_turns(model: Any, load: Load, names: list[str]) -> Side:
    """What a server without mixed batches does: a batch for each adapter."""
    groups = [(names.count(name), {"adapter_names": [name] * names.count(name)}) for name in dict.fromkeys(names)]
    return _timed(model, load, groups, load.new_tokens)


@torch.inference_mode()
def _timed(model: Any, load: Load, groups: list[tuple[int, dict[str, Any]]], new_tokens: int) -> Side:
    device = next(model.parameters()).device
    torch.manual_seed(5)
    begin_memory()
    synchronize()
    begin = time.perf_counter()
    for rows, options in groups:
        ids = torch.randint(3, load.vocabulary, (rows, PROMPT_TOKENS), device=device)
        model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new_tokens,
            min_new_tokens=new_tokens,
            do_sample=False,
            **options,
        )
    synchronize()
    seconds = time.perf_counter() - begin
    return Side(sum(rows for rows, _ in groups) * new_tokens / seconds, peak_bytes())


def engine_rows(label: str, model: Any, tokenizer: Any, load: Load) -> list[Row]:
    """The embedded engine with as many adapters, on this machine's CPU, beside PEFT's mixed batch on the device."""
    if importlib.util.find_spec("llguidance") is None:
        return [Row(name=f"{label}, embedded engine", note="the engine's packages are not installed")]
    count, rows = load.adapters[0], []
    with tempfile.TemporaryDirectory() as kept:
        folder = Path(kept)
        model.save_pretrained(str(folder / "model"))
        tokenizer.save_pretrained(str(folder / "model"))
        adapted = with_adapters(model, count)
        adapted.save_pretrained(str(folder / "adapters"))
        for batch in load.batches:
            names = [f"a{number % count}" for number in range(batch)]
            theirs = _generate(adapted, load, names)
            tokens_per_s = asyncio.run(_through_engine(folder, count, names, load))
            rows.append(
                Row(
                    name=f"{label}, embedded engine, {count} adapters mixed, batch {batch}",
                    alternative="PEFT adapter_names on the device",
                    ours=Side(tokens_per_s, None),
                    theirs=theirs,
                    note="the engine computes on the CPU alone, whatever the machine",
                )
            )
    return rows


async def _through_engine(folder: Path, count: int, names: list[str], load: Load) -> float:
    from specialists.engine.assembly import load_engine  # noqa: PLC0415 - an extra of its own
    from specialists.engine.requests import CompletionRequest  # noqa: PLC0415 - likewise
    from specialists.engine.settings import EngineSettings  # noqa: PLC0415 - likewise

    adapters = tuple((f"a{number}", folder / "adapters" / f"a{number}") for number in range(count))
    settings = EngineSettings(model=str(folder / "model"), adapters=adapters, max_loras=count)
    engine = load_engine(settings, lambda _: None)
    engine.start()

    async def ask(name: str, number: int, new_tokens: int) -> None:
        ids = [3 + (number * 31 + at * 7) % (load.vocabulary - 3) for at in range(PROMPT_TOKENS)]
        request = CompletionRequest(
            model=name, prompt=ids, max_tokens=new_tokens, min_tokens=new_tokens, ignore_eos=True, temperature=0.0
        )
        _, sequence = engine.begin(request)
        async for _ in engine.follow(sequence):
            pass

    try:
        await ask(names[0], 99, 2)
        begin = time.perf_counter()
        await asyncio.gather(*(ask(name, number, load.new_tokens) for number, name in enumerate(names)))
        return len(names) * load.new_tokens / (time.perf_counter() - begin)
    finally:
        engine.loop.stop()
