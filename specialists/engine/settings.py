"""How the embedded engine is set up. Knows no torch: the launcher and the tests read it cheaply."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

DEFAULT_MODEL = "smollm2-135m-instruct"


def default_cache_dir() -> Path:
    """Where prepared models live: `$JOURNEYMAN_CACHE/models`, or `~/.cache/journeyman/models`."""
    root = os.environ.get("JOURNEYMAN_CACHE")
    return (Path(root) if root else Path.home() / ".cache" / "journeyman") / "models"


class EngineSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything `serve` needs. The engine listens on 127.0.0.1 only: the gateway is its one client."""

    model: str = DEFAULT_MODEL
    """`smollm2-135m-instruct`, a folder in Hugging Face's layout, or a Hugging Face id."""
    served_name: str | None = None
    """The name in `/v1/models`; the model's own when absent."""
    port: int = 0
    """0 takes a free port; the ready line says which."""
    cache_dir: Path = msgspec.field(default_factory=default_cache_dir)
    max_running: int = 32
    """Sequences decoded together in one step."""
    max_waiting: int = 256
    """Sequences queued beyond that; more are answered 503."""
    max_context_tokens: int | None = None
    """Prompt plus answer; the model's own limit when absent."""
    max_step_tokens: int = 256
    """Tokens computed in one step: bounds how long a long prompt holds up the others."""
    max_loras: int = 8
    max_lora_rank: int = 64
    kv_cache_gib: float = 4.0
    """What the running sequences may hold; one that does not fit yet waits."""
    prefix_cache_mib: int = 512
    """What finished sequences may keep for the next prompt that begins alike; 0 turns it off."""
    max_guesses: int = 8
    """Guessed tokens that a step checks for one sequence; 0 turns guessing off. Never changes an answer's text."""
    threads: int | None = None
    """Compute threads; torch's own choice when absent."""
    adapters: tuple[tuple[str, Path], ...] = ()
    """(name, folder) of the adapters loaded at start."""
    parent_pid: int | None = None
    """Exit when this process does."""
