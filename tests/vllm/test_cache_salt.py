"""Whether one tenant can feel, in vLLM's prefix cache, what another has sent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import openai
import pytest

from router_service import key_file
from tests.e2e.gateway_process import running_gateway
from tests.vllm.fleet import registry
from tests.vllm.vllm_process import VllmServer

pytestmark = pytest.mark.vllm
HITS = "vllm:prefix_cache_hits_total"
# Several times a block of the cache, which is 128 tokens on a CPU.
CONTRACT = "The parties agree that the depot keeps every parcel dry and counts it twice. " * 30


@pytest.fixture
def hits_of(vllm: VllmServer, tmp_path: Path) -> Iterator[Callable[[str], float]]:
    """Ask as a tenant with the one long prompt; returns how many of its tokens the cache had."""
    keys = {
        tenant: key_file.add(tmp_path / "state" / key_file.NAME, tenant, "caller").secret
        for tenant in ("acme", "rival")
    }
    with running_gateway(tmp_path, registry(vllm.base_url), JOURNEYMAN_LOAD_RECORDS="false") as gateway:

        def ask(tenant: str) -> float:
            before = vllm.metric(HITS)
            client = openai.OpenAI(base_url=gateway.base_url, api_key=keys[tenant], max_retries=0, timeout=300)
            client.chat.completions.create(
                model="small", max_tokens=1, temperature=0, messages=[{"role": "user", "content": CONTRACT}]
            )
            return vllm.metric(HITS) - before

        yield ask


def test_a_tenant_finds_its_own_prompts_in_the_cache_and_nobody_elses(hits_of: Callable[[str], float]) -> None:
    assert hits_of("acme") == 0
    assert hits_of("acme") >= 128
    assert hits_of("rival") == 0
    assert hits_of("rival") >= 128
