"""Which weights a base model of the registry stands for, for whoever loads them itself. Knows the catalog alone."""

from __future__ import annotations

from registry.catalog import Catalog
from registry.errors import BadInputError


def weights_of(catalog: Catalog, base: str) -> str:
    """Return what a trainer loads for a model of the registry: the engine's weights, or what its backend calls it.

    Raises BadInputError for a model that registry.yaml does not name.
    """
    model = catalog.models.get(base)
    if model is None:
        raise BadInputError(f"The base model {base!r} is not in registry.yaml. Enter it again, or name that registry.")
    return catalog.backends[model.backend].model or model.upstream_name or model.model_name
