import io
import json
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from msgspec import structs
from rich.console import Console

from observations.records import AttemptRecord, CallRecord, CatalogRecord, FeedbackRecord
from observations.state import StatePaths
from pipelines.replay_recorded import RecordedOptions, replay_recorded
from policies.contenders import contenders_of
from policies.learning import LearningPolicy, SpendPolicy
from policies.plan import Hints, PlanRequest, TaskFeatures
from policies.planner import plan
from policies.selection import chance_for
from policies.terms import PlannerPolicy, TierPolicy, terms_of
from registry.entries import ModelEntry, Prices
from registry.errors import BadInputError
from router_service.plan_recording import plan_record
from tests.unit.recorded_calls import spool_up

START_MS = 1_790_000_000_000
LARGE = ModelEntry(
    model_name="large",
    backend="far",
    prices=Prices(input_usd_per_mtok=5.0, output_usd_per_mtok=20.0),
    first_token_ms=800,
    safety_grade="A",
)
MIDDLE = structs.replace(LARGE, model_name="middle", prices=Prices(input_usd_per_mtok=1.0, output_usd_per_mtok=4.0))
SMALL = structs.replace(
    LARGE, model_name="small", prices=Prices(input_usd_per_mtok=0.1, output_usd_per_mtok=0.4), first_token_ms=100
)
CATALOG = CatalogRecord(
    id="sha256:1", at_ms=START_MS, digest="sha256:1", models=msgspec.to_builtins([LARGE, MIDDLE, SMALL])
)
FEATURES = TaskFeatures("f" * 64, prompt_tokens=400, max_tokens=200, expected_output_tokens=50)

# (P(right), P(believed)): what is true, and what the planner believes.
TRUTH = {"large": (0.95, 1.0), "middle": (0.9, 0.9), "small": (0.8, 0.85)}


def policy(sla=0.75, *, explored=0.2, **fields):
    tier = TierPolicy(latency_budget_ms=60_000, max_cost_usd=0.1, quality_sla=sla)
    tiers = {"standard": structs.replace(tier, **fields), "gold": structs.replace(tier, quality_sla=0.94)}
    return PlannerPolicy(tiers=tiers, learning=LearningPolicy(exploration_share=explored))


def candidates(doubt):
    made = []
    for contender in contenders_of([LARGE, MIDDLE, SMALL], [], "large"):
        quality, believed = TRUTH[contender.name]
        sd = doubt if contender.name != "large" else 0.01
        made.append(structs.replace(contender.candidate, quality=quality, p_believed=believed, quality_sd=sd))
    return made


class Log:
    """Decisions made, carried out by chance, and recorded as the gateway records them."""

    def __init__(self, logging, *, doubt=0.0, seed=0, cluster="bank", hints=None, feedback=1.0, lam=0.0):
        self.rng = np.random.default_rng(seed)
        self.logging, self.doubt, self.cluster, self.feedback = logging, doubt, cluster, feedback
        self.hints, self.lam = hints or Hints(), lam
        self.events = [CATALOG]

    def calls(self, count, start=0):
        for number in range(start, start + count):
            self.events += self.call(number)
        return self

    def decision(self, call_id):
        terms = terms_of(self.hints, self.logging)
        known = candidates(self.doubt)
        request = PlanRequest(FEATURES, self.cluster, terms)
        made = plan(request, known, self.logging, chance_for(call_id, self.logging.learning, self.lam))
        return SimpleNamespace(plan=made, candidates=tuple(known), key_tier=None)

    def call(self, number):
        call_id = f"chatcmpl-{number:026d}"
        decision = self.decision(call_id)
        job = SimpleNamespace(plan_id=f"plan_{number}", hints=self.hints, model="auto")
        attempts, latency_ms = [], 5.0
        for name in decision.plan.chain:
            expected = next(e for e in decision.plan.estimates if e.candidate == name)
            believed = self.rng.random() < TRUTH[name][1]
            took_ms = expected.latency_p50_ms * self.rng.uniform(0.8, 1.2)
            spent = expected.cost_usd * self.rng.uniform(1.2, 1.8)  # half as much again as expected
            outcome = "verified" if believed else "malformed"
            attempts.append(AttemptRecord(name, "far", outcome, cost_usd=spent, latency_ms=took_ms))
            latency_ms += took_ms
            if believed:
                break
        record = CallRecord(
            id=call_id,
            at_ms=START_MS + number,
            cluster=self.cluster,
            cluster_source="pattern",
            plan=plan_record(job, decision, "sha256:1", "sha256:p"),
            attempts=tuple(attempts),
            served_by=attempts[-1].candidate,
            frontier="large",
            outcome="verified" if attempts[-1].outcome == "verified" else "unverified",
            cost_usd=sum(a.cost_usd for a in attempts),
            latency_ms=latency_ms,
            escalated=len(attempts) > 1,
        )
        if self.rng.random() >= self.feedback:
            return [record]
        right = self.rng.random() < TRUTH[record.served_by][0]
        said = "success" if right else "failure"
        return [record, FeedbackRecord(f"fb_{number}", call_id, START_MS + 10**6, outcome=said)]


