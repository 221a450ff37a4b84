"""From a record to rows worth learning from, by the command: its table, its JSON, its restarts."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from observations.records import CallRecord, FeedbackRecord, SignatureRecord
from pipelines.curate_command import curate
from pipelines.loop_rows import CURATED, CuratedCall, read_rows
from pipelines.run import MANIFEST, newest_run
from pipelines.surrogates import PLACEHOLDER
from pipelines.teacher_gold import gold_answer
from pipelines.workload import Workload
from policies.redaction import Redactor
from registry.errors import BadInputError, NotFoundError
from tests.flows.recorded_state import recorded as store_of

ROOT = Path(__file__).parents[2]

FAMILIES = ("order_forms", "desk_triage", "office_actions", "comment_checks")
START_MS = 1_790_000_000_000


def signatures(workload):
    for family in FAMILIES:
        app = workload.app(family)
        yield SignatureRecord(
            id=f"default:{family}",
            at_ms=1,
            signature=family,
            system=app.system,
            tools=[dict(tool) for tool in app.tools] or None,
            tool_names=tuple(tool["function"]["name"] for tool in app.tools),
            response_format=app.response_format,
        )


def calls(workload, split="train", first=0):
    """The workload's rows as a gateway records them: redacted, answered by the frontier, cluster unknown."""
    redactor = Redactor()
    for number, row in enumerate(workload.rows(FAMILIES, [split]), start=first):
        session = redactor.session()
        answer = gold_answer(row)
        asked = session.redact(row.text).text
        made = [{"name": one.name, "arguments": session.redact_json_text(one.arguments)} for one in answer.tool_calls]
        yield CallRecord(
            id=f"chatcmpl-{number:026d}",
            at_ms=START_MS + number,
            signature=row.family,
            end_user=f"user-{number % 17}",
            messages=[{"role": "user", "content": asked}],
            answer_text=None if answer.text is None else session.redact_json_text(answer.text),
            answer_tool_calls=made or None,
            redactions=dict(session.counts),
            served_by="large",
            frontier="large",
            outcome="verified",
            finish_reason="stop",
            cost_usd=0.001,
            frontier_cost_usd=0.001,
        )


def run(*arguments):
    return CliRunner().invoke(curate, [*map(str, arguments)], catch_exceptions=False)


@pytest.fixture(scope="module")
def workload():
    return Workload.own(11, 90)


@pytest.fixture(scope="module")
def recorded(workload, tmp_path_factory):
    """The record, and copies of it for tests that write: the store is closed and can be copied."""
    root = tmp_path_factory.mktemp("state")
    made = list(calls(workload))
    words = [
        FeedbackRecord(id=f"fb{n}", call_id=made[n].id, at_ms=START_MS, outcome="failure")
        for n in range(0, len(made), 10)
    ]
    store_of(root, [*signatures(workload), *made, *words])
    return root, made


@pytest.fixture
def state(recorded, tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "observations.duckdb").write_bytes((recorded[0] / "observations.duckdb").read_bytes())
    return tmp_path / "s"


