"""Finding the tasks: one agent's calls belong together unless they clearly split, however many there are."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

pytest.importorskip("hdbscan")

from sklearn.metrics import adjusted_rand_score

from pipelines.cluster import ClusterOptions, dense_labels
from pipelines.cluster_find import Found, assign_calls, fit_model
from pipelines.cluster_nearest import references_of
from pipelines.cluster_source import CallFile, choose_sample
from pipelines.loop_rows import CuratedCall, write_rows
from registry.errors import BadInputError
from tests.unit.loop_calls import AGENTS, agent_of, calls_of, hidden, mixed, without_signature

SMALL = ClusterOptions(sample=400)


def found_in(calls: list[CuratedCall], options: ClusterOptions = SMALL) -> Found:
    with tempfile.TemporaryDirectory() as folder:
        file = CallFile(Path(folder) / "curated.jsonl")
        write_rows(file.path, calls)
        heads = file.heads()
        return assign_calls(file, heads, fit_model(file, heads, options, lambda _: None), lambda _: None)


def agreement(calls: list[CuratedCall], found: Found) -> float:
    return float(adjusted_rand_score([agent_of(call) for call in calls], found.numbers))


def test_each_agent_is_a_task_and_the_calls_outside_the_sample_are_placed_too():
    calls = mixed(250)
    found = found_in(calls)
    assert len(calls) == 1_000 and found.noise == 0
    assert len(found.tallies) == len(AGENTS)
    assert agreement(calls, found) == 1.0


def test_an_agent_that_writes_something_new_into_each_prompt_is_still_one_task():
    calls = [without_signature(call, "noted") for call in mixed(120)]
    found = found_in(calls)
    assert agreement(calls, found) >= 0.95


def test_two_versions_of_a_prompt_are_one_task():
    first = calls_of("triage", 100)
    second = [
        replace(call, signature="v2", system=call.system + " Be brief.") for call in calls_of("triage", 100, seed=1)
    ]
    calls = [*first, *second, *calls_of("weather", 100), *calls_of("kitchen", 100)]
    found = found_in(calls)
    assert len({int(number) for number in found.numbers[:200]}) == 1
    assert agreement(calls, found) == 1.0


def test_without_any_fixed_part_the_answers_form_parts_the_tasks():
    calls = [hidden(call) for call in mixed(120, agents=("triage", "weather"))]
    found = found_in(calls)
    purest = Counter((agent_of(call), int(number)) for call, number in zip(calls, found.numbers, strict=True))
    owners = Counter(number for _, number in purest if number >= 0)
    assert set(owners.values()) == {1}, "a cluster holds calls of two tasks"
    assert (found.numbers < 0).mean() < 0.05


def test_labels_seen_under_one_agent_stay_together_where_the_agent_is_not_known():
    calls = mixed(200, agents=("travel", "kitchen"))
    calls = [hidden(call) if at % 10 == 0 else call for at, call in enumerate(calls)]
    found = found_in(calls)
    hidden_ones = [at for at, call in enumerate(calls) if not call.signature]
    by_agent = {
        agent: {int(found.numbers[at]) for at in hidden_ones if agent_of(calls[at]) == agent}
        for agent in ("travel", "kitchen")
    }
    assert not by_agent["travel"] & by_agent["kitchen"] - {-1}


def test_answers_of_another_kind_under_one_agent_are_another_task():
    calls = calls_of("weather", 200)
    calls = [
        replace(call, answer_tool_calls=None, answer_text="I can only speak of the weather, sorry.") if at % 2 else call
        for at, call in enumerate(calls)
    ]
    found = found_in([*calls, *calls_of("triage", 100)])
    assert {int(number) for number in found.numbers[:200:2]}.isdisjoint(
        {int(number) for number in found.numbers[1:200:2]}
    )


def test_the_same_calls_give_the_same_clusters():
    calls = mixed(150)
    assert np.array_equal(found_in(calls).numbers, found_in(calls).numbers)


def test_too_few_calls_are_refused_with_the_mend():
    with pytest.raises(BadInputError, match=r"3 calls are too few.*--min-calls"):
        found_in(calls_of("triage", 3))


def test_a_busy_agent_leaves_room_for_the_others_in_the_sample():
    agents = np.repeat(np.array([0, 1], dtype=np.uint64), (9_000, 60))
    chosen = choose_sample(agents, np.arange(9_060, dtype=np.uint64), 500)
    assert chosen.sum() == 500
    assert chosen[9_000:].sum() == 60


def test_more_traffic_keeps_most_of_the_sample():
    rng = np.random.default_rng(1)
    ranks = rng.integers(0, 2**62, 4_400).astype(np.uint64)
    agents = np.zeros(4_400, dtype=np.uint64)
    kept = choose_sample(agents[:4_000], ranks[:4_000], 1_000) & choose_sample(agents, ranks, 1_000)[:4_000]
    assert kept.sum() > 850


@pytest.mark.parametrize("text", ["", "[", "{" * 5_000, "NaN", '{"a": 1e999}', "null", "🦀" * 3_000])
def test_odd_answers_and_texts_stop_nothing(text: str):
    calls = [replace(call, input=text, answer_text=text) for call in calls_of("triage", 60)]
    assert len(found_in([*calls, *calls_of("weather", 60)]).numbers) == 120


def test_references_stand_for_all_that_they_were_made_of_and_for_nothing_far_away():
    rng = np.random.default_rng(3)
    centres = np.eye(8, dtype=np.float32)[:4]
    numbers = np.repeat(np.arange(4), 3_000).astype(np.int32)
    vectors = (centres[numbers] + 0.02 * rng.standard_normal((12_000, 8))).astype(np.float32)
    references = references_of(vectors, numbers, distance=0.5)
    assert len(references.vectors) < 2_000
    found, strengths = references.nearest(vectors)
    assert np.array_equal(found, numbers) and strengths.min() > 0.8
    far, none = references.nearest(np.full((3, 8), 9.0, dtype=np.float32))
    assert set(far.tolist()) == {-1} and not none.any()


def test_references_are_bounded_and_still_right_where_calls_lie_scattered():
    rng = np.random.default_rng(4)
    numbers = np.repeat(np.arange(2), 4_000).astype(np.int32)
    vectors = (rng.standard_normal((8_000, 16)) * 0.1).astype(np.float32)
    vectors[:, 0] += numbers * 2.0
    references = references_of(vectors, numbers, distance=0.5)
    assert len(references.vectors) <= 4_000
    assert np.array_equal(references.nearest(vectors)[0], numbers)


def test_fewer_vectors_than_a_cluster_needs_are_noise():
    assert set(dense_labels(np.zeros((3, 4), dtype=np.float32), ClusterOptions()).tolist()) == {-1}
