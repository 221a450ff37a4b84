"""The project's own workload: repeatable, split by wording, full of personal data, and sound."""

import hashlib
import json
from collections import Counter

import pytest
from jsonschema_rs import validator_for
from stdnum import iban, luhn

from pipelines.own_workload.generate import FAMILIES, family_rows, generate
from pipelines.own_workload.open_questions import value_of
from pipelines.own_workload.wording import lines, of_split, table
from pipelines.workload import Workload
from registry.errors import BadInputError, WorkloadError


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path):
    first, again = generate(3, 60, tmp_path / "a"), generate(3, 60, tmp_path / "b")
    assert first == again
    assert [one["sha256"] for one in generate(4, 60, tmp_path / "c")] != [one["sha256"] for one in first]


def test_the_folder_reads_as_the_memory_does(tmp_path):
    manifest = generate(7, 30, tmp_path / "w")
    from_disk, own = Workload.load(tmp_path / "w"), Workload.own(7, 30)
    assert list(from_disk.rows()) == list(own.rows())
    assert from_disk.check() == sum(entry["rows"] for entry in manifest) == 30 * len(FAMILIES)
    for entry in manifest:
        assert hashlib.sha256((tmp_path / "w" / entry["file"]).read_bytes()).hexdigest() == entry["sha256"]


def test_generating_never_overwrites_what_it_did_not_write(tmp_path):
    generate(7, 6, tmp_path / "w")
    generate(8, 6, tmp_path / "w")
    (tmp_path / "w" / "thesis.doc").write_text("mine")
    with pytest.raises(BadInputError, match="choose another --out"):
        generate(9, 6, tmp_path / "w")
    with pytest.raises(BadInputError, match="at least 1"):
        generate(9, 0, tmp_path / "x")


def blocks(value):
    if isinstance(value, dict):
        return [block for one in value.values() for block in blocks(one)]
    return [value] if isinstance(value, str) and "\n" in value else []


@pytest.mark.parametrize("name", ["triage", "actions", "orders", "ledger_lines", "comments", "open_questions"])
def test_dev_wording_is_never_trains(name):
    for block in blocks(
        {key: value for key, value in table(name).items() if key not in ("system", "openings", "closings")}
    ):
        train, dev = of_split(block, "train"), of_split(block, "dev")
        assert dev
        assert not set(train) & set(dev)
        assert sorted(train + dev) == sorted(lines(block))


@pytest.mark.parametrize("family", list(FAMILIES))
def test_rows_are_varied_and_both_splits_are_there(family):
    rows = list(family_rows(family, 7, 600))
    splits = Counter(row["split"] for row in rows)
    assert splits == {"train": 500, "dev": 100}
    assert len({row["input"] for row in rows}) > 400
    answers = Counter(json.dumps(row["expected"], sort_keys=True) for row in rows if row["expected"] is not None)
    assert len(answers) >= 5


@pytest.mark.parametrize("family", list(FAMILIES))
def test_expected_answers_fit_the_agents_own_schema(family):
    app = FAMILIES[family].app
    for row in family_rows(family, 11, 120):
        if app["response_format"]:
            validator_for(app["response_format"]["json_schema"]["schema"]).validate(row["expected"])
        if app["tools"]:
            tools = {tool["function"]["name"]: tool["function"]["parameters"] for tool in app["tools"]}
            validator_for(tools[row["expected"]["name"]]).validate(row["expected"]["arguments"])


def test_tool_arguments_are_copied_word_for_word():
    for row in family_rows("office_actions", 5, 300):
        for value in row["expected"]["arguments"].values():
            assert value in row["input"]


def test_personal_data_is_in_the_text_and_has_right_check_digits():
    seen = Counter()
    for family in FAMILIES:
        for row in family_rows(family, 5, 600):
            for kind, value in row.get("personal", ()):
                assert value in row["input"]
                seen[kind] += 1
                if kind == "iban":
                    assert iban.is_valid(value, check_country=False)
                if kind == "card":
                    assert luhn.is_valid(value.replace(" ", "").replace("-", ""))
    assert min(seen[kind] for kind in ("name", "email", "phone", "iban", "card", "street")) >= 15


def test_card_numbers_are_never_part_of_an_expected_answer():
    for row in family_rows("order_forms", 5, 600):
        for kind, value in row["personal"]:
            assert kind != "card" or value not in json.dumps(row["expected"])


@pytest.mark.parametrize(
    ("formula", "value"), [("2 + 3 * 4", 14), ("(2 + 3) * 4", 20), ("9 - 2 - 3", 4), ("7", 7), ("2 * (3 + 4) - 1", 13)]
)
def test_sums_are_worked_out(formula, value):
    assert value_of(formula) == value


def test_the_name_of_the_own_workload_is_checked():
    assert Workload.parse("own:3:6").check() == 6 * len(FAMILIES)
    for text in ("own:x", "own:1:2:3", "own:"):
        with pytest.raises(WorkloadError, match="own:SEED:ROWS"):
            Workload.parse(text)
