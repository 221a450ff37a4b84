"""A gateway that was killed and started again still knows what its tenants have spent."""

from pathlib import Path

import openai
import pytest

from tests.e2e.gateway_process import running_gateway

PRICED = """
version: 1
defaults: {frontier: echo}
backends:
  - {name: echo, kind: echo}
models:
  - model_name: echo
    backend: echo
    safety_grade: A
    context_len: 32768
    prices: {input_usd_per_mtok: 100, output_usd_per_mtok: 100}
"""


def ask(base_url: str) -> None:
    client = openai.OpenAI(base_url=base_url, api_key="unused", max_retries=0)
    client.chat.completions.create(
        model="auto", max_tokens=60, messages=[{"role": "user", "content": "a few words to spend money on"}]
    )


def test_a_restart_renews_nobodys_budget(tmp_path: Path) -> None:
    policies = tmp_path / "policies"
    policies.mkdir()
    (policies / "access.yaml").write_text("default: {budget_usd_per_day: 0.012}\n")
    with running_gateway(tmp_path, PRICED, JOURNEYMAN_POLICIES=str(policies)) as gateway:
        with pytest.raises(openai.RateLimitError, match="budget"):
            for _ in range(50):
                ask(gateway.base_url)
        gateway.process.kill()
        gateway.process.wait()
    with (
        running_gateway(tmp_path, PRICED, JOURNEYMAN_POLICIES=str(policies)) as again,
        pytest.raises(openai.RateLimitError, match="budget"),
    ):
        ask(again.base_url)
