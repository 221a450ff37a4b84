"""The servers behind a backend, whatever it is wrapped in: what is probed, and what holds adapters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from .backend import Backend


@runtime_checkable
class ManyServers(Protocol):
    """A backend that is more than the one server it seems to be."""

    @property
    def servers(self) -> Mapping[str, Backend]:
        """The servers by name."""


def servers_of(backend: Backend) -> Mapping[str, Backend]:
    """Return the servers behind a backend by name; one that is a server itself has none."""
    return backend.servers if isinstance(backend, ManyServers) else {"": backend}
