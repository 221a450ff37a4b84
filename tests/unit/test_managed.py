"""Made specialists in the catalog: those whose every byte holds, in the stage that the ledger says."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from registry.errors import BadInputError, IntegrityError, NotFoundError
from registry.loading import CatalogHolder
from registry.managed import MadeSpecialists
from registry.registrar import Note, Registrar
from registry.signing import Signer
from registry.verification import verify_state
from tests.unit.made_specialists import flip, make_folder, manifest

REGISTRY = """
defaults: {frontier: big}
backends:
  - {name: far, kind: openai, url: "https://far.example/v1"}
  - {name: engine, kind: embedded, model: m}
models:
  - {model_name: big, backend: far, prices: {output_usd_per_mtok: 1}}
  - {model_name: small, backend: engine, supported_clusters: []}
"""
ANN = Note("ann", "looks good", "e" * 64)


class Shop:
    """A state folder with a registrar, and a catalog holder that follows it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.registry = folder / "registry.yaml"
        self.registry.write_text(REGISTRY)
        self.registrar = Registrar(self.state)
        self.made = MadeSpecialists(self.state)

    def make(self, name: str = "sorter", values: bytes = b"\x01" * 16, stage: str = "active", **other: object) -> str:
        adapter = make_folder(self.folder / "adapters" / f"{name}-{values.hex()}", values)
        made = self.registrar.register(adapter, manifest(name, **other), ANN)
        while stage not in ("candidate", self.stage(made)):
            self.registrar.promote(made, ANN)
        return made

    def stage(self, specialist: str) -> str:
        return self.registrar.history().stages[specialist].stage

    def holder(self) -> CatalogHolder:
        return CatalogHolder(self.registry, {}, self.made)

    def weights_of(self, specialist: str) -> Path:
        digest = self.registrar.check(specialist).adapter_digest
        return self.state / "artifacts" / digest / "adapter_model.safetensors"

    @property
    def ledger(self) -> Path:
        return self.state / "ledger" / "ledger.jsonl"


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def test_a_state_without_made_specialists_is_a_catalog_without_them(shop: Shop) -> None:
    holder = shop.holder()
    assert not holder.catalog.specialists and holder.status.left_out == ()
    assert not shop.state.exists()


def test_a_registered_specialist_is_a_candidate_with_all_that_its_manifest_says(shop: Shop) -> None:
    made = shop.make(stage="candidate", confidence_threshold=-0.5)
    entry = shop.holder().catalog.specialists[made]
    assert (entry.id, entry.stage, entry.clusters) == (made, "candidate", ("parcels",))
    assert (entry.confidence_threshold, entry.eval_scores, entry.base) == (-0.5, {"parcels": 0.95}, "small")
    assert Path(entry.adapter).is_absolute() and (Path(entry.adapter) / "adapter_model.safetensors").is_file()


def test_registering_the_same_again_changes_nothing(shop: Shop) -> None:
    first = shop.make(stage="shadow")
    assert shop.make(stage="candidate", created_at_ms=77) == first
    assert [e.entry.kind for e in shop.registrar.history().entries] == ["registered", "moved"]
    assert shop.stage(first) == "shadow"


def test_stages_and_shares_follow_the_ledger(shop: Shop) -> None:
    made = shop.make(stage="shadow")
    holder = shop.holder()
    shop.registrar.promote(made, ANN, "canary", 0.25)
    assert holder.reload().ok
    entry = holder.catalog.specialists[made]
    assert (entry.stage, entry.share) == ("canary", 0.25)
    assert holder.catalog.resolve("sorter") == made


def test_a_displaced_version_stays_by_for_a_rollback_and_a_retired_one_leaves(shop: Shop) -> None:
    old, new = shop.make(), shop.make(values=b"\x02" * 16)
    holder = shop.holder()
    entries = holder.catalog.specialists
    assert (entries[old].stage, entries[old].standby, entries[new].stage) == ("deprecated", True, "active")
    shop.registrar.rollback("parcels", ANN)
    holder.reload()
    entries = holder.catalog.specialists
    assert (entries[old].stage, entries[old].standby, entries[new].stage) == ("active", False, "shadow")
    shop.registrar.demote(new, ANN, "deprecated")
    holder.reload()
    assert set(holder.catalog.specialists) == {old}


