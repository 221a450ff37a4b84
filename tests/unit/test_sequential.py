"""Evidence over time: looking at every call does not raise the error rates, and real effects are found."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.sequential import (
    BETS,
    Amounts,
    Ratio,
    Share,
    calls_until,
    log_evidence,
    lower_limit,
    node_gaps,
    p_value,
    share_log_evidence,
    upper_limit,
)
from registry.errors import BadInputError

RUNS, CALLS, ALPHA = 400, 1_500, 0.05
# Ever wrong in a share of 400 runs: alpha and three standard errors.
# Every call at first, then every seventh (benchmarks/promotion.py looks at every call).
LOOKS = np.r_[0:60, 60:CALLS:7]
MOST_WRONG = ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / RUNS)


def ever(log_e):
    """Share of runs (rows) in which the evidence reaches 1 / alpha at any of the looks."""
    return float((log_e >= -math.log(ALPHA)).any(axis=1).mean())


def share_paths(rate, bound, side, seed=0):
    ones = np.cumsum(np.random.default_rng(seed).random((RUNS, CALLS)) < rate, axis=1).astype(float)
    return share_log_evidence(ones[:, LOOKS], LOOKS + 1.0, np.array(bound), side)


def corners(first, second, shape):
    """Where `Ratio` lays calls down: the four nodes around each and the part of it that each gets (last axis)."""
    rows, columns = (np.minimum((x * (n - 1)).astype(int), n - 2) for x, n in ((first, shape[0]), (second, shape[1])))
    right, up = first * (shape[0] - 1) - rows, second * (shape[1] - 1) - columns
    place = rows * shape[1] + columns
    places = np.stack([place, place + 1, place + shape[1], place + shape[1] + 1], axis=-1)
    return places, np.stack([(1 - right) * (1 - up), (1 - right) * up, right * (1 - up), right * up], axis=-1)


def ratio_paths(ratio, first, second, bound, side):
    """Log evidence of `ratio`'s kind after each look of every run."""
    shape = (ratio.nodes, ratio.base_nodes)
    gaps, least = node_gaps(shape, np.array(bound), side, weighted=ratio.weighted)
    places, parts = corners(first, second, shape)
    paths = []
    for bet in BETS:
        earned = (np.log1p(bet * gaps / least)[places] * parts).sum(axis=-1)
        paths.append(np.cumsum(earned, axis=1)[:, LOOKS])
    most = np.max(paths, axis=0)
    return most + np.log(np.mean(np.exp(paths - most), axis=0))


@pytest.mark.parametrize(("bound", "side"), [(0.98, "above"), (0.98, "below"), (0.5, "above"), (0.05, "below")])
def test_a_share_at_its_bound_is_seldom_called_better_however_often_one_looks(bound, side):
    assert ever(share_paths(bound, bound, side)) <= MOST_WRONG


def test_a_fixed_test_at_every_look_is_wrong_far_more_often():
    rng = np.random.default_rng(1)
    shares = np.cumsum(rng.random((RUNS, CALLS)) < 0.5, axis=1) / np.arange(1.0, CALLS + 1)
    z = (shares - 0.5) * 2 * np.sqrt(np.arange(1.0, CALLS + 1))
    assert (z[:, 30:] > 1.645).any(axis=1).mean() > 0.2


@pytest.mark.parametrize("side", ["above", "below"])
def test_parity_at_its_bound_is_seldom_called_better(side):
    rng = np.random.default_rng(2)
    hard = rng.random((RUNS, CALLS))  # the same calls are hard for both
    reference = (hard < 0.90).astype(float)
    chain = ((hard + 0.3 * rng.random((RUNS, CALLS))) % 1.0 < 0.95 * 0.90).astype(float)
    assert ever(ratio_paths(Ratio(), chain, reference, 0.95, side)) <= MOST_WRONG


@pytest.mark.parametrize("side", ["above", "below"])
@pytest.mark.parametrize("spread", [0.05, 0.5, 3.0])
def test_a_bounded_mean_at_its_bound_is_seldom_called_better(side, spread):
    x = np.random.default_rng(3).beta(2 / spread, 3 / spread, (RUNS, CALLS))
    assert ever(ratio_paths(Ratio(weighted=True, nodes=25), x, np.ones_like(x), 0.4, side)) <= MOST_WRONG


def test_a_confidence_sequence_covers_at_all_times_at_once():
    rng = np.random.default_rng(4)
    missed = 0
    for _ in range(200):
        share, looks = Share(), []
        for call in range(400):
            share.observe(bool(rng.random() < 0.9))
            if call % 20 == 19:
                looks.append(lower_limit(share, ALPHA) <= 0.9 <= upper_limit(share, ALPHA))
        missed += not all(looks)
    assert missed / 200 <= 2 * ALPHA


def test_amounts_over_time_cover_the_ratio_of_totals():
    rng = np.random.default_rng(5)
    missed = 0
    for _ in range(60):
        amounts, looks = Amounts(clip=3.0), []
        for call in range(300):
            reference = rng.gamma(4.0)  # seldom beyond three standard deviations, so the cuts hardly matter
            amounts.observe(reference * rng.uniform(0.4, 0.8), reference)
            if call % 30 == 29:
                looks.append(lower_limit(amounts, ALPHA) <= 0.6 <= upper_limit(amounts, ALPHA))
        missed += not all(looks)
    assert missed / 60 <= 0.1


