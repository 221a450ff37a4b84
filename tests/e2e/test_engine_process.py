"""The embedded engine as a client meets it: a real process, the real weights, the openai SDK, PEFT's answers as the
measure.
"""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.e2e.engine_process import EngineProcess, make_adapter, model_folder, start_engine

torch = pytest.importorskip("torch", reason="the engine extra is not installed")
pytestmark = pytest.mark.engine

SYSTEM = "You are a careful assistant. Answer in one short sentence and name what you are sure of."
QUESTIONS = [
    "What is the capital of France?",
    "Name a fruit that is red.",
    "Say hello to my friend Ana.",
    "What is 2 + 3?",
]
TOKENS = 12


@pytest.fixture(scope="session")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("adapters")
    return {
        "north": make_adapter(root / "north", seed=1, scale=0.2),
        "south": make_adapter(root / "south", seed=2, scale=0.4, rank=4, targets="q_proj,v_proj,down_proj"),
    }


@pytest.fixture(scope="session")
def engine(adapters: dict[str, Path]) -> Iterator[EngineProcess]:
    with start_engine("--max-loras", "3", "--max-running", "16") as running:
        for name, folder in adapters.items():
            assert post(running, "/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(folder)})[0] == 200
        yield running


@pytest.fixture
def client(engine: EngineProcess) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{engine.url}/v1", api_key="none", max_retries=0)


class Reference:
    """PEFT over transformers in float32: what the answers must be."""

    def __init__(self, adapters: dict[str, Path]) -> None:
        from peft import PeftModel
        from transformers import AutoModelForCausalLM, AutoTokenizer

        torch.set_num_threads(1)  # the engine computes beside it; two teams of threads would wait for each other
        self.tokenizer = AutoTokenizer.from_pretrained(model_folder())
        base = AutoModelForCausalLM.from_pretrained(model_folder(), dtype=torch.float32)
        first, *others = adapters
        self.model = PeftModel.from_pretrained(base, adapters[first], adapter_name=first).eval()
        for name in others:
            self.model.load_adapter(adapters[name], adapter_name=name)

    def generate(self, jobs: list[tuple[str, str]], base: str) -> list[tuple[str, float]]:
        """For each (model, question): greedy text, sum of its tokens' log-probabilities. One padded batch."""
        chats = [messages(question) for _, question in jobs]
        texts = self.tokenizer.apply_chat_template(chats, add_generation_prompt=True, tokenize=False)
        inputs = self.tokenizer(texts, return_tensors="pt", add_special_tokens=False, padding=True, padding_side="left")
        names = ["__base__" if model == base else model for model, _ in jobs]
        options = {"max_new_tokens": TOKENS, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
        with torch.inference_mode():
            out = self.model.generate(**inputs, **options, adapter_names=names)
        steps = torch.stack(out.logits, dim=1).log_softmax(-1)
        return [self._answer(row, steps[i]) for i, row in enumerate(out.sequences[:, inputs["input_ids"].shape[1] :])]

    def _answer(self, ids: Any, steps: Any) -> tuple[str, float]:
        ends = (ids == self.tokenizer.eos_token_id).nonzero()
        ids = ids[: ends[0, 0] + 1] if len(ends) else ids
        total = steps[torch.arange(len(ids)), ids].sum().item()
        return self.tokenizer.decode(ids, skip_special_tokens=True), total


@pytest.fixture(scope="session")
def reference(adapters: dict[str, Path]) -> Reference:
    return Reference(adapters)


def post(engine: EngineProcess, path: str, body: Any) -> tuple[int, str]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(engine.url + path, data=data, headers={"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def metric(engine: EngineProcess, name: str) -> float:
    with urllib.request.urlopen(engine.url + "/metrics", timeout=10) as response:
        lines = response.read().decode().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"journeyman_engine_{name} "))


def messages(question: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]


def ask(client: openai.OpenAI, model: str, question: str, **options: Any) -> Any:
    options = {"temperature": 0, "max_tokens": TOKENS} | options
    return client.chat.completions.create(model=model, messages=messages(question), **options)


def test_a_mixed_batch_gives_each_request_its_own_adapters_answer(
    client: openai.OpenAI, engine: EngineProcess, reference: Reference
) -> None:
    jobs = [(model, question) for question in QUESTIONS for model in (engine.model, "north", "south")]
    with ThreadPoolExecutor(len(jobs)) as pool:
        answers = list(pool.map(lambda job: ask(client, *job, logprobs=True), jobs))
    expected = reference.generate(jobs, engine.model)
    for job, answer, (text, logprob) in zip(jobs, answers, expected, strict=True):
        choice = answer.choices[0]
        assert choice.message.content == text, job
        assert sum(token.logprob for token in choice.logprobs.content) == pytest.approx(logprob, abs=0.01)
    by_model = {job: answer.choices[0].message.content for job, answer in zip(jobs, answers, strict=True)}
    assert all(len({by_model[m, q] for m in (engine.model, "north", "south")}) == 3 for q in QUESTIONS)


def test_answers_that_were_given_before_are_guessed_and_stay_the_same(
    client: openai.OpenAI, engine: EngineProcess, reference: Reference
) -> None:
    jobs = [(model, question) for question in QUESTIONS for model in ("north", "south")]
    expected = reference.generate(jobs, engine.model)
    for _ in range(2):
        for job in jobs:
            ask(client, *job)
    right, steps = metric(engine, "accepted_guesses_total"), metric(engine, "steps_total")
    alone = [ask(client, *job, logprobs=True) for job in jobs]
    steps = metric(engine, "steps_total") - steps
    with ThreadPoolExecutor(len(jobs)) as pool:
        together = list(pool.map(lambda job: ask(client, *job, logprobs=True), jobs))
    for answers in (alone, together):
        for answer, (text, logprob) in zip(answers, expected, strict=True):
            tokens = answer.choices[0].logprobs.content
            assert answer.choices[0].message.content == text
            assert len(tokens) == answer.usage.completion_tokens
            assert sum(token.logprob for token in tokens) == pytest.approx(logprob, abs=0.01)
    said = sum(answer.usage.completion_tokens for answer in alone)
    assert steps < 0.7 * said
    assert metric(engine, "accepted_guesses_total") > right
    assert metric(engine, "accepted_guesses_total") <= metric(engine, "guessed_tokens_total")


def test_a_stream_says_the_same_as_the_whole_answer(client: openai.OpenAI, engine: EngineProcess) -> None:
    whole = ask(client, "north", QUESTIONS[0], logprobs=True, top_logprobs=2)
    chunks = list(
        ask(
            client,
            "north",
            QUESTIONS[0],
            stream=True,
            stream_options={"include_usage": True},
            logprobs=True,
            top_logprobs=2,
        )
    )
    choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
    assert "".join(choice.delta.content or "" for choice in choices) == whole.choices[0].message.content
    assert choices[0].delta.role == "assistant"
    assert choices[-1].finish_reason == whole.choices[0].finish_reason
    streamed = [token for choice in choices if choice.logprobs for token in choice.logprobs.content]
    assert [token.token for token in streamed] == [token.token for token in whole.choices[0].logprobs.content]
    assert all(len(token.top_logprobs) == 2 for token in streamed)
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens == len(streamed)


def test_a_stop_string_that_crosses_tokens_ends_the_answer_and_is_never_sent(
    client: openai.OpenAI, engine: EngineProcess
) -> None:
    full = ask(client, engine.model, QUESTIONS[0]).choices[0].message.content
    cut = full.index(" ", 4)
    stop = full[cut - 2 : cut + 3]  # from the middle of one word to the middle of the next
    answer = ask(client, engine.model, QUESTIONS[0], stop=[stop, "never said"]).choices[0]
    streamed = ask(client, engine.model, QUESTIONS[0], stop=[stop], stream=True)
    assert answer.message.content == full[: full.index(stop)]
    assert answer.finish_reason == "stop"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed) == answer.message.content


def test_a_seed_repeats_an_answer_whatever_else_runs(client: openai.OpenAI, engine: EngineProcess) -> None:
    options = {"temperature": 1.2, "top_p": 0.95, "seed": 7}
    alone = ask(client, engine.model, QUESTIONS[2], **options).choices[0].message.content
    with ThreadPoolExecutor(8) as pool:
        others = [pool.submit(ask, client, "south", question, temperature=1.0) for question in QUESTIONS]
        again = [pool.submit(ask, client, engine.model, QUESTIONS[2], **options) for _ in range(3)]
        other_seed = pool.submit(ask, client, engine.model, QUESTIONS[2], **options | {"seed": 8})
    assert {future.result().choices[0].message.content for future in again} == {alone}
    assert other_seed.result().choices[0].message.content != alone
    assert all(future.result().usage.completion_tokens > 0 for future in others)


def test_completions_take_text_or_tokens_and_report_the_older_logprobs(
    client: openai.OpenAI, engine: EngineProcess, reference: Reference
) -> None:
    prompt = "The capital of France is"
    ids = reference.tokenizer(prompt).input_ids
    common = {"model": engine.model, "temperature": 0, "max_tokens": 6, "logprobs": 2}
    by_text, by_ids = (client.completions.create(prompt=p, **common) for p in (prompt, ids))
    assert by_text.choices[0].text == by_ids.choices[0].text
    assert by_text.choices[0].text.startswith(" Paris")
    legacy = by_text.choices[0].logprobs
    assert "".join(legacy.tokens) == by_text.choices[0].text
    assert legacy.text_offset[1] == len(legacy.tokens[0])
    assert legacy.top_logprobs[0][legacy.tokens[0]] == legacy.token_logprobs[0]


def test_min_tokens_and_ignore_eos_lengthen_an_answer(client: openai.OpenAI, engine: EngineProcess) -> None:
    short = ask(client, engine.model, QUESTIONS[3])
    longer = ask(client, engine.model, QUESTIONS[3], max_tokens=24, extra_body={"min_tokens": 20})
    exact = ask(client, engine.model, QUESTIONS[3], max_tokens=24, extra_body={"ignore_eos": True})
    assert short.usage.completion_tokens < 20 <= longer.usage.completion_tokens
    assert exact.usage.completion_tokens == 24
    assert exact.choices[0].finish_reason == "length"


def test_a_json_schema_is_kept(client: openai.OpenAI, engine: EngineProcess) -> None:
    properties = {"name": {"type": "string"}, "age": {"type": "integer"}}
    schema = {"type": "object", "properties": properties, "required": ["name", "age"], "additionalProperties": False}
    wanted = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema}}
    answer = ask(
        client, "south", "Who is John, 31 years old?", response_format=wanted, max_tokens=80, temperature=0.8, seed=3
    )
    if answer.choices[0].finish_reason == "stop":
        assert set(json.loads(answer.choices[0].message.content)) == {"name", "age"}
    assert answer.choices[0].message.content.startswith('{"name": "')


