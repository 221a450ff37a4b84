"""The teacher as its callers see it: the real OpenAI SDK over a real socket."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from statistics import quantiles

import aiohttp
import openai
import pytest

from pipelines.graders import Answer, ToolCall
from pipelines.teacher import Teacher, TeacherConfig
from pipelines.teacher_server import serve_teacher
from pipelines.workload import Workload
from registry.errors import BadInputError, EnvironmentFaultError


@pytest.fixture(scope="module")
def own():
    return Workload.own(7, 120)


@asynccontextmanager
async def client_of(workload, *, api_key=None, **config):
    teacher = Teacher([workload], TeacherConfig(**config))
    async with (
        serve_teacher(teacher, api_key=api_key) as url,
        openai.AsyncOpenAI(base_url=url, api_key=api_key or "any", max_retries=0) as client,
    ):
        yield client


def first_row(workload, family):
    return next(workload.rows([family]))


async def test_a_json_schema_call_gets_the_gold_answer(own):
    row = first_row(own, "desk_triage")
    async with client_of(own) as client:
        answer = await client.chat.completions.create(**own.request(row, "teacher-large"))
    assert json.loads(answer.choices[0].message.content) == row.expected
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.prompt_tokens > 200
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


async def test_a_tool_call_comes_back_as_one(own):
    row = first_row(own, "office_actions")
    async with client_of(own) as client:
        answer = await client.chat.completions.create(**own.request(row, "teacher-large"))
    (call,) = answer.choices[0].message.tool_calls
    assert answer.choices[0].finish_reason == "tool_calls"
    assert call.function.name == row.expected["name"]
    assert json.loads(call.function.arguments) == row.expected["arguments"]


@pytest.mark.parametrize("family", ["order_forms", "office_actions", "open_questions"])
async def test_streamed_and_whole_answers_are_the_same(own, family):
    row = first_row(own, family)
    async with client_of(own) as client:
        whole = await client.chat.completions.create(**own.request(row, "teacher-large"))
        stream = await client.chat.completions.create(
            **own.request(row, "teacher-large"), stream=True, stream_options={"include_usage": True}
        )
        text, calls, usage, finish = "", {}, None, None
        async for chunk in stream:
            usage = chunk.usage or usage
            for choice in chunk.choices:
                finish = choice.finish_reason or finish
                text += choice.delta.content or ""
                for part in choice.delta.tool_calls or ():
                    call = calls.setdefault(part.index, ["", ""])
                    call[0] += part.function.name or ""
                    call[1] += part.function.arguments or ""
    message = whole.choices[0].message
    assert text == (message.content or "")
    assert list(calls.values()) == [[c.function.name, c.function.arguments] for c in message.tool_calls or ()]
    assert usage == whole.usage
    assert finish == whole.choices[0].finish_reason


async def test_the_share_of_wrong_answers_is_the_one_asked_for_and_the_same_rows_again(own):
    rows = [row for row in own.rows() if row.grader != "none"]
    teacher = Teacher([own], TeacherConfig(error_rate=0.1))
    wrong = {row.id for row in rows if not own.grade(row, teacher.reply(own.request(row)).answer).correct}
    # 600-odd rows at 10 %: four standard deviations either side.
    spread = 4 * (0.1 * 0.9 / len(rows)) ** 0.5
    assert abs(len(wrong) / len(rows) - 0.1) < spread
    again = Teacher([own], TeacherConfig(error_rate=0.1))
    assert wrong == {row.id for row in rows if again.reply(own.request(row)).source == "wrong"}
    other = Teacher([own], TeacherConfig(error_rate=0.1, seed=8))
    assert wrong != {row.id for row in rows if other.reply(own.request(row)).source == "wrong"}


async def test_a_wrong_answer_is_still_well_formed(own):
    from jsonschema_rs import validator_for

    teacher = Teacher([own], TeacherConfig(error_rate=1.0))
    for family in ("desk_triage", "ledger_lines", "comment_checks", "order_forms"):
        valid = validator_for(own.app(family).response_format["json_schema"]["schema"])
        for row in own.rows([family]):
            answer = teacher.reply(own.request(row)).answer
            valid.validate(json.loads(answer.text))
            assert own.grade(row, answer).correct is False


@pytest.mark.data
@pytest.mark.skipif(not os.environ.get("JOURNEYMAN_DATA"), reason="$JOURNEYMAN_DATA names no workload folder")
def test_gold_is_right_and_wrong_is_wrong_on_every_shared_row():
    shared = Workload.from_env()
    flawless, hopeless = (Teacher([shared], TeacherConfig(error_rate=rate)) for rate in (0.0, 1.0))
    missed = passed = 0
    for number, row in enumerate(shared.rows()):
        request = shared.request(row)
        missed += shared.grade(row, flawless.reply(request).answer).correct is False
        if number % 7 == 0:
            passed += shared.grade(row, hopeless.reply(request).answer).correct is True
    # Two rows that say the same with different answers cannot both be right.
    assert missed <= flawless.conflicts
    assert passed <= flawless.conflicts


async def test_unknown_prompts_are_marked_and_answered_in_the_form_asked_for(own):
    schema = {
        "type": "object",
        "properties": {"mood": {"enum": ["good", "bad"]}, "score": {"type": "integer"}},
        "required": ["mood", "score"],
    }
    shape = {"type": "json_schema", "json_schema": {"name": "m", "schema": schema}}
    tool = {"type": "function", "function": {"name": "find", "parameters": {"type": "object", "properties": {}}}}
    ask = [{"role": "user", "content": "Never heard of it"}]
    async with client_of(own) as client:
        create = client.chat.completions.with_raw_response.create
        raw = await create(model="teacher-large", messages=ask)
        assert raw.headers["x-teacher"] == "unknown"
        raw = await create(model="teacher-large", messages=ask, response_format=shape)
        assert json.loads((raw.parse()).choices[0].message.content) == {"mood": "good", "score": 0}
        raw = await create(model="teacher-large", messages=ask, tools=[tool], tool_choice="required")
        assert raw.parse().choices[0].message.tool_calls[0].function.name == "find"


async def test_the_same_words_under_another_system_prompt_are_unknown_unless_the_answer_is_plain_text(own):
    triage = own.request(first_row(own, "desk_triage"), "teacher-large")
    row = next(row for row in own.rows(["open_questions"]) if row.grader == "number")
    question = own.request(row, "teacher-large")
    teacher = Teacher([own], TeacherConfig())
    for body in (triage, question):
        body["messages"][0]["content"] = "Another prompt."
    assert teacher.reply(triage).source == "unknown"
    assert teacher.reply(question).source == "gold"


async def test_refusals_are_openai_errors(own):
    async with client_of(own, api_key="right") as client:
        with pytest.raises(openai.NotFoundError, match="teacher-large"):
            await client.chat.completions.create(model="gpt", messages=[{"role": "user", "content": "x"}])
        with pytest.raises(openai.BadRequestError, match="messages"):
            await client.chat.completions.create(model="teacher-large", messages=[])
        with pytest.raises(openai.AuthenticationError):
            await client.with_options(api_key="wrong").models.list()
        async with aiohttp.ClientSession(headers={"authorization": "Bearer right"}) as session:
            response = await session.post(f"{client.base_url}chat/completions", data=b"{")
            assert response.status == 400
            assert (await response.json())["error"]["code"] == "invalid_request"


async def test_models_tell_the_price(own):
    async with client_of(own, model="big", price_input_usd_per_mtok=2.5, price_output_usd_per_mtok=10) as client:
        (model,) = (await client.models.list()).data
    assert model.id == "big"
    assert model.pricing == {"input_usd_per_mtok": 2.5, "output_usd_per_mtok": 10}


async def test_a_token_limit_cuts_and_says_so(own):
    async with client_of(own) as client:
        body = own.request(first_row(own, "order_forms"), "teacher-large")
        answer = await client.chat.completions.create(**body, max_completion_tokens=5)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 5


async def test_logprobs_cover_the_text_and_doubt_a_wrong_answer(own):
    body = own.request(first_row(own, "desk_triage"), "teacher-large")
    lowest = {}
    for rate in (0.0, 1.0):
        async with client_of(own, error_rate=rate) as client:
            choice = (await client.chat.completions.create(**body, logprobs=True)).choices[0]
        assert "".join(token.token for token in choice.logprobs.content) == choice.message.content
        lowest[rate] = min(token.logprob for token in choice.logprobs.content)
    assert lowest[1.0] < -0.3 < lowest[0.0]


def test_latencies_have_the_median_and_the_95th_percentile_asked_for(own):
    teacher = Teacher([own], TeacherConfig(latency_p50_ms=400, latency_p95_ms=1200))
    cuts = quantiles([teacher.draw_latency_ms() for _ in range(20000)], n=20)
    assert cuts[9] == pytest.approx(400, rel=0.05)
    assert cuts[18] == pytest.approx(1200, rel=0.08)


async def test_the_answer_takes_its_time(own):
    body = own.request(first_row(own, "desk_triage"), "teacher-large")
    async with client_of(own, latency_p50_ms=150, latency_p95_ms=150, tokens_per_s=100) as client:
        start = time.perf_counter()
        answer = await client.chat.completions.create(**body)
        whole = time.perf_counter() - start
        expected = 0.15 + answer.usage.completion_tokens / 100
        start, first = time.perf_counter(), None
        async for chunk in await client.chat.completions.create(**body, stream=True):
            if first is None and chunk.choices and chunk.choices[0].delta.content:
                first = time.perf_counter() - start
        streamed = time.perf_counter() - start
    assert expected <= whole < expected + 1
    assert 0.15 <= first < streamed
    assert expected <= streamed < expected + 1


async def test_when_the_caller_leaves_the_work_stops(own):
    teacher = Teacher([own], TeacherConfig(latency_p50_ms=60000, latency_p95_ms=60000))
    body = own.request(first_row(own, "desk_triage"), "teacher-large")
    async with serve_teacher(teacher) as url, aiohttp.ClientSession() as session:
        with pytest.raises(TimeoutError):
            await session.post(f"{url}/chat/completions", json=body, timeout=aiohttp.ClientTimeout(total=0.3))
        for _ in range(100):
            health = await (await session.get(url.replace("/v1", "/health"))).json()
            if health.get("left") == 1:
                break
            await asyncio.sleep(0.02)
    assert health["left"] == 1


async def test_a_taken_port_is_named(own):
    teacher = Teacher([own], TeacherConfig())
    async with serve_teacher(teacher) as url:
        port = int(url.split(":")[2].split("/")[0])
        with pytest.raises(EnvironmentFaultError, match=str(port)):
            async with serve_teacher(teacher, port=port):
                pass


@pytest.mark.parametrize(
    "wrong", [{"error_rate": 1.5}, {"tokens_per_s": -1}, {"latency_p50_ms": 9, "latency_p95_ms": 1}]
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(BadInputError):
        TeacherConfig(**wrong)


def test_the_command_prints_a_ready_line_and_ends_on_a_signal():
    code = "from pipelines.cli import teacher; teacher(['--workload', 'own:1:12', '--json'])"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        ready = json.loads(process.stdout.readline())
        try:
            client = openai.OpenAI(base_url=ready["url"], api_key="any")
            assert [model.id for model in client.models.list()] == ["teacher-large"]
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    assert ready["event"] == "ready"
    assert ready["rows"] == 72


def test_an_answer_can_hold_calls_whose_arguments_are_no_json():
    assert Answer(tool_calls=(ToolCall("f", "{"),)).tool_calls[0].parsed() is None
