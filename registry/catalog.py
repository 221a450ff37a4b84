"""An immutable snapshot of the registry: what may answer at this moment, under one digest.

Knows nothing of files: `registry.loading` makes it, and swaps in the next one when the file changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from msgspec import Struct, to_builtins

from .entries import BackendEntry, ModelEntry, RegistryFile, SpecialistEntry
from .errors import UnknownModelError
from .identifiers import digest_of
from .stages import serves_callers

AUTO = "auto"


class Catalog(Struct, frozen=True):
    """Backends by name, models by name, specialists by id, and the digest of all of it."""

    file: RegistryFile
    backends: Mapping[str, BackendEntry]
    models: Mapping[str, ModelEntry]
    specialists: Mapping[str, SpecialistEntry]
    digest: str

    @classmethod
    def of(cls, file: RegistryFile) -> Catalog:
        """Index a checked file."""
        return cls(
            file=file,
            backends=MappingProxyType({entry.name: entry for entry in file.backends}),
            models=MappingProxyType({entry.model_name: entry for entry in file.models}),
            specialists=MappingProxyType({entry.id: entry for entry in file.specialists}),
            digest="sha256:" + digest_of(to_builtins(file)),
        )

    @property
    def frontier(self) -> ModelEntry:
        """The model that answers what no specialist may."""
        return self.models[self.file.defaults.frontier]

    def resolve(self, name: str) -> str:
        """Return `auto`, a model's name or a specialist's id for what a caller wrote.

        Raises UnknownModelError. A specialist's short name stands for its active version, or else for its canary.
        """
        name = self.file.defaults.aliases.get(name, name)
        if name == AUTO or name in self.models or name in self.specialists:
            return name
        serving = {s.stage: s.id for s in self.file.specialists if s.name == name and serves_callers(s.stage)}
        if serving:
            return serving.get("active") or serving["canary"]
        raise UnknownModelError(f"The model `{name}` does not exist. Known: {', '.join(self.names())}.", param="model")

    def names(self) -> Iterator[str]:
        """Every name that a caller may use, `auto` first."""
        yield AUTO
        yield from self.models
        yield from self.specialists
        yield from self.file.defaults.aliases

    def base_of(self, specialist: SpecialistEntry) -> ModelEntry:
        """The model under a specialist's adapter."""
        return self.models[specialist.base]
