"""Traffic against real servers on loopback: rates, grades, reports, faults."""

import asyncio
import json
import os
import time
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest
from aiohttp import web
from click.testing import CliRunner
from msgspec import structs

from pipelines.cli import traffic, workload
from pipelines.teacher import Teacher, TeacherConfig
from pipelines.teacher_server import serve_teacher
from pipelines.traffic import TrafficPlan, arrival_times, pick_rows, run_traffic
from pipelines.traffic_report import as_table, wilson
from pipelines.workload import Workload
from registry.errors import BadInputError, EnvironmentFaultError, GateFailedError, WorkloadError


@pytest.fixture(scope="module")
def own():
    return Workload.own(7, 60)


def plan_for(workload, url, **more):
    return TrafficPlan(workload=workload, base_url=url, model="teacher-large", **{"rate_per_s": 2000} | more)


async def send_to_teacher(workload, *, error_rate=0.0, **more):
    async with serve_teacher(Teacher([workload], TeacherConfig(error_rate=error_rate))) as url:
        return await run_traffic(plan_for(workload, url, **more))


def test_a_later_run_goes_on_where_an_earlier_one_of_the_same_seed_ended(own):
    def picked(**which):
        return [row.id for row in pick_rows(TrafficPlan(own, "http://x/v1", splits=("train",), **which))]

    assert picked(calls=30) == picked(calls=20) + picked(calls=10, skip=20)
    assert picked()[5:] == picked(skip=5)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_flawless_teacher_is_right_on_every_family(own, stream):
    report = await send_to_teacher(own, stream=stream)
    assert set(report.families) == set(own.families)
    for one in report.families.values():
        assert one.correct == one.graded
        assert not one.errors
    assert report.total.calls == 360
    assert report.total.models == {"teacher-large": 1.0}
    assert (report.total.ttft_p50_ms is not None) is stream
    assert report.total.prompt_tokens > report.total.completion_tokens > 0


async def test_the_correct_share_is_what_the_teacher_leaves(own):
    report = await send_to_teacher(own, error_rate=0.2)
    low, high = wilson(report.total.graded - report.total.correct, report.total.graded)
    assert low < 0.2 < high
    assert report.total.correct_low < 0.8 < report.total.correct_high


@pytest.mark.data
@pytest.mark.skipif(not os.environ.get("JOURNEYMAN_DATA"), reason="$JOURNEYMAN_DATA names no workload folder")
async def test_every_shared_family_is_graded_right_over_the_wire():
    shared = Workload.from_env()
    report = await send_to_teacher(shared, calls=1500)
    assert set(report.families) == set(shared.families)
    assert not report.total.errors
    assert report.total.graded - report.total.correct <= 3
    for family, one in report.families.items():
        assert one.graded or all(row.grader == "none" for row in shared.rows([family]))


def test_rows_are_chosen_by_family_split_and_seed(own):
    plan = TrafficPlan(own, "http://x/v1", families=("desk_triage", "ledger_lines"), splits=("dev",), calls=50)
    rows = pick_rows(plan)
    assert len(rows) == 50
    assert {row.family for row in rows} == {"desk_triage", "ledger_lines"}
    assert {row.split for row in rows} == {"dev"}
    assert rows == pick_rows(plan)
    with pytest.raises(WorkloadError, match="no rows in split hold"):
        pick_rows(TrafficPlan(own, "http://x/v1", splits=("hold",)))


@pytest.mark.parametrize("arrivals", ["poisson", "fixed"])
def test_arrivals_keep_the_mean_rate(own, arrivals):
    times = list(arrival_times(TrafficPlan(own, "http://x/v1", rate_per_s=50, arrivals=arrivals), 5001))
    assert times[-1] == pytest.approx(100, rel=0.06)
    gaps = {round(later - sooner, 6) for sooner, later in pairwise(times)}
    assert (len(gaps) == 1) is (arrivals == "fixed")


async def no_models(_):
    return web.json_response({"data": []})


@asynccontextmanager
async def served(handler, *, feedback=None):
    app = web.Application()
    app.router.add_post("/v1/chat/completions", handler)
    app.router.add_get("/v1/models", no_models)
    if feedback:
        app.router.add_post("/v1/feedback", feedback)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()


def message(text):
    return {"model": "m", "choices": [{"message": {"role": "assistant", "content": text}}]}


async def test_calls_leave_on_time_though_nobody_answers(own):
    arrived = []

    async def slow(_):
        arrived.append(time.perf_counter())
        await asyncio.sleep(0.6)
        return web.json_response(message("{}"))

    async with served(slow) as url:
        report = await run_traffic(plan_for(own, url, calls=20, rate_per_s=50, arrivals="fixed"))
    assert arrived[-1] - arrived[0] < 0.6
    assert report.total.latency_p50_ms >= 600
    assert report.sending.delayed == report.sending.dropped == 0


@pytest.mark.parametrize("when_full", ["delay", "drop"])
async def test_what_the_cap_held_back_is_told(own, when_full):
    under_way = most = 0

    async def slow(_):
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.1)
        under_way -= 1
        return web.json_response(message("{}"))

    async with served(slow) as url:
        plan = plan_for(own, url, calls=20, rate_per_s=500, max_in_flight=4, when_full=when_full)
        report = await run_traffic(plan)
    assert most <= 4
    if when_full == "drop":
        assert report.sending.dropped > 0
        assert report.sending.sent + report.sending.dropped == 20
    else:
        assert report.sending.delayed > 0
        assert report.sending.sent == 20
        # The wait counts: four at a time, 0.1 s each, 20 calls due at nearly the same moment.
        assert report.total.latency_p95_ms > 350


