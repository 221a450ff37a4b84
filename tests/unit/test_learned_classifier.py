"""The learned classifier at work: what it names, what it calls unknown, and that nothing breaks or fools it."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from pipelines.classifier_models import FitOptions, gather, uncalibrated
from pipelines.classifier_rows import LabelledCall, workload_calls
from pipelines.fit_classifier import fit_classifier
from pipelines.workload import Workload
from registry.errors import ConfigError
from specialists.classifier import LearnedClassifier, digest_at
from specialists.contexts import MAX_REMEMBERED, Fixed, json_keys_of
from specialists.embedder import TextEmbedder

OPTIONS = FitOptions(dimension=64)
HOSTILE = [
    "",
    " \t\n",
    "\x00\x02",
    "\ud800",
    "@" * 9000,
    "<" * 9000,
    "🙂" * 4000,
    "word " * 100_000,
    "你好，世界",
    "ﷺ" * 5000,
]


@pytest.fixture(scope="module")
def workload():
    return Workload.own(7, 120)


@pytest.fixture(scope="module")
def calls(workload):
    return list(workload_calls(workload))


@pytest.fixture(scope="module")
def fitted(calls):
    return fit_classifier(calls, OPTIONS)


@pytest.fixture(scope="module")
def saved(fitted, tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifier")
    fitted.save(folder)
    return folder


def shown(classifier, call):
    return classifier.posterior(call.text, call.fixed.system, call.fixed.tool_names, call.fixed.json_keys)


def test_words_it_was_not_fitted_on_go_to_the_right_cluster(fitted, workload):
    # The dev wording is never the train wording. Measured: 0.88 of 120; a coin over six clusters gets 0.17.
    rows = list(workload.rows(splits=["dev"]))
    right = np.mean([fitted.posterior(row.text).nearest == row.family for row in rows])
    assert right > 0.7


def test_with_its_agents_fixed_part_a_call_is_nearly_certain(fitted, calls):
    for call in calls[::40]:
        answer = shown(fitted, call)
        assert answer.cluster == call.cluster
        assert answer.probability > 0.9


def test_an_edited_prompt_is_still_its_own_and_another_agents_is_unknown(fitted, calls):
    call = calls[0]
    edited = call.fixed.system.replace(".", "!") + " Be brief."
    assert fitted.posterior(call.text, edited, call.fixed.tool_names, call.fixed.json_keys).cluster == call.cluster
    other = fitted.posterior(
        "Translate the second stanza, please.", "You are a poet who translates sonnets from the Portuguese."
    )
    assert other.cluster == "unknown"
    assert other.unknown_probability > 0.9
    assert other.nearest in fitted.clusters


def test_words_from_elsewhere_are_unknown(fitted):
    # Each lacks every word of the traffic but the commonest.
    texts = [
        "Quarks carry colour charge and bind through gluon exchange",
        "def fib(n): yield from (a, b)",
        "asdf qwer zxcv",
    ]
    assert [fitted.posterior(text).cluster for text in texts] == ["unknown"] * 3


def test_the_probability_is_that_of_the_answer(fitted, calls):
    for call in calls[::25]:
        answer = fitted.posterior(call.text)
        assert 0.0 <= answer.unknown_probability <= 1.0
        assert answer.runner_up != answer.nearest
        if answer.cluster == "unknown":
            assert answer.probability == answer.unknown_probability
        else:
            assert answer.cluster == answer.nearest
            assert answer.probability <= 1.0 - answer.unknown_probability + 1e-12


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text[:8]))
def test_no_text_breaks_it(fitted, text):
    for answer in (fitted.posterior(text), fitted.posterior(text, text, (text, text), (text,))):
        assert np.isfinite(answer.probability)
        assert answer.cluster == "unknown" or answer.cluster in fitted.clusters


def test_an_empty_text_alone_is_unknown(fitted):
    assert fitted.posterior("").cluster == "unknown"


def test_saved_and_loaded_it_answers_the_same(fitted, saved, calls):
    loaded = LearnedClassifier.load(saved)
    assert loaded.name == fitted.name == f"classifier:sha256:{digest_at(saved)[:12]}"
    assert loaded.facts == fitted.facts
    assert loaded.embedder.name == fitted.embedder.name
    for call in calls[::30]:
        assert loaded.posterior(call.text) == fitted.posterior(call.text)
        assert shown(loaded, call) == shown(fitted, call)


def test_a_new_fit_in_the_same_folder_is_seen_by_its_digest(fitted, calls, tmp_path):
    fitted.save(tmp_path)
    first, before = LearnedClassifier.load(tmp_path), digest_at(tmp_path)
    fewer = [call for call in calls if call.cluster != calls[0].cluster]
    uncalibrated(gather(fewer, OPTIONS), OPTIONS).save(tmp_path)
    assert digest_at(tmp_path) != before
    assert calls[0].cluster not in LearnedClassifier.load(tmp_path).clusters
    assert first.posterior(calls[0].text).nearest  # the old one serves on without its files


def test_readers_never_see_half_of_an_exchange(fitted, calls, tmp_path):
    other = uncalibrated(gather(calls[: len(calls) // 2], OPTIONS), OPTIONS)
    fitted.save(tmp_path)
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(lambda: [one.save(tmp_path) for _ in range(5) for one in (other, fitted)])
        seen = set()
        while not writing.done():
            seen.add(LearnedClassifier.load(tmp_path).clusters)
        writing.result()
    assert seen <= {fitted.clusters, other.clusters}


def test_a_flipped_byte_anywhere_is_refused(saved, tmp_path):
    manifest = (saved / "manifest.json").read_bytes()
    (arrays,) = saved.glob("arrays-*.npz")
    whole = arrays.read_bytes()
    (tmp_path / "manifest.json").write_bytes(manifest)
    for at in range(0, len(whole), len(whole) // 7):
        (tmp_path / arrays.name).write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        with pytest.raises(ConfigError, match="damaged"):
            LearnedClassifier.load(tmp_path)
    (tmp_path / arrays.name).write_bytes(whole)
    for at in range(1, len(manifest) - 1, len(manifest) // 23):
        (tmp_path / "manifest.json").write_bytes(manifest[:at] + bytes([manifest[at] ^ 0x01]) + manifest[at + 1 :])
        try:
            loaded = LearnedClassifier.load(tmp_path)
        except ConfigError:
            continue
        assert loaded.digest == json.loads(manifest)["digest"]  # only white space between the values was hit


def test_an_embedder_is_no_classifier(fitted, tmp_path):
    fitted.embedder.save(tmp_path)
    with pytest.raises(ConfigError, match="holds a text-embedder, where a cluster-classifier is needed"):
        LearnedClassifier.load(tmp_path)
    assert TextEmbedder.load(tmp_path).name == fitted.embedder.name


def test_one_cluster_alone_knows_its_own_words_from_others(calls):
    only = [call for call in calls if call.cluster == "order_forms"]
    alone = fit_classifier(only, OPTIONS)
    assert alone.clusters == ("order_forms",)
    assert "uncalibrated" in alone.facts["hidden"]
    known = [alone.posterior(call.text) for call in only]
    assert np.mean([answer.cluster == "order_forms" for answer in known]) > 0.8
    assert {answer.runner_up for answer in known} == {""}
    assert alone.posterior("Quarks carry colour charge and bind through gluon exchange").cluster == "unknown"


def test_thousands_of_clusters_are_told_apart():
    rng, count = np.random.default_rng(5), 2_000
    made = [
        LabelledCall(f"c{n}", f"topic{letters(n)} " + " ".join(f"filler{letters(k)}" for k in rng.integers(0, 300, 6)))
        for n in range(count)
        for _ in range(4)
    ]
    options = FitOptions(dimension=32, min_calls=2)
    classifier = uncalibrated(gather(made, options), options)
    assert len(classifier.clusters) == count
    some = range(0, count, 50)
    answers = [classifier.posterior(f"topic{letters(n)} fillera fillerb something else") for n in some]
    # Uncalibrated, so the embedding has its say too: of topics that it cannot hold in 32 dimensions, a few are lost.
    assert np.mean([answer.nearest == f"c{n}" for n, answer in zip(some, answers, strict=True)]) > 0.9


def letters(number):
    return "".join(chr(97 + int(digit)) for digit in str(number))


def test_many_agents_do_not_fill_the_memory(fitted, calls):
    for number in range(MAX_REMEMBERED + 50):
        fitted.posterior("hello", f"You are agent {'x' * number}.")
    assert len(fitted._models.contexts._remembered) <= MAX_REMEMBERED
    assert shown(fitted, calls[0]).cluster == calls[0].cluster


def test_answer_keys_are_read_from_a_json_schema_only():
    schema = {"type": "object", "properties": {"b": {}, "a": {}}}
    assert json_keys_of({"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}) == ("a", "b")
    for other in (None, {}, {"type": "text"}, {"type": "json_schema", "json_schema": {"schema": {"type": "array"}}}):
        assert json_keys_of(other) == ()
    assert not Fixed()
    assert Fixed(json_keys=("a",))