def test_a_client_that_leaves_frees_its_place(client: openai.OpenAI, engine: EngineProcess) -> None:
    endless = {"max_tokens": 4000, "extra_body": {"ignore_eos": True}}
    stream = ask(client, engine.model, "Tell me a long story.", stream=True, **endless)
    next(iter(stream))
    assert metric(engine, "requests_running") == 1
    stream.close()
    with pytest.raises(openai.APITimeoutError):
        ask(client.with_options(timeout=0.7), "north", "Tell me a long story.", **endless)
    deadline = time.monotonic() + 5
    while metric(engine, "requests_running") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert metric(engine, "requests_running") == 0
    assert metric(engine, "requests_waiting") == 0


def test_a_shared_beginning_is_computed_once_for_each_adapter(client: openai.OpenAI, engine: EngineProcess) -> None:
    long = [{"role": "system", "content": "Rule: be brief. " * 30}, {"role": "user", "content": "Hello"}]
    other = [long[0], {"role": "user", "content": "What is the capital of France?"}]

    def send(model: str, conversation: list[dict[str, str]]) -> Any:
        return client.chat.completions.create(model=model, messages=conversation, temperature=0, max_tokens=8)

    first, alike = send("north", long), send("north", other)
    elsewhere = send("south", other)
    assert alike.usage.prompt_tokens_details.cached_tokens > 100
    assert elsewhere.usage.prompt_tokens_details.cached_tokens == 0
    assert send("north", long).choices[0].message.content == first.choices[0].message.content


