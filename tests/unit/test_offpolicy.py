import numpy as np
import pytest
from msgspec import structs

from pipelines.offpolicy import estimate
from pipelines.offpolicy_values import Aftermath, DirectModel, LoggedDecisions, nothing_differs

# Three decisions between two actions, worked out by hand below.
TAKEN = np.array([0, 1, 0])
LOGGED = np.array([[0.8, 0.2], [0.8, 0.2], [0.5, 0.5]])
TARGET = np.array([[0.4, 0.6], [0.4, 0.6], [1.0, 0.0]])
OUTCOMES = np.array([1.0, 0.0, 1.0])
MODEL = np.array([[0.9, 0.3], [0.7, 0.5], [0.6, 0.6]])
WEIGHTS = np.array([0.5, 3.0, 2.0])


def by_hand(model=MODEL, target=TARGET, **options):
    logged = LoggedDecisions(TAKEN, LOGGED, OUTCOMES)
    return estimate(logged, target, DirectModel(model, model), **options)


def drawn(seed, count, explored, model_error=0.05, calibration="none", kinds=4, actions=3):
    """A random world's log, its estimates, and the true means of target and logging policy."""
    rng = np.random.default_rng(seed)
    success = rng.uniform(0.3, 0.95, (kinds, actions))
    logging = np.full((kinds, actions), explored / (actions - 1))
    logging[np.arange(kinds), rng.integers(actions, size=kinds)] = 1.0 - explored
    target = np.zeros((kinds, actions))
    target[np.arange(kinds), rng.integers(actions, size=kinds)] = 1.0
    model = np.clip(success + rng.normal(-model_error, model_error, success.shape), 0, 1)
    kind = rng.integers(kinds, size=count)
    taken = np.minimum((rng.random(count)[:, None] >= np.cumsum(logging[kind], 1)).sum(1), actions - 1)
    outcomes = (rng.random(count) < success[kind, taken]).astype(float)
    made = estimate(
        LoggedDecisions(taken, logging[kind], outcomes, lowest=0.0, highest=1.0),
        target[kind],
        DirectModel(model[kind], model[kind], calibration),
    )
    return made, float((target * success).sum(1).mean()), float((logging * success).sum(1).mean())


def test_the_formulas_hold_on_three_decisions():
    made = by_hand()
    assert made.ips.mean == pytest.approx((0.5 * 1 + 3 * 0 + 2 * 1) / 3)
    assert made.snips.mean == pytest.approx(2.5 / 5.5)
    expected_target = np.array([0.54, 0.58, 0.6])
    expected_logging = np.array([0.78, 0.66, 0.6])
    done = np.array([0.9, 0.5, 0.6])
    change = expected_target - expected_logging + (WEIGHTS - 1) * (OUTCOMES - done)
    assert made.dr_difference.mean == pytest.approx(change.mean())
    assert made.dr.mean == pytest.approx(2 / 3 + change.mean())
    assert made.direct == pytest.approx(expected_target.mean())
    assert made.overlap.effective == pytest.approx(5.5**2 / (0.25 + 9 + 4))
    assert made.overlap.max_weight == pytest.approx(3.0)


@pytest.mark.parametrize("calibration", ["none", "shift", "scale"])
def test_a_policy_compared_with_itself_gets_exactly_what_was_observed(calibration):
    logged = LoggedDecisions(TAKEN, LOGGED, OUTCOMES)
    made = estimate(logged, LOGGED, DirectModel(MODEL, MODEL, calibration))
    for one in (made.ips, made.snips, made.dr):
        assert one.mean == pytest.approx(2 / 3, abs=1e-12)
    assert (made.snips_difference.mean, made.dr_difference.mean) == pytest.approx((0.0, 0.0), abs=1e-12)
    assert made.dr_difference.high == pytest.approx(0.0, abs=1e-9)
    assert made.overlap.effective == pytest.approx(3) and made.overlap.unsupported == pytest.approx(0)


