"""Embedders: the same vector for the same text everywhere, for hostile text too, and no damaged artifact is served."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipelines.fit_embedder import EmbedderOptions, fit_embedder
from pipelines.workload import Workload
from registry.errors import BadInputError, ConfigError
from specialists.embedder import TextEmbedder, hashing_embedder
from specialists.words import HEAD_CHARS, TAIL_CHARS, words_of

ROOT = Path(__file__).parents[2]
HOSTILE = [
    "",
    " \n\t ",
    "\x00\x01\x02",
    "\ud800 lone",
    "1(((((((1",
    "@" * 9000,
    "a" * 1_000_000,
    "<" * 9000,
    "ﷺ" * 5000,
    "你好，世界",
    "हिन्दी में",
    "\u202eabc\u0301\u0301",
    "🙂" * 3000,
    "1 " * 5000,
    "x@y " * 3000,
]


@pytest.fixture(scope="module")
def texts():
    return [row.text for row in Workload.own(7, 60).rows(splits=["train"])]


@pytest.fixture(scope="module")
def fitted(texts):
    return fit_embedder(texts, 24)


@pytest.fixture(params=["fitted", "hashing"])
def embedder(request, fitted):
    return fitted if request.param == "fitted" else hashing_embedder(24)


def test_a_vector_has_length_one_and_near_texts_are_nearer_than_far_ones(embedder, texts):
    vectors = embedder.embed_many(texts[:50])
    assert vectors.shape == (50, 24)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1.0)
    one = embedder.embed("Where is my parcel? It should have been here on Monday.")
    near = embedder.embed("Where is my parcel, it should be here since Monday")
    far = embedder.embed("Please rotate the credentials of the build cluster and list the owners")
    assert one @ near > one @ far


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text[:8]))
def test_no_text_breaks_it(embedder, text):
    vector = embedder.embed(text)
    assert vector.shape == (24,)
    assert np.isfinite(vector).all()
    assert np.linalg.norm(vector) == pytest.approx(1.0) or not vector.any()


def test_a_text_without_words_has_the_zero_vector(embedder):
    assert not embedder.embed("").any()
    assert not embedder.embed("?!").any()


def test_a_long_text_counts_with_both_of_its_ends(embedder):
    filler = "lorem " * 20_000
    assert len(words_of(filler)) < (HEAD_CHARS + TAIL_CHARS) / 6 + 2
    assert words_of("first " + filler + " last")[0] == "first"
    assert words_of("first " + filler + " last")[-1] == "last"


def test_a_redacted_record_reads_like_the_words_that_were_sent():
    sent = (
        "Mail jane.doe@example.com or call +49 (30) 123-456 about https://shop.example/o?id=7, card 4111 1111 1111 1111"
    )
    kept = "Mail <EMAIL_1> or call <PHONE_1> about <URL_1>, card <CREDIT_CARD_1>"
    assert words_of(sent) == words_of(kept)
    assert words_of("Don’t") == words_of("don't") == ["dont"]


def test_the_same_texts_in_any_order_give_the_same_vectors_and_name(texts):
    shuffled = list(np.random.default_rng(3).permutation(texts))
    first, again = fit_embedder(texts, 8), fit_embedder(texts + texts[:10], 8)
    assert first.name == again.name
    assert set(fit_embedder(shuffled, 8)._vocabulary.words) == set(first._vocabulary.words)


def test_the_unfitted_one_is_the_same_in_every_process():
    program = (
        "from specialists.embedder import hashing_embedder; print(hashing_embedder(5).embed('Grüße, 你好').tolist())"
    )
    runs = {
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert [json.loads(run) for run in runs] == [hashing_embedder(5).embed("Grüße, 你好").tolist()]


def test_saved_and_loaded_it_is_the_same(fitted, texts, tmp_path):
    fitted.save(tmp_path / "e")
    loaded = TextEmbedder.load(tmp_path / "e")
    assert loaded.name == fitted.name
    assert loaded.facts == fitted.facts
    assert (loaded.embed_many(texts[:20]) == fitted.embed_many(texts[:20])).all()
    assert (tmp_path / "e" / "manifest.json").stat().st_mode & 0o077 == 0


def test_another_fit_takes_the_folder_over_whole(fitted, texts, tmp_path):
    fitted.save(tmp_path)
    other = fit_embedder(texts, 6)
    other.save(tmp_path)
    assert TextEmbedder.load(tmp_path).name == other.name != fitted.name
    assert len(list(tmp_path.glob("arrays-*.npz"))) == 1


def test_any_flipped_byte_of_the_arrays_is_noticed(fitted, tmp_path):
    fitted.save(tmp_path)
    (arrays,) = tmp_path.glob("arrays-*.npz")
    whole = arrays.read_bytes()
    for at in (0, len(whole) // 3, len(whole) // 2, len(whole) - 1):
        arrays.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(ConfigError, match="damaged"):
            TextEmbedder.load(tmp_path)
    arrays.write_bytes(whole[:-10])
    with pytest.raises(ConfigError, match="damaged"):
        TextEmbedder.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m | {"format_version": 2}, "format version 2, and this program reads 1"),
        (lambda m: m | {"kind": "cluster-classifier"}, "holds a cluster-classifier, where a text-embedder is needed"),
        (lambda m: m | {"facts": m["facts"] | {"dimension": 7}}, "was changed after it was written"),
        (lambda m: m | {"arrays_file": "../../elsewhere.npz"}, "was changed after it was written"),
        (lambda m: {"kind": "text-embedder"}, "missing required field"),
        (lambda m: [m], "Expected `object`"),
    ],
)
def test_a_manifest_that_is_not_its_own_is_refused(fitted, tmp_path, change, message):
    fitted.save(tmp_path)
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(ConfigError, match=message):
        TextEmbedder.load(tmp_path)


def test_missing_parts_are_named(fitted, tmp_path):
    with pytest.raises(ConfigError, match="no model here"):
        TextEmbedder.load(tmp_path / "nowhere")
    fitted.save(tmp_path)
    (arrays,) = tmp_path.glob("arrays-*.npz")
    arrays.unlink()
    with pytest.raises(ConfigError, match=r"arrays-.*missing"):
        TextEmbedder.load(tmp_path)
    (tmp_path / "manifest.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="Fit it again"):
        TextEmbedder.load(tmp_path)


def test_few_texts_give_fewer_dimensions_and_none_an_error():
    small = fit_embedder(["pay the bill", "pay the rent"], 64, EmbedderOptions(min_callers=2))
    assert 1 <= small.dimension <= 2
    assert small.embed("pay").any()
    with pytest.raises(BadInputError, match="share no word"):
        fit_embedder(["one", "two"], 8)
    with pytest.raises(BadInputError, match="share no word"):
        fit_embedder([], 8)
    with pytest.raises(BadInputError, match="at least 1 dimension"):
        fit_embedder(["a b", "a c"], 0)
    with pytest.raises(BadInputError, match="1 to 1024"):
        hashing_embedder(0)


def test_one_callers_words_stay_out_of_the_vocabulary(texts):
    secret = "xyzzyplugh is only ever said once"
    embedder = fit_embedder([*texts, secret, secret, f"{secret}!", f"{secret.upper()} ?"], 8)
    assert b"xyzzyplugh" not in bytes(embedder.arrays()["words"])
    assert embedder.project("xyzzyplugh").known_share == 0.0


def test_what_fewer_than_three_callers_say_stays_out_however_often_they_say_it(texts):
    said = [(text, f"caller-{n}") for n, text in enumerate(texts)]
    said += [(f"ask about xyzzyplugh number {n}", f"project-{n % 2}") for n in range(40)]
    said += [(f"the quuxword of caller {n}", f"wide-{n % 3}") for n in range(9)]
    # Both words are common by themselves; side by side they are the word of two callers.
    said += [(f"{first} {second} {n}", f"pair-{n % 2}") for n in range(8) for first, second in [("parcel", "quuxword")]]
    embedder = fit_embedder([text for text, _ in said], 8, callers=[caller for _, caller in said])
    words = bytes(embedder.arrays()["words"]).decode().split("\n")
    assert "xyzzyplugh" not in words
    assert {"quuxword", "parcel"} <= set(words)
    together, apart = (embedder.read(text).features for text in ("parcel quuxword", "parcel . zzz . quuxword"))
    assert len(together) == len(apart) == 2
    assert embedder.facts["counted_by"] == "caller"
    assert embedder.facts["words_left_out"] > 0


def test_one_text_of_three_callers_is_known_to_three(texts):
    said = [(text, f"caller-{n}") for n, text in enumerate(texts)] + [("say quuxword", f"c{n}") for n in range(3)]
    embedder = fit_embedder([text for text, _ in said], 8, callers=[caller for _, caller in said])
    assert embedder.project("quuxword").known_share == 1.0


def test_too_few_callers_are_refused_and_none_told_apart_count_by_texts(texts):
    with pytest.raises(BadInputError, match=r"2 callers.*at least 3"):
        fit_embedder(texts, 8, callers=[f"caller-{n % 2}" for n in range(len(texts))])
    assert fit_embedder(texts, 8, callers=[""] * len(texts)).name == fit_embedder(texts, 8).name
    assert fit_embedder(texts, 8).facts["counted_by"] == "text"
