"""SIGKILL under load: a writer and a loader die at random moments and no acknowledged record is lost."""

import random

from benchmarks.kills import kill_writer_rounds
from observations.state import StatePaths


def test_ten_kills_lose_nothing_and_the_store_always_opens(tmp_path):
    said = []
    result = kill_writer_rounds(StatePaths(tmp_path / "state"), 10, random.Random(7), said.append)
    assert result.acknowledged > 100
    assert result.loader_kills > 0
    assert result.opened == 10
    assert (result.lost, result.doubled, result.damaged, result.quarantined) == (0, 0, 0, 0)
    assert said[-1].startswith("10/10 kills")
