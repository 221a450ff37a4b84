import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.dataset_contents import Choice, calls_of, choose, dataset_name
from pipelines.dataset_split import PARTS, SplitShares
from pipelines.datasets import DatasetStore, DatasetUri
from pipelines.loop_rows import Assignment
from registry.errors import BadInputError, NotFoundError, StorageError
from registry.identifiers import digest_of
from tests.unit.curated_calls import FORMAT, TOOL, calls, curated


@pytest.fixture
def store(tmp_path):
    return DatasetStore(tmp_path, "shop")


def lines(dataset):
    return [row for part in PARTS for row in dataset.rows(part)]


def test_a_dataset_holds_each_believed_call_once_as_the_specialist_will_be_asked_it(store):
    dataset = store.add("bank", choose("bank", calls(200), Choice()))
    assert dataset.uri == "ds://shop/bank@1.0.0"
    rows = lines(dataset)
    assert sorted(row.call_id for row in rows) == [call.call_id for call in calls(200)]
    first = min(rows, key=lambda row: row.call_id)
    assert first.prompt == "what is my balance for savings a\n"
    assert first.completion == '{"intent":"balance"}'
    assert dataset.manifest.template.answer == "json"
    assert dataset.manifest.template.signature == "s" * 64
    assert {row.shape for row in rows} == set(dataset.shapes())


def test_the_same_calls_in_another_order_are_the_same_version(store):
    first = store.add("bank", choose("bank", calls(150), Choice()))
    again = store.add("bank", choose("bank", calls(150)[::-1], Choice()))
    assert (again.uri, again.sha256, again.folder) == (first.uri, first.sha256, first.folder)


def test_more_calls_make_a_minor_version_another_task_a_major_one(store):
    store.add("bank", choose("bank", calls(150), Choice()))
    assert store.add("bank", choose("bank", calls(180), Choice())).uri.endswith("@1.1.0")
    changed = calls(180, signature="t" * 64, response_format=FORMAT | {"type": "json_object"})
    assert store.add("bank", choose("bank", changed, Choice())).uri.endswith("@2.0.0")
    assert [one.uri[-5:] for one in store.versions("bank")] == ["1.0.0", "1.1.0", "2.0.0"]


def test_a_call_stays_in_its_part_when_others_come_and_when_its_own_text_changes(store):
    before = store.add("bank", choose("bank", calls(150), Choice())).parts_of_calls()
    reworded = [curated(n, input=f"quite other words {n * 'z'}") for n in range(150)] + calls(400)[150:]
    choice = Choice(earlier=store.earlier_parts("bank"))
    after = store.add("bank", choose("bank", reworded, choice)).parts_of_calls()
    assert {call: after[call] for call in before} == before
    assert set(before.values()) == set(PARTS)


@given(st.sets(st.integers(0, 399), min_size=250))
@settings(max_examples=20, deadline=None)
def test_the_part_of_a_call_does_not_depend_on_the_calls_beside_it(numbers):
    everything = choose("bank", calls(400), Choice()).parts
    some = choose("bank", [curated(n) for n in numbers], Choice()).parts
    for part in PARTS:
        assert {row.call_id for row in some[part]} <= {row.call_id for row in everything[part]}


def test_no_text_is_both_trained_on_and_tested_on():
    repeated = calls(150) + [
        curated(n, call_id=f"again-{n}", input=f"{curated(n).input.upper()}!!") for n in range(150)
    ]
    parts = choose("bank", repeated, Choice()).parts
    plain = {part: {row.prompt.lower().strip("!\n") for row in rows} for part, rows in parts.items()}
    assert not (plain["train"] & plain["test"] or plain["train"] & plain["dev"] or plain["dev"] & plain["test"])


