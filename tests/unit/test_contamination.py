"""Contamination: what specialists are judged on is not learnt from."""

import msgspec
import pytest

from pipelines.contamination import EvalInput, EvalInputs, dataset_splits, read_inputs
from policies.redaction import Redactor
from registry.errors import BadInputError

LONG = "the parcel with the blue lamp was left at the wrong door on monday and nobody has answered since"


def evaluated(*texts, name="held out", call_ids=()):
    known = EvalInputs()
    known.add(name, [EvalInput(text, call_ids) for text in texts])
    return known


def test_the_same_words_are_found_whatever_their_case_and_punctuation():
    known = evaluated("Card not working?", LONG)
    assert known.source_of("c", "card NOT working") == "held out"
    assert known.source_of("c", "card not working today") is None


def test_a_value_makes_another_text():
    assert evaluated("refund order 17").source_of("c", "refund order 18") is None


def test_a_quoted_evaluation_input_is_found_and_a_shared_phrase_is_not():
    known = evaluated(LONG)
    assert known.source_of("c", f"My neighbour writes: {LONG} - what should I do about that now?") == "held out"
    assert known.source_of("c", " ".join(LONG.split()[:16])) == "held out"
    assert known.source_of("c", f"{' '.join(LONG.split()[:9])} and so I went to the shop to ask for another") is None


def test_boilerplate_of_a_set_does_not_count():
    frame = "please put the following order into the form and answer with nothing but the json of it"
    known = evaluated(*(f"{frame}: {n} boxes of number {n * 7} for shop {n * 3}" for n in range(200)))
    assert known.source_of("c", f"{frame}: 900 crates of paint for Anna") is None
    assert known.source_of("c", f"{frame}: 5 boxes of number 35 for shop 15!") == "held out"


def test_an_address_meets_its_placeholder():
    raw = "please send the invoice for march to nora.petrov@corp.de before friday noon or call me back"
    known = evaluated(raw)
    recorded = Redactor().redact(raw).text
    assert "<EMAIL_1>" in recorded
    assert known.source_of("c", recorded.replace("<EMAIL_1>", "<EMAIL_4>")) == "held out"


def test_a_call_that_is_in_the_split_itself_is_no_contamination():
    known = evaluated(LONG, call_ids=("mine", "also-mine"))
    assert known.source_of("mine", LONG) is None
    assert known.source_of("also-mine", LONG) is None
    assert known.source_of("anothers", LONG) == "held out"


def test_nothing_to_hold_against_lets_all_pass():
    assert EvalInputs().source_of("c", LONG) is None


def test_texts_without_words_are_not_all_the_same():
    assert evaluated("???").source_of("c", "!!!") is None
    assert evaluated("???").source_of("c", "???") == "held out"


def test_each_form_of_file_is_read(tmp_path):
    rows = [
        {"input": "one"},
        {"text": "two", "split": "dev"},
        {"text": "trained on", "split": "train"},
        {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "three"}]},
        {"prompt": "four", "call_id": "c4", "also": ["c5"]},
    ]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(map(msgspec.json.encode, rows)) + b"\n\n")
    (tmp_path / "b.txt").write_text("five\n\nsix\n")
    found = [*read_inputs(tmp_path / "a.jsonl"), *read_inputs(tmp_path / "b.txt")]
    assert [one.text for one in found] == ["one", "two", "three", "four", "five", "six"]
    assert found[3].call_ids == ("c4", "c5")


def test_a_datasets_prompt_is_taken_out_of_its_template(tmp_path):
    version = tmp_path / "labels" / "1.0.0"
    version.mkdir(parents=True)
    (version / "manifest.json").write_bytes(msgspec.json.encode({"template": {"prompt": "<s>{input}</s>"}}))
    for part in ("train", "dev", "test"):
        (version / f"{part}.jsonl").write_bytes(msgspec.json.encode({"prompt": f"<s>{part} text</s>"}))
    files = list(dataset_splits(tmp_path))
    assert [file.name for file in files] == ["dev.jsonl", "test.jsonl"]
    assert [one.text for file in files for one in read_inputs(file)] == ["dev text", "test text"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b'{"input": "a"}\n{"input"', ":2: "),
        (b'{"a": 1}\n', ":1: has none of"),
        (b"[1]\n", ":1: has none"),
        (b"\xff\xfe", "UTF-8"),
    ],
)
def test_a_bad_file_is_named_with_its_line(tmp_path, content, told):
    (tmp_path / "bad.jsonl").write_bytes(content)
    with pytest.raises(BadInputError, match=told) as caught:
        list(read_inputs(tmp_path / "bad.jsonl"))
    assert "bad.jsonl" in str(caught.value)