def test_intervals_hold_the_truth_as_often_as_they_say():
    worlds = 400
    held = dict.fromkeys(("snips", "dr", "snips_difference", "dr_difference"), 0)
    for seed in range(worlds):
        made, truth, before = drawn(seed, 500, explored=0.2, model_error=0.2, calibration="shift")
        for name in held:
            one = getattr(made, name)
            held[name] += one.low <= (truth - before if "difference" in name else truth) <= one.high
    # 400 worlds at 95 %: three standard errors below are 92 %. Above 99.5 % an interval would be too wide to be of use.
    assert all(0.92 * worlds <= count <= 0.995 * worlds for count in held.values()), held


def test_intervals_hold_even_where_the_sample_has_none_of_the_rare_heavy_decisions():
    held, worlds = {"snips": 0, "dr": 0}, 300
    for seed in range(worlds):
        made, truth, _ = drawn(seed, 60, explored=0.03, model_error=0.2, calibration="shift")
        for name in held:
            held[name] += getattr(made, name).low <= truth <= getattr(made, name).high
    assert min(held.values()) >= 0.92 * worlds, held


def test_dr_is_right_with_a_wrong_model_and_steadier_than_ips_with_a_good_one():
    wrong = [drawn(seed, 2000, explored=0.4, model_error=0.4) for seed in range(60)]
    good = [drawn(seed, 2000, explored=0.4, model_error=0.02) for seed in range(60)]
    bias = np.mean([made.dr.mean - truth for made, truth, _ in wrong])
    direct_bias = np.mean([made.direct - truth for made, truth, _ in wrong])
    assert abs(bias) < 0.02 and abs(direct_bias) > 0.2
    spread = {
        name: np.mean([(getattr(made, name).mean - truth) ** 2 for made, truth, _ in good]) for name in ("ips", "dr")
    }
    assert spread["dr"] < 0.7 * spread["ips"]


def test_what_the_logging_policy_never_does_is_left_to_the_model_and_said():
    logged = LoggedDecisions(
        np.zeros(50, dtype=int), np.tile([1.0, 0.0], (50, 1)), np.tile([1.0, 0.0], 25), lowest=0.0, highest=1.0
    )
    target = np.tile([[1.0, 0.0], [0.0, 1.0]], (25, 1))
    model = np.tile([0.5, 0.8], (50, 1))
    made = estimate(logged, target, DirectModel(model, model))
    assert made.overlap.unsupported == pytest.approx(0.5)
    assert made.dr.mean == pytest.approx((1.0 + 0.8) / 2)  # what was seen of one half, what is predicted of the other
    low, high = made.within
    assert 0.4 < low < 0.5 and high == 1.0  # of the half that was seen all succeeded; the other may be anything


def test_with_nothing_in_common_the_weights_know_nothing():
    logged = LoggedDecisions(np.zeros(4, dtype=int), np.tile([1.0, 0.0], (4, 1)), np.array([1.0, 0.0, 1.0, 1.0]))
    made = estimate(logged, np.tile([0.0, 1.0], (4, 1)), DirectModel(np.full((4, 2), 0.6), np.full((4, 2), 0.6)))
    assert made.within == (0.0, 1.0) and made.overlap.effective == 0.0
    assert made.snips_difference.low <= -1.0 and made.snips_difference.high >= 1.0
    assert made.direct == pytest.approx(0.6)


def test_cut_weights_are_counted_and_cost_at_most_what_is_said():
    whole, cut = by_hand(), by_hand(max_weight=2.0)
    assert cut.overlap.max_weight == 2.0 and cut.overlap.clipped == pytest.approx(1 / 3)
    assert cut.overlap.weight_lost == pytest.approx(1 / 3)
    assert abs(whole.ips.mean - cut.ips.mean) <= cut.overlap.weight_lost
    wide, narrow = (drawn_with(limit) for limit in (np.inf, 5.0))
    assert narrow.dr.high - narrow.dr.low < 0.7 * (wide.dr.high - wide.dr.low)


