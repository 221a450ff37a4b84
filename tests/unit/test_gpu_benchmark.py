"""The GPU's benchmark on toy shapes: every step of it runs without a GPU."""

import json
import os
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl", reason="the training extra is not installed")


@pytest.fixture(scope="module")
def rows():
    command = [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--tiny", "--json"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600, env=environment)
    return json.loads(done.stdout[done.stdout.index("{\n") :])["rows"]


def test_each_measurement_stands_beside_its_alternative(rows):
    measured = [row for row in rows if row["ours"]]
    for row in measured:
        assert row["ratio"] == pytest.approx(row["ours"]["tokens_per_s"] / row["theirs"]["tokens_per_s"])
        assert row["alternative"] and row["note"]
    names = " ".join(row["name"] for row in measured)
    for part in (
        "LoRA training, SmolLM2-135M",
        "7B shape, gradient checkpointing",
        "adapters mixed",
        "embedded engine",
    ):
        assert part in names


def test_a_measurement_without_figures_says_why(rows):
    without = [row for row in rows if not row["ours"]]
    assert all(row["name"].startswith("QLoRA") and "bitsandbytes" in row["note"] for row in without)


def test_a_model_that_does_not_fit_leaves_a_row_and_the_others_go_on():
    from benchmarks.gpu.rows import Row, Side, as_table, attempt

    def too_large():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nMore | words.")

    fits = Row(name="small", alternative="other", ours=Side(30.0, 3 << 30), theirs=Side(20.0, 2 << 30))
    rows = [*attempt("large", too_large), *attempt("small", lambda: [fits])]
    last = as_table(rows).splitlines()[-2:]
    assert last[0].endswith("| out of memory: CUDA out of memory. Tried to allocate 20.00 GiB. |")
    assert last[1] == "| small | 30 | other | 20 | 1.50 | 3.0 / 2.0 |  |"


def test_random_weights_of_a_shape_are_whole_and_answer():
    from msgspec import structs

    from benchmarks.gpu.shapes import SMALL, TINY, random_model

    model = random_model(structs.replace(SMALL, **TINY), "cpu")
    ids = torch.arange(3, 20)[None]
    with torch.inference_mode():
        first, again = model(input_ids=ids).logits, model(input_ids=ids).logits
    assert first.shape == (1, 17, 300) and bool(first.isfinite().all()) and torch.equal(first, again)
    assert not any(weight.is_meta for weight in [*model.parameters(), *model.buffers()])
    assert model.lm_head.weight is model.model.embed_tokens.weight
    fresh = type(model)(model.config)
    fresh.load_state_dict(model.state_dict())
    with torch.inference_mode():  # the tables of positions are as transformers makes them
        assert torch.allclose(fresh.eval()(input_ids=ids).logits, first, atol=1e-5)