def test_the_record_becomes_rows_that_read_naturally(state, recorded):
    done = run("--state", state, "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    made = recorded[1]
    assert report["read"] == len(made)
    assert report["kept"] + sum(one["calls"] for one in report["dropped"].values()) == len(made)
    assert report["dropped"]["contradicted"]["calls"] == -(-len(made) // 10)
    assert report["templates"] == len(FAMILIES)
    rows = list(read_rows(Path(report["rows"]), CuratedCall))
    assert len(rows) == report["kept"] > 0.7 * len(made)
    assert [row.at_ms for row in rows] == sorted(row.at_ms for row in rows)
    assert {row.cluster for row in rows} == {"unknown"}
    texts = [f"{row.input} {row.answer_text} {row.answer_tool_calls}" for row in rows]
    assert any(PLACEHOLDER.search(one.messages[0]["content"]) for one in made)
    assert not any(PLACEHOLDER.search(text) for text in texts)
    assert "calls compared" in done.stderr


def test_the_table_says_what_was_kept_and_dropped_and_why(state):
    done = run("--state", state)
    assert "recorded calls" in done.stdout
    assert "kept" in done.stdout
    assert "feedback says that the answer was wrong, and not what was right" in done.stdout


def test_a_finished_run_is_not_done_again(state):
    first = json.loads(run("--state", state, "--run", "monday", "--json").stdout)
    before = Path(first["rows"]).stat().st_mtime_ns
    again = json.loads(run("--state", state, "--run", "monday", "--json").stdout)
    assert (first["skipped"], again["skipped"]) == (False, True)
    assert {**first, "skipped": True} == again
    assert Path(first["rows"]).stat().st_mtime_ns == before
    assert newest_run(state / "runs", "curate") == "monday"


def test_a_killed_run_goes_on_to_the_same_rows(state):
    whole = Path(json.loads(run("--state", state, "--json").stdout)["rows"]).read_bytes()
    # Killed in the middle of reading: the first window has been judged, the second never comes.
    script = (
        "import sys, time\n"
        "from pipelines import curate_rows\n"
        "curate_rows.RecordReader.__init__.__defaults__ = (50,)\n"
        "window, seen = curate_rows.RecordReader.window, []\n"
        "def slow(self, *given):\n"
        "    if seen:\n"
        "        print('half', flush=True); time.sleep(60)\n"
        "    seen.append(1)\n"
        "    yield from window(self, *given)\n"
        "curate_rows.RecordReader.window = slow\n"
        "from pipelines.curate_command import curate\n"
        f"curate(['--state', {str(state)!r}, '--run', 'cut'], standalone_mode=False)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert child.stdout.readline() == b"half\n"
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    folder = state / "runs" / "cut" / "curate"
    assert not (folder / MANIFEST).exists()
    report = json.loads(run("--state", state, "--run", "cut", "--json").stdout)
    assert (folder / CURATED).read_bytes() == whole
    assert sorted(file.name for file in folder.iterdir()) == [
        "curated.jsonl",
        "manifest.json",
        "report.json",
        "started",
    ]
    assert not report["skipped"]


def test_evaluation_texts_are_left_out_by_file(state, workload, tmp_path):
    held_out = tmp_path / "held_out.jsonl"
    chosen = [row.text for row in workload.rows(["desk_triage"], ["train"])][:20]
    held_out.write_text("\n".join(json.dumps({"input": text}) for text in chosen))
    report = json.loads(run("--state", state, "--exclude", held_out, "--json").stdout)
    assert report["dropped"]["contaminated"]["calls"] >= 15
    assert report["evaluation_inputs"] == {str(held_out): 20}


def test_the_loader_gets_its_turn_while_curation_reads(state, workload):
    """Calls arrive and are loaded meanwhile; curation neither fails nor counts a call twice."""
    over = threading.Event()
    faults = []

    def keep_loading():
        number = 0
        while not over.is_set():
            try:
                store_of(state, list(calls(workload, "dev", first=100_000 + number * 1_000))[:5])
            except Exception as error:
                faults.append(error)
            number += 1
            time.sleep(0.05)

    loading = threading.Thread(target=keep_loading)
    loading.start()
    try:
        report = json.loads(run("--state", state, "--json").stdout)
    finally:
        over.set()
        loading.join()
    rows = [row.call_id for row in read_rows(Path(report["rows"]), CuratedCall)]
    assert not faults
    assert len(rows) == len(set(rows)) == report["kept"]


@pytest.mark.parametrize(
    ("arguments", "error", "told"),
    [
        (["--since", "yesterday"], BadInputError, "neither an age"),
        (["--exclude", "missing.jsonl"], BadInputError, "missing.jsonl"),
        (["--run", "../x"], BadInputError, "cannot name a run"),
    ],
)
def test_bad_options_are_named(state, arguments, error, told):
    with pytest.raises(error, match=told):
        run("--state", state, *arguments)


def test_a_wrong_state_is_named_and_nothing_is_made_in_it(tmp_path):
    with pytest.raises(NotFoundError, match="no store at"):
        run("--state", tmp_path / "typo")
    assert not (tmp_path / "typo").exists()
