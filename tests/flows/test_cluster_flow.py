"""From curated calls to proposals by the two commands, as an operator runs them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner
from msgspec.structs import replace

pytest.importorskip("hdbscan")

from observations.state import StatePaths
from pipelines.cluster_command import cluster, propose
from pipelines.cluster_step import run_cluster
from pipelines.loop_rows import ASSIGNMENTS, CURATED, Assignment, CuratedCall, read_rows, write_rows
from pipelines.run import Run
from policies.found_clusters import decode_found
from registry.errors import BadInputError
from tests.unit.loop_calls import AGENTS, agent_of, calls_of, mixed

REGISTRY = """defaults: {frontier: big}
backends:
  - {name: far, kind: openai, url: 'https://far.example/v1'}
  - {name: engine, kind: embedded, model: m}
models:
  - {model_name: big, backend: far, prices: {input_usd_per_mtok: 2.5, output_usd_per_mtok: 10}}
  - {model_name: small, backend: engine, license: MIT, params: 135_000_000, prices: {input_usd_per_mtok: 0.01}}
"""


def write_run(state: Path, run_id: str, calls: list[CuratedCall]) -> None:
    with Run.open(state / "runs", run_id) as run:
        step = run.step("curate", {"of": run_id})
        write_rows(step.folder / CURATED, calls)
        step.finish([step.folder / CURATED], {})


def invoke(command, *args: str):
    result = CliRunner().invoke(command, [*args, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_the_commands_find_the_tasks_and_propose_specialists(tmp_path: Path):
    registry = tmp_path / "registry.yaml"
    registry.write_text(REGISTRY)
    calls = [*mixed(200), *calls_of("triage", 40, seed=9)]
    write_run(tmp_path, "first", calls)

    found = invoke(cluster, "--state", str(tmp_path))
    assert found["calls"] == len(calls) and len(found["clusters"]) == len(AGENTS)
    busiest = found["clusters"][0]
    assert busiest["volume"] == 240 and busiest["keys"] == ["category"]

    rows = {row.call_id: row for row in read_rows(tmp_path / "runs/first/cluster" / ASSIGNMENTS, Assignment)}
    assert len({rows[call.call_id].cluster for call in calls if agent_of(call) == "triage"}) == 1

    served = decode_found((tmp_path / "clusters/clusters.json").read_bytes(), "clusters.json").by_signature()
    assert served[calls_of("triage", 1)[0].signature] == busiest["id"]

    proposals = invoke(propose, "--state", str(tmp_path), "--registry", str(registry))
    verdicts = {task["verdict"]["task"]: task["verdict"] for task in proposals["tasks"]}
    assert verdicts[busiest["id"]]["proposed"] and verdicts[busiest["id"]]["base"] == "small"
    assert proposals["frontier"] == "big"


def test_ids_stay_over_runs_and_a_changed_task_raises_the_drift_alert(tmp_path: Path):
    calls = mixed(150)
    write_run(tmp_path, "first", calls)
    first = {card["keys"][0]: card["id"] for card in invoke(cluster, "--state", str(tmp_path))["clusters"][:]}
    later = [*calls[100:], *calls_of("triage", 90, seed=3)]
    write_run(tmp_path, "second", later)
    second = invoke(cluster, "--state", str(tmp_path))
    assert {card["id"] for card in second["clusters"]} == set(first.values()) | {
        card["id"] for card in second["clusters"] if card["keys"] == ["intent"]
    }
    assert second["new"] == [] and not second["drift_alert"]
    assert all(card["drift"] == 0.0 for card in second["clusters"])

    # One half of the triage calls turn out to be another agent's.
    moved = [
        replace(call, signature="moved", system="You plan voyages to far moons.", answer_text='{"orbit": "low"}')
        if agent_of(call) == "triage" and int(call.call_id.rpartition("-")[2]) % 2
        else call
        for call in later
    ]
    write_run(tmp_path, "third", moved)
    third = invoke(cluster, "--state", str(tmp_path))
    assert third["drift_alert"] and len(third["new"]) == 1
    alerted = [card for card in third["clusters"] if card["drift_alert"]]
    assert [card["keys"] for card in alerted] == [["category"]]


def test_a_step_that_was_done_is_not_done_again_and_a_changed_input_is(tmp_path: Path):
    write_run(tmp_path, "one", mixed(60))
    said: list[str] = []
    state = StatePaths(tmp_path)
    for _ in range(2):
        with Run.open(tmp_path / "runs", "one", say=said.append) as run:
            run_cluster(run, state)
    assert said[-1].startswith("cluster: done already")


def test_steps_out_of_order_name_the_one_that_is_missing(tmp_path: Path):
    with Run.open(tmp_path / "runs", "one") as run, pytest.raises(BadInputError, match="flywheel curate --run one"):
        run_cluster(run, StatePaths(tmp_path))


def test_a_damaged_published_file_stops_with_its_name(tmp_path: Path):
    write_run(tmp_path, "one", mixed(60))
    (tmp_path / "clusters").mkdir()
    (tmp_path / "clusters/clusters.json").write_text("{")
    with Run.open(tmp_path / "runs", "one") as run, pytest.raises(BadInputError, match=r"clusters\.json.*Move it away"):
        run_cluster(run, StatePaths(tmp_path))


@pytest.mark.data
@pytest.mark.skipif("JOURNEYMAN_DATA" not in os.environ, reason="$JOURNEYMAN_DATA is not set")
@pytest.mark.parametrize("mode", ["shown", "hidden"])
def test_the_families_of_the_workload_are_found(mode: str):
    from benchmarks.clustering import agreement, workload_calls

    calls, families = workload_calls(120)
    assert agreement(calls, families, mode).ari >= (0.95 if mode == "shown" else 0.8)
