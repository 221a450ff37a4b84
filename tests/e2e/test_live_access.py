"""Keys, tenants and their limits on a live gateway: who may see what, and how much of it."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from tests.e2e.gateway_process import GatewayProcess, running_gateway, write_registry

REGISTRY = """
version: 1
defaults: {frontier: echo, max_tokens: 100}
backends:
  - {name: echo, kind: echo}
models:
  - model_name: echo
    backend: echo
    safety_grade: A
    context_len: 32768
    eval_scores: {"*": 0.95}
    prices: {input_usd_per_mtok: 10, output_usd_per_mtok: 100}
  - model_name: slow
    upstream_name: "echo:slow"
    backend: echo
    safety_grade: A
    supported_clusters: []
    prices: {input_usd_per_mtok: 10, output_usd_per_mtok: 100}
  - {model_name: "echo:down", backend: echo, supported_clusters: []}
"""
ACCESS = """
tenants:
  - {name: narrow, allowed_models: ["echo"], user_tier: free, allowed_user_tiers: [free, standard]}
  - {name: rated, requests_per_minute: 5}
  - {name: wordy, tokens_per_minute: 300}
  - {name: refused, tokens_per_minute: 300}
  - {name: poor, budget_usd_per_day: 0.012}
  - {name: broke, budget_usd_per_day: 0.012}
  - {name: failing, budget_usd_per_day: 0.012}
  - {name: silent, content_mode: none}
