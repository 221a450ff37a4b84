"""Training itself, on a model that is small enough for a test."""

import json

import pytest

from pipelines.training_config import make_config
from pipelines.training_data import read_data
from registry.errors import EnvironmentFaultError, GateFailedError
from tests.unit.tiny_model import write_pairs, write_tiny_model

pytest.importorskip("trl", reason="the training extra is not installed")
torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return read_data(write_pairs(tmp_path_factory.mktemp("data") / "pairs.jsonl", 160))


def config_for(model, output, **changed):
    settings = {"num_epochs": 4, "learning_rate": 0.01, "batch_size": 16, "threads": 1, "warmup_steps": 2} | changed
    return make_config(base_model=str(model), training_data_path=str(model), output_dir=str(output), **settings)


def train(config, data, on_progress=lambda _: None):
    from pipelines.sft import train as train_now

    # The data are given; the config's path is only checked to be there.
    return train_now(config, data, on_progress, lambda _: None)


@pytest.fixture(autouse=True)
def data_folder_counts_as_a_dataset(model):
    (model / "manifest.json").write_text("{}")


@pytest.fixture(scope="module")
def trained(model, data, tmp_path_factory):
    (model / "manifest.json").write_text("{}")
    seen = []
    result = train(config_for(model, tmp_path_factory.mktemp("out")), data, seen.append)
    return result, seen


