import hashlib
import json

import pytest

from pipelines.fine_tune import PEFTFineTunePipeline
from pipelines.provenance import read_provenance
from pipelines.training_config import PRESETS, check, findings_of, least_steps, make_config
from pipelines.training_data import (
    IGNORED,
    Pair,
    bucketed_order,
    fitting,
    padded_tokens,
    read_data,
    shown,
    tokens_of,
)
from registry.errors import BadInputError, ConfigError, StorageError
from tests.unit.tiny_model import write_pairs


@pytest.fixture
def paths(tmp_path):
    data = write_pairs(tmp_path / "data.jsonl", 150)
    return {"base_model": "some-model", "training_data_path": str(data), "output_dir": str(tmp_path / "out")}


def test_the_workflows_documented_calls_work_as_written(paths, tmp_path):
    pipeline = PEFTFineTunePipeline()
    config = pipeline.create_training_config(
        base_model="microsoft/DialoGPT-medium",
        training_data_path=paths["training_data_path"],
        output_dir=str(tmp_path / "adapters" / "customer_support_v1"),
        lora_rank=16,
        num_epochs=3,
        batch_size=4,
        learning_rate=2e-4,
    )
    assert pipeline.validate_training_config(config) == []
    provenance = pipeline.generate_provenance_record(config, "job_2025_0906_001")
    pipeline.save_provenance_record(provenance, config.output_dir)
    stored = read_provenance(tmp_path / "adapters" / "customer_support_v1" / "provenance.json")
    assert stored == provenance
    assert {"job_id", "timestamp", "config", "content_hash", "pipeline_version", "framework"} <= stored.keys()
    assert stored["framework"] == "peft-lora"
    expected = hashlib.sha256(json.dumps(config.to_dict(), sort_keys=True).encode()).hexdigest()
    assert stored["content_hash"] == expected
    assert config.lora_config.to_dict() == {
        "r": 16,
        "lora_alpha": 32,
        "lora_dropout": 0.05,
        "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"],
        "bias": "none",
        "task_type": "CAUSAL_LM",
    }


def test_the_defaults_are_the_workflows(paths):
    config = PEFTFineTunePipeline().create_training_config(**paths)
    assert (config.num_epochs, config.batch_size, config.learning_rate) == (3, 4, 2e-4)
    assert (config.warmup_steps, config.max_sequence_tokens) == (100, 512)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_changes_the_defaults_and_what_is_given_changes_the_preset(paths, preset):
    assert make_config(preset, **paths).learning_rate == PRESETS[preset]["learning_rate"]
    assert make_config(preset, **paths, learning_rate=1e-4).learning_rate == 1e-4


def test_all_errors_come_at_once_each_with_its_path_and_mend(tmp_path):
    (tmp_path / "a-file").write_text("")
    config = make_config(
        base_model="./nowhere",
        training_data_path=str(tmp_path / "no.jsonl"),
        output_dir=str(tmp_path / "a-file" / "out"),
        lora_rank=0,
        lora_dropout=1.0,
        target_modules=["q_proj", "v_porj"],
        num_epochs=0,
        batch_size=0,
        learning_rate=float("nan"),
        max_examples=0,
        threads=0,
    )
    found = findings_of(config)
    paths = [one.partition(":")[0] for one in found]
    assert paths == [
        "training_data_path",
        "base_model",
        "output_dir",
        "lora_config.rank",
        "lora_config.dropout",
        "lora_config.target_modules[1]",
        "num_epochs",
        "batch_size",
        "learning_rate",
        "threads",
    ]
    assert "did you mean 'v_proj'?" in found[5]
    assert all(";" in one or "did you mean" in one for one in found)
    with pytest.raises(ConfigError) as error:
        check(config)
    assert error.value.message.splitlines() == found


def test_a_setting_that_does_not_exist_or_has_another_type_is_refused_with_the_nearest(paths):
    with pytest.raises(ConfigError, match=r"learning_rat: there is no such setting \(did you mean 'learning_rate'\?\)"):
        make_config(**paths, learning_rat=1.0)
    with pytest.raises(ConfigError, match=r"\$\.batch_size"):
        make_config(**paths, batch_size="many")
    with pytest.raises(ConfigError, match="quick, balanced, thorough"):
        make_config("fast", **paths)