def test_what_clearly_holds_is_found_soon():
    share, cheap = Share(), Amounts()
    rng = np.random.default_rng(6)
    for _ in range(300):
        share.observe(True)
        reference = rng.lognormal(0.0, 0.8)
        cheap.observe(0.1 * reference, reference)
    assert p_value(share, 0.98, "above") < ALPHA
    assert p_value(cheap, 0.7, "below") < 1e-6
    assert upper_limit(cheap, ALPHA) < 0.25


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=60),
    st.floats(0.05, 0.95),
    st.sampled_from(["above", "below"]),
    st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_laying_calls_on_a_grid_never_earns_more_than_the_bets_themselves(calls, bound, side, weighted):
    ratio = Ratio(weighted=weighted, nodes=7, base_nodes=4)
    for first, second in calls:
        ratio.observe(first, second)
    gaps = np.array([y * (x - bound) if weighted else x - bound * y for x, y in calls]) * (1 if side == "above" else -1)
    least = bound if side == "above" else 1.0 - bound if weighted else 1.0
    capital = np.log1p(BETS[:, None] * gaps / least).sum(axis=1)
    mixed = capital.max() + math.log(np.exp(capital - capital.max()).mean())
    assert log_evidence(ratio, bound, side) <= mixed + 1e-6


def test_for_yes_and_no_nothing_is_lost_by_the_grid():
    rng = np.random.default_rng(8)
    ratio, share = Ratio(), Share()
    for so in rng.random(300) < 0.97:
        ratio.observe(float(so))
        share.observe(bool(so))
    assert log_evidence(ratio, 0.9, "above") == pytest.approx(log_evidence(share, 0.9, "above"))


@given(st.lists(st.booleans(), min_size=1, max_size=80), st.randoms())
@settings(max_examples=50, deadline=None)
def test_the_order_of_the_calls_does_not_matter_and_limits_enclose_what_was_seen(calls, random):
    first, second = Share(), Share()
    shuffled = calls[:]
    random.shuffle(shuffled)
    for one, other in zip(calls, shuffled, strict=True):
        first.observe(one)
        second.observe(other)
    assert first == second
    assert lower_limit(first, ALPHA) <= first.value <= upper_limit(first, ALPHA)


def test_proven_and_refuted_agree_with_the_limits():
    rng = np.random.default_rng(7)
    ratio = Ratio()
    for _ in range(500):
        ratio.observe(float(rng.random() < 0.9), float(rng.random() < 0.85))
    low, high = lower_limit(ratio, ALPHA), upper_limit(ratio, ALPHA)
    assert low < ratio.value < high
    for bound in (low - 0.01, low + 0.01):
        assert (p_value(ratio, bound, "above") <= ALPHA) == (bound < low)
    for bound in (high - 0.01, high + 0.01):
        assert (p_value(ratio, bound, "below") <= ALPHA) == (bound > high)


def test_nothing_seen_says_nothing():
    for evidence in (Share(), Ratio(), Amounts()):
        assert evidence.value is None
        assert (lower_limit(evidence, ALPHA), upper_limit(evidence, ALPHA)) == (0.0, evidence.top)
        assert p_value(evidence, 0.5, "above") == 1.0
        assert calls_until(evidence, 0.5, "above", ALPHA) is None


def test_the_forecast_comes_true_when_all_goes_on_as_before():
    share = Share(n=200, ones=196)
    more = calls_until(share, 0.95, "above", ALPHA)
    assert more is not None and more > 0
    after = Share(n=200 + more, ones=round(196 * (200 + more) / 200))
    assert p_value(after, 0.95, "above") <= ALPHA * 1.2
    assert calls_until(after, 0.95, "above", ALPHA) <= 20
    assert calls_until(Share(n=200, ones=180), 0.95, "above", ALPHA) is None


def test_one_huge_bill_cannot_prove_or_refute_anything_by_itself():
    amounts = Amounts(clip=2.0)
    for _ in range(50):
        amounts.observe(1.0, 1.0)
    before = upper_limit(amounts, ALPHA)
    amounts.observe(1e9, 1e9)
    amounts.observe(0.0, 1e9)
    assert abs(upper_limit(amounts, ALPHA) - before) < 0.1
    assert amounts.cut == 2


@pytest.mark.parametrize("amounts", [(-1.0, 1.0), (1.0, -1.0), (math.nan, 1.0), (1.0, math.inf)])
def test_nonsense_is_refused_and_leaves_no_trace(amounts):
    stream, ratio = Amounts(), Ratio()
    with pytest.raises(BadInputError):
        stream.observe(*amounts)
    with pytest.raises(BadInputError):
        ratio.observe(*amounts)
    assert stream == Amounts() and ratio == Ratio()
    with pytest.raises(BadInputError):
        lower_limit(Share(), 0.0)
