"""Training on a GPU: bfloat16, 4 bits where bitsandbytes is installed, and what comes of it on other machines."""

import asyncio
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


def train(setting, output, on_progress=lambda _: None, **changed):
    from pipelines.sft import train as train_now

    model, pairs = setting
    config = make_config(
        **({"num_epochs": 4, "learning_rate": 0.01, "batch_size": 16, "warmup_steps": 2} | changed),
        base_model=str(model),
        training_data_path=str(pairs),
        output_dir=str(output),
    )
    return train_now(config, read_data(pairs), on_progress, lambda _: None)


@pytest.fixture(scope="module")
def trained(setting, tmp_path_factory):
    return train(setting, tmp_path_factory.mktemp("trained"), num_epochs=8)


@pytest.fixture
def four_bits(setting, tmp_path):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    return train(setting, tmp_path, quantization="4bit", num_epochs=8)


def loss_with(adapter, model, pairs, device, dtype):
    """Mean loss of the completions of a few pairs, with an adapter or without one."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(model))
    base = AutoModelForCausalLM.from_pretrained(str(model), dtype=dtype).to(device)
    served = (base if adapter is None else PeftModel.from_pretrained(base, str(adapter))).eval()
    losses = []
    for pair in read_data(pairs).dev[:8]:
        prompt = tokenizer(pair.prompt)["input_ids"]
        ids = prompt + tokenizer(pair.completion)["input_ids"]
        labels = [-100] * len(prompt) + ids[len(prompt) :]
        with torch.inference_mode():
            losses.append(
                served(
                    input_ids=torch.tensor([ids], device=device), labels=torch.tensor([labels], device=device)
                ).loss.item()
            )
    return sum(losses) / len(losses)


def test_a_gpu_trains_and_the_adapter_has_the_same_layout(trained):
    assert trained.device.startswith("cuda") and trained.peak_memory_bytes > 0
    assert all(map(math.isfinite, trained.dev_losses)) and min(trained.dev_losses) < trained.dev_losses[0] - 0.3
    config = json.loads((trained.adapter / "adapter_config.json").read_text())
    assert config["r"] == 16 and (trained.adapter / "adapter_model.safetensors").is_file()


def test_the_steps_are_the_config_s_however_many_gpus_there_are(trained, setting):
    examples = len(read_data(setting[1]).train)
    assert trained.stopped_early or trained.steps == 8 * -(-examples // 16)


def test_an_adapter_trained_on_a_gpu_helps_as_much_on_a_cpu(trained, setting):
    model, pairs = setting
    there = loss_with(trained.adapter, model, pairs, "cuda", torch.bfloat16)
    here = loss_with(trained.adapter, model, pairs, "cpu", torch.float32)
    assert here == pytest.approx(there, rel=0.1) and here < loss_with(None, model, pairs, "cpu", torch.float32) - 0.3


def test_the_engine_serves_it_and_writes_what_transformers_writes_on_the_gpu(trained, setting):
    model, pairs = setting
    prompts = [pair.prompt for pair in read_data(pairs).dev]
    said = asyncio.run(engine_texts(model, trained.adapter, prompts))
    wanted = gpu_texts(model, trained.adapter, prompts)
    same = sum(a == b for a, b in zip(said, wanted, strict=True))
    assert same >= 0.8 * len(prompts), f"{same} of {len(prompts)} the same"  # 16 bits there, 32 and 8 here


async def engine_texts(model, adapter, prompts, new_tokens=12):
    from specialists.engine.assembly import load_engine
    from specialists.engine.requests import CompletionRequest
    from specialists.engine.settings import EngineSettings

    engine = load_engine(EngineSettings(model=str(model), adapters=(("a", adapter),)), lambda _: None)
    engine.start()

    async def ask(prompt):
        request = CompletionRequest(model="a", prompt=prompt, max_tokens=new_tokens, temperature=0.0)
        return "".join([delta.text async for delta in engine.follow(engine.begin(request)[1])])

    try:
        return [await ask(prompt) for prompt in prompts]
    finally:
        engine.loop.stop()


def gpu_texts(model, adapter, prompts, new_tokens=12):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(model))
    base = AutoModelForCausalLM.from_pretrained(str(model), dtype=torch.bfloat16).to("cuda")
    served = PeftModel.from_pretrained(base, str(adapter)).eval()
    texts = []
    for prompt in prompts:
        inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False).to("cuda")
        with torch.inference_mode():
            out = served.generate(**inputs, max_new_tokens=new_tokens, do_sample=False)
        texts.append(tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
    return texts


class _CutError(Exception):
    pass


def test_a_training_that_was_cut_goes_on_where_it_was(trained, setting, tmp_path):
    def cut(progress):
        if progress.step == 25:
            raise _CutError

    with pytest.raises(_CutError):
        train(setting, tmp_path, cut, num_epochs=8)
    seen = []
    result = train(setting, tmp_path, seen.append, num_epochs=8)
    assert 1 < seen[0].step <= 25
    assert min(result.dev_losses) == pytest.approx(min(trained.dev_losses), rel=0.1, abs=0.02)


def test_a_dry_run_estimates_without_keeping_anything(setting, tmp_path):
    from pipelines.sft import dry_run

    model, pairs = setting
    for checkpointing in (False, True):
        config = make_config(
            base_model=str(model),
            training_data_path=str(pairs),
            output_dir=str(tmp_path / "out"),
            gradient_checkpointing=checkpointing,
        )
        found = dry_run(config, read_data(pairs), lambda _: None)
        assert found.memory_bytes > 0 and found.seconds > 0 and not (tmp_path / "out").exists()


def test_gradient_checkpointing_changes_memory_not_the_result(setting, tmp_path):
    plain = train(setting, tmp_path / "a")
    saving = train(setting, tmp_path / "b", gradient_checkpointing=True)
    assert saving.dev_losses[-1] == pytest.approx(plain.dev_losses[-1], rel=0.05)


def test_memory_stays_near_the_bare_loops_and_checkpointing_needs_less():
    from msgspec import structs

    from benchmarks.gpu import training
    from benchmarks.gpu.shapes import SMALL, random_model

    shape = structs.replace(SMALL, layers=16, sequence_tokens=512)
    work = training.Work(shape=shape, device="cuda", steps=2, blocks=1)
    plain, saving = training.rows_of("LoRA", random_model(shape, "cuda"), work, "")
    assert plain.ours and saving.ours and plain.theirs
    assert plain.ours.peak_bytes < 1.2 * plain.theirs.peak_bytes
    assert saving.ours.peak_bytes < 0.8 * plain.ours.peak_bytes


def test_four_bits_train_an_adapter_for_the_same_base(four_bits, setting):
    assert min(four_bits.dev_losses) < four_bits.dev_losses[0]
    config = json.loads((four_bits.adapter / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(setting[0])


def test_an_adapter_of_four_bits_helps_the_base_of_sixteen(four_bits, setting):
    model, pairs = setting
    bare = loss_with(None, model, pairs, "cuda", torch.bfloat16)
    assert loss_with(four_bits.adapter, model, pairs, "cuda", torch.bfloat16) < bare - 0.3


def test_four_bits_and_checkpointing_go_together(setting, tmp_path):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    result = train(setting, tmp_path, quantization="4bit", gradient_checkpointing=True)
    assert min(result.dev_losses) < result.dev_losses[0]


def test_an_evaluation_judges_it_beside_the_base(trained, setting):
    from pipelines.evaluate import Question, evaluate
    from pipelines.render import Example, Shape
    from registry.entries import TemplateEntry

    model, pairs = setting
    examples = [
        Example(call_id=str(number), prompt=pair.prompt, completion=pair.completion)
        for number, pair in enumerate(read_data(pairs).dev)
    ]
    question = Question(
        base_model=str(model),
        adapter=trained.adapter,
        examples=examples,
        shapes={examples[0].shape: Shape(None)},
        template=TemplateEntry(answer="json"),
        canary=trained.canary,
        base_examples=4,
    )
    found = evaluate(question, lambda *_: None, lambda _: None)
    assert len(found.judged) == len(examples) and found.base is not None
    assert found.canary_holds is not False