def test_the_loss_falls_and_every_step_is_told(trained, data):
    result, seen = trained
    assert min(result.dev_losses) == result.dev_losses[-1] < result.dev_losses[0] - 0.3
    assert [one.step for one in seen if one.loss is None and one.dev_loss is None] == list(range(1, result.steps + 1))
    assert seen[-1].steps == result.steps == 4 * -(-len(data.train) // 16)
    assert result.examples == len(data.train) and result.left_out == 0 and not result.stopped_early


def test_the_adapter_is_peft_s_and_names_its_base_by_name(trained, model):
    folder = trained[0].adapter
    assert sorted(path.name for path in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (16, 32, 0.05)
    assert set(config["target_modules"]) == {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert config["base_model_name_or_path"] == str(model)
    assert not (folder.parent / "checkpoints").exists()


def test_the_engine_decodes_the_canary_as_the_training_did(trained, model):
    import asyncio

    from pipelines.asking import Asking, canary_holds
    from pipelines.evaluate import EngineSpec, engine_ask, engine_of
    from registry.entries import TemplateEntry

    canary = trained[0].canary
    if canary is None:
        pytest.skip("this small model did not learn to end an answer")

    async def decode(engine):
        engine.start()
        return await canary_holds(lambda one: engine_ask(engine, one), Asking("a", TemplateEntry(), 1), canary)

    with engine_of(EngineSpec(str(model), "a", trained[0].adapter), lambda _: None) as engine:
        assert asyncio.run(decode(engine))


def test_the_same_config_and_data_train_the_same_adapter(trained, model, data, tmp_path):
    from safetensors.torch import load_file

    again = train(config_for(model, tmp_path), data)
    first, second = (load_file(one / "adapter_model.safetensors") for one in (trained[0].adapter, again.adapter))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(bool(first[name].abs().sum() > 0) for name in first if "lora_B" in name)


class _CutError(Exception):
    pass


def test_a_training_that_was_cut_goes_on_and_ends_as_one_that_was_not(trained, model, data, tmp_path):
    from safetensors.torch import load_file

    def cut(progress):
        if progress.step == 25:
            raise _CutError

    with pytest.raises(_CutError):
        train(config_for(model, tmp_path), data, cut)
    seen = []
    result = train(config_for(model, tmp_path), data, seen.append)
    assert 1 < seen[0].step <= 25
    assert result.steps == trained[0].steps
    whole, resumed = (load_file(one / "adapter_model.safetensors") for one in (trained[0].adapter, result.adapter))
    assert all(torch.allclose(whole[name], resumed[name], atol=1e-4) for name in whole)


def test_checkpoints_of_another_config_are_not_gone_on_from(model, data, tmp_path):
    def cut(progress):
        if progress.step == 12:
            raise _CutError

    with pytest.raises(_CutError):
        train(config_for(model, tmp_path), data, cut)
    seen = []
    train(config_for(model, tmp_path, seed=5, num_epochs=1), data, seen.append)
    assert seen[0].step == 1


def test_the_loss_is_trl_s_own_by_a_shorter_way(model, data, tmp_path):
    from trl import SFTTrainer

    from pipelines import sft

    config = config_for(model, tmp_path, precision="float32")
    base = sft.load_base(config, lambda _: None)
    rows, _ = sft._tokenized(data.train[:8], base, config)
    trainer = sft.make_trainer(sft.with_adapter(base, config), base, config, (rows, rows))
    trainer.model.eval()
    for items in (None, torch.tensor(40)):
        batch = trainer.data_collator([{"input_ids": one.input_ids, "labels": one.labels} for one in rows])
        ours = trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=items)
        theirs = SFTTrainer.compute_loss(trainer, trainer.model, dict(batch), num_items_in_batch=items)
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_bfloat16_on_a_cpu_learns_as_float32_does(model, data, tmp_path):
    full, half = (
        train(config_for(model, tmp_path / name, precision=name, num_epochs=2), data)
        for name in ("float32", "bfloat16")
    )
    assert half.dev_losses != full.dev_losses  # it computed otherwise
    assert half.dev_losses == pytest.approx(full.dev_losses, rel=0.02)


def test_frozen_weights_are_held_in_bfloat16_for_the_same_loss_and_given_back_as_they_were(model, data, tmp_path):
    from pipelines import sft

    config = config_for(model, tmp_path, precision="bfloat16", lora_dropout=0.0)
    base = sft.load_base(config, lambda _: None)
    rows, _ = sft._tokenized(data.train[:8], base, config)
    trainer = sft.make_trainer(sft.with_adapter(base, config), base, config, (rows, rows))
    batch = trainer.data_collator([{"input_ids": one.input_ids, "labels": one.labels} for one in rows])
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    plain = trainer.compute_loss(trainer.model, dict(batch))
    with sft.computing(trainer, base):
        held = {value.dtype for name, value in trainer.model.state_dict().items() if "base_layer" in name}
        assert held == {torch.bfloat16}
        assert trainer.compute_loss(trainer.model, dict(batch)) == plain
    after = trainer.model.state_dict()
    assert all(torch.equal(after[name], value) and after[name].dtype == value.dtype for name, value in before.items())


def test_a_training_ends_early_when_the_dev_loss_no_longer_falls(model, data, tmp_path):
    result = train(config_for(model, tmp_path, num_epochs=300, early_stopping_patience=2, learning_rate=0.03), data)
    assert result.stopped_early and result.epochs < 300


def test_a_training_that_diverges_is_ended_with_the_mend(model, data, tmp_path):
    from pipelines import sft

    watch = sft._Watch(lambda _: None)
    state = type("State", (), {"global_step": 7, "max_steps": 9})()
    with pytest.raises(GateFailedError, match=r"at step 7 the loss is nan\. Lower learning_rate"):
        watch.on_log(None, state, None, logs={"loss": float("nan")})


def test_a_dry_run_tells_steps_time_memory_cost_and_marks_what_is_learnt(model, data, tmp_path):
    from pipelines.sft import dry_run

    config = config_for(model, tmp_path, machine_usd_per_hour=36.0)
    found = dry_run(config, data, lambda _: None)
    assert found.steps == 4 * -(-len(data.train) // 16)
    assert len(found.step_seconds) == 2 and found.seconds > 0 and found.memory_bytes > 1 << 20
    assert found.cost_usd == pytest.approx(found.seconds / 100)
    assert found.trained_parameters == 2 * 4 * 2 * 16 * 64
    assert '⟦{"i":' in found.examples_shown[0] and found.examples_shown[0].endswith("<end>⟧")
    assert not (tmp_path / "adapter").exists()


def test_examples_that_do_not_fit_are_counted(model, data, tmp_path):
    from pipelines.sft import dry_run
    from registry.errors import BadInputError

    with pytest.raises(BadInputError, match="every example was left out"):
        dry_run(config_for(model, tmp_path, max_sequence_tokens=8), data, lambda _: None)


@pytest.mark.skipif(torch.cuda.is_available(), reason="here 4 bits work")
def test_four_bits_without_a_gpu_are_refused_with_the_mend(model, data, tmp_path):
    with pytest.raises(EnvironmentFaultError, match=r"needs an NVIDIA GPU.*Use quantization 'none'"):
        train(config_for(model, tmp_path, quantization="4bit"), data)
