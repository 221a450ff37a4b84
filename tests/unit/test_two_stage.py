"""The operator's table before the learned model, and the model's doubts told."""

from msgspec import Struct

from policies.classify import ClassifyInput, ClusterRule, ClusterTable, TableClassifier
from policies.two_stage import TwoStageClassifier

TABLE = TableClassifier(
    ClusterTable(clusters=(ClusterRule(name="refunds", keywords=("refund",), task_types=("money",)),))
)


class Said(Struct):
    cluster: str
    probability: float
    unknown_probability: float = 0.1
    nearest: str = "refunds"


class Model(Struct):
    said: Said
    name: str = "classifier:sha256:abc"
    asked: list = []

    def posterior(self, text, system="", tool_names=(), json_keys=()):
        self.asked.append((text, system, tool_names, json_keys))
        return self.said


def given(text, **more):
    return ClassifyInput(signature="0" * 64, text=text, **more)


def test_what_the_table_knows_is_not_asked_of_the_model():
    model = Model(Said("parcels", 0.99))
    seen = TwoStageClassifier(TABLE, model).classify(given("a refund please"))
    assert (seen.cluster, seen.source, model.asked) == ("refunds", "keyword", [])


def test_what_the_table_does_not_know_the_model_may():
    model = Model(Said("refunds", 0.83))
    seen = TwoStageClassifier(TABLE, model).classify(
        given("give it back", system="You help.", tool_names=("pay",), json_keys=("label",), task_type="money")
    )
    assert (seen.cluster, seen.source, seen.confidence, seen.hint_agrees) == ("refunds", "learned", 0.83, True)
    assert "83%" in seen.reason and "abc" in seen.reason
    assert model.asked == [("give it back", "You help.", ("pay",), ("label",))]


def test_the_models_unknown_is_unknown_with_its_reason():
    seen = TwoStageClassifier(TABLE, Model(Said("unknown", 0.9, 0.9))).classify(given("sing me a song"))
    assert (seen.cluster, seen.source, seen.confidence) == ("unknown", "none", 0.0)
    assert "90% sure" in seen.reason and "nearest: refunds" in seen.reason


def test_a_model_can_come_and_go():
    classifier = TwoStageClassifier(TABLE)
    assert classifier.classify(given("give it back")).cluster == "unknown"
    classifier.exchange(Model(Said("refunds", 0.9)))
    assert classifier.classify(given("give it back")).cluster == "refunds"
    classifier.exchange(None)
    assert classifier.classify(given("give it back")).cluster == "unknown"


def test_a_found_tasks_signature_goes_before_the_model_and_behind_the_table():
    model = Model(Said("parcels", 0.99))
    classifier = TwoStageClassifier(TABLE, model)
    classifier.find({"0" * 64: "t-0123456789"})
    seen = classifier.classify(given("give it back"))
    assert (seen.cluster, seen.source, seen.confidence) == ("t-0123456789", "signature", 1.0)
    assert classifier.classify(given("a refund please")).cluster == "refunds"
    classifier.find({})
    assert classifier.classify(given("give it back")).cluster == "parcels"
