"""The `llm` command line tool with a gateway named in its extra-openai-models.yaml."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.gateway_process import GatewayProcess

MODELS = """
- model_id: journeyman
  model_name: auto
  api_base: {base_url}
  api_key_name: journeyman
"""


@pytest.mark.parametrize("options", [[], ["--no-stream"]])
def test_it_prompts_through_the_gateway(gateway: GatewayProcess, tmp_path: Path, options: list[str]) -> None:
    (tmp_path / "extra-openai-models.yaml").write_text(MODELS.format(base_url=gateway.base_url))
    (tmp_path / "keys.json").write_text('{"journeyman": "unused"}')
    command = [sys.executable, "-m", "llm", "-m", "journeyman", "--no-log", *options, "say these words"]
    done = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"LLM_USER_PATH": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    assert "say these words" in done.stdout
