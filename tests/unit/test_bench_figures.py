"""The figures of a turn of the loop, out of graded calls."""

import pytest
from msgspec import structs
from rich.console import Console

from pipelines.bench_figures import Promotion, as_table, figures
from pipelines.flywheel_bench import BenchOptions, chosen_rows, run_bench
from pipelines.quick_trial import QUICK_PROMOTION
from pipelines.traffic_report import CallResult
from pipelines.workload import Workload
from registry.errors import BadInputError, WorkloadError


def call(number, family="cards", *, by="large", right=True, error="", escalated=False, cost=0.001, saved=0.0):
    return CallResult(
        family=family, row_id=f"{family}-{number}", split="dev", correct=None if error else right, score=float(right),
        reason="", error=error, latency_ms=100.0 * (number + 1), ttft_ms=None, model=by, call_id=f"c{number}", plan="",
        escalated=None if error else escalated, outcome="verified", cost_usd=None if error else cost, saved_usd=saved,
        prompt_tokens=1, completion_tokens=1, text="", tool_calls=(),
    )  # fmt: skip


@pytest.fixture
def served():
    special = {"by": "cards@0123456789ab", "cost": 0.0001, "saved": 0.0009}
    return [
        *(call(n, **special) for n in range(6)),
        call(6, **special, right=False),
        call(7, escalated=True, cost=0.0011, saved=-0.0001),
        call(8, escalated=True, right=False, cost=0.0011, saved=-0.0001),
        call(9, error="http_503"),
    ]


def test_shares_are_of_all_calls_and_a_call_without_an_answer_is_wrong(served):
    active = Promotion(specialist="cards@0123456789ab", stage="active", minutes=7.5)
    found = figures(served, [call(n) for n in range(10)], {"cards": active}).families["cards"]
    assert (found.calls, found.errors, found.promoted) == (10, 1, 1)
    assert found.share_specialist == pytest.approx(0.7)
    assert found.escalated == pytest.approx(0.2)
    assert found.accepted_wrong == pytest.approx(0.1)
    assert found.quality_served == pytest.approx(0.7)
    assert found.quality_teacher == 1.0
    assert found.cost_saved == pytest.approx((7 * 0.0009 - 2 * 0.0001) / (9 * 0.001))
    assert (found.p50_ms, found.frontier_p95_ms, found.minutes_to_promotion) == (500.0, 1000.0, 7.5)


def test_a_family_that_was_not_promoted_says_why_and_the_total_counts_those_that_were(served):
    promotions = {
        "cards": Promotion(specialist="cards@0123456789ab", stage="active", minutes=7.5),
        "tools": Promotion(specialist="tools@0123456789ab", stage="shadow", why_not="accepted_wrong has failed"),
    }
    tools = [call(n, "tools") for n in range(10)]
    found = figures([*served, *tools], [*served, *tools], promotions)
    told = found.as_json()
    assert (told["families"]["cards"]["promoted"], told["families"]["tools"]["promoted"]) == (True, False)
    assert told["families"]["tools"]["why_not"] == "accepted_wrong has failed"
    assert told["total"]["promoted"] == 1
    assert told["total"]["calls"] == 20
    assert told["total"]["share_specialist"] == pytest.approx(0.35)
    console = Console(width=200, record=True)
    console.print(as_table(found))
    assert "35.0%" in console.export_text()


def test_nothing_is_divided_by_nothing():
    found = figures([], [], {"cards": Promotion()}).families["cards"]
    assert (found.calls, found.quality_served, found.cost_saved, found.p50_ms) == (0, None, None, None)


def options(workload, tmp_path, **more):
    given = {"workload": workload, "data": "own", "state": tmp_path, "registry": tmp_path / "registry.yaml"}
    return BenchOptions(**given, promotion=QUICK_PROMOTION, **{"families": ("desk_triage",)} | more)


def test_rows_to_learn_from_for_the_canary_and_to_judge_by_are_apart(tmp_path):
    own = Workload.own(7, 120)
    rows = chosen_rows(own, options(own, tmp_path, calls=80, canary_calls=10, judged_calls=15))["desk_triage"]
    assert (len(rows.learn), len(rows.canary), len(rows.judge)) == (70, 10, 15)
    assert {row.split for row in (*rows.learn, *rows.canary)} == {"train"}
    assert {row.split for row in rows.judge} == {"dev"}
    assert not {row.id for row in rows.learn} & {row.id for row in rows.canary}


def test_a_family_with_nothing_to_judge_by_is_named(tmp_path):
    own = Workload.own(7, 2)
    with pytest.raises(WorkloadError, match="desk_triage: 2 rows of split train and 0 of dev or hold"):
        chosen_rows(own, options(own, tmp_path))


def test_what_is_not_in_the_workload_is_told_before_anything_is_written(tmp_path):
    own = Workload.own(7, 20)
    for families, error, told in (
        (("desk_triag",), WorkloadError, "no family 'desk_triag'.*desk_triage"),
        ((), BadInputError, "Name a family to measure: .*desk_triage"),
    ):
        wanted = structs.replace(options(own, tmp_path), state=tmp_path / "state", families=families)
        with pytest.raises(error, match=told):
            run_bench(wanted, print)
    assert not (tmp_path / "state").exists()


def test_a_file_with_a_bad_row_is_told_and_not_taken_for_an_empty_one(tmp_path):
    (tmp_path / "apps.json").write_text('{"cards": {"system": "s", "grader": "exact"}}')
    (tmp_path / "cards.jsonl").write_text('{"id": "1", "split": "train"}\n')
    workload = Workload.load(tmp_path)
    with pytest.raises(WorkloadError, match=r"cards\.jsonl:1"):
        chosen_rows(workload, structs.replace(options(workload, tmp_path), families=("cards",)))