def test_repeats_are_one_line_that_names_every_call_and_a_correction_beats_the_rest(store):
    extra = [curated(0, call_id="again", at_ms=5), curated(1, call_id="wrong"), curated(1, call_id="wrong-2")]
    extra[1:] = [curated(1, call_id=c.call_id, answer_text='{"intent":"transfer"}') for c in extra[1:]]
    fixed = curated(2, call_id="fixed", answer_text='{"intent":"balance"}', answer_source="correction")
    dataset = store.add("bank", choose("bank", [*calls(150), *extra, fixed], Choice()))
    by_call = {call_id: row for row in lines(dataset) for call_id in row.call_ids}
    assert by_call["again"] is by_call["chatcmpl-00000"]
    assert by_call["wrong"].completion == '{"intent":"transfer"}'
    assert by_call["fixed"].completion == '{"intent":"balance"}'
    assert "chatcmpl-00001" not in by_call and "chatcmpl-00002" not in by_call
    assert dataset.manifest.dropped == {"contradicted by another answer": 2}


def test_where_people_judged_enough_examples_test_and_shadow_are_drawn_from_those_alone():
    told = [
        curated(n, answer_source="correction" if n % 8 else "feedback") if n % 2 else curated(n) for n in range(400)
    ]
    parts = choose("bank", told, Choice()).parts
    assert all(row.is_judged for part in ("test", "shadow") for row in parts[part])
    assert not any(row.is_judged for part in ("train", "dev") for row in parts[part])
    assert len(parts["shadow"]) > len(parts["test"]) > 60 and parts["dev"]
    few = choose("bank", [*told[:280], *calls(400)[280:]], Choice()).parts
    assert any(row.is_judged for row in few["train"]) and not all(row.is_judged for row in few["shadow"])
    everyone = choose("bank", calls(400, answer_source="feedback"), Choice()).parts
    assert len(everyone["train"]) > 100 and len(everyone["test"] + everyone["shadow"]) < 250


def test_what_was_trained_on_before_stays_there_although_a_person_judged_it_since(store):
    before = store.add("bank", choose("bank", calls(150), Choice())).parts_of_calls()
    judged = [curated(n, answer_source="feedback") for n in range(200)] + calls(500)[200:]
    after = store.add("bank", choose("bank", judged, Choice(earlier=store.earlier_parts("bank")))).parts_of_calls()
    assert {call: after[call] for call in before} == before


def test_a_version_from_before_there_was_a_shadow_part_still_opens_and_the_next_is_a_major_one(store):
    dataset = store.add("bank", choose("bank", calls(150), Choice(shares=SplitShares(shadow=0.0))))
    as_format_1(dataset.folder)
    old = store.open(dataset.uri)
    assert list(old.rows("shadow")) == [] and old.sizes()["shadow"] == 0 and old.manifest.shares.shadow == 0
    assert len(store.earlier_parts("bank")) == 150
    again = store.add("bank", choose("bank", calls(400), Choice(earlier=store.earlier_parts("bank"))))
    assert again.uri.endswith("@2.0.0") and 0 < again.sizes()["shadow"] < 80


def as_format_1(folder):
    """Write a version's manifest as releases without a shadow part did."""
    path = folder / "manifest.json"
    raw = json.loads(path.read_text())
    del raw["files"]["shadow.jsonl"], raw["shares"]["shadow"]
    raw["format_version"] = 1
    raw["sha256"] = digest_of(raw | {"sha256": "", "created_at_ms": 0})
    for file in (path, folder / "shadow.jsonl"):
        file.chmod(0o600)
    (folder / "shadow.jsonl").unlink()
    path.write_text(json.dumps(raw))


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"answer_text": '{"intent":"dance"}'}, "malformed: schema"),
        ({"answer_text": "the balance"}, "its answer is no json"),
        ({"answer_text": None}, "its answer is no json"),
        ({"input": " "}, "no text in the last user message"),
        ({"signature": "x" * 64}, "another signature"),
    ],
)
def test_a_call_whose_answer_would_not_be_believed_is_left_out_with_the_reason(changed, reason):
    contents = choose("bank", [*calls(150), curated(900, **changed)], Choice())
    assert contents.dropped == {reason: 1}


def test_tool_calls_are_learnt_as_text_and_checked_against_the_tools(store):
    def rated(number, stars):
        answer = [{"name": "rate_book", "arguments": {"stars": stars}}]
        return curated(number, tools=[TOOL], response_format=None, answer_text=None, answer_tool_calls=answer)

    contents = choose("bank", [*(rated(n, n % 5) for n in range(150)), rated(151, "five")], Choice())
    assert contents.template.answer == "tool_call"
    assert contents.dropped == {"malformed: tool_arguments": 1}
    row = next(store.add("bank", contents).rows("train"))
    assert json.loads(row.completion)["name"] == "rate_book"


