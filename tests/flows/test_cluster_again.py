"""A next run of the clustering: known tasks are known again by the kept model, and what is new is found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from msgspec.structs import replace

pytest.importorskip("hdbscan")

from pipelines.cluster import ClusterOptions
from pipelines.cluster_command import cluster
from pipelines.cluster_model import load_model
from pipelines.loop_rows import CURATED, CuratedCall, write_rows
from pipelines.run import Run
from registry.errors import ConfigError
from tests.unit.loop_calls import calls_of, hidden, mixed, without_signature

KNOWN = ("triage", "travel", "kitchen")


def clustered(state: Path, run_id: str, calls: list[CuratedCall], *options: str) -> dict:
    with Run.open(state / "runs", run_id) as run:
        step = run.step("curate", {"of": run_id})
        write_rows(step.folder / CURATED, calls)
        step.finish([step.folder / CURATED], {})
    return again(state, run_id, *options)


def again(state: Path, run_id: str, *options: str) -> dict:
    args = ["--state", str(state), "--run", run_id, *options, "--json"]
    result = CliRunner().invoke(cluster, args, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def ids_of(file: dict) -> dict[str, str]:
    """Id of the task that most calls of an agent are in, by agent."""
    return {card["examples"][0]["call_id"].split("-")[1]: card["id"] for card in file["clusters"]}


def assigned(state: Path, run_id: str) -> dict[str, str]:
    lines = (state / "runs" / run_id / "cluster/assignments.jsonl").read_text().splitlines()
    return {row["call_id"]: row["cluster"] for row in map(json.loads, lines)}


def test_new_calls_of_known_tasks_are_assigned_without_a_fit(tmp_path: Path):
    first = clustered(tmp_path, "one", mixed(80))
    model = (tmp_path / "clusters/model/manifest.json").read_text()
    second = clustered(tmp_path, "two", mixed(60, seed=5))
    assert (first["fitted"], second["fitted"]) == ("anew", "kept")
    assert ids_of(second) == ids_of(first) and second["noise"] == 0 and second["new"] == []
    before, after = json.loads(model), json.loads((tmp_path / "clusters/model/manifest.json").read_text())
    assert after["arrays_sha256"] == before["arrays_sha256"]


@pytest.mark.parametrize("seen_as", ["shown", "noted"])
def test_a_task_never_seen_before_is_found_and_the_others_keep_their_ids(tmp_path: Path, seen_as: str):
    def seen(calls: list[CuratedCall]) -> list[CuratedCall]:
        return calls if seen_as == "shown" else [without_signature(call, "noted") for call in calls]

    first = clustered(tmp_path, "one", seen(mixed(200, agents=KNOWN)))
    second = clustered(tmp_path, "two", seen([*mixed(200, agents=KNOWN), *calls_of("weather", 60)]))
    assert second["fitted"] == "extended" and second["left_over"] == 60
    assert len(second["new"]) == 1
    assert ids_of(second) == {**ids_of(first), "weather": second["new"][0]}
    third = clustered(tmp_path, "three", seen(mixed(50, seed=7)))
    assert third["fitted"] == "kept" and ids_of(third) == ids_of(second)


def test_a_few_strange_calls_are_left_over_and_found_once_they_are_many(tmp_path: Path):
    known = mixed(200, agents=KNOWN)
    clustered(tmp_path, "one", known)
    second = clustered(tmp_path, "two", [*known, *calls_of("weather", 12)])
    assert (second["fitted"], second["noise"], second["left_over"]) == ("kept", 12, 12)
    third = clustered(tmp_path, "three", [*known, *calls_of("weather", 50)])
    assert (third["fitted"], third["noise"]) == ("extended", 0)


def test_calls_without_anything_fixed_go_where_the_model_puts_them_each_time(tmp_path: Path):
    calls = [hidden(call) for call in mixed(150, agents=("triage", "weather"))]
    clustered(tmp_path, "one", calls)
    second = clustered(tmp_path, "two", [*calls, *map(hidden, calls_of("triage", 30, seed=4))])
    assert second["fitted"] == "kept" and not second["drift_alert"]
    before, after = assigned(tmp_path, "one"), assigned(tmp_path, "two")
    assert {name: after[name] for name in before} == before


def test_when_much_is_new_or_a_task_drifts_the_model_is_fitted_anew_and_says_why(tmp_path: Path):
    known = mixed(100, agents=KNOWN)
    first = clustered(tmp_path, "one", known)
    second = clustered(tmp_path, "two", [*known, *calls_of("weather", 150)])
    assert second["fitted"] == "anew" and second["why"] == "33% of the calls are new to it"
    assert ids_of(first).items() <= ids_of(second).items()
    moved = [
        replace(call, signature="moved", system="You plan voyages to far moons.", answer_text='{"orbit": "low"}')
        if call.call_id.split("-")[1] == "triage" and int(call.call_id.rpartition("-")[2]) % 2
        else call
        for call in [*known, *calls_of("weather", 150)]
    ]
    third = clustered(tmp_path, "three", moved)
    assert third["fitted"] == "anew" and third["why"].endswith("drifted by more than 0.3") and third["drift_alert"]


def test_refit_fits_anew_and_ids_stay(tmp_path: Path):
    first = clustered(tmp_path, "one", mixed(80))
    second = clustered(tmp_path, "two", mixed(80, seed=2), "--refit")
    assert (second["fitted"], second["why"]) == ("anew", "it was asked for")
    assert ids_of(second) == ids_of(first)
    assert again(tmp_path, "one", "--refit")["fitted"] == "anew"


def test_other_options_fit_anew(tmp_path: Path):
    first = clustered(tmp_path, "one", mixed(80))
    second = again(tmp_path, "one", "--min-calls", "30")
    assert second["fitted"] == "anew" and "other options" in second["why"]
    assert ids_of(second) == ids_of(first)


@pytest.mark.parametrize("name", ["manifest.json", "arrays"])
def test_a_damaged_model_is_named_and_fitted_anew(tmp_path: Path, name: str):
    first = clustered(tmp_path, "one", mixed(80))
    folder = tmp_path / "clusters/model"
    file = next(folder.glob(f"{name}*"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(ConfigError):
        load_model(folder, ClusterOptions())
    second = clustered(tmp_path, "two", mixed(80))
    assert second["fitted"] == "anew" and str(folder) in second["why"]
    assert ids_of(second) == ids_of(first)


def test_the_kept_model_holds_no_label_and_no_call_id_in_plain(tmp_path: Path):
    clustered(tmp_path, "one", mixed(80))
    stored = b"".join(file.read_bytes() for file in (tmp_path / "clusters/model").iterdir())
    assert b"category=" not in stored and b"chatcmpl" not in stored
    assert all(file.stat().st_mode & 0o077 == 0 for file in (tmp_path / "clusters/model").iterdir())


def test_the_table_says_what_was_done_with_the_model(tmp_path: Path):
    clustered(tmp_path, "one", mixed(80))
    clustered(tmp_path, "two", mixed(80))
    result = CliRunner().invoke(cluster, ["--state", str(tmp_path), "--run", "two"], catch_exceptions=False)
    assert "Assigned by the model that was kept; 0 calls were new to it" in " ".join(result.output.split())


def test_an_agent_that_begins_to_do_something_else_is_seen_though_its_prompt_stayed(tmp_path: Path):
    first = clustered(tmp_path, "one", mixed(120))
    other = [
        replace(call, answer_text='{"orbit": "low", "thrust": {"main": 3, "side": 1}}')
        for call in calls_of("triage", 90, seed=6)
    ]
    later = [*mixed(80, seed=5, agents=("travel", "kitchen", "weather")), *calls_of("triage", 30, seed=5), *other]
    second = clustered(tmp_path, "two", later)
    task = ids_of(first)["triage"]
    assert second["fitted"] == "anew" and second["why"] == f"calls of {task} no longer look as they did"
    assert second["drift_alert"]
