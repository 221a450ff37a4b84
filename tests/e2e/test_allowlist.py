"""What reaches a backend of what callers write: only named fields, with a salt of the gateway's own for vLLM."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from router_service import key_file
from tests.e2e.gateway_process import GatewayProcess, running_gateway
from tests.e2e.raw_http import exchange, request, status_of
from tests.e2e.recording_upstream import RecordingUpstream, Seen, recording_upstream
from tests.e2e.vllm_surface import FIELDS, MARK, NUMBER, ROUTES, TRICKS
from tests.unit.made_specialists import make_folder

SPECIALIST = "sorter@0123456789ab"
REGISTRY = """
version: 1
defaults: {{frontier: small}}
backends:
  - {{name: vllm, kind: vllm, url: "{url}/v1"}}
  - {{name: provider, kind: openai, url: "{url}/v1"}}
models:
  - {{model_name: small, backend: vllm, safety_grade: A, context_len: 32768, eval_scores: {{"*": 0.9}}}}
  - {{model_name: remote, backend: provider, supported_clusters: [], context_len: 32768}}
specialists:
  - name: sorter
    digest: "0123456789ab"
    base: small
    adapter: {adapter}
    clusters: [parcels]
    stage: active
    template: {{prompt: "{{input}}\\n", answer: text}}
