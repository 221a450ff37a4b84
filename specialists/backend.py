"""The one protocol every backend keeps, and the time a caller grants it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

from msgspec import Struct

from registry.entries import BackendEntry

from .calls import Call, Completion, Delta


class Health(Struct, frozen=True):
    """Whether a backend can be asked, and the reason when it cannot."""

    ok: bool
    reason: str = ""


class Backend(Protocol):
    """A server that speaks the OpenAI API.

    Cancelling the awaiting task, or closing the generator, cancels the work upstream within a second.
    Raises the BackendError family of registry.errors. `budget_ms` is what the caller has left for this
    attempt, all phases and retries together; the entry's own deadlines hold too.
    """

    @property
    def entry(self) -> BackendEntry:
        """The entry it was made from."""

    async def start(self) -> None:
        """Make ready for calls; returns at once, `health` tells when it is there."""

    async def complete(self, call: Call, budget_ms: float) -> Completion:
        """Ask and wait for the whole answer."""

    def stream(self, call: Call, budget_ms: float) -> AsyncGenerator[Delta, None]:
        """Ask and yield the pieces as they come; raises StreamCutError when the end is missing."""

    def health(self) -> Health:
        """What is believed now (breaker, last probe); never waits."""

    async def probe(self) -> Health:
        """Ask the server whether it is there."""

    async def served_models(self) -> frozenset[str]:
        """Names of the models and adapters that it serves now."""

    async def load_adapter(self, name: str, path: str) -> None:
        """Hot-load a LoRA adapter under an immutable name; done when it can answer."""

    async def unload_adapter(self, name: str) -> None:
        """Take an adapter out; a name that is not loaded is no error."""

    async def close(self) -> None:
        """Release connections."""