async def test_headers_feedback_costs_and_errors_are_reported(own, tmp_path):
    calls, told = 0, []

    async def gateway(request):
        nonlocal calls
        calls += 1
        if calls % 4 == 0:
            return web.json_response({"error": {"code": "rate_limit_exceeded", "message": "slow"}}, status=429)
        headers = {
            "x-journeyman-id": f"c{calls}",
            "x-journeyman-plan": "p1",
            "x-journeyman-model": "small@0123456789ab" if calls % 2 else "large",
            "x-journeyman-cost-usd": "0.001",
            "x-journeyman-escalated": "false" if calls % 2 else "true",
        }
        return web.json_response(message('{"category": "other"}'), headers=headers)

    async def feedback(request):
        told.append(await request.json())
        return web.json_response({})

    out = tmp_path / "calls.jsonl"
    async with served(gateway, feedback=feedback) as url:
        plan = plan_for(own, url, calls=40, families=("desk_triage",), feedback_share=1.0, out=out, rate_per_s=200)
        plan = structs.replace(plan, corrections=True)
        report = await run_traffic(plan)
    total = report.total
    assert total.errors == {"http_429:rate_limit_exceeded": 10}
    assert total.graded == 30
    assert total.cost_usd == pytest.approx(0.03)
    assert total.escalated_share == pytest.approx(1 / 3)
    assert total.models["small@0123456789ab"] == pytest.approx(2 / 3)
    assert len(told) == report.sending.feedback_sent == 30
    assert {one["outcome"] for one in told} <= {"success", "failure"}
    assert sum(one["outcome"] == "success" for one in told) == total.correct
    assert all(one["source"] == "grader" and 0 <= one["score"] <= 1 for one in told)
    assert all(("correction" in one) == (one["outcome"] == "failure") for one in told)
    assert {json.loads(one["correction"])["category"] for one in told if "correction" in one}.isdisjoint({"other"})
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(lines) == 40
    assert sum(line["error"] == "" for line in lines) == 30
    assert as_table(report).row_count == 1


@pytest.mark.parametrize(
    ("content", "kind", "error"),
    [
        (b"<html>", "text/html", "bad_response"),
        (b'{"choices": []}', "application/json", "bad_response"),
        (b'data: {"choices":[{"delta":{"content":"{"}}]}\n\n', "text/event-stream", "stream:cut"),
        (b'data: {"error": {"code": "stream_cut", "message": "x"}}\n\n', "text/event-stream", "stream:stream_cut"),
    ],
)
async def test_broken_answers_are_errors_not_crashes(own, content, kind, error):
    async def broken(_):
        return web.Response(body=content, content_type=kind)

    async with served(broken) as url:
        report = await run_traffic(plan_for(own, url, calls=3, stream=kind == "text/event-stream"))
    assert report.total.errors == {error: 3}
    assert report.total.correct_share is None


async def test_silence_is_a_timeout(own):
    async def silent(_):
        await asyncio.sleep(1)

    async with served(silent) as url:
        report = await run_traffic(plan_for(own, url, calls=2, timeout_s=0.2))
    assert report.total.errors == {"timeout": 2}


async def test_nobody_there_a_wrong_key_and_bad_plans_are_told(own):
    with pytest.raises(EnvironmentFaultError, match="not reachable"):
        await run_traffic(plan_for(own, "http://127.0.0.1:9/v1", calls=1))
    with pytest.raises(BadInputError, match="is not a URL"):
        await run_traffic(plan_for(own, "gateway", calls=1))
    async with serve_teacher(Teacher([own], TeacherConfig()), api_key="right") as url:
        with pytest.raises(BadInputError, match="--api-key"):
            await run_traffic(plan_for(own, url, calls=1, api_key="wrong"))
        assert (await run_traffic(plan_for(own, url, calls=1, api_key="right"))).total.errors == {}
    for wrong in ({"rate_per_s": 0}, {"calls": 0}, {"max_in_flight": 0}):
        with pytest.raises(BadInputError):
            plan_for(own, "http://x/v1", **wrong)


def test_wilson_matches_published_values():
    # Newcombe 1998, table I: 81 of 263 and 15 of 148, method 3.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=1e-4)
    assert wilson(0, 20)[0] == 0


async def test_the_command_shows_json_and_guards_the_gate(own):
    async with serve_teacher(Teacher([own], TeacherConfig(error_rate=0.5))) as url:
        arguments = ["--workload", "own:7:60", "--base-url", url, "--model", "teacher-large"]
        arguments += ["--calls", "60", "--rate", "600", "--families", "desk_triage,ledger_lines", "--json"]

        def invoke(*more):
            return CliRunner().invoke(traffic, [*arguments, *more])

        passed = await asyncio.to_thread(invoke)
        failed = await asyncio.to_thread(invoke, "--min-correct", "0.9")
    assert passed.exit_code == 0, passed.output
    shown = json.loads(passed.stdout)
    assert shown["total"]["calls"] == 60
    assert set(shown["families"]) == {"desk_triage", "ledger_lines"}
    assert "100 %" in passed.stderr
    assert isinstance(failed.exception, GateFailedError)
    assert json.loads(failed.stdout)["total"]["calls"] == 60


def test_the_workload_commands_write_and_list(tmp_path):
    folder = str(tmp_path / "w")
    made = CliRunner().invoke(workload, ["generate", "--out", folder, "--rows", "12", "--json"])
    assert made.exit_code == 0, made.output
    assert len(json.loads(made.stdout)["files"]) == 6
    listed = CliRunner().invoke(workload, ["ls", "--workload", folder, "--json"])
    assert json.loads(listed.stdout)["families"]["desk_triage"]["rows"] == {"train": 10, "dev": 2}
    shown = CliRunner().invoke(workload, ["ls", "--workload", folder])
    assert "desk_triage" in shown.stdout
