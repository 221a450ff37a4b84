"""What of a call the clustering sees."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace

pytest.importorskip("sklearn")

from pipelines.cluster_features import FeatureModel
from pipelines.cluster_tokens import (
    answer_keys,
    fixed_key_of,
    fixed_tokens,
    form_tokens,
    kind_of,
    leading_verbs,
    value_tokens,
)
from tests.unit.loop_calls import calls_of, hidden, mixed

CALL = calls_of("triage", 1)[0]


@pytest.mark.parametrize(
    ("answer", "kind"), [('{"a": 1}', "json"), ("[1]", "json"), ("{ not json", "text"), ("hello", "text"), ("", "text")]
)
def test_the_kind_of_an_answer_is_read_off_it(answer: str, kind: str):
    assert kind_of(replace(CALL, answer_text=answer)) == kind


def test_form_holds_keys_and_tools_and_never_values():
    nested = replace(CALL, answer_text='{"who": {"name": "Ada Lovelace"}, "tags": [{"id": 7}]}')
    assert form_tokens(nested) == ["kind:json", "key:who", "key:who.name", "key:tags", "key:tags.id"]
    called = replace(CALL, answer_tool_calls=[{"name": "book_room", "arguments": '{"city": "Rome"}'}])
    assert form_tokens(called) == ["kind:tool_call", "tool:book_room", "verb:book", "argument:city"]


def test_values_are_short_strings_of_the_top_level():
    call = replace(CALL, answer_text='{"intent": "refund", "labels": ["a", "b"], "note": "' + "x" * 200 + '", "n": 3}')
    assert value_tokens(call) == ["intent=refund", "labels=a", "labels=b"]
    assert answer_keys(call) == ["intent", "labels", "note", "n"]


def test_verbs_are_what_sentences_begin_with():
    assert leading_verbs("Read the message. Answer with JSON.\nName the intent") == ["read", "answer", "name"]


def test_allowed_values_of_a_response_format_belong_to_the_fixed_part():
    form = {"json_schema": {"schema": {"properties": {"intent": {"enum": ["refund", "parcel"]}}}}}
    call = replace(CALL, signature="", system="", response_format=form)
    assert {"schema:refund", "schema:parcel", "schema:intent"} <= set(fixed_tokens(call))
    assert fixed_key_of(call) == fixed_key_of(replace(call, input="another"))


def test_a_call_without_fixed_part_has_no_key():
    assert fixed_key_of(hidden(CALL)) == ""


def test_vectors_of_one_agent_are_nearer_than_those_of_two():
    calls = mixed(60)
    model, seen = FeatureModel.fit(calls)
    vectors = model.vectors(calls)
    assert np.allclose(vectors, seen.vectors, atol=1e-5)
    agents = np.array([call.signature for call in calls])
    distances = np.linalg.norm(vectors[:, None] - vectors[None], axis=2)
    same = agents[:, None] == agents[None]
    assert distances[same].max() < distances[~same].min()


def test_vectors_do_not_depend_on_what_else_is_in_the_batch():
    calls = mixed(40)
    model, _ = FeatureModel.fit(calls)
    together = model.vectors(calls)
    one_by_one = np.vstack([model.vectors([call]) for call in calls])
    assert np.allclose(together, one_by_one, atol=1e-5)


def test_labels_of_one_agent_stand_together():
    calls = mixed(120, agents=("travel", "kitchen"))
    model, _ = FeatureModel.fit(calls)
    booked = [hidden(call) for call in calls if "book_" in str(call.answer_text)]
    cooked = [hidden(call) for call in calls if "book_" not in str(call.answer_text)]
    between = model.vectors(booked).mean(axis=0) - model.vectors(cooked).mean(axis=0)
    assert np.linalg.norm(between) > 0.4


def test_a_call_says_how_much_of_its_agent_the_model_knows():
    model, seen = FeatureModel.fit(mixed(80, agents=("triage", "travel", "kitchen")))
    assert seen.known.min() > 0.95
    assert model.features(calls_of("weather", 20)).known.max() < 0.6
