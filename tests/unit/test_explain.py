"""What an operator reads about each candidate of a decision."""

from msgspec import structs

from policies.explain import Weighing, verdict
from policies.plan import Estimate

BIG = Estimate("big", 0.95, 1.0, 0.004, 0.01, 100, 200, 1.0, 0.02, 40.0, ("big",), 0.004, 0.8)
SMALL = Estimate("small", 0.85, 0.9, 0.0001, 0.001, 50, 100, 0.0, 0.05, 12.0, ("small", "big"), 0.0005, 0.8)


def weighed(*estimates, chain, lam=0.0, explored=False):
    return Weighing({one.candidate: one for one in estimates}, chain, 0.8, lam, explored)


def test_the_cheapest_that_is_good_enough_says_so_with_its_cost_and_evidence():
    said = verdict("small", weighed(BIG, SMALL, chain=("small", "big")))
    assert said == "the least cost that meets 0.80: $0.00050 a call, quality 0.85 ± 0.05 (12 outcomes)"


def test_the_one_behind_it_says_why_it_is_not_first():
    said = verdict("big", weighed(BIG, SMALL, chain=("small", "big")))
    assert said == "step 2 of the chain, not first: its chain costs $0.0040, $0.0035 more than the one picked"


def test_one_below_the_sla_says_by_how_much_and_what_chance_it_had():
    poor = structs.replace(SMALL, quality=0.6, propensity=0.02)
    said = verdict("small", weighed(BIG, poor, chain=("big",)))
    assert said == (
        "its predicted quality is 0.60 ± 0.05 (12 outcomes), and 0.80 is asked for; it had a chance of 2.0%"
    )


def test_an_exploration_says_that_it_is_one_and_the_better_one_that_it_was_passed_over():
    drawn = structs.replace(SMALL, quality=0.6, propensity=0.02, value=0.5)
    decision = weighed(BIG, drawn, chain=("small", "big"), explored=True)
    assert verdict("small", decision).startswith("drawn to learn how good it is, with a chance of 2.0%")
    assert "passed over this once" in verdict("big", decision)


def test_under_a_ceiling_the_price_of_quality_is_told():
    decision = weighed(structs.replace(BIG, value=0.1, propensity=0.0), SMALL, chain=("small",), lam=50.0)
    assert "a cent must bring 0.5" in verdict("small", decision)
    assert verdict("big", decision) == "0.100 more quality for $0.0035 more: too dear under the spend ceiling"


def test_one_whose_chain_breaks_the_limits_says_that():
    assert verdict("small", weighed(BIG, structs.replace(SMALL, chain=()), chain=("big",))) == (
        "no chain that it would head keeps the call's limits"
    )


def test_when_nobody_is_good_enough_the_best_says_so():
    poor = structs.replace(BIG, quality=0.7)
    said = verdict("big", weighed(poor, structs.replace(SMALL, quality=0.5), chain=("big",)))
    assert said == "the best quality there is, 0.70 ± 0.02 (40 outcomes); nobody reaches 0.80"


def test_a_call_for_a_named_model_says_so():
    named = Weighing({"big": BIG}, ("big",), 0.8, named=True)
    assert verdict("big", named) == "asked for by name; quality 0.95 ± 0.02 (40 outcomes)"


def test_a_record_from_before_chains_were_kept_claims_nothing():
    """Its candidates have no chain, which says nothing about limits or about who else might have answered."""
    old = weighed(*(structs.replace(one, chain=()) for one in (BIG, SMALL)), chain=("small", "big"))
    assert verdict("small", old) == "picked; quality 0.85 ± 0.05 (12 outcomes)"
    assert "limits" not in verdict("big", old) and "quality 0.95" in verdict("big", old)


def test_just_below_what_is_asked_for_is_told_with_enough_digits():
    poor = structs.replace(SMALL, quality=0.7996)
    assert verdict("small", weighed(BIG, poor, chain=("big",))).startswith("its predicted quality is 0.7996")
    poorer = structs.replace(SMALL, quality=0.8 - 1e-12)
    assert "a little less than 0.8" in verdict("small", weighed(BIG, poorer, chain=("big",)))


def test_prices_of_quality_beyond_reach_are_words():
    decision = weighed(BIG, SMALL, chain=("small",), lam=9.7e11)
    assert "nothing but the cheapest can be afforded" in verdict("small", decision)
    assert "a cent must bring 2,000" in verdict("small", weighed(BIG, SMALL, chain=("small",), lam=2e5))
    assert "next to nothing" in verdict("small", weighed(BIG, SMALL, chain=("small",), lam=1e-9))


def test_differences_that_are_rounding_are_no_money():
    same = structs.replace(BIG, candidate="twin", chain=("twin", "big"), chain_cost_usd=0.004 + 1e-18)
    said = verdict("twin", weighed(BIG, same, chain=("big",)))
    assert "$0.0000000" not in said and "as dear" in said
