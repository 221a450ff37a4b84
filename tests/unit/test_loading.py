"""Reading registry files: the ones we ship, and the ones that cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from registry.errors import ConfigError
from registry.findings import ConfigFileError
from registry.loading import CatalogHolder, load_catalog
from registry.yaml_positions import MAX_BYTES

ROOT = Path(__file__).parents[2]

GOOD = """
version: 1
defaults: {frontier: big}
backends:
  - {name: here, kind: echo}
models:
  - {model_name: big, backend: here, prices: {output_usd_per_mtok: 1}}
"""


def test_the_shipped_registry_loads_without_a_warning() -> None:
    loaded = load_catalog(ROOT / "registry.yaml", environ={})
    assert loaded.warnings == ()
    catalog = loaded.catalog
    assert catalog.frontier.model_name == "teacher-large"
    assert catalog.backends["teacher"].url == "http://127.0.0.1:8100/v1"
    assert catalog.backends["engine"].model == "smollm2-135m-instruct"
    assert catalog.resolve("gpt-4o") == "auto"
    assert catalog.models["echo"].supported_clusters == ()


def test_the_teacher_s_address_comes_from_the_environment() -> None:
    environ = {"JOURNEYMAN_TEACHER_URL": "http://127.0.0.1:9/v1"}
    assert load_catalog(ROOT / "registry.yaml", environ).catalog.backends["teacher"].url == "http://127.0.0.1:9/v1"


def test_the_sample_loads_and_warns_only_of_what_is_not_there() -> None:
    loaded = load_catalog(ROOT / "registry.sample.yaml", environ={})
    assert [finding.path for finding in loaded.warnings] == [
        "$.backends[0].api_key_env",
        "$.specialists[0].adapter",
        "$.specialists[1].adapter",
    ]
    models = loaded.catalog.models
    named = ("phi-3-mini", "nemotron-mini-4b", "smollm2-1.7b", "deepseek-r1-distill-qwen-7b")
    assert [models[name].license for name in named] == [
        "MIT",
        "NVIDIA-Community-Model-License",
        "Apache-2.0",
        "MIT",
    ]


def test_the_sample_shows_every_key_there_is() -> None:
    from msgspec.structs import fields

    from registry import entries

    text = (ROOT / "registry.sample.yaml").read_text()
    structs = [entries.Deadlines, entries.BackendEntry, entries.Prices, entries.ModelEntry, entries.TemplateEntry]
    structs += [entries.SpecialistEntry, entries.Defaults, entries.RegistryFile]
    missing = [
        f"{struct.__name__}.{field.name}"
        for struct in structs
        for field in fields(struct)
        if f"{field.name}:" not in text
    ]
    assert missing == []


def test_where_each_entry_stands_is_kept() -> None:
    loaded = load_catalog(ROOT / "registry.yaml", environ={})
    lines = (ROOT / "registry.yaml").read_text().splitlines()
    spot = loaded.spots["$.models[1]"]
    assert "teacher-large" in lines[spot.line - 1][spot.column - 1 :]


def test_a_missing_file_is_a_config_error_that_says_where_it_looked(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file") as caught:
        load_catalog(tmp_path / "registry.yaml")
    assert str(tmp_path) in str(caught.value)


def test_a_folder_and_bytes_that_are_not_utf8_are_config_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="directory"):
        load_catalog(tmp_path)
    (tmp_path / "latin.yaml").write_bytes("license: déposé".encode("latin-1"))
    with pytest.raises(ConfigError, match="UTF-8"):
        load_catalog(tmp_path / "latin.yaml")


def test_a_file_over_the_limit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "registry.yaml"
    path.write_text(GOOD + "#" * MAX_BYTES)
    with pytest.raises(ConfigError, match="over 4 MiB"):
        load_catalog(path)


def test_a_byte_order_mark_and_windows_line_ends_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "registry.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    assert load_catalog(path).catalog.frontier.model_name == "big"


def test_a_holder_refuses_to_start_on_a_bad_file(tmp_path: Path) -> None:
    path = tmp_path / "registry.yaml"
    path.write_text(GOOD.replace("frontier: big", "frontier: bgi"))
    with pytest.raises(ConfigFileError, match="did you mean big"):
        CatalogHolder(path)


def test_reload_tells_listeners_of_a_new_catalog_and_only_then(tmp_path: Path) -> None:
    path = tmp_path / "registry.yaml"
    path.write_text(GOOD)
    holder = CatalogHolder(path)
    heard: list[str] = []
    stop = holder.subscribe(lambda catalog: heard.append(catalog.frontier.license))
    path.write_text(GOOD + "# a comment changes nothing\n")
    assert holder.reload().ok
    assert heard == []
    path.write_text(GOOD.replace("backend: here,", "backend: here, license: MIT,"))
    holder.reload()
    assert heard == ["MIT"]
    stop()
    path.write_text(GOOD)
    holder.reload()
    assert heard == ["MIT"]


def test_a_failing_listener_is_named_and_stops_neither_the_swap_nor_the_others(tmp_path: Path) -> None:
    path = tmp_path / "registry.yaml"
    path.write_text(GOOD)
    holder = CatalogHolder(path)
    heard: list[str] = []

    def fails(_catalog: object) -> None:
        raise RuntimeError("no room")

    holder.subscribe(fails)
    holder.subscribe(lambda catalog: heard.append(catalog.digest))
    path.write_text(GOOD.replace("backend: here,", "backend: here, license: MIT,"))
    status = holder.reload()
    assert not status.ok
    assert "no room" in (status.error or "")
    assert heard == [holder.catalog.digest]
    assert holder.catalog.frontier.license == "MIT"