"""
MESSAGE = {
    "role": "user",
    "content": [{"type": "text", "text": "my parcel", MARK: MARK}],
    MARK: MARK,
    "audio": {"id": MARK},
}
TOOL = {"type": "function", "function": {"name": "track", "parameters": {"type": "object"}, MARK: MARK}, MARK: MARK}
CALL = {
    "messages": [MESSAGE],
    "tools": [TOOL],
    "tool_choice": {"type": "function", "function": {"name": "track", MARK: MARK}, MARK: MARK},
    "temperature": 0,
    "max_tokens": 7,
    "user": MARK,
    "metadata": {MARK: MARK},
    **FIELDS,
}
HEADERS = {
    "x-request-id": MARK, "x-data-parallel-rank": str(NUMBER), "x-session-id": MARK, "x-lora": MARK,
    "openai-beta": MARK, "traceparent": f"00-{'a' * 32}-{'b' * 16}-01", "cookie": MARK, "x-forwarded-for": MARK,
    "accept-language": MARK,
}  # fmt: skip
DRAWN = {"model", "max_tokens", "temperature"}


@pytest.fixture(scope="module")
def upstream() -> Iterator[RecordingUpstream]:
    with recording_upstream() as server:
        yield server


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("allowlist")
    made = {tenant: key_file.add(folder / "state" / key_file.NAME, tenant, "caller") for tenant in ("acme", "rival")}
    return {"folder": str(folder)} | {tenant: key.secret for tenant, key in made.items()}


@pytest.fixture(scope="module")
def gateway(upstream: RecordingUpstream, keys: dict[str, str]) -> Iterator[GatewayProcess]:
    folder = Path(keys["folder"])
    adapter = make_folder(folder / "adapter")
    registry = REGISTRY.format(url=upstream.url, adapter=adapter)
    with running_gateway(folder, registry, JOURNEYMAN_LOAD_RECORDS="false") as process:
        end = time.monotonic() + 20
        while not upstream.adapters and time.monotonic() < end:
            time.sleep(0.05)
        yield process


@pytest.fixture
def ask(gateway: GatewayProcess, upstream: RecordingUpstream, keys: dict[str, str]):
    """Send a call as a tenant; returns what the upstream got."""

    def ask(model: str, *, tenant: str = "acme", route: str = "/v1/chat/completions", **fields: object) -> Seen:
        before = len(upstream.calls())
        body = json.dumps({"model": model, **fields}).encode()
        headers = {"authorization": f"Bearer {keys[tenant]}", "content-type": "application/json", **HEADERS}
        with urllib.request.urlopen(urllib.request.Request(gateway.url + route, body, headers), timeout=30) as answer:
            answer.read()
        (seen,) = upstream.calls()[before:]
        return seen

    return ask


def assert_clean(seen: Seen) -> None:
    everything = seen.raw.decode() + json.dumps(seen.headers)
    assert MARK not in everything and str(NUMBER) not in everything and "bbbbbbbbbbbbbbbb" not in everything


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(("model", "salted"), [("small", True), ("remote", False)], ids=["vllm", "openai"])
def test_only_named_fields_of_a_chat_go_up(ask, model: str, salted: bool, streams: bool) -> None:
    options = {"include_usage": False, "continuous_usage_stats": True, MARK: MARK}
    seen = ask(model, **CALL, **({"stream": True, "stream_options": options} if streams else {}))
    assert seen.path == "/v1/chat/completions"
    assert_clean(seen)
    wanted = DRAWN | {"messages", "tools", "tool_choice"}
    wanted |= {"stream", "stream_options"} if streams else set()
    assert set(seen.body) == wanted | ({"cache_salt"} if salted else set())
    assert seen.body["messages"] == [{"role": "user", "content": "my parcel"}]
    assert seen.body["tools"] == [{"type": "function", "function": {"name": "track", "parameters": {"type": "object"}}}]
    assert seen.body["tool_choice"] == {"type": "function", "function": {"name": "track"}}
    assert seen.body.get("stream_options") == ({"include_usage": True} if streams else None)


def test_only_named_fields_of_an_ask_go_up(ask) -> None:
    fields = {name: value for name, value in CALL.items() if name != "prompt"}
    seen = ask("small", route="/v1/ask", **fields)
    assert_clean(seen)
    assert set(seen.body) <= DRAWN | {"messages", "tools", "tool_choice", "stream", "stream_options", "cache_salt"}


def test_a_specialist_gets_its_prompt_and_nothing_else(ask) -> None:
    untooled = {name: value for name, value in CALL.items() if name not in ("tools", "tool_choice")}
    seen = ask(SPECIALIST, **untooled)
    assert seen.path == "/v1/completions"
    assert_clean(seen)
    assert set(seen.body) == DRAWN | {"prompt", "logprobs", "cache_salt"}
    assert seen.body["prompt"] == "my parcel\n" and seen.body["model"] == SPECIALIST


def test_headers_of_callers_stay_here(ask) -> None:
    seen = ask("small", messages=[{"role": "user", "content": "hi"}])
    assert not set(HEADERS) & set(seen.headers)
    assert "authorization" not in seen.headers


def test_tenants_do_not_share_a_cache_and_each_has_one(ask) -> None:
    hi = [{"role": "user", "content": "hi"}]
    acme, again = (ask("small", messages=hi, cache_salt="rival").body["cache_salt"] for _ in range(2))
    rival = ask("small", tenant="rival", messages=hi).body["cache_salt"]
    by_specialist = ask(SPECIALIST, messages=hi).body["cache_salt"]
    assert acme == again == by_specialist != rival
    # What vLLM takes: at most 128 characters, none of `@/\` and NUL; and no name of a tenant in it.
    assert len(acme) == 64 and set(acme) <= set("0123456789abcdef")


def test_what_loads_an_adapter_warms_nobodys_cache(gateway, upstream: RecordingUpstream, ask) -> None:
    warm_up = next(seen for seen in upstream.seen if seen.path == "/v1/completions" and seen.body["prompt"] == "\n")
    tenant = ask("small", messages=[{"role": "user", "content": "hi"}]).body["cache_salt"]
    assert warm_up.body["cache_salt"] not in (None, tenant)


@pytest.mark.parametrize("field", ["n", "best_of"])
@pytest.mark.parametrize("count", [0, -1, 2, 1000])
def test_more_than_one_answer_is_refused_and_the_mend_is_named(gateway, upstream, keys, field: str, count: int) -> None:
    before = len(upstream.calls())
    for route, said in (
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]}),
        ("/v1/ask", {"prompt": "hi"}),
    ):
        body = json.dumps({"model": SPECIALIST, field: count} | said).encode()
        headers = {"authorization": f"Bearer {keys['acme']}"}
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(urllib.request.Request(gateway.url + route, body, headers), timeout=30)
        error = json.load(caught.value)["error"]
        assert (caught.value.code, error["type"], error["param"]) == (400, "invalid_request_error", field)
        assert "again" in error["message"]
    assert len(upstream.calls()) == before


@pytest.mark.parametrize("method", ["POST", "GET", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE"])
def test_no_admin_route_of_vllm_is_reached_through_the_gateway(gateway, upstream, keys, method: str) -> None:
    load = json.dumps({"lora_name": MARK, "lora_path": f"/tmp/{MARK}"}).encode()
    before = len(upstream.seen)
    statuses = {}
    for path in (*ROUTES, *TRICKS):
        key = f"authorization: Bearer {keys['acme']}"
        raw = request(load, key, "content-type: application/json", path=path, method=method)
        statuses[path] = status_of(exchange(gateway.url, raw))
    harmless = {400, 404, 405} | ({204} if method == "OPTIONS" else set())  # the methods of /v1/models/{name}
    assert {path: status for path, status in statuses.items() if status not in harmless} == {}
    foreign = [seen for seen in upstream.seen[before:] if MARK in seen.raw.decode() or seen.path != "/v1/models"]
    assert foreign == []
