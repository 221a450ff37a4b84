"""Which measurements there are, in what order and at what size."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from msgspec import structs

from benchmarks.gpu import generation, training
from benchmarks.gpu.rows import Row, attempt
from benchmarks.gpu.shapes import LARGE, SMALL, TINY, four_bit_model, parameters_of, random_model, small_model


def every_row(device: str, *, tiny: bool, quick: bool, folder: Path | None) -> list[Row]:
    """All measurements, one after the other; each is freed before the next."""
    small, large = SMALL, LARGE
    if tiny:
        small = structs.replace(small, **TINY, batch=2, sequence_tokens=16)
        large = structs.replace(large, **TINY, batch=2, sequence_tokens=16)
    steps, blocks = (2, 1) if tiny else (4, 1) if quick else (10, 2)
    works = [training.Work(shape=one, device=device, steps=steps, blocks=blocks) for one in (small, large)]
    adapters, batches, tokens = ((2,), (2, 4), 4) if tiny else ((8, 32), (8, 32), 32 if quick else 64)
    loads = [
        generation.Load(vocabulary=one.vocabulary, new_tokens=tokens, adapters=adapters, batches=batches)
        for one in (small, large)
    ]

    def lora_small() -> list[Row]:
        model, note = small_model(small, device, folder)
        return training.rows_of(f"LoRA training, {small.name}", model, works[0], note)

    def lora_large() -> list[Row]:
        model = random_model(large, device)
        return training.rows_of(f"LoRA training, {large.name}", model, works[1], parameters_of(large))

    def four_bits() -> list[Row]:
        name = f"QLoRA (nf4) training, {large.name}"
        if importlib.util.find_spec("bitsandbytes") is None:
            return [Row(name=name, note="bitsandbytes is not installed: pip install bitsandbytes")]
        return training.rows_of(name, four_bit_model(large, device), works[1], parameters_of(large))

    def mixed_small() -> list[Row]:
        model, note = small_model(small, device, folder)
        return generation.rows_of(f"generation, {small.name}", model, loads[0], note)

    def mixed_large() -> list[Row]:
        model = random_model(large, device)
        return generation.rows_of(f"generation, {large.name}", model, loads[1], parameters_of(large))

    def engine() -> list[Row]:
        model, _ = small_model(small, device, folder)
        tokenizer = training.bare_tokenizer()
        return generation.engine_rows(f"generation, {small.name}", model, tokenizer, loads[0])

    measurements = {
        f"LoRA training, {small.name}": lora_small,
        f"generation, {small.name}": mixed_small,
        f"generation, {small.name}, embedded engine": engine,
        f"LoRA training, {large.name}": lora_large,
        f"QLoRA (nf4) training, {large.name}": four_bits,
        f"generation, {large.name}": mixed_large,
    }
    return [row for name, measure in measurements.items() for row in attempt(name, measure)]