@pytest.mark.parametrize("damage", ["weights", "config", "manifest", "signature", "gone"])
def test_one_that_does_not_hold_is_left_out_and_the_others_serve_on(shop: Shop, damage: str) -> None:
    bad, good = shop.make("bad"), shop.make("good", b"\x02" * 16)
    weights = shop.weights_of(bad)
    target = {
        "weights": weights,
        "config": weights.with_name("adapter_config.json"),
        "manifest": shop.state / "specialists" / bad / "manifest.json",
        "signature": shop.state / "specialists" / bad / "weights.json",
        "gone": weights,
    }[damage]
    holder = shop.holder()
    assert set(holder.catalog.specialists) == {bad, good}
    content = target.read_bytes()
    target.unlink() if damage == "gone" else flip(target, len(content) // 2)
    status = holder.reload()
    assert set(holder.catalog.specialists) == {good} and status.ok
    assert len(status.left_out) == 1
    assert (
        status.left_out[0].startswith(f"specialist {bad} (active) is left out: ") and target.name in status.left_out[0]
    )
    assert set(shop.holder().catalog.specialists) == {good}, "a gateway that starts now leaves it out too"
    target.write_bytes(content)
    assert holder.reload().left_out == () and set(holder.catalog.specialists) == {bad, good}


def test_a_swapped_manifest_is_left_out(shop: Shop) -> None:
    bad, other = shop.make("bad"), shop.make("bad", confidence_threshold=-9.0, stage="candidate")
    shutil.copy(
        shop.state / "specialists" / other / "manifest.json", shop.state / "specialists" / bad / "manifest.json"
    )
    assert f"it is the manifest of {other}" in shop.holder().status.left_out[0]


def test_a_stranger_s_manifest_is_left_out(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    stranger = Shop(tmp_path / "theirs")
    made, theirs = shop.make(), stranger.make()
    assert made == theirs
    for name in ("manifest.json", "weights.json"):
        source = stranger.state / "specialists" / theirs / name
        shutil.copy(source, shop.state / "specialists" / made / name)
    assert "no such key is trusted" in shop.holder().status.left_out[0]


def test_one_whose_base_is_not_there_is_left_out_with_the_nearest_name(shop: Shop) -> None:
    lost, wrong = shop.make("lost", base="smal"), shop.make("wrong", base="big")
    left_out = shop.holder().status.left_out
    assert left_out[0] == f"specialist {lost} is left out: no model smal (did you mean small?)"
    assert left_out[1].startswith(f"specialist {wrong} is left out: backend far (openai) cannot load adapters")


def test_what_the_registry_s_file_says_comes_before_a_made_one_of_the_same_name(shop: Shop) -> None:
    made = shop.make()
    adapter = make_folder(shop.folder / "by-hand")
    entry = f"{{name: sorter, digest: '0123456789ab', base: small, adapter: {adapter}, clusters: [c], stage: active}}"
    shop.registry.write_text(REGISTRY + f"specialists:\n  - {entry}\n")
    holder = shop.holder()
    assert set(holder.catalog.specialists) == {"sorter@0123456789ab"}
    assert (
        f"specialist {made} is left out: sorter@0123456789ab is active under the name sorter too"
        in (holder.status.left_out[0])
    )


def test_a_ledger_that_does_not_hold_keeps_the_last_stages_in_force_until_it_is_restored(shop: Shop) -> None:
    made = shop.make()
    holder = shop.holder()
    content = shop.ledger.read_bytes()
    flip(shop.ledger, len(content) // 2)
    status = holder.reload()
    assert holder.catalog.specialists[made].stage == "active"
    assert status.left_out[0].startswith(f"ledger: {shop.ledger}:") and "before stay in force" in status.left_out[0]
    flip(Path(holder.catalog.specialists[made].adapter) / "adapter_config.json")
    holder.reload()
    assert made not in holder.catalog.specialists, "its bytes are still looked at"
    started_now = CatalogHolder(shop.registry, {}, MadeSpecialists(shop.state))
    assert not started_now.catalog.specialists
    assert "No made specialist is served" in started_now.status.left_out[0]
    shop.ledger.write_bytes(content)
    assert [line for line in holder.reload().left_out if line.startswith("ledger")] == []


def test_a_cut_ledger_does_not_bring_back_an_older_stage(shop: Shop) -> None:
    made = shop.make(stage="canary")
    shop.registrar.demote(made, ANN)
    holder = shop.holder()
    lines = shop.ledger.read_bytes().splitlines(keepends=True)
    shop.ledger.write_bytes(b"".join(lines[:-1]))
    assert "are gone" in holder.reload().left_out[0]
    assert holder.catalog.specialists[made].stage == "shadow"


def test_a_key_that_is_trusted_no_longer_takes_its_specialists_with_it(shop: Shop) -> None:
    made = shop.make()
    holder = shop.holder()
    assert made in holder.catalog.specialists
    next((shop.state / "signing" / "trusted").glob("*.pem")).unlink()
    assert "no such key is trusted" in holder.reload().left_out[0]
    assert not holder.catalog.specialists


def test_a_broken_edit_of_the_file_does_not_hold_up_a_rollback(shop: Shop) -> None:
    made = shop.make()
    holder = shop.holder()
    shop.registry.write_text(REGISTRY + "nonsense: 1\n")
    assert not holder.reload().ok and holder.catalog.specialists[made].stage == "active"
    shop.registrar.rollback(made, ANN)
    status = holder.reload()
    assert (status.ok, holder.catalog.specialists[made].stage) == (False, "shadow")
    assert status.error is not None and "nonsense" in status.error
    shop.registry.write_text(REGISTRY)
    assert holder.reload().ok


def test_what_does_not_hold_is_not_promoted_but_can_be_demoted(shop: Shop) -> None:
    made = shop.make(stage="canary")
    flip(shop.weights_of(made))
    with pytest.raises(IntegrityError, match=r"adapter_model\.safetensors was changed"):
        shop.registrar.promote(made, ANN)
    shop.registrar.demote(made, ANN)
    assert shop.stage(made) == "shadow"


def test_a_rollback_finds_what_serves_a_cluster_and_names_what_it_undoes(shop: Shop) -> None:
    made, other = shop.make("sorter"), shop.make("other", b"\x02" * 16, clusters=("mail",), eval_scores={})
    entry = shop.registrar.rollback("parcels", ANN).entry
    assert entry.moves[0].specialist == made and entry.undoes == 3
    assert (shop.stage(made), shop.stage(other)) == ("shadow", "active")
    with pytest.raises(NotFoundError, match="did you mean sorter"):
        shop.registrar.rollback("sorted", ANN)


def test_a_short_name_of_several_versions_asks_which(shop: Shop) -> None:
    old, new = shop.make(), shop.make(values=b"\x02" * 16, stage="shadow")
    with pytest.raises(BadInputError, match=rf"several versions; name one: {old} \(active\), {new} \(shadow\)"):
        shop.registrar.promote("sorter", ANN)


def test_everything_is_watched(shop: Shop) -> None:
    made = shop.make()
    holder = shop.holder()
    watched = {path.name for path in holder.watched()}
    assert watched >= {"registry.yaml", "ledger.jsonl", "head.json", "manifest.json", "weights.json"}
    assert shop.weights_of(made) in holder.watched()


def test_verification_names_what_fails_and_lets_the_rest_be_good(shop: Shop) -> None:
    bad, good = shop.make("bad"), shop.make("good", b"\x02" * 16, "candidate")
    flip(shop.weights_of(bad))
    (shop.state / "specialists" / "left-over").mkdir()
    found = {check.subject: check for check in verify_state(shop.state)}
    assert {s: c.verdict for s, c in found.items()} == {
        "signing keys": "good",
        "ledger": "good",
        bad: "failed",
        good: "good",
        "left-over": "note",
    }
    assert "adapter_model.safetensors was changed" in found[bad].detail
    assert [c.subject for c in verify_state(shop.state, "good")] == ["signing keys", "ledger", good]
    with pytest.raises(NotFoundError, match="did you mean good"):
        verify_state(shop.state, "goood")
    flip(shop.ledger, 50)
    assert [c.verdict for c in verify_state(shop.state)] == ["good", "failed"]


def test_a_machine_that_only_serves_needs_the_public_keys_alone(shop: Shop, tmp_path: Path) -> None:
    made = shop.make()
    shutil.copytree(shop.state, tmp_path / "copy", ignore=shutil.ignore_patterns("ed25519.pem"))
    holder = CatalogHolder(shop.registry, {}, MadeSpecialists(tmp_path / "copy"))
    assert set(holder.catalog.specialists) == {made} and holder.status.left_out == ()


def test_a_second_machine_s_entries_are_taken_once_its_key_is_trusted(shop: Shop) -> None:
    made = shop.make(stage="shadow")
    signing = shop.state / "signing"
    (signing / "ed25519.pem").rename(signing / "kept")
    Signer.load_or_create(signing)
    shop.registrar.promote(made, ANN)
    assert len({e.key_id for e in shop.registrar.history().entries}) == 2
    assert shop.holder().catalog.specialists[made].stage == "canary"
