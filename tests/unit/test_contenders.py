import msgspec
import pytest

from policies.contenders import contenders_of, entries_of
from registry.entries import ModelEntry, Prices, SpecialistEntry, TemplateEntry

LARGE = ModelEntry(model_name="large", backend="far", prices=Prices(input_usd_per_mtok=5.0), safety_grade="A")
SMALL = ModelEntry(
    model_name="small", backend="near", upstream_name="small-v2", context_len=2048, tools=False, response_formats=False
)
TEMPLATED = SpecialistEntry(
    name="bank",
    digest="0123456789ab",
    base="small",
    adapter="adapters/bank",
    clusters=("bank",),
    stage="active",
    template=TemplateEntry(answer="json", signature="f" * 64),
    confidence_threshold=-0.5,
    eval_scores={"bank": 0.9},
)
PLAIN = SpecialistEntry(
    name="shop",
    digest="sha256:ba9876543210ff",
    base="small",
    adapter="adapters/shop",
    clusters=("shop",),
    safety_grade="B",
    prices=Prices(output_usd_per_mtok=0.2),
)


def test_models_come_first_and_one_of_them_is_the_frontier():
    made = contenders_of([SMALL, LARGE], [TEMPLATED, PLAIN], "large")
    assert [one.name for one in made] == ["small", "large", "bank@0123456789ab", "shop@ba9876543210"]
    assert [one.candidate.is_frontier for one in made] == [False, True, False, False]
    assert (made[0].upstream, made[1].upstream) == ("small-v2", "large")


def test_a_specialist_has_its_bases_limits_unless_its_template_lifts_them():
    _, templated, plain = contenders_of([SMALL], [TEMPLATED, PLAIN], "large")
    assert (templated.backend, templated.candidate.context_len) == ("near", 2048)
    assert templated.candidate.tools and templated.candidate.response_formats and templated.candidate.uses_template
    assert templated.candidate.template_signature == "f" * 64
    assert (templated.threshold, templated.prices) == (-0.5, SMALL.prices)
    assert not plain.candidate.tools and not plain.candidate.uses_template and plain.template is None


def test_a_specialists_own_grade_and_prices_win():
    _, templated, plain = contenders_of([SMALL], [TEMPLATED, PLAIN], "large")
    assert (templated.candidate.safety_grade, plain.candidate.safety_grade) == ("C", "B")
    assert plain.candidate.prices.output_usd_per_mtok == 0.2


def test_a_snapshot_brings_back_the_entries_it_was_made_of():
    snapshot = msgspec.json.decode(msgspec.json.encode([SMALL, LARGE, TEMPLATED, PLAIN]))
    assert entries_of(snapshot) == ([SMALL, LARGE], [TEMPLATED, PLAIN])


def test_an_entry_of_a_later_program_is_refused_and_not_misread():
    with pytest.raises(msgspec.ValidationError, match="quantum"):
        entries_of([msgspec.to_builtins(SMALL) | {"quantum": True}])
