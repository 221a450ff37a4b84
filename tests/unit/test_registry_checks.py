"""What must hold between a registry's entries, as an operator reads it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from registry.findings import ConfigFileError
from registry.loading import Loaded, parse_catalog

HEAD = "defaults: {frontier: big}\n"
BACKENDS = """backends:
  - {name: far, kind: openai, url: 'https://far.example/v1'}
  - {name: engine, kind: embedded, model: m}
"""
MODELS = """models:
  - {model_name: big, backend: far, prices: {output_usd_per_mtok: 8}}
  - {model_name: small, backend: engine}
"""
GOOD = HEAD + BACKENDS + MODELS


def specialist(name: str = "intents", digest: str = "0123456789ab", **other: str) -> str:
    keys = {"base": "small", "adapter": "adapters/a", "clusters": "[banking]", "stage": "candidate"} | other
    return f"  - {{name: {name}, digest: '{digest}', " + ", ".join(f"{k}: {v}" for k, v in keys.items()) + "}\n"


def with_specialists(*entries: str) -> str:
    return GOOD + "specialists:\n" + "".join(entries)


def adapter(folder: Path, name: str = "a", **files: str) -> None:
    home = folder / "adapters" / name
    home.mkdir(parents=True)
    (home / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 16}))
    (home / "adapter_model.safetensors").write_bytes(b"")
    for file_name, text in files.items():
        (home / file_name).write_text(text)


def parse(text: str, folder: Path, **environ: str) -> Loaded:
    return parse_catalog(text, folder / "registry.yaml", environ)


def errors(text: str, folder: Path) -> list[str]:
    with pytest.raises(ConfigFileError) as caught:
        parse(text, folder)
    return [finding.render("r") for finding in caught.value.findings if finding.severity == "error"]


def warnings(text: str, folder: Path, **environ: str) -> list[str]:
    return [finding.render("r") for finding in parse(text, folder, **environ).warnings]


def test_a_good_registry_has_nothing_to_say(tmp_path: Path) -> None:
    assert warnings(GOOD, tmp_path) == []


def test_all_errors_come_at_once_in_the_file_s_order_with_their_lines(tmp_path: Path) -> None:
    text = (
        "defaults: {frontier: bigg, aliases: {gpt: nobody}}\n"
        "backends:\n"
        "  - {name: far, kind: openai}\n"
        "  - {name: far, kind: echo, url: 'http://x/v1'}\n"
        "models:\n"
        "  - {model_name: big, backend: fra}\n"
        "  - {model_name: auto, backend: far}\n"
    )
    assert errors(text, tmp_path) == [
        "r:1: $.defaults.frontier: no model bigg; did you mean big?",
        "r:1: $.defaults.aliases.gpt: nothing is called nobody; known: auto, big, auto",
        "r:3: $.backends[0].url: kind openai needs a url; e.g. url: http://127.0.0.1:8000/v1",
        "r:4: $.backends[1].name: far is there already, as backends[0]; each name once",
        "r:4: $.backends[1].url: kind echo takes no url; remove it, or use kind vllm or openai",
        "r:6: $.models[0].backend: no backend fra; did you mean far?",
        "r:7: $.models[1].model_name: auto is the router's own name; choose another",
    ]


def test_warnings_ride_along_with_errors(tmp_path: Path) -> None:
    text = GOOD.replace("frontier: big", "frontier: bog").replace("https://far", "http://far")
    with pytest.raises(ConfigFileError) as caught:
        parse(text, tmp_path)
    assert {finding.severity for finding in caught.value.findings} == {"error", "warning"}


def test_an_embedded_backend_needs_a_model(tmp_path: Path) -> None:
    assert "needs model" in errors(GOOD.replace(", model: m", ""), tmp_path)[0]


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("https://me:secret@far.example/v1", "credentials"),
        ("https://far.example/v1?key=1", "query"),
        ("ftp://far.example/v1", "http:// or https://"),
        ("far.example/v1", "http:// or https://"),
        ("https://far.example:port/v1", "not a url"),
        ("https://far example/v1", "http:// or https://"),
        ("https://[::1/v1", "not a url"),
    ],
)
def test_a_wrong_url_is_an_error(url: str, said: str, tmp_path: Path) -> None:
    found = errors(GOOD.replace("https://far.example/v1", url), tmp_path)
    assert any(said in line for line in found)


@pytest.mark.parametrize(
    "url", ["https://me:hunter2@far.example/v1", "https://me:hunter2", "https://me:hunter2/x@far/v1"]
)
def test_credentials_in_a_url_are_not_repeated_in_the_message(url: str, tmp_path: Path) -> None:
    found = errors(GOOD.replace("https://far.example/v1", url), tmp_path)
    assert "$.backends[0].url" in found[0]
    assert "hunter2" not in "\n".join(found)


def test_a_key_written_where_a_variable_s_name_belongs_is_an_error_that_does_not_repeat_it(tmp_path: Path) -> None:
    (found,) = errors(GOOD.replace("kind: openai,", "kind: openai, api_key_env: sk-proj-123,"), tmp_path)
    assert "$.backends[0].api_key_env: is not a variable's name" in found
    assert "sk-proj" not in found


@pytest.mark.parametrize(
    ("kind", "url", "said"),
    [
        ("openai", "http://far.example/v1", "in the clear"),
        ("vllm", "http://10.0.0.7:8000/v1", "not on this machine"),
        ("vllm", "http://127.0.0.1:8000", "does not end in /v1"),
        ("openai", "http://localhost:8000/v1", None),
        ("openai", "http://[::1]:8000/v1", None),
        ("vllm", "http://127.0.0.1:8000/v1", None),
    ],
)
def test_a_risky_url_is_a_warning(kind: str, url: str, said: str | None, tmp_path: Path) -> None:
    text = GOOD.replace("kind: openai, url: 'https://far.example/v1'", f"kind: {kind}, url: '{url}'")
    found = warnings(text, tmp_path)
    assert found == [] if said is None else said in found[0]


def test_a_key_s_variable_that_is_not_set_is_a_warning(tmp_path: Path) -> None:
    text = GOOD.replace("kind: openai,", "kind: openai, api_key_env: FAR_KEY,")
    assert "FAR_KEY is not set" in warnings(text, tmp_path)[0]
    assert warnings(text, tmp_path, FAR_KEY="sk-1") == []


def test_a_frontier_without_prices_or_clusters_is_a_warning(tmp_path: Path) -> None:
    text = GOOD.replace("prices: {output_usd_per_mtok: 8}", "supported_clusters: [a]")
    assert ["does not answer" in line or "no price" in line for line in warnings(text, tmp_path)] == [True, True]


def test_scores_belong_to_the_entry_s_own_clusters(tmp_path: Path) -> None:
    scored = "backend: engine, supported_clusters: [banking], eval_scores: {bankin: 0.5, '*': 0.4}"
    assert "did you mean banking?" in errors(GOOD.replace("backend: engine", scored), tmp_path)[0]


@pytest.mark.parametrize(
    ("aliases", "said"),
    [
        ("{big: auto}", "hides what has that name"),
        ("{auto: big}", "hides what has that name"),
        ("{a: b, b: auto}", "an alias itself; write a: auto"),
        ("{a: smal}", "did you mean small?"),
        ("{gpt-4.1: smal}", "did you mean small?"),
    ],
)
def test_aliases_resolve_in_one_step_and_hide_nothing(aliases: str, said: str, tmp_path: Path) -> None:
    text = GOOD.replace("frontier: big", f"frontier: big, aliases: {aliases}")
    assert said in errors(text, tmp_path)[0]


def test_a_specialist_needs_a_base_that_can_carry_it(tmp_path: Path) -> None:
    adapter(tmp_path)
    assert "did you mean small?" in errors(with_specialists(specialist(base="smal")), tmp_path)[0]
    assert "far (openai) cannot load adapters" in errors(with_specialists(specialist(base="big")), tmp_path)[0]
    assert warnings(with_specialists(specialist()), tmp_path) == []


def test_a_specialist_may_not_take_a_model_s_name(tmp_path: Path) -> None:
    adapter(tmp_path)
    assert "model's name" in errors(with_specialists(specialist(name="small")), tmp_path)[0]


@pytest.mark.parametrize(
    ("stage", "severity"),
    [
        ("candidate", "warning"),
        ("shadow", "warning"),
        ("deprecated", "warning"),
        ("canary", "error"),
        ("active", "error"),
    ],
)
def test_a_missing_adapter_is_an_error_only_for_what_serves(stage: str, severity: str, tmp_path: Path) -> None:
    text = with_specialists(specialist(stage=stage))
    found = warnings(text, tmp_path) if severity == "warning" else errors(text, tmp_path)
    assert "$.specialists[0].adapter: no folder" in found[0]


def test_an_adapter_without_config_or_weights_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "adapters" / "a").mkdir(parents=True)
    found = "\n".join(warnings(with_specialists(specialist()), tmp_path))
    assert "no .safetensors" in found
    assert "no adapter_config.json" in found


def test_weights_that_would_be_unpickled_are_always_an_error(tmp_path: Path) -> None:
    adapter(tmp_path, **{"adapter_model.bin": ""})
    assert "adapter_model.bin" in errors(with_specialists(specialist()), tmp_path)[0]


def test_left_over_training_pickles_are_a_warning(tmp_path: Path) -> None:
    adapter(tmp_path, **{"training_args.bin": ""})
    assert "training_args.bin" in warnings(with_specialists(specialist()), tmp_path)[0]


def test_a_config_that_is_no_lora_is_an_error_for_what_serves(tmp_path: Path) -> None:
    adapter(tmp_path)
    (tmp_path / "adapters/a/adapter_config.json").write_text('{"peft_type": "IA3"}')
    assert "LORA" in errors(with_specialists(specialist(stage="active")), tmp_path)[0]
    (tmp_path / "adapters/a/adapter_config.json").write_text("{")
    assert "cannot be read" in errors(with_specialists(specialist(stage="active")), tmp_path)[0]


@pytest.mark.parametrize("stage", ["active", "canary"])
def test_one_short_name_has_one_active_version_and_one_canary(stage: str, tmp_path: Path) -> None:
    adapter(tmp_path)
    old, new = specialist(stage=stage), specialist(digest="ba9876543210", stage=stage)
    said = f"intents@0123456789ab is {stage} under the name intents too"
    assert said in errors(with_specialists(old, new), tmp_path)[0]
    for other in ({"active", "canary"} - {stage}, {"shadow"}):
        beside = specialist(digest="ba9876543210", stage=other.pop())
        assert warnings(with_specialists(old, beside), tmp_path) == []


def test_the_same_version_twice_is_an_error_even_if_its_digest_is_longer(tmp_path: Path) -> None:
    adapter(tmp_path)
    text = with_specialists(specialist(), specialist(digest="sha256:0123456789abcdef"))
    assert "is there already" in errors(text, tmp_path)[0]


def test_more_live_adapters_than_the_backend_holds_is_a_warning(tmp_path: Path) -> None:
    adapter(tmp_path)
    text = with_specialists(specialist("a", stage="active"), specialist("b", stage="shadow"), specialist("c"))
    text = text.replace("model: m", "model: m, max_loras: 1")
    (found,) = warnings(text, tmp_path)
    assert "2 adapters are live here" in found
