"""Runs of the loop: what is finished stays, what was cut is done again, and nothing mixes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.heartbeat import read_beat
from pipelines.run import MANIFEST, Run, newest_run, read_manifest
from registry.errors import BadInputError, NotFoundError, StorageError

ROOT = Path(__file__).parents[2]


def do(root, run_id, inputs, text="made", **how):
    """One step as every command does it; returns whether there was work."""
    with Run.open(root, run_id, say=lambda line: None) as run:
        step = run.step("make", inputs, **how)
        if step.done:
            return False
        (step.folder / "out.txt").write_text(text)
        step.finish([step.folder / "out.txt"], {"rows": 1})
        return True


def test_a_step_is_skipped_while_its_inputs_and_outputs_hold(tmp_path):
    assert do(tmp_path, "a", {"rows": "1"})
    assert not do(tmp_path, "a", {"rows": "1"})


@pytest.mark.parametrize(
    ("inputs", "version"), [({"rows": "2"}, 1), ({"rows": "1", "more": "x"}, 1), ({"rows": "1"}, 2)]
)
def test_another_input_or_version_does_it_again(tmp_path, inputs, version):
    do(tmp_path, "a", {"rows": "1"})
    assert do(tmp_path, "a", inputs, version=version)


@pytest.mark.parametrize("harm", ["edit", "remove"])
def test_an_output_that_changed_is_made_again(tmp_path, harm):
    do(tmp_path, "a", {"rows": "1"})
    out = tmp_path / "a" / "make" / "out.txt"
    out.write_text("edited") if harm == "edit" else out.unlink()
    assert do(tmp_path, "a", {"rows": "1"})
    assert out.read_text() == "made"


def test_a_cut_manifest_does_not_count(tmp_path):
    do(tmp_path, "a", {})
    manifest = tmp_path / "a" / "make" / MANIFEST
    manifest.write_bytes(manifest.read_bytes()[:40])
    assert do(tmp_path, "a", {})


def test_a_killed_step_leaves_nothing_and_is_done_again(tmp_path):
    script = (
        "import sys, time; from pathlib import Path; from pipelines.run import Run\n"
        f"run = Run.open(Path({str(tmp_path)!r}), 'a'); step = run.step('make', {{}})\n"
        "(step.folder / 'half.txt').write_text('half'); print('ready', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert child.stdout.readline() == b"ready\n"
        with pytest.raises(StorageError, match=f"process {child.pid} is at: make"):
            Run.open(tmp_path, "a")
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    assert do(tmp_path, "a", {})
    assert sorted(file.name for file in (tmp_path / "a" / "make").iterdir()) == [MANIFEST, "out.txt", "started"]


def test_partial_work_is_kept_only_for_the_same_inputs(tmp_path):
    for inputs, kept in (({"x": "1"}, False), ({"x": "1"}, True), ({"x": "2"}, False)):
        with Run.open(tmp_path, "a", say=lambda line: None) as run:
            step = run.step("train", inputs, keep_partial=True)
            assert (step.folder / "checkpoint").exists() == kept
            (step.folder / "checkpoint").touch()


def test_two_runs_at_once_do_not_mix(tmp_path):
    with Run.open(tmp_path, say=lambda line: None) as one, Run.open(tmp_path, say=lambda line: None) as other:
        assert one.run_id != other.run_id
        mine, others = one.step("make", {}), other.step("make", {})
        (mine.folder / "out").write_text("one")
        (others.folder / "out").write_text("other")
        mine.finish([Path("out")], {})
        time.sleep(0.005)  # which of two ended last is told by milliseconds
        others.finish([Path("out")], {})
        assert (mine.folder / "out").read_text() == "one"
    assert newest_run(tmp_path, "make") == other.run_id


def test_the_manifest_names_every_file_of_a_folder_and_the_facts(tmp_path):
    with Run.open(tmp_path, "a", say=lambda line: None) as run:
        step = run.step("make", {"in": "digest"})
        (step.folder / "deep" / "er").mkdir(parents=True)
        (step.folder / "deep" / "er" / "x").write_text("x")
        step.finish([step.folder / "deep"], {"rows": 3})
        assert step.done
    manifest = read_manifest(tmp_path / "a" / "make")
    assert list(manifest.outputs) == ["deep/er/x"]
    assert manifest.facts == {"rows": 3}
    assert manifest.inputs == {"in": "digest"}
    assert manifest.started_at_ms <= manifest.ended_at_ms
    assert manifest.code_version.startswith("0.")


def test_outputs_that_are_missing_or_elsewhere_are_refused(tmp_path):
    (tmp_path / "elsewhere").touch()
    with Run.open(tmp_path / "runs", "a", say=lambda line: None) as run:
        step = run.step("make", {})
        with pytest.raises(BadInputError, match="did not write"):
            step.finish([Path("nothing")], {})
        with pytest.raises(BadInputError, match="is not in"):
            step.finish([tmp_path / "elsewhere"], {})
        assert not step.done


@pytest.mark.parametrize("run_id", ["../up", "", ".hidden", "a/b", "x" * 81])
def test_an_id_that_is_no_folder_is_refused(tmp_path, run_id):
    with pytest.raises(BadInputError, match="cannot name a run"):
        Run.open(tmp_path, run_id)


def test_the_newest_run_of_none_says_what_to_do(tmp_path):
    with pytest.raises(NotFoundError, match="journeyman flywheel curate"):
        newest_run(tmp_path / "none", "curate")


def test_slow_progress_is_a_line_per_tenth(tmp_path):
    lines = []
    with Run.open(tmp_path, "a", say=lines.append) as run, run.track("reading", 20) as tracker:
        for _ in range(20):
            time.sleep(0.11)
            tracker.advance()
    assert len(lines) == 10
    assert lines[0] == "reading: 2 of 20 (10 %)"
    assert lines[-1] == "reading: 20 of 20 (100 %)"


def test_fast_progress_tells_the_end_and_not_every_item(tmp_path):
    lines = []
    with Run.open(tmp_path, "a", say=lines.append) as run, run.track("reading", 100_000) as tracker:
        for _ in range(100_000):
            tracker.advance()
    assert len(lines) <= 10
    assert lines[-1] == "reading: 100000 of 100000 (100 %)"


def test_a_stall_is_named_with_its_place_and_the_heartbeat_says_so(tmp_path):
    lines = []
    with Run.open(tmp_path, "a", say=lines.append, stall_s=0.2) as run:
        run.doing("waiting for the store")
        deadline = time.monotonic() + 10
        while not lines and time.monotonic() < deadline:
            time.sleep(0.02)
        beat = read_beat(run.folder)
    assert "at: waiting for the store" in lines[0]
    assert "The process waits" in lines[0] or "The machine" in lines[0] or "The disk" in lines[0]
    assert beat is not None and beat.pid == os.getpid()
    assert json.loads((tmp_path / "a" / "heartbeat.json").read_text())["stalled"]
