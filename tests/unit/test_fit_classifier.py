"""Fitting: the same calls give the same artifact, few calls are left out, and `unknown` keeps what it promises."""

import os

import numpy as np
import pytest
from msgspec import structs

from pipelines.classifier_calibration import calibration_error, edited, fpr_at
from pipelines.classifier_models import FitOptions, gather
from pipelines.classifier_rows import LabelledCall, fixed_of_body, workload_calls
from pipelines.fit_classifier import fit_classifier
from pipelines.workload import ENV_NAME, Workload
from registry.errors import BadInputError
from specialists.contexts import Fixed
from specialists.model_folder import read_manifest

SMALL = FitOptions(dimension=32, folds=3)


@pytest.fixture(scope="module")
def calls():
    return list(workload_calls(Workload.own(7, 90)))


@pytest.fixture(scope="module")
def fitted(calls):
    return fit_classifier(calls, SMALL)


def test_the_same_calls_give_the_same_bytes(fitted, calls, tmp_path):
    assert fitted.save(tmp_path / "a") == fit_classifier(calls, SMALL).save(tmp_path / "b")
    for name in ("manifest.json", read_manifest(tmp_path / "a", "cluster-classifier").arrays_file):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_report_holds_every_figure_in_both_modes(fitted):
    for mode in ("hidden", "shown"):
        figures = fitted.facts[mode]
        for name in (
            "accuracy",
            "ece",
            "unknown_auroc",
            "unknown_fpr95",
            "unknown_ece",
            "false_known",
            "false_unknown",
        ):
            assert 0.0 <= figures[name] <= 1.0, (mode, name)
    # Measured 0.81 and 1.0, unknown 0.90 and 1.0; the bounds leave room for another scikit-learn.
    assert fitted.facts["hidden"]["accuracy"] > 0.7
    assert fitted.facts["hidden"]["unknown_auroc"] > 0.8
    assert fitted.facts["shown"]["accuracy"] > 0.95
    assert fitted.facts["shown"]["unknown_auroc"] > 0.95


def test_the_threshold_keeps_the_promised_rate_on_the_folds(calls):
    strict, loose = (
        fit_classifier(calls, FitOptions(dimension=32, folds=3, false_known_rate=rate)) for rate in (0.02, 0.3)
    )
    assert strict.facts["hidden"]["false_known"] <= 0.03
    assert loose.facts["hidden"]["false_known"] <= 0.31
    assert strict.settings.hidden.threshold < loose.settings.hidden.threshold
    assert strict.facts["hidden"]["false_unknown"] > loose.facts["hidden"]["false_unknown"]


@pytest.mark.parametrize(("family", "least"), [("ledger_lines", 0.8), ("order_forms", 0.4)])
def test_a_family_left_out_of_the_fit_is_called_unknown(calls, family, least):
    # The least shares are for the text alone; measured 0.99 and 0.63. With five clusters left to learn `unknown`
    # from, the rate that the folds promise (0.9) does not carry over to every family. Ledger lines look like nothing
    # else: signs that may weigh either way once took 95 of 100 of them for known.
    options = FitOptions(dimension=32, folds=5)
    classifier = fit_classifier([call for call in calls if call.cluster != family], options)
    new = [call for call in calls if call.cluster == family]
    assert np.mean([classifier.posterior(call.text).cluster == "unknown" for call in new]) > least
    assert np.mean([classifier.posterior(call.text, *_fixed(call)).cluster == "unknown" for call in new]) > 0.9


def test_a_better_fit_never_makes_unknown_likelier(fitted):
    for head in (fitted.settings.hidden, fitted.settings.shown):
        assert all(weight <= 0.0 for weight in head.weights)
        assert any(weight < 0.0 for weight in head.weights)


def test_no_byte_of_the_artifact_tells_what_one_caller_said(calls, tmp_path):
    secrets = ["xyzzyplugh", "quuxpersonne", "4711zzq"]
    said = [
        structs.replace(call, text=f"{call.text} {secrets[n % 3]} {n}", caller=f"leaker-{n % 2}")
        for n, call in enumerate(calls[:60])
    ]
    classifier = fit_classifier([*calls, *said], SMALL)
    classifier.save(tmp_path)
    bytes_of = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert not [secret for secret in secrets if secret.encode() in bytes_of]
    assert b"order" in bytes_of, "words of the many are stored as they are"
    assert classifier.facts["counted_by"] == "caller"
    assert classifier.facts["words_left_out"] >= 3
    assert classifier.facts["callers"] == len({call.text for call in calls}) + 2


def _fixed(call):
    return call.fixed.system, call.fixed.tool_names, call.fixed.json_keys


