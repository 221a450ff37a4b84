"""What a caller's model name stands for."""

from __future__ import annotations

import msgspec
import pytest

from registry.catalog import Catalog
from registry.entries import RegistryFile
from registry.errors import UnknownModelError

A, B = "a" * 12, "b" * 12


def catalog(*specialists: tuple[str, str, str], aliases: dict[str, str] | None = None) -> Catalog:
    entries = [
        {"name": n, "digest": d, "base": "small", "adapter": "x", "clusters": ["c"], "stage": s}
        for n, d, s in specialists
    ]
    file = {
        "defaults": {"frontier": "big", "aliases": aliases or {}},
        "backends": [{"name": "here", "kind": "echo"}],
        "models": [{"model_name": "big", "backend": "here"}, {"model_name": "small", "backend": "here"}],
        "specialists": entries,
    }
    return Catalog.of(msgspec.convert(file, RegistryFile))


def test_names_resolve_to_auto_a_model_or_a_specialist() -> None:
    found = catalog(("intents", A, "active"), ("intents", B, "shadow"), aliases={"gpt-4o": "auto", "i": "intents"})
    assert found.resolve("auto") == "auto"
    assert found.resolve("gpt-4o") == "auto"
    assert found.resolve("big") == "big"
    assert found.resolve(f"intents@{B}") == f"intents@{B}"


def test_a_short_name_stands_for_the_version_that_serves() -> None:
    found = catalog(("intents", A, "deprecated"), ("intents", B, "canary"))
    assert found.resolve("intents") == f"intents@{B}"


def test_a_short_name_stands_for_the_active_version_while_another_is_a_canary() -> None:
    for order in (("active", "canary"), ("canary", "active")):
        found = catalog(*(("intents", A if stage == "active" else B, stage) for stage in order))
        assert found.resolve("intents") == f"intents@{A}"


@pytest.mark.parametrize("stage", ["candidate", "shadow", "deprecated"])
def test_a_short_name_of_nothing_that_serves_is_unknown(stage: str) -> None:
    with pytest.raises(UnknownModelError, match="Known: auto, big, small"):
        catalog(("intents", A, stage)).resolve("intents")


def test_an_alias_may_name_a_specialist_by_its_short_name() -> None:
    assert catalog(("intents", A, "active"), aliases={"i": "intents"}).resolve("i") == f"intents@{A}"


def test_the_digest_follows_the_content_and_nothing_else() -> None:
    assert catalog().digest == catalog().digest
    assert catalog().digest != catalog(("intents", A, "active")).digest
    assert catalog(("intents", A, "active")).digest != catalog(("intents", A, "canary")).digest


def test_a_snapshot_cannot_be_changed() -> None:
    found = catalog()
    with pytest.raises(TypeError):
        found.models["x"] = found.models["big"]  # type: ignore[index]
    with pytest.raises(AttributeError):
        found.digest = ""  # type: ignore[misc]


def test_the_frontier_and_a_specialist_s_base_are_models() -> None:
    found = catalog(("intents", A, "active"))
    assert found.frontier.model_name == "big"
    assert found.base_of(found.specialists[f"intents@{A}"]).model_name == "small"
