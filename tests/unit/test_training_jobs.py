"""How a training ended is left behind, whatever ended it, and each job is counted once by a gateway."""

import signal
import subprocess
import sys

import pytest

from observations.state import StatePaths
from observations.training_jobs import JobsReader, TrainingJob, jobs_file, note_job
from pipelines.run import RUNS, Run
from pipelines.training_jobs import counted
from registry.errors import StorageError
from router_service.gauges import count_trainings
from router_service.metrics import Metrics


@pytest.fixture
def state(tmp_path):
    return StatePaths(tmp_path / "state").create()


def job(outcome="succeeded", seconds=90.0):
    return TrainingJob(at_ms=1, outcome=outcome, seconds=seconds)


def end(state, error=None):
    with Run.open(state.root / RUNS, "r", say=lambda line: None) as run, counted(run):
        if error is not None:
            raise error


@pytest.mark.parametrize(
    ("error", "outcome"),
    [(None, "succeeded"), (ValueError("no"), "failed"), (KeyboardInterrupt(), "stopped"), (SystemExit(3), "stopped")],
)
def test_whatever_ends_a_training_is_noted_and_goes_on(state, error, outcome):
    if error is None:
        end(state)
    else:
        with pytest.raises(type(error)):
            end(state, error)
    (noted,) = JobsReader(state).new_jobs()
    assert (noted.outcome, noted.run) == (outcome, "r") and 0.0 <= noted.seconds < 60.0
    assert jobs_file(state).stat().st_mode & 0o077 == 0


def test_a_terminated_training_counts_as_stopped(state):
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom pipelines.run import Run\n"
        "from pipelines.training_jobs import counted\n"
        "with Run.open(Path(sys.argv[1]) / 'runs', 'r', say=lambda line: None) as run, counted(run):\n"
        "    print('ready', flush=True)\n    time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(state.root)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 143
    assert [noted.outcome for noted in JobsReader(state).new_jobs()] == ["stopped"]


def test_a_gateway_counts_each_job_once_and_those_before_its_start(state):
    note_job(state, job())
    reader, metrics = JobsReader(state), Metrics()
    count_trainings(metrics, reader)
    count_trainings(metrics, reader)
    note_job(state, job("failed", 4.0))
    note_job(state, job(seconds=4_000.0))
    count_trainings(metrics, reader)
    text = metrics.exposition().decode()
    assert 'journeyman_training_jobs_total{outcome="succeeded"} 2.0' in text
    assert 'journeyman_training_jobs_total{outcome="failed"} 1.0' in text
    assert 'journeyman_training_seconds_bucket{le="120.0",outcome="succeeded"} 1.0' in text
    assert 'journeyman_training_seconds_sum{outcome="succeeded"} 4090.0' in text


def test_half_a_line_waits_and_a_strange_one_is_passed_over(state):
    reader = JobsReader(state)
    assert reader.new_jobs() == []
    note_job(state, job())
    with jobs_file(state).open("ab") as file:
        file.write(b'{"outcome": "exploded"}\n\xff\n{"at_ms":2,"outcome":"fai')
    assert [noted.at_ms for noted in reader.new_jobs()] == [1]
    with jobs_file(state).open("ab") as file:
        file.write(b'led","seconds":1}\n')
    assert [noted.at_ms for noted in reader.new_jobs()] == [2]


def test_a_file_in_the_place_of_the_old_one_is_read_from_its_start(state):
    reader = JobsReader(state)
    note_job(state, job())
    note_job(state, job())
    assert len(reader.new_jobs()) == 2
    beside = jobs_file(state).with_name("other")
    beside.write_bytes(jobs_file(state).read_bytes().splitlines(keepends=True)[0])
    beside.replace(jobs_file(state))
    assert len(reader.new_jobs()) == 1


def test_a_training_is_not_lost_for_a_line_that_cannot_be_written(state, capsys):
    (state.root / "training").touch()
    with pytest.raises(StorageError, match="training"):
        note_job(state, job())
    end(state)
    assert "the training is not counted: Cannot make the folder" in capsys.readouterr().err
