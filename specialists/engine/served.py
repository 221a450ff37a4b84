"""The names that can be asked for: the base model and the loaded adapters. Knows nothing of HTTP or of running
requests.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from registry.errors import InvalidRequestError, NotFoundError, UnknownModelError
from specialists.engine.adapters import Adapter, read_adapter
from specialists.engine.architecture import Shape


class ServedModels:
    """The base model's name and up to `max_loras` adapters. An adapter's name is never bound twice at once."""

    def __init__(self, base: str, root: str, shape: Shape, max_loras: int, max_rank: int) -> None:
        self.base = base
        self._root = root
        self._shape = shape
        self._max_loras = max_loras
        self._max_rank = max_rank
        self._adapters: dict[str, Adapter] = {}
        self._loading = threading.Lock()
        self._started_s = int(time.time())

    def resolve(self, name: str) -> Adapter | None:
        """The adapter of this name; None for the base model. Raises UnknownModelError."""
        if name == self.base:
            return None
        adapter = self._adapters.get(name)
        if adapter is None:
            known = ", ".join([self.base, *self._adapters])
            raise UnknownModelError(f"The model `{name}` does not exist; this engine serves {known}.", param="model")
        return adapter

    def load(self, name: str, path: str) -> Adapter:
        """Reads and checks an adapter folder, then serves it (about 0.1 s; call it off the event loop)."""
        if not name or not path:
            raise InvalidRequestError("Both 'lora_name' and 'lora_path' must be provided.", param="lora_name")
        with self._loading:
            if name == self.base or name in self._adapters:
                raise InvalidRequestError(f"The lora adapter '{name}' has already been loaded.", param="lora_name")
            if len(self._adapters) >= self._max_loras:
                raise InvalidRequestError(
                    f"{self._max_loras} adapters are loaded, which is the limit (--max-loras); unload one first",
                    param="lora_name",
                )
            adapter = read_adapter(name, path, self._shape, self._max_rank)
            self._adapters = self._adapters | {name: adapter}
            return adapter

    def unload(self, name: str) -> Adapter:
        """Serves no new request with this adapter; those that run keep it until they end. Raises NotFoundError."""
        with self._loading:
            if name not in self._adapters:
                raise NotFoundError(f"The lora adapter '{name}' cannot be found.", param="lora_name")
            adapter = self._adapters[name]
            self._adapters = {key: value for key, value in self._adapters.items() if key != name}
            return adapter

    @property
    def adapter_count(self) -> int:
        """Adapters loaded now."""
        return len(self._adapters)

    def listing(self) -> list[dict[str, Any]]:
        """The entries of /v1/models, as vLLM writes them: an adapter's `root` is its folder, its `parent` the base
        model.
        """
        common = {"object": "model", "created": self._started_s, "owned_by": "journeyman"}
        base = common | {"id": self.base, "root": self._root, "parent": None}
        adapters = [common | {"id": a.name, "root": a.path, "parent": self.base} for a in self._adapters.values()]
        return [base, *adapters]