"""
TENANTS = ["shop", "bank", "narrow", "rated", "wordy", "refused", "poor", "broke", "failing", "silent"]


@dataclass
class Site:
    gateway: GatewayProcess
    keys: dict[str, str]

    def bearer(self, name: str) -> dict[str, str]:
        return {"authorization": f"Bearer {self.keys[name]}"}


def add_key(state: Path, tenant: str, role: str = "caller") -> dict:
    command = [sys.executable, "-m", "router_service.cli", "keys", "add", "--tenant", tenant, "--role", role]
    done = subprocess.run([*command, "--state", str(state), "--json"], check=True, capture_output=True)
    return json.loads(done.stdout)


def revoke_key(state: Path, key_id: str) -> None:
    command = [sys.executable, "-m", "router_service.cli", "keys", "revoke", key_id, "--state", str(state)]
    subprocess.run(command, check=True, capture_output=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("access")
    (folder / "policies").mkdir()
    (folder / "policies" / "access.yaml").write_text(ACCESS)
    made = {tenant: add_key(folder / "state", tenant) for tenant in TENANTS}
    made["operator"] = add_key(folder / "state", "house", "operator")
    made["revoked"] = add_key(folder / "state", "shop")
    revoke_key(folder / "state", made["revoked"]["id"])
    with running_gateway(folder, REGISTRY, JOURNEYMAN_POLICIES=str(folder / "policies")) as gateway:
        yield Site(gateway, {name: key["key"] for name, key in made.items()})


def hello(model: str = "auto", **fields: object) -> dict:
    return {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 50} | fields


async def ask(site: Site, name: str, body: dict) -> tuple[int, dict, Mapping[str, str]]:
    """Status, body and headers of one call."""
    url = site.gateway.base_url + "/chat/completions"
    call = {"json": body, "headers": site.bearer(name)}
    async with aiohttp.ClientSession() as session, session.post(url, **call) as response:
        return response.status, await response.json(), response.headers


ROUTES = [
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/ask"),
    ("POST", "/v1/feedback"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/echo"),
    ("GET", "/v1/plans/plan_01"),
]
BAD = ["none", "empty", "basic", "unknown", "revoked", "padded", "other scheme"]


def bad_headers(site: Site, name: str) -> dict[str, str]:
    good = site.keys["shop"]
    return {
        "none": {},
        "empty": {"authorization": "Bearer "},
        "basic": {"authorization": "Basic c2hvcDpzaG9w"},
        "unknown": {"authorization": "Bearer jm_" + "0" * 43},
        "revoked": site.bearer("revoked"),
        "padded": {"authorization": f"Bearer {good}0"},
        "other scheme": {"authorization": good},
    }[name]


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_without_a_good_key_every_route_says_the_same(site: Site, method: str, path: str) -> None:
    seen = {}
    async with aiohttp.ClientSession() as session:
        for name in BAD:
            headers = bad_headers(site, name)
            async with session.request(method, site.gateway.url + path, headers=headers, data=b"{") as response:
                seen[name] = (response.status, await response.read())
    assert {status for status, _ in seen.values()} == {401}
    assert seen["none"] == seen["unknown"] == seen["revoked"] == seen["padded"]
    assert json.loads(seen["none"][1])["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
async def test_what_orchestrators_read_needs_no_key(site: Site, path: str) -> None:
    async with aiohttp.ClientSession() as session, session.get(site.gateway.url + path) as response:
        assert response.status == 200


async def test_a_key_works_as_x_api_key_too(site: Site) -> None:
    async with aiohttp.ClientSession() as session:
        headers = {"x-api-key": site.keys["shop"]}
        async with session.get(site.gateway.base_url + "/models", headers=headers) as response:
            assert response.status == 200


async def test_another_tenants_plan_is_not_there(site: Site) -> None:
    _, body, headers = await ask(site, "shop", hello())
    seen = {}
    async with aiohttp.ClientSession() as session:
        for name in ("shop", "bank", "operator"):
            for asked in (headers["x-journeyman-plan"], body["id"]):
                url = f"{site.gateway.base_url}/plans/{asked}"
                async with session.get(url, headers=site.bearer(name)) as response:
                    seen[name, asked] = response.status
            told = {"id": body["id"], "outcome": "failure"}
            url = f"{site.gateway.base_url}/feedback"
            async with session.post(url, json=told, headers=site.bearer(name)) as response:
                seen[name, "feedback"] = response.status
        missing = f"{site.gateway.base_url}/plans/{headers['x-journeyman-plan'][:-1]}0"
        async with session.get(missing, headers=site.bearer("shop")) as response:
            nobodys = response.status
    assert {status for (name, _), status in seen.items() if name in ("shop", "operator")} == {200}
    assert {status for (name, _), status in seen.items() if name == "bank"} == {404} == {nobodys}


async def test_an_operators_comment_is_kept_under_the_callers_terms(site: Site) -> None:
    _, body, _ = await ask(site, "silent", hello())
    told = {"id": body["id"], "outcome": "failure", "comment": "zebra comment", "correction": "zebra correction"}
    async with aiohttp.ClientSession() as session:
        url = f"{site.gateway.base_url}/feedback"
        async with session.post(url, json=told, headers=site.bearer("operator")) as response:
            assert response.status == 200
    await asyncio.sleep(0.2)
    files = [path for path in site.gateway.state.rglob("*") if path.is_file()]
    assert not [path for path in files if b"zebra" in path.read_bytes()]


async def test_models_and_tiers_that_are_not_allowed_are_a_403(site: Site) -> None:
    status, body, _ = await ask(site, "narrow", hello("auto"))
    assert status == 403 and "Allowed: `echo`" in body["error"]["message"] and body["error"]["param"] == "model"
    assert (await ask(site, "narrow", hello("echo")))[0] == 200
    assert (await ask(site, "narrow", hello("echo", routing={"user_tier": "standard"})))[0] == 200
    status, body, _ = await ask(site, "narrow", hello("echo", routing={"user_tier": "premium"}))
    assert status == 403 and body["error"]["param"] == "routing.user_tier"
    _, _, headers = await ask(site, "narrow", hello("echo"))
    async with aiohttp.ClientSession() as session:
        url = f"{site.gateway.base_url}/plans/{headers['x-journeyman-plan']}"
        async with session.get(url, headers=site.bearer("narrow")) as response:
            assert (await response.json())["inputs"]["user_tier"] == "free"


async def test_requests_per_minute_hold_in_parallel(site: Site) -> None:
    answers = await asyncio.gather(*(ask(site, "rated", hello()) for _ in range(50)))
    assert sum(status == 200 for status, _, _ in answers) == 5
    refused = [(body, headers) for status, body, headers in answers if status == 429]
    assert len(refused) == 45
    assert all(body["error"]["type"] == "rate_limit_error" for body, _ in refused)
    assert all(1 <= int(headers["retry-after"]) <= 60 for _, headers in refused)


async def test_tokens_per_minute_come_back_when_they_were_not_used(site: Site) -> None:
    statuses = [(await ask(site, "wordy", hello(max_tokens=200)))[0] for _ in range(10)]
    assert statuses.count(200) == 10, "an answer of one word used up what its limit would have allowed"
    answers = await asyncio.gather(*(ask(site, "wordy", hello("slow", max_tokens=200)) for _ in range(10)))
    assert sum(status == 200 for status, _, _ in answers) <= 2


async def test_a_call_that_nobody_can_answer_uses_up_no_tokens(site: Site) -> None:
    for _ in range(5):
        status, _, _ = await ask(site, "refused", hello(routing={"max_cost_usd": 0.0}, max_tokens=200))
        assert status == 422
    assert (await ask(site, "refused", hello(max_tokens=200)))[0] == 200


def spent_usd(answers: list[tuple[int, dict, Mapping[str, str]]]) -> float:
    return sum(float(headers["x-journeyman-cost-usd"]) for status, _, headers in answers if status == 200)


async def test_a_budget_is_not_overrun_by_calls_in_parallel(site: Site) -> None:
    """Each may cost a bit over half a cent: two fit at once, and the money of those that cost less comes back."""
    answers = await asyncio.gather(*(ask(site, "poor", hello("slow")) for _ in range(50)))
    assert 1 <= sum(status == 200 for status, _, _ in answers) <= 2
    refused = [body for status, body, _ in answers if status == 429]
    assert len(refused) >= 48 and all(body["error"]["type"] == "insufficient_quota" for body in refused)
    assert spent_usd(answers) <= 0.012


async def test_a_budget_is_spent_to_its_end_and_then_no_further(site: Site) -> None:
    long = hello(messages=[{"role": "user", "content": "word " * 30}])
    answers = [await ask(site, "broke", long) for _ in range(8)]
    statuses = [status for status, _, _ in answers]
    assert statuses == sorted(statuses) and {200, 429} == set(statuses)
    assert spent_usd(answers) <= 0.012
    assert "is left, and this call may cost up to" in answers[-1][1]["error"]["message"]


async def test_failed_and_abandoned_calls_leave_nothing_set_aside(site: Site) -> None:
    for _ in range(5):
        assert (await ask(site, "failing", hello("echo:down")))[0] == 502
    for _ in range(5):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await ask(site, "failing", hello("slow"))
    for _ in range(5):
        status, _, _ = await ask(site, "failing", hello("slow", routing={"latency_budget_ms": 30}))
        assert status in (422, 504)
    end = time.monotonic() + 3
    status = 0
    while status != 200 and time.monotonic() < end:
        status, body, _ = await ask(site, "failing", hello())
    assert status == 200, body


async def test_a_new_key_works_and_a_revoked_one_stops_within_two_seconds(site: Site) -> None:
    made = await asyncio.to_thread(add_key, site.gateway.state, "late")
    site.keys["late"] = made["key"]
    await expect_status(site, "late", 200)
    await asyncio.to_thread(revoke_key, site.gateway.state, made["id"])
    await expect_status(site, "late", 401)


async def expect_status(site: Site, name: str, wanted: int) -> None:
    end = time.monotonic() + 2
    while (status := (await ask(site, name, hello()))[0]) != wanted:
        assert time.monotonic() < end, status
        await asyncio.sleep(0.1)


async def test_a_broken_key_file_keeps_the_keys_and_shows_in_readyz(site: Site) -> None:
    path = site.gateway.state / "keys.json"
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    try:
        await asyncio.sleep(1.1)
        await expect_status(site, "shop", 200)
        async with aiohttp.ClientSession() as session, session.get(site.gateway.url + "/readyz") as response:
            report = await response.json()
        assert report["status"] == "degraded" and report["trouble"][0].startswith("keys: ")
    finally:
        path.write_bytes(whole)
    await asyncio.sleep(1.1)
    await expect_status(site, "shop", 200)


def serve_openly(folder: Path) -> subprocess.CompletedProcess[str]:
    registry = write_registry(folder, REGISTRY)
    command = [sys.executable, "-m", "router_service.cli", "serve", "--registry", str(registry), "--port", "0"]
    return subprocess.run(
        [*command, "--host", "0.0.0.0", "--state", str(folder / "state")],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_an_open_door_without_keys_is_refused(tmp_path: Path) -> None:
    done = serve_openly(tmp_path)
    assert done.returncode == 3 and "ready" not in done.stdout
    assert "Refusing to listen on 0.0.0.0 without API keys" in done.stderr
    assert "journeyman keys add" in done.stderr and "Traceback" not in done.stderr


def test_revoked_keys_do_not_open_the_door(tmp_path: Path) -> None:
    made = add_key(tmp_path / "state", "shop")
    revoke_key(tmp_path / "state", made["id"])
    assert serve_openly(tmp_path).returncode == 3
