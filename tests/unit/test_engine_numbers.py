# ruff: noqa: E402 - what follows needs the engine extra
"""The forward pass against transformers and PEFT, on models small enough to make here, to float32's accuracy."""

import pytest

torch = pytest.importorskip("torch", reason="the engine extra is not installed")

from registry.errors import ConfigError, InvalidRequestError
from specialists.engine.adapters import read_adapter
from specialists.engine.architecture import read_config, read_shape
from specialists.engine.batch import Work, lay_out
from specialists.engine.kv_cache import KvCache
from specialists.engine.llama import LlamaModel

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 96,
    "max_position_embeddings": 256,
}


def make_model(folder, kind="llama", dtype=torch.float32, **options):
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(3)
    config_class, model_class = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen2": (Qwen2Config, Qwen2ForCausalLM)}[
        kind
    ]
    model = model_class(config_class(**SIZES | options)).to(dtype)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(str(folder))
    return model_class.from_pretrained(str(folder), dtype=torch.float32).eval()  # `.float()` keeps rounded frequencies


def load(folder):
    config = read_config(folder)
    shape = read_shape(config, (2,))
    return LlamaModel(folder, config, shape, 256), KvCache(shape, 8, 256)


def compute(model, cache, work):
    """Logits by place in the work list."""
    cache.reserve(max(item.end for item in work), 8)
    batch = lay_out(work, cache.capacity)
    logits = model.forward(batch, cache)
    return {i: logits[k] for k, i in enumerate(batch.order)}


