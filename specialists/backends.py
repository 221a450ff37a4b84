"""The table that turns a registry's backend entry into something that answers.

The one place that knows every kind. Reads nothing from the environment by itself: the mapping is passed in.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path

from msgspec import Struct, field

from registry.entries import BackendEntry
from registry.errors import ConfigError

from .backend import Backend
from .echo import EchoBackend
from .embedded import EmbeddedBackend
from .openai_http import OpenAIBackend
from .openai_wire import Dialect
from .replicas import ReplicatedBackend
from .upstream import Access


class BackendContext(Struct, frozen=True):
    """What backends need of their surroundings."""

    state: Path
    """The state folder; the embedded engine keeps its log there."""
    environment: Mapping[str, str] = {}
    """Where `api_key_env` is looked up; os.environ in production."""
    draw: Callable[[], float] = random.random
    """Uniform in 0..1, for the jitter of retries."""
    cache_secret: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    """Keys the tenants' prefix caches apart in vLLM; a new one costs each tenant a cold cache."""


def make_backend(entry: BackendEntry, context: BackendContext) -> Backend:
    """Make the backend of an entry. Raises ConfigError for one that cannot work."""
    make = _KINDS[entry.kind]
    if entry.urls:
        return ReplicatedBackend(entry, lambda alone: make(alone, context), context.draw)
    return make(entry, context)


def _openai(entry: BackendEntry, context: BackendContext) -> Backend:
    return OpenAIBackend(entry, _access(entry, context), _provider_dialect(entry), context.draw)


def _vllm(entry: BackendEntry, context: BackendContext) -> Backend:
    return OpenAIBackend(
        entry, _access(entry, context), Dialect(fetches_media=False, cache_secret=context.cache_secret), context.draw
    )


def _embedded(entry: BackendEntry, context: BackendContext) -> Backend:
    return EmbeddedBackend(entry, context.state, draw=context.draw)


def _echo(entry: BackendEntry, context: BackendContext) -> Backend:
    return EchoBackend(entry)


def _access(entry: BackendEntry, context: BackendContext) -> Access:
    if entry.url is None:
        raise ConfigError(f"backend {entry.name!r} of kind {entry.kind} needs a `url` such as http://127.0.0.1:8000/v1")
    key = context.environment.get(entry.api_key_env, "").strip() if entry.api_key_env else ""
    fault = f"the environment variable ${entry.api_key_env} is not set" if entry.api_key_env and not key else ""
    if key and not (key.isascii() and key.isprintable()):
        raise ConfigError(f"backend {entry.name!r}: ${entry.api_key_env} holds characters that no header may carry")
    return Access(entry.url, key or None, fault)


def _provider_dialect(entry: BackendEntry) -> Dialect:
    host = (entry.url or "").partition("://")[2].partition("/")[0].partition(":")[0]
    return Dialect(renames_max_tokens=host == "api.openai.com" or host.endswith(".openai.azure.com"))


_KINDS: dict[str, Callable[[BackendEntry, BackendContext], Backend]] = {
    "openai": _openai,
    "vllm": _vllm,
    "embedded": _embedded,
    "echo": _echo,
}