def replayed(tmp_path, events, new, **options):
    state = StatePaths(tmp_path / "state").create()
    spool_up(state, *events)
    return replay_recorded(state, new, RecordedOptions(**options))


def true_means(made_by, doubt):
    """The policy's true (reward, US dollars): its chains' by their propensities."""
    count = 1000
    log, total, known = Log(made_by, doubt=doubt), np.zeros(2), {}
    for number in range(10**6, 10**6 + count):
        for e in log.decision(f"chatcmpl-{number:026d}").plan.estimates:
            if e.propensity:
                total += e.propensity * known.setdefault(e.chain, truth_of(e.chain))
    return total / count


def truth_of(chain):
    """A chain's true (reward, US dollars)."""
    expected = {e.candidate: e for e in Log(policy()).decision("x").plan.estimates}
    reward, cost_usd, reached = 0.0, 0.0, 1.0
    for position, name in enumerate(chain):
        right, believed = TRUTH[name]
        cost_usd += reached * 1.5 * expected[name].cost_usd
        served = reached if position == len(chain) - 1 else reached * believed
        reward += served * right
        reached -= served
    return np.array([reward, cost_usd])


def is_near(found, truth):
    """Within three standard errors; a 95 % interval is 1.96 to either side."""
    return abs(found.mean - truth) <= 3 / 1.96 * (found.high - found.low) / 2


def test_the_same_policy_gets_exactly_what_was_observed(tmp_path):
    logging = policy()
    report = replayed(tmp_path, Log(logging, doubt=0.1).calls(300).events, logging)
    assert report.changed == 0.0 and report.skipped == {}
    assert "decides all 300 calls as they were decided" in report.verdict
    for name, found in report.total.quantities.items():
        for one in (found.snips, found.ips, found.dr):
            assert one.mean == pytest.approx(found.logged.mean, abs=1e-12), name
        assert found.dr_difference.high == pytest.approx(0.0, abs=1e-9)
        assert found.overlap.effective == pytest.approx(300)
    assert all(one.logged == pytest.approx(one.target) for one in report.first.values())
    assert len([one for one in report.first.values() if one.logged > 0]) > 1  # there was exploration


def test_a_stricter_policy_is_foretold_where_exploration_has_tried_it(tmp_path):
    logging, new = policy(explored=0.5), policy(sla=0.85, explored=0.5)
    report = replayed(tmp_path, Log(logging, doubt=0.15).calls(1500).events, new)
    assert report.first["middle"].target > report.first["middle"].logged + 0.15
    changes = true_means(new, 0.15) - true_means(logging, 0.15)
    for quantity, change in zip(("reward", "cost_usd"), changes, strict=True):
        assert is_near(report.total.quantities[quantity].dr_difference, change), quantity
    cost = report.total.quantities["cost_usd"].dr_difference
    assert cost.low > 0 and "more for 1,000 calls" in report.verdict


def test_what_was_never_tried_is_called_the_predictions_word(tmp_path):
    report = replayed(tmp_path, Log(policy(explored=0.0)).calls(200).events, policy(sla=0.93, explored=0.0))
    found = report.total.quantities["cost_usd"]
    assert report.first["large"].target == 1.0 and found.overlap.unsupported == pytest.approx(1.0)
    assert found.dr.low < truth_of(("large",))[1] < found.dr.high  # bills run 50 % above the predictions
    assert "Mostly the model's word: for 100% of its choices" in report.verdict
    assert "anywhere between 0.00 and 1.00" in report.verdict and "too few to rely on" in report.verdict


def test_the_laxer_policy_costs_less(tmp_path):
    report = replayed(tmp_path, Log(policy(sla=0.93, explored=0.0)).calls(100).events, policy(explored=0.0))
    change = report.total.quantities["cost_usd"].dr_difference
    assert change.mean < 0 and report.total.quantities["escalated"].dr_difference.mean == pytest.approx(0.15)


