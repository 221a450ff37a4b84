from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import policies
from pipelines.own_workload.generate import FAMILIES, family_rows
from policies.classify import MAX_TEXT_CHARS, ClassifyInput, ClusterRule, ClusterTable, TableClassifier
from registry.errors import ConfigError
from registry.strict_yaml import load_strict

SIGNATURE = "a" * 64
TABLE = ClusterTable(
    clusters=(
        ClusterRule(name="bank", system_patterns=("^You are a bank",), task_types=("bank-intent",)),
        ClusterRule(name="refund", keywords=("refund", "money back")),
        ClusterRule(name="deposit", keywords=("deposit", "money back"), task_types=("paying_in",)),
        ClusterRule(name="rate", tool_names=("rate_book",), patterns=(r"(?i)\b\d stars?\b",)),
        ClusterRule(name="signed", signatures=(SIGNATURE,)),
        ClusterRule(name="kitchen", keywords=("oven", "salt", "Crème brûlée", "c++"), min_keywords=2),
    )
)
CLASSIFIER = TableClassifier(TABLE)


def seen(text="", system="", signature="b" * 64, tools=(), task_type=None):
    return CLASSIFIER.classify(ClassifyInput(signature, system, text, tools, task_type))


def test_the_signature_decides_before_anything_else():
    found = seen("refund", "You are a bank", SIGNATURE)
    assert (found.cluster, found.source, found.confidence) == ("signed", "signature", 1.0)


def test_a_system_prompt_is_enough_where_the_rule_has_nothing_else():
    found = seen("whatever", "You are a bank clerk.")
    assert (found.cluster, found.source) == ("bank", "pattern")


def test_keywords_are_whole_words_in_any_case():
    assert seen("Give me a REFUND!").cluster == "refund"
    assert seen("nonrefundable").cluster == "unknown"
    assert seen("salt and créme").cluster == "unknown", "one keyword, and two are asked for"
    assert seen("CRÈME  BRÛLÉE, with salt").cluster == "kitchen"
    assert seen("C++ in the oven").cluster == "kitchen"


def test_gates_must_hold_beside_the_text():
    assert seen("5 stars for Dune", tools=("rate_book", "other")).cluster == "rate"
    assert seen("5 stars for Dune").cluster == "unknown"
    assert seen("Dune", tools=("rate_book",)).cluster == "unknown"


def test_more_evidence_wins():
    assert seen("a refund, my money back, no deposit").cluster == "unknown"
    assert seen("a refund, my money back").cluster == "refund"


def test_a_tie_is_unknown_and_says_between_whom():
    found = seen("I want my money back")
    assert (found.cluster, found.source) == ("unknown", "none")
    assert "`refund`" in found.reason and "`deposit`" in found.reason


def test_a_hint_breaks_a_tie_but_never_decides():
    assert seen("I want my money back", task_type="Paying-In").cluster == "deposit"
    assert seen("I want my money back", task_type="bank").cluster == "unknown"
    lone = seen("hello", task_type="refund")
    assert (lone.cluster, lone.hint_agrees) == ("unknown", False)


def test_the_hint_is_checked_against_the_finding():
    assert seen("a refund", task_type="refund").hint_agrees is True
    assert seen("a refund", task_type="bank_intent").hint_agrees is False
    assert seen("a refund", task_type="no such word").hint_agrees is None
    assert seen("a refund").hint_agrees is None


@given(st.text(max_size=300), st.text(max_size=300), st.none() | st.text(max_size=20))
def test_any_text_is_classified(text, system, hint):
    found = seen(text, system, task_type=hint)
    assert found.cluster in {"unknown", *(rule.name for rule in TABLE.clusters)}


def test_only_the_beginning_of_a_long_text_is_looked_at():
    assert seen("x " * MAX_TEXT_CHARS + "refund").cluster == "unknown"


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (ClusterRule(name="look", patterns=("(?=ahead)",)), "`look`, patterns: `(?=ahead)`"),
        (ClusterRule(name="open", system_patterns=("(",)), "`open`, system_patterns: `(`"),
        (ClusterRule(name="big", patterns=("(a{1000}){1000}",)), "`big`"),
        (ClusterRule(name="none"), "`none` has nothing to match by"),
        (ClusterRule(name="few", keywords=("a",), min_keywords=2), "`few` asks for 2 keywords and has 1"),
        (ClusterRule(name="unknown", keywords=("a",)), "cannot have a rule"),
    ],
)
def test_a_wrong_rule_is_named(rule, said):
    with pytest.raises(ConfigError) as caught:
        TableClassifier(ClusterTable(clusters=(rule,)))
    assert said in str(caught.value)


def test_two_clusters_cannot_claim_one_signature_or_one_name():
    one, other = (ClusterRule(name=name, signatures=(SIGNATURE,)) for name in ("one", "other"))
    with pytest.raises(ConfigError, match="`one` and `other` both claim"):
        TableClassifier(ClusterTable(clusters=(one, other)))
    with pytest.raises(ConfigError, match="twice"):
        TableClassifier(ClusterTable(clusters=(one, one)))


def test_the_shipped_table_knows_the_demo_workloads_tasks_and_takes_no_open_question_for_one():
    path = Path(policies.__file__).parent / "clusters.yaml"
    classifier = TableClassifier(load_strict(path.read_text("utf-8"), ClusterTable, str(path)))
    found = {family: [] for family in FAMILIES}
    for family, made in FAMILIES.items():
        tools = tuple(tool["function"]["name"] for tool in made.app.get("tools") or ())
        for row in family_rows(family, seed=11, count=60):
            given_call = ClassifyInput("0" * 64, made.app["system"], row["input"], tools)
            found[family].append(classifier.classify(given_call).cluster)
    open_ones = found.pop("open_questions")
    assert {family: set(clusters) for family, clusters in found.items()} == {family: {family} for family in found}
    assert not set(open_ones) & found.keys()
    assert "unknown" in open_ones
