"""A training in another process is on the gateway's metrics page, with those that ended before it started."""

from observations.state import StatePaths
from observations.training_jobs import TrainingJob, note_job


async def test_trainings_of_other_processes_are_counted(make_client, tmp_path) -> None:
    state = StatePaths(tmp_path / "state").create()
    note_job(state, TrainingJob(at_ms=1, outcome="succeeded", seconds=230.0))
    client = await make_client()
    for _ in range(2):
        text = (await client.get("/metrics")).text
    assert 'journeyman_training_jobs_total{outcome="succeeded"} 1.0' in text
    note_job(state, TrainingJob(at_ms=2, outcome="failed", seconds=3.0))
    text = (await client.get("/metrics")).text
    assert 'journeyman_training_jobs_total{outcome="failed"} 1.0' in text
    assert 'journeyman_training_seconds_bucket{le="300.0",outcome="succeeded"} 1.0' in text