def test_calls_that_it_would_turn_away_are_counted_as_such(tmp_path):
    poor = policy(max_cost_usd=1e-9, explored=0.0)
    report = replayed(tmp_path, Log(policy(explored=0.0)).calls(50).events, poor)
    assert report.refusals == {"no_candidate": 50}
    assert report.total.quantities["cost_usd"].dr.mean == pytest.approx(0.0)
    assert report.total.quantities["reward"].overlap.unsupported == 0.0
    assert "turn 100.0% of the calls away (50 because nobody may answer under it)" in report.verdict


def test_a_spend_ceilings_price_is_the_recorded_one_if_the_new_policy_has_a_ceiling(tmp_path):
    capped = structs.replace(policy(sla=0.93, explored=0.0), spend=SpendPolicy(usd_per_call=0.001))
    events = Log(capped, lam=100.0).calls(40).events
    same = replayed(tmp_path, events, capped)
    assert same.changed == 0.0 and same.first["large"].logged == 0.0  # too dear at that price
    free = replay_recorded(StatePaths(tmp_path / "state"), structs.replace(capped, spend=SpendPolicy()))
    assert free.first["large"].target == 1.0


def test_a_callers_hints_are_held_against_the_new_tiers(tmp_path):
    hurried = Log(policy(explored=0.0), hints=Hints(latency_budget_ms=9_000, user_tier="gold")).calls(20).events
    same = replayed(tmp_path / "a", hurried, policy(explored=0.0))
    assert same.changed == 0.0 and same.first["large"].target == 1.0
    no_gold = PlannerPolicy(tiers={"standard": policy().tiers["standard"]})
    assert replayed(tmp_path / "b", hurried, no_gold).refusals == {"hint_not_allowed": 20}


def test_feedback_outweighs_the_checks_and_silence_on_unverified_answers_is_no_reward(tmp_path):
    first, second, third, fourth = (Log(policy(explored=0.0), feedback=0.0).call(n)[0] for n in range(4))
    events = [
        CATALOG,
        structs.replace(first, outcome="verified"),
        structs.replace(second, outcome="verified"),
        structs.replace(third, outcome="unverified"),
        structs.replace(fourth, outcome="failed"),
        FeedbackRecord("fb_1", first.id, START_MS, outcome="success", score=0.25),
        FeedbackRecord("fb_2", second.id, START_MS, outcome="success"),
        FeedbackRecord("fb_3", second.id, START_MS + 1, outcome="failure"),
    ]
    report = replayed(tmp_path, events, policy(explored=0.0))
    assert (report.rewards.feedback, report.rewards.verifier, report.rewards.unknown) == (2, 1, 1)
    quantities = report.total.quantities
    assert quantities["reward"].logged.mean == pytest.approx(0.25 / 3)
    assert quantities["judged"].logged.mean == pytest.approx(0.125)
    assert quantities["cost_usd"].overlap.decisions == 4
    other = replay_recorded(StatePaths(tmp_path / "state"), policy(sla=0.93, explored=0.0))
    assert "Of 1 answers nobody knows" in other.verdict


def test_without_feedback_the_verdict_says_whose_word_the_reward_is(tmp_path):
    events = Log(policy(explored=0.0), feedback=0.0).calls(30).events
    assert "Nobody gave feedback" in replayed(tmp_path, events, policy(sla=0.93, explored=0.0)).verdict


def test_what_cannot_be_decided_again_is_counted_by_its_reason(tmp_path):
    log = Log(policy(), doubt=0.1)
    good, *others = (log.call(number)[0] for number in range(9))
    plans = [call.plan for call in others]
    bare = tuple(
        structs.replace(one, first_token_ms=None, tokens_per_s=None, quality_sd=0.0) for one in plans[0].candidates
    )
    unlikely = tuple(structs.replace(one, propensity=0.0) for one in plans[1].candidates)
    events = [
        CATALOG,
        good,
        structs.replace(others[0], plan=structs.replace(plans[0], candidates=bare)),
        structs.replace(others[1], plan=structs.replace(plans[1], candidates=unlikely)),
        structs.replace(others[2], plan=structs.replace(plans[2], catalog_digest="sha256:2")),
        structs.replace(others[3], plan=structs.replace(plans[3], inputs=plans[3].inputs | {"asked_for": "small"})),
        structs.replace(others[4], outcome="cancelled"),
        structs.replace(others[5], plan=None, outcome="failed"),
        structs.replace(others[6], attempts=(), outcome="failed"),
        structs.replace(others[7], cache_hit=True),
    ]  # fmt: skip
    report = replayed(tmp_path, events, policy())
    assert report.read == 9 and report.total.decisions == 1
    assert report.skipped == dict.fromkeys(
        ("old_record", "no_propensity", "no_catalog", "named", "cancelled", "no_plan", "never_asked", "cached"), 1
    )