def drawn_with(limit):
    rng = np.random.default_rng(1)
    logging = np.tile([0.98, 0.02], (2000, 1))
    taken = (rng.random(2000) < 0.02).astype(int)
    outcomes = (rng.random(2000) < 0.5).astype(float)
    model = np.full((2000, 2), 0.5)
    return estimate(
        LoggedDecisions(taken, logging, outcomes),
        np.tile([0.0, 1.0], (2000, 1)),
        DirectModel(model, model),
        None,
        limit,
    )


def test_a_model_off_by_a_factor_is_moved_to_what_was_seen():
    rng = np.random.default_rng(3)
    costs = np.array([1.0, 4.0])
    logged = LoggedDecisions(np.zeros(400, dtype=int), np.tile([1.0, 0.0], (400, 1)), rng.gamma(4.0, costs[0] / 4, 400))
    model = np.tile(costs * 0.3, (400, 1))  # everything is predicted at three tenths
    target = np.tile([0.0, 1.0], (400, 1))
    assert estimate(logged, target, DirectModel(model, model)).dr.mean == pytest.approx(1.2)
    moved = estimate(logged, target, DirectModel(model, model, "scale")).dr
    assert moved.low < 4.0 < moved.high
    assert moved.high - moved.low > 0.2  # the factor's own noise is in it


def test_a_refused_call_brings_nothing_for_sure():
    after = nothing_differs(3)
    after = structs.replace(after, refused=np.array([False, True, False]))
    target = np.array([[0.8, 0.2], [0.0, 0.0], [0.5, 0.5]])
    made = by_hand(target=target, aftermath=after)
    assert made.overlap.refused == pytest.approx(1 / 3) and made.overlap.unsupported == pytest.approx(0)
    assert (made.ips.mean, made.snips.mean, made.dr.mean) == pytest.approx((2 / 3, 2 / 3, 2 / 3))
    everything = structs.replace(after, refused=np.ones(3, dtype=bool))
    none = by_hand(target=np.zeros((3, 2)), aftermath=everything)
    assert (none.snips.mean, none.dr.mean, none.dr_difference.mean) == pytest.approx((0.0, 0.0, -2 / 3))


def test_where_the_ways_part_later_the_expected_rest_takes_the_outcomes_place():
    followed = np.array([True, False, True])
    after = Aftermath(np.zeros(3, dtype=bool), followed, np.array([0.0, 0.2, 0.0]), np.array([0.0, 0.7, 0.0]))
    made = by_hand(target=LOGGED, aftermath=after)
    assert made.dr.mean == pytest.approx((1.0 + 0.9 + 1.0) / 3)
    assert made.snips.mean == pytest.approx(1.0)  # of the two that would have gone on alike
    assert made.overlap.elsewhere == pytest.approx(1 / 3)


def test_equal_outcomes_do_not_pass_for_certainty():
    logged = LoggedDecisions(np.zeros(20, dtype=int), np.ones((20, 1)), np.ones(20), lowest=0.0, highest=1.0)
    made = estimate(logged, np.ones((20, 1)), DirectModel(np.ones((20, 1)), np.ones((20, 1))))
    assert made.logged.low < 0.95 and made.dr.low < 0.95


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"propensities": np.array([[0.8, 0.2], [1.0, 0.0], [0.5, 0.5]])}, "logged propensity is 0"),
        ({"propensities": LOGGED[:, :1]}, "shapes differ"),
        ({"taken": TAKEN[:0], "propensities": LOGGED[:0], "outcomes": OUTCOMES[:0]}, "no decision"),
    ],
)
def test_what_cannot_be_judged_is_refused(change, message):
    fields = {"taken": TAKEN, "propensities": LOGGED, "outcomes": OUTCOMES} | change
    with pytest.raises(ValueError, match=message):
        estimate(LoggedDecisions(**fields), TARGET, DirectModel(MODEL, MODEL))