def test_adapters_come_and_go_by_vllms_routes(
    client: openai.OpenAI, engine: EngineProcess, adapters: dict[str, Path]
) -> None:
    folder = str(adapters["north"])
    load, unload = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"
    assert post(engine, load, {"lora_name": "east", "lora_path": folder}) == (
        200,
        "Success: LoRA adapter 'east' added successfully.",
    )
    listed = {model.id: model for model in client.models.list()}
    assert set(listed) == {engine.model, "north", "south", "east"}
    assert listed["east"].parent == engine.model
    assert listed["east"].root == folder
    assert (
        ask(client, "east", QUESTIONS[1]).choices[0].message.content
        == ask(client, "north", QUESTIONS[1]).choices[0].message.content
    )
    again = post(engine, load, {"lora_name": "east", "lora_path": folder})
    full = post(engine, load, {"lora_name": "west", "lora_path": folder})
    assert (again[0], full[0]) == (400, 400)
    assert "already been loaded" in again[1]
    assert "--max-loras" in full[1]
    assert post(engine, unload, {"lora_name": "east"}) == (200, "Success: LoRA adapter 'east' removed successfully.")
    assert post(engine, unload, {"lora_name": "east"})[0] == 404
    with pytest.raises(openai.NotFoundError) as gone:
        ask(client, "east", QUESTIONS[1])
    assert gone.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("body", "status", "code", "part"),
    [
        (b"{", 400, "invalid_request", "truncated"),
        ({"messages": [{"role": "user", "content": "x"}], "temperature": "hot"}, 400, "invalid_request", "temperature"),
        ({"messages": []}, 400, "invalid_request", "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "invalid_request", "images"),
        ({"messages": [{"role": "user", "content": "x"}], "n": 2}, 400, "invalid_request", "n is 2"),
        ({"messages": [{"role": "user", "content": "x"}], "logit_bias": {"99999": 1}}, 400, "invalid_request", "49151"),
        (
            {"messages": [{"role": "user", "content": "x"}], "stop_token_ids": [-1]},
            400,
            "invalid_request",
            "stop_token",
        ),
        ({"messages": [{"role": "user", "content": "x"}], "max_tokens": 9000}, 400, "context_length_exceeded", "8192"),
        ({"messages": [{"role": "user", "content": "x"}], "model": "nobody"}, 404, "model_not_found", "nobody"),
    ],
)
def test_bad_requests_are_answered_in_openais_error_body(
    engine: EngineProcess, body: Any, status: int, code: str, part: str
) -> None:
    sent = body if isinstance(body, bytes) else {"model": engine.model} | body
    answered, text = post(engine, "/v1/chat/completions", sent)
    error = json.loads(text)["error"]
    assert (answered, error["code"]) == (status, code)
    assert part in error["message"]
    assert set(error) == {"message", "type", "param", "code"}