def test_an_alias_of_auto_is_a_decision_of_the_policy(tmp_path):
    call = structs.replace(Log(policy()).call(0)[0], requested_model="gpt-4o")
    assert replayed(tmp_path, [CATALOG, call], policy()).total.decisions == 1


def test_an_escalation_that_would_go_elsewhere_is_predicted_and_the_start_is_kept(tmp_path):
    logging = policy(explored=0.0)
    shorter = structs.replace(logging, max_escalations=1)
    report = replayed(tmp_path, Log(logging).calls(400).events, shorter)
    found = report.total.quantities["cost_usd"]
    assert report.changed == 1.0 and found.overlap.unsupported == 0.0
    assert found.overlap.elsewhere == pytest.approx(report.total.quantities["escalated"].logged.mean)
    change = truth_of(("small", "large")) - truth_of(("small", "middle", "large"))
    assert is_near(found.dr_difference, change[1])
    assert "starts alike and then escalates elsewhere" in report.verdict


def test_clusters_window_and_sample(tmp_path):
    bank = Log(policy(), cluster="bank").calls(60).events
    shop = Log(policy(), cluster="shop").calls(30, start=60).events[1:]
    report = replayed(tmp_path, bank + shop, policy())
    assert {name: part.decisions for name, part in report.clusters.items()} == {"bank": 60, "shop": 30}
    state = StatePaths(tmp_path / "state")
    counted = {
        "shop": replay_recorded(state, policy(), RecordedOptions(cluster="shop")).read,
        "since": replay_recorded(state, policy(), RecordedOptions(since_ms=START_MS + 80)).read,
        "sample": replay_recorded(state, policy(), RecordedOptions(limit=25, seed=1)).read,
    }
    assert counted == {"shop": 30, "since": 10, "sample": 25}
    one, other = (replay_recorded(state, policy(), RecordedOptions(limit=25, seed=seed)) for seed in (1, 2))
    assert one.total.quantities["latency_ms"].logged.mean != other.total.quantities["latency_ms"].logged.mean
    assert one == replay_recorded(state, policy(), RecordedOptions(limit=25, seed=1))


def test_weights_can_be_cut_and_it_is_said(tmp_path):
    events = Log(policy(explored=0.5), doubt=0.15).calls(200).events
    new = policy(sla=0.85, explored=0.5)
    cut = replayed(tmp_path, events, new, max_weight=2.0)
    assert cut.total.quantities["reward"].overlap.max_weight == 2.0 and "Weights were cut" in cut.verdict
    with pytest.raises(BadInputError, match=r"max_weight is 0\.5"):
        replay_recorded(StatePaths(tmp_path / "state"), new, RecordedOptions(max_weight=0.5))


def test_the_report_is_plain_json_and_a_table(tmp_path):
    report = replayed(tmp_path, Log(policy(), doubt=0.1).calls(80).events, policy(sla=0.85))
    built = json.loads(json.dumps(report.as_json()))
    assert built["total"]["quantities"]["cost_usd"]["dr_difference"]["mean"] > 0 and built["verdict"]
    out = io.StringIO()
    report.as_table(Console(file=out, width=160))
    assert "US dollars, 1,000 calls" in out.getvalue() and "middle" in out.getvalue()
    assert report.verdict in " ".join(out.getvalue().split())


def test_progress_is_told_and_nothing_recorded_is_said_plainly(tmp_path):
    state = StatePaths(tmp_path / "state").create()
    assert "no call was recorded" in replay_recorded(state, policy()).verdict
    spool_up(state, *Log(policy()).calls(5).events)
    told = []
    replay_recorded(state, policy(), on_progress=lambda done, total: told.append((done, total)))
    assert told == [(n, 5) for n in range(1, 6)]


def test_a_directory_that_is_not_there_is_not_made(tmp_path):
    with pytest.raises(BadInputError, match="no state directory"):
        replay_recorded(StatePaths(tmp_path / "nowhere"), policy())
    assert not (tmp_path / "nowhere").exists()