def test_a_cluster_of_several_signatures_has_a_template_for_any():
    mixed = [curated(n, signature=("a" if n % 2 else "b") * 64) for n in range(150)]
    assert choose("bank", mixed, Choice()).template.signature is None


def test_too_few_examples_are_refused_with_what_was_left_out():
    with pytest.raises(
        BadInputError, match=r"has 40 different usable examples, and 100 are needed.*malformed: schema 9"
    ):
        choose("bank", [*calls(40), *(curated(n, answer_text='{"intent":"x"}') for n in range(50, 59))], Choice())
    with pytest.raises(BadInputError, match="No curated call belongs to the cluster 'bank'"):
        choose("bank", [], Choice())


def test_an_assignment_overrides_what_the_call_was_classified_as():
    rows = [Assignment("chatcmpl-00000", "noise", 0.0), Assignment("chatcmpl-00001", "t-1", 0.9)]
    assert [c.call_id for c in calls_of("bank", calls(4), rows)] == ["chatcmpl-00002", "chatcmpl-00003"]
    assert [c.call_id for c in calls_of("t-1", calls(4), rows)] == ["chatcmpl-00001"]


@pytest.mark.parametrize("name", ["train.jsonl", "test.jsonl", "shadow.jsonl", "shapes.json", "manifest.json"])
def test_a_changed_byte_is_found_and_the_file_named(store, name):
    dataset = store.add("bank", choose("bank", calls(150), Choice()))
    path = dataset.folder / name
    path.chmod(0o600)
    path.write_bytes(path.read_bytes().replace(b"balance", b"balanse", 1).replace(b"default", b"defaults", 1))
    if name == "manifest.json":
        path.write_text(path.read_text().replace('"cluster": "bank"', '"cluster": "bunk"'))
    with pytest.raises(StorageError, match=name):
        store.open(dataset.uri)


def test_what_an_erasure_must_remove_is_found_by_call_also_where_it_was_a_repeat(store):
    store.add("bank", choose("bank", [*calls(150), curated(0, call_id="again", at_ms=5)], Choice()))
    store.add("bank", choose("bank", calls(180), Choice()))
    assert store.holding(["again"]) == {"ds://shop/bank@1.0.0": ("again",)}
    both = {"ds://shop/bank@1.0.0": ("chatcmpl-00003",), "ds://shop/bank@1.1.0": ("chatcmpl-00003",)}
    assert store.holding(["chatcmpl-00003", "nowhere"]) == both


def test_the_card_shows_digest_parts_sources_and_an_example(store):
    dataset = store.add("bank", choose("bank", calls(150), Choice()), {"run": "r1"})
    text = (dataset.folder / "card.md").read_text()
    assert dataset.uri in text and dataset.sha256 in text and "run `r1`" in text and "large 150" in text
    assert next(dataset.rows("train")).prompt in text


def test_a_dataset_that_is_not_there_is_told_with_those_that_are(store):
    store.add("bank", choose("bank", calls(150), Choice()))
    with pytest.raises(NotFoundError, match=r"no dataset ds://shop/bank@3\.0\.0.*ds://shop/bank@1\.0\.0"):
        store.open("ds://shop/bank@3.0.0")
    with pytest.raises(NotFoundError, match="not ds://other/bank"):
        store.open("ds://other/bank@1.0.0")


@pytest.mark.parametrize("text", ["", "bank", "ds://bank@1.0.0", "ds://a/../b@1.0.0", "ds://a/b@1", "ds://a/b@1.0.0\n"])
def test_what_is_no_dataset_is_refused(text):
    with pytest.raises(BadInputError, match="ds://project/name"):
        DatasetUri.parse(text)


def test_a_cluster_of_any_name_has_a_dataset_name():
    assert [dataset_name(one) for one in ("t-01ab", "Desk/Triage@2", "..", "ticket_triage")] == [
        "t-01ab",
        "desk-triage-2",
        "unnamed",
        "ticket_triage",
    ]