def test_equal_settings_have_equal_digests_wherever_they_write_to(paths):
    config = make_config("quick", **paths)
    assert config.digest == make_config("quick", **{**paths, "output_dir": "elsewhere"}, threads=3).digest
    assert config.digest != make_config("quick", **paths, seed=18).digest


def test_bad_data_is_told_line_by_line_in_the_validation(paths, tmp_path):
    lines = ['{"input": "a", "output": "b"}', "", "no json", '{"input": "a"}', "[]", '{"text": "x"}']
    bad = tmp_path / "bad.jsonl"
    bad.write_text("\n".join(lines))
    pipeline = PEFTFineTunePipeline()
    found = pipeline.validate_training_config(make_config(**{**paths, "training_data_path": str(bad)}))
    assert [one.partition("bad.jsonl:")[2][:1] for one in found] == ["3", "4", "5", "6"]
    assert "`output` must be text" in found[1] and "neither `input` nor `prompt`" in found[3]
    few = write_pairs(tmp_path / "few.jsonl", 99)
    (only,) = pipeline.validate_training_config(make_config(**{**paths, "training_data_path": str(few)}))
    assert "99 examples, and at least 100 are needed" in only


def test_a_file_is_split_alike_each_time_and_prompts_end_their_line(paths):
    path = paths["training_data_path"]
    from pathlib import Path

    first, again = read_data(Path(path)), read_data(Path(path))
    assert (first.train, first.dev) == (again.train, again.dev)
    assert first.dev and len(first.train) + len(first.dev) == 150
    assert all(pair.prompt.endswith("\n") for pair in first.train)


def test_a_changed_provenance_record_is_noticed(paths, tmp_path):
    pipeline = PEFTFineTunePipeline()
    path = pipeline.save_provenance_record(pipeline.generate_provenance_record(make_config(**paths), "j"), tmp_path)
    path.write_text(path.read_text().replace('"seed": 17', '"seed": 18'))
    with pytest.raises(StorageError, match="changed after it was written"):
        read_provenance(path)
    with pytest.raises(BadInputError, match="needs an id"):
        pipeline.generate_provenance_record(make_config(**paths), " ")


def letters(text):
    return [ord(char) for char in text]


def test_only_the_completion_and_its_end_are_learnt():
    found = tokens_of(Pair("ask\n", "yes"), lambda text: [1, *letters(text)], letters, 2)
    assert found.input_ids == [1, *letters("ask\nyes"), 2]
    assert found.labels == [IGNORED] * 5 + [*letters("yes"), 2]
    assert found.learnt == 4
    assert shown(found, lambda ids: "".join(map(chr, ids))) == "\x01ask\n⟦yes\x02⟧"


def test_examples_that_are_too_long_are_left_out_not_cut():
    every = [tokens_of(Pair("a" * n, "b"), letters, letters, 2) for n in range(1, 9)]
    assert [len(one.input_ids) for one in fitting(every, 6)] == [3, 4, 5, 6]


def test_batches_hold_examples_of_like_length_in_an_order_of_their_own_each_epoch():
    lengths = [n % 40 + 5 for n in range(203)]
    order = bucketed_order(lengths, 8, seed=1)
    assert sorted(order) == list(range(203))
    assert order == bucketed_order(lengths, 8, seed=1) != bucketed_order(lengths, 8, seed=2)
    assert padded_tokens(lengths, 8, seed=1) < 1.1 * sum(lengths)
    firsts = [lengths[order[at]] for at in range(0, 200, 8)]
    assert firsts != sorted(firsts)


def test_steps_are_counted_as_the_trainer_does(paths):
    config = make_config(**paths, batch_size=8, num_epochs=2, gradient_accumulation_steps=2)
    assert [least_steps(n, config) for n in (1, 8, 16, 17, 100)] == [2, 2, 2, 4, 14]
    with pytest.raises(BadInputError, match="nothing to train on"):
        least_steps(0, config)