def test_small_clusters_are_left_out_and_named(calls):
    few = [LabelledCall("rare", f"rare text {n}") for n in range(3)]
    repeated = [LabelledCall("parrot", "the same words again")] * 500
    corpus = gather([*calls, *few, *repeated], SMALL)
    assert corpus.too_small == {"parrot": 1, "rare": 3}
    assert "rare" not in corpus.clusters
    with pytest.raises(BadInputError, match=r"No cluster has 20 different texts \(the largest has 3\)"):
        fit_classifier(few, SMALL)
    with pytest.raises(BadInputError, match="the largest has 0"):
        fit_classifier([LabelledCall("unknown", "a b c"), LabelledCall("x", "  ")], SMALL)


def test_of_a_large_cluster_the_newest_calls_count():
    stream = [LabelledCall("a", f"word{n} and more") for n in range(100)]
    corpus = gather(stream, FitOptions(min_calls=2, max_calls=10))
    assert sorted(call.text for call in corpus.calls) == sorted(call.text for call in stream[-10:])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (FitOptions(false_known_rate=0.0), "false_known_rate lies between 0 and 1"),
        (FitOptions(unknown_share=1.0), "unknown_share lies between 0 and 1"),
        (FitOptions(folds=1), "at least 2 folds"),
        (FitOptions(min_calls=1), "min_calls is at least 2"),
        (FitOptions(dimension=0), "at least 1 dimension"),
    ],
)
def test_options_that_make_no_sense_are_refused(calls, options, message):
    with pytest.raises(BadInputError, match=message):
        fit_classifier(calls, options)


def test_progress_tells_every_fold(calls):
    lines = []
    fit_classifier(calls[:120], SMALL, lines.append)
    assert [line for line in lines if "fold" in line] == [f"classifier: fold {n} of 3" for n in (1, 2, 3)]


def test_two_clusters_and_clusters_without_a_fixed_part_can_be_fitted(calls):
    names = ("order_forms", "ledger_lines")
    bare = [LabelledCall(call.cluster, call.text) for call in calls if call.cluster in names]
    classifier = fit_classifier(bare, SMALL)
    assert "uncalibrated" in classifier.facts["hidden"]
    right = [classifier.posterior(call.text, "some prompt").nearest == call.cluster for call in bare]
    assert np.mean(right) > 0.9


def test_an_edited_prompt_is_the_same_for_the_same_seed_and_never_another_tool():
    fixed = Fixed("one two three four five six seven eight nine ten", ("a_tool",), ("key",))
    variants = {edited(fixed, f"text {n}") for n in range(200)}
    assert fixed in variants
    assert 3 < len(variants) < 20
    assert all(one.tool_names == ("a_tool",) and one.json_keys == ("key",) for one in variants)
    assert edited(fixed, "x") == edited(fixed, "x")


def test_the_fixed_part_of_a_request_is_prompt_tools_and_keys():
    body = {
        "messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "hi"}],
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "response_format": {"type": "json_schema", "json_schema": {"schema": {"properties": {"k": {}}}}},
    }
    assert fixed_of_body(body) == Fixed("Be kind.", ("f",), ("k",))
    assert fixed_of_body({"messages": []}) == Fixed()


def test_figures_by_hand():
    claimed, happened = np.array([0.9, 0.9, 0.1, 0.1]), np.array([True, False, False, False])
    assert calibration_error(claimed, happened, np.ones(4)) == pytest.approx((0.8 + 0.2) / 4)
    score, unknown = np.array([0.9, 0.8, 0.85, 0.1]), np.array([True, True, False, False])
    assert fpr_at(score, unknown, 1.0) == 0.5
    assert fpr_at(np.array([0.9, 0.1]), np.array([True, False]), 0.95) == 0.0


@pytest.mark.data
def test_on_public_families_it_does_what_was_measured():
    """Lower bounds far below what benchmarks/classifier.py measured, since this fits on a fraction of the calls."""
    if not os.environ.get(ENV_NAME):
        pytest.skip(f"${ENV_NAME} is not set")
    workload = Workload.from_env()
    families = ["intent_home", "intent_travel", "intent_meta", "voice_tools", "ticket_triage"]
    if not {*families, "intent_utility"} <= set(workload.families):
        pytest.skip("the workload has other families")
    options = FitOptions(dimension=128, max_calls=300, folds=3)
    classifier = fit_classifier(workload_calls(workload, families), options)
    known = [row for row in workload.rows(families, ["dev"]) if row.expected != {"intent": "oos"}]
    new = list(workload.rows(["intent_utility"], ["dev"]))
    assert np.mean([classifier.posterior(row.text).nearest == row.family for row in known]) > 0.75
    system = workload.app("intent_utility").system
    assert np.mean([classifier.posterior(row.text, system).cluster == "unknown" for row in new]) > 0.8
    assert np.mean([classifier.posterior(row.text).unknown_probability for row in new]) > np.mean(
        [classifier.posterior(row.text).unknown_probability for row in known]
    )
