"""The engine's figures as Prometheus text. Written by hand: ten lines need no registry of collectors in a second
process.
"""

from __future__ import annotations

from specialists.engine.loop import Counts


def exposition(counts: Counts, adapters: int) -> str:
    """Prometheus text format 0.0.4."""
    rows = (
        ("requests_running", "gauge", "Sequences in the running batch.", counts.running),
        ("requests_waiting", "gauge", "Sequences in the queue.", counts.waiting),
        ("adapters_loaded", "gauge", "LoRA adapters that can be asked for.", adapters),
        ("prefix_cache_bytes", "gauge", "Memory held by cached prefixes.", counts.prefix_bytes),
        ("steps_total", "counter", "Steps computed.", counts.steps),
        ("prompt_tokens_total", "counter", "Prompt tokens taken in.", counts.prompt_tokens),
        ("cached_prompt_tokens_total", "counter", "Prompt tokens that a cached prefix saved.", counts.cached_tokens),
        ("completion_tokens_total", "counter", "Tokens generated.", counts.completion_tokens),
        ("guessed_tokens_total", "counter", "Tokens guessed ahead and checked.", counts.guessed_tokens),
        ("accepted_guesses_total", "counter", "Guessed tokens that were right.", counts.accepted_guesses),
    )
    lines = []
    for name, kind, text, value in rows:
        full = f"journeyman_engine_{name}"
        lines += [f"# HELP {full} {text}", f"# TYPE {full} {kind}", f"{full} {value}"]
    return "\n".join(lines) + "\n"
