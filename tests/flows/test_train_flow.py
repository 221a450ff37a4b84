"""From curated calls to an evaluated adapter by the commands, on a model that is small enough for a test."""

import json

import pytest
from click.testing import CliRunner

from pipelines.loop_rows import CURATED, Assignment, write_rows
from pipelines.train_command import dataset, evaluate, train
from registry.errors import BadInputError, NotFoundError
from tests.unit.curated_calls import calls
from tests.unit.tiny_model import write_tiny_model

pytest.importorskip("trl", reason="the training extra is not installed")


def run(command, *arguments):
    done = CliRunner().invoke(command, [*map(str, arguments), "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    root = tmp_path_factory.mktemp("state")
    for step in ("curate", "cluster"):
        (root / "runs" / "r1" / step).mkdir(parents=True)
    write_rows(root / "runs" / "r1" / "curate" / CURATED, calls(240))
    rows = [Assignment(f"chatcmpl-{n:05}", "t-0123456789" if n < 230 else "noise", 1.0) for n in range(240)]
    write_rows(root / "runs" / "r1" / "cluster" / "assignments.jsonl", rows)
    return root


@pytest.fixture(scope="module")
def built(state):
    return run(dataset, "build", "--state", state, "--run", "r1", "--cluster", "t-0123456789")


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    model = write_tiny_model(tmp_path_factory.mktemp("model"))
    return ("--base", model, "--threads", 1, "--epochs", 1, "--batch-size", 16)


@pytest.fixture(scope="module")
def trained(state, built, settings):
    return run(train, "--state", state, "--run", "r2", "--dataset", built["uri"], *settings)


def test_a_clusters_calls_become_a_dataset_and_those_of_others_do_not(state, built):
    assert built["uri"] == "ds://default/t-0123456789@1.0.0"
    assert built["train"] + built["dev"] + built["test"] + built["shadow"] == 230
    again = run(dataset, "build", "--state", state, "--run", "r1", "--cluster", "t-0123456789")
    assert again["uri"] == built["uri"]
    assert [one["uri"] for one in run(dataset, "ls", "--state", state)] == [built["uri"]]


def test_a_training_writes_an_adapter_with_its_record_and_is_not_done_twice(state, built, settings, trained):
    folder = state / "runs" / "r2" / "train"
    record = json.loads((folder / "training.json").read_text())
    assert trained["adapter"] == str(folder / "adapter")
    assert (folder / "adapter" / "adapter_model.safetensors").is_file()
    assert (record["dataset"], record["dataset_sha256"]) == (built["uri"], built["sha256"])
    assert record["metrics"] == {"journeyman_training_jobs_total": 1, "journeyman_training_seconds": trained["seconds"]}
    assert json.loads((folder / "provenance.json").read_text())["job_id"] == "r2"
    again = run(train, "--state", state, "--run", "r2", "--dataset", built["uri"], *settings)
    assert again["seconds"] == trained["seconds"]


def test_an_evaluation_judges_every_test_example_through_the_engine(state, built, trained):
    found = run(evaluate, "--state", state, "--run", "r2", "--base-examples", 3, "--threads", 1)
    assert found["specialist"]["exact"]["of"] == built["test"]
    assert found["base"]["exact"]["of"] == 3
    assert found["current"][0]["who"] == "recorded: large" and found["current"][0]["exact"]["share"] == 1
    assert found["frontier"]["cost_usd"] == pytest.approx(0.001)
    assert found["canary_holds"] in (True, None)
    folder = state / "runs" / "r2" / "evaluate"
    judged = json.loads((folder / "evaluation.json").read_text())["judged"]
    assert len(judged) == built["test"] and all(one["confidence"] < 0 for one in judged)
    assert (folder / "evaluation.md").read_text().count("\n| ") == 4


def test_what_an_erasure_must_remove_is_told_with_the_adapters(state, built, trained):
    found = run(dataset, "holds", "--state", state, "chatcmpl-00007")
    assert found == {
        "datasets": {built["uri"]: ["chatcmpl-00007"]},
        "adapters": {trained["adapter"]: built["uri"]},
    }
    assert run(dataset, "holds", "--state", state, "chatcmpl-00239")["datasets"] == {}


def test_a_dry_run_of_a_plain_file_shows_what_is_learnt_and_keeps_nothing(state, settings, tmp_path):
    rows = [{"input": f"say {n}", "output": str(n)} for n in range(130)]
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    found = run(train, "--state", tmp_path, "--data", path, "--dry-run", *settings)
    assert found["total_estimated_steps"] == -(-found["examples"] // 16)
    assert "⟦" in found["examples_shown"][0]
    assert not (tmp_path / "runs").exists() and not (tmp_path / "dry-run").exists()


def test_bad_input_is_told_with_its_mend(state, built, tmp_path):
    for arguments, message in (
        (["--state", tmp_path], "either --dataset"),
        (["--state", state, "--dataset", "bank"], "ds://project/name"),
        (["--state", state, "--dataset", built["uri"], "--batch-size", 0, "--epochs", -1], r"num_epochs.*\nbatch_size"),
    ):
        with pytest.raises(BadInputError, match=message):
            CliRunner().invoke(train, list(map(str, arguments)), catch_exceptions=False)
    with pytest.raises(NotFoundError, match="has finished the step train"):
        CliRunner().invoke(evaluate, ["--state", str(tmp_path)], catch_exceptions=False)
