"""Training on a GPU: bfloat16, and 4 bits where bitsandbytes is installed."""

import json
import math

import pytest

from pipelines.training_config import make_config
from pipelines.training_data import read_data
from tests.unit.tiny_model import write_pairs, write_tiny_model

torch = pytest.importorskip("torch")
pytest.importorskip("trl", reason="the training extra is not installed")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpu")
    (folder / "model").mkdir()
    return write_tiny_model(folder / "model"), write_pairs(folder / "pairs.jsonl", 160)


def train(setting, output, **changed):
    from pipelines.sft import train as train_now

    model, pairs = setting
    config = make_config(
        **({"num_epochs": 4, "learning_rate": 0.01, "batch_size": 16} | changed),
        base_model=str(model),
        training_data_path=str(pairs),
        output_dir=str(output),
    )
    return train_now(config, read_data(pairs), lambda _: None, lambda _: None)


def test_a_gpu_trains_and_the_adapter_has_the_same_layout(setting, tmp_path):
    result = train(setting, tmp_path)
    assert result.device.startswith("cuda") and result.peak_memory_bytes > 0
    assert all(map(math.isfinite, result.dev_losses)) and result.dev_losses[-1] < result.dev_losses[0]
    config = json.loads((result.adapter / "adapter_config.json").read_text())
    assert config["r"] == 16 and (result.adapter / "adapter_model.safetensors").is_file()


def test_gradient_checkpointing_changes_memory_not_the_result(setting, tmp_path):
    plain = train(setting, tmp_path / "a")
    saving = train(setting, tmp_path / "b", gradient_checkpointing=True)
    assert saving.dev_losses[-1] == pytest.approx(plain.dev_losses[-1], rel=0.05)


def test_four_bits_train_an_adapter_for_the_same_base(setting, tmp_path):
    pytest.importorskip("bitsandbytes")
    result = train(setting, tmp_path, quantization="4bit")
    assert result.dev_losses[-1] < result.dev_losses[0]
    config = json.loads((result.adapter / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(setting[0])
