"""The adapters' store gives back what was put into it, or names the file that differs."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest

from registry.artifacts import ArtifactStore, files_of, folder_digest
from registry.errors import BadInputError, IntegrityError, NotFoundError
from tests.unit.made_specialists import flip, make_folder


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "artifacts")


def test_the_digest_is_that_of_names_and_contents_and_of_nothing_else(tmp_path: Path, store: ArtifactStore) -> None:
    digest = store.put(make_folder(tmp_path / "a"))
    again = make_folder(tmp_path / "elsewhere")
    os.utime(again / "adapter_config.json", (1, 1))
    assert store.put(again) == digest == folder_digest(files_of(again))
    assert store.put(make_folder(tmp_path / "b", b"\x02" * 16)) != digest
    (again / "adapter_config.json").rename(again / "other.json")
    assert folder_digest(files_of(again)) != digest


def test_what_is_stored_is_a_private_copy(tmp_path: Path, store: ArtifactStore) -> None:
    source = make_folder(tmp_path / "a")
    digest = store.put(source)
    flip(source / "adapter_model.safetensors")
    store.verify(digest)
    stored = list(store.path(digest).iterdir())
    assert len(stored) == 2 and {path.stat().st_mode & 0o777 for path in stored} == {0o600}
    assert store.root.stat().st_mode & 0o777 == 0o700
    assert not list(store.root.glob(".put-*"))


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
def test_a_flipped_byte_is_named(tmp_path: Path, store: ArtifactStore, name: str) -> None:
    digest = store.put(make_folder(tmp_path / "a"))
    store.verify(digest)
    flip(store.path(digest) / name)
    for reader in (store, ArtifactStore(store.root)):
        with pytest.raises(IntegrityError, match=rf"{name} was changed.*restore it from a backup"):
            reader.verify(digest)


def test_a_byte_flipped_behind_an_unchanged_time_and_size_is_found(tmp_path: Path, store: ArtifactStore) -> None:
    digest = store.put(make_folder(tmp_path / "a"))
    store.verify(digest)
    weights = store.path(digest) / "adapter_model.safetensors"
    before = weights.stat()
    flip(weights)
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(IntegrityError, match="was changed"):
        store.verify(digest)


def test_missing_added_and_linked_files_are_named(tmp_path: Path, store: ArtifactStore) -> None:
    digest = store.put(make_folder(tmp_path / "a"))
    folder = store.path(digest)
    (folder / "extra.json").write_text("{}")
    with pytest.raises(IntegrityError, match=r"extra\.json was added.*Remove it"):
        store.verify(digest)
    (folder / "extra.json").unlink()
    (folder / "link.json").symlink_to("/etc/hostname")
    with pytest.raises(IntegrityError, match=r"link\.json is a link"):
        store.verify(digest)
    (folder / "link.json").unlink()
    store.verify(digest)
    (folder / "adapter_config.json").unlink()
    with pytest.raises(IntegrityError, match=r"adapter_config\.json is missing"):
        store.verify(digest)


def test_a_changed_listing_does_not_excuse_a_changed_file(tmp_path: Path, store: ArtifactStore) -> None:
    digest = store.put(make_folder(tmp_path / "a"))
    other = store.put(make_folder(tmp_path / "b", b"\x02" * 16))
    for suffix in ("", ".files.json"):
        (store.root / f"{digest}{suffix}").rename(store.root / f"kept{suffix}")
        (store.root / f"{other}{suffix}").rename(store.root / f"{digest}{suffix}")
    with pytest.raises(IntegrityError, match=r"files\.json was changed: it lists other files"):
        store.verify(digest)


def test_putting_it_again_mends_a_damaged_one(tmp_path: Path, store: ArtifactStore) -> None:
    source = make_folder(tmp_path / "a")
    digest = store.put(source)
    flip(store.path(digest) / "adapter_model.safetensors")
    assert store.put(source) == digest
    store.verify(digest)


def test_an_unknown_digest_is_not_found(store: ArtifactStore) -> None:
    with pytest.raises(NotFoundError, match="restore it"):
        store.verify("0" * 64)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"adapter_model.bin": pickle.dumps({})}, "adapter_model.bin"),
        ({"training_args.bin": b""}, "training_args.bin"),
        ({"run.py": b"print()"}, r"run\.py: only"),
        ({"other.safetensors": pickle.dumps({"weights": [1.0] * 9})}, r"other\.safetensors is no safetensors file"),
        ({"adapter_config.json": b'{"peft_type": "IA3"}'}, "LORA"),
        ({"adapter_model.safetensors": b""}, "is no safetensors file"),
    ],
)
def test_what_loading_could_execute_or_misread_is_not_stored(
    tmp_path: Path, store: ArtifactStore, files: dict[str, bytes], said: str
) -> None:
    folder = make_folder(tmp_path / "a", **files)
    with pytest.raises(BadInputError, match=said):
        store.put(folder)
    assert not [path for path in store.root.glob("*") if path.is_dir()]


def test_a_link_is_not_followed_into_the_store(tmp_path: Path, store: ArtifactStore) -> None:
    folder = make_folder(tmp_path / "a")
    (tmp_path / "secret.json").write_text("{}")
    (folder / "more.json").symlink_to(tmp_path / "secret.json")
    with pytest.raises(BadInputError, match=r"more\.json is a link"):
        store.put(folder)


def test_a_cut_weights_file_is_not_stored(tmp_path: Path, store: ArtifactStore) -> None:
    folder = make_folder(tmp_path / "a")
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-3])
    with pytest.raises(BadInputError, match="its tensors end at byte 16, its data at 13"):
        store.put(folder)