@pytest.mark.parametrize(
    ("kind", "dtype", "options"),
    [
        ("llama", torch.float32, {}),  # weights that float16 cannot hold: plain float32 products
        ("llama", torch.bfloat16, {"tie_word_embeddings": True}),  # the default model's way: packed float16
        (
            "llama",
            torch.float32,
            {"head_dim": 16, "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}},
        ),
        ("qwen2", torch.bfloat16, {}),  # biases on q, k and v
    ],
)
def test_chunks_and_decoding_in_one_step_agree_with_transformers(tmp_path, kind, dtype, options):
    reference = make_model(tmp_path, kind, dtype, **options)
    model, cache = load(tmp_path)
    a, b, c, d = [3, 5, 7, 11, 13, 17], [2, 4, 8], [90, 80, 70, 60, 50], list(range(3, 63))
    compute(
        model,
        cache,
        [
            Work(0, 0, a[:5], None, 0),
            Work(1, 0, b[:2], None, 0),
            Work(2, 0, c[:2], None, 0),
            Work(3, 0, d[:30], None, 0),
        ],
    )
    found = compute(
        model,
        cache,
        [
            Work(0, 5, a[5:], None, 1),
            Work(1, 2, b[2:], None, 1),
            Work(2, 2, c[2:], None, 1),
            Work(3, 30, d[30:], None, 1),
        ],
    )
    with torch.inference_mode():
        for place, tokens in enumerate((a, b, c, d)):
            expected = reference(torch.tensor([tokens])).logits[0, -1]
            assert torch.allclose(found[place], expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_each_place_of_a_checked_run_has_its_own_next_token(tmp_path):
    reference = make_model(tmp_path)
    model, cache = load(tmp_path)
    rows = [[3, 5, 7, 11, 13, 17], [2, 4, 8], list(range(30, 70))]
    compute(model, cache, [Work(0, 0, rows[0][:2], None, 0), Work(1, 0, rows[1][:1], None, 0)])
    batch = lay_out(
        [Work(0, 2, rows[0][2:], None, 3), Work(1, 1, rows[1][1:], None, 2), Work(2, 0, rows[2], None, 4)],
        cache.capacity,
    )
    logits = model.forward(batch, cache)
    assert batch.order == (0, 0, 0, 1, 1, 2, 2, 2, 2)
    with torch.inference_mode():
        wanted = [(rows[0], 3), (rows[1], 2), (rows[2], 4)]
        expected = torch.cat([reference(torch.tensor([tokens])).logits[0, -last:] for tokens, last in wanted])
    assert torch.allclose(logits, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_a_moved_or_grown_row_goes_on_as_before(tmp_path):
    reference = make_model(tmp_path)
    model, cache = load(tmp_path)
    tokens = [3, 5, 7, 11, 13]
    compute(model, cache, [Work(3, 0, tokens[:4], None, 0)])
    cache.copy_row(3, 1, 4)
    saved = cache.save(1, 4)
    cache.restore(5, saved, 4)
    found = compute(model, cache, [Work(1, 4, tokens[4:], None, 1), Work(5, 4, tokens[4:], None, 1)])
    with torch.inference_mode():
        expected = reference(torch.tensor([tokens])).logits[0, -1]
    assert torch.allclose(found[0], expected, rtol=1e-4, atol=1e-3)
    assert torch.equal(found[0], found[1])


def make_adapter(folder, base, name, **options):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(len(name))
    model = get_peft_model(base, LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": "all-linear"} | options))
    for key, parameter in model.named_parameters():
        if "lora_B" in key:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(str(folder / name))
    return model.eval()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"target_modules": ["k_proj", "up_proj"], "use_rslora": True},
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.1.self_attn.v_proj": 32}},
        {"layers_to_transform": [1], "target_modules": ["q_proj", "down_proj"]},
    ],
)
def test_an_adapter_answers_as_under_peft_beside_rows_without_it(tmp_path, options):
    bare = make_model(tmp_path)
    tokens = [3, 5, 7, 11, 13]
    with torch.inference_mode():
        plain = bare(torch.tensor([tokens])).logits[0, -1]
    adapted = make_adapter(tmp_path, bare, "one", **options)
    with torch.inference_mode():
        expected = adapted(torch.tensor([tokens])).logits[0, -1]
    model, cache = load(tmp_path)
    adapter = read_adapter("one", str(tmp_path / "one"), model.shape, 64)
    found = compute(model, cache, [Work(0, 0, tokens, adapter, 1), Work(1, 0, tokens, None, 1)])
    scale = float(expected.abs().max())
    assert torch.allclose(found[0], expected, rtol=1e-4, atol=1e-4 * scale)
    assert torch.allclose(found[1], plain, rtol=1e-4, atol=1e-4 * scale)
    assert not torch.allclose(plain, expected, atol=1e-2 * scale)


def test_adapters_that_do_not_fit_are_refused_with_the_reason(tmp_path):
    base = make_model(tmp_path)
    shape = read_shape(read_config(tmp_path), (2,))
    make_adapter(tmp_path, base, "dora", use_dora=True)
    other = make_model(tmp_path / "wider", intermediate_size=64)
    make_adapter(tmp_path, other, "foreign")
    make_adapter(tmp_path, make_model(tmp_path / "again"), "pickled")
    weights = tmp_path / "pickled" / "adapter_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    reasons = {
        "dora": "use_dora",
        "foreign": "another model",
        "pickled": "only safetensors",
        "absent": "adapter_config.json",
    }
    for name, reason in reasons.items():
        with pytest.raises(InvalidRequestError, match=reason):
            read_adapter(name, str(tmp_path / name), shape, 64)
    make_adapter(tmp_path, make_model(tmp_path / "third"), "high")
    with pytest.raises(InvalidRequestError, match="rank 4 is above"):
        read_adapter("high", str(tmp_path / "high"), shape, 2)


def test_an_architecture_that_is_not_computed_here_is_refused(tmp_path):
    from transformers import GPT2Config

    GPT2Config(n_layer=1, n_embd=8, n_head=1).save_pretrained(str(tmp_path))
    with pytest.raises(ConfigError, match="'gpt2' is not one of"):
        read_shape(read_config(tmp_path), ())
