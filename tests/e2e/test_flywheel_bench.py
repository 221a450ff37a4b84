"""A whole turn of the loop on live processes, with a base model that is too small to learn anything."""

import json
import subprocess
import sys

import pytest

from tests.unit.tiny_model import write_tiny_model

pytest.importorskip("trl", reason="the training extra is not installed")

REGISTRY = """
version: 1
defaults: {{frontier: teacher-large}}
backends:
  - {{name: engine, kind: embedded, model: {model}}}
  - {{name: teacher, kind: openai, url: "${{JOURNEYMAN_TEACHER_URL:-http://127.0.0.1:1/v1}}"}}
models:
  - model_name: tiny
    backend: engine
    params: 100_000
    license: MIT
    prices: {{input_usd_per_mtok: 0.01, output_usd_per_mtok: 0.02}}
    supported_clusters: []
  - model_name: teacher-large
    backend: teacher
    context_len: 128_000
    prices: {{input_usd_per_mtok: 2.5, output_usd_per_mtok: 10.0}}
    safety_grade: A
    eval_scores: {{"*": 0.97}}
"""


def test_what_cannot_be_promoted_honestly_is_not_and_callers_get_what_they_got_before(tmp_path):
    registry = tmp_path / "registry.yaml"
    registry.write_text(REGISTRY.format(model=write_tiny_model(tmp_path / "tiny")))
    arguments = ["--data", "own", "--families", "desk_triage", "--calls", "240", "--judged-calls", "30"]
    arguments += ["--preset", "quick", "--threads", "1", "--rate", "15", "--teacher-p50-ms", "5"]
    arguments += ["--teacher-p95-ms", "9", "--state", str(tmp_path / "state"), "--registry", str(registry), "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "router_service.cli", "flywheel", "bench", *arguments],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    family = found["families"]["desk_triage"]
    assert family["calls"] == found["total"]["calls"] == 30
    assert family["promoted"] is False and family["specialist"].startswith("desk_triage@")
    assert family["stage"] in ("candidate", "shadow") and family["why_not"]
    assert family["share_specialist"] == family["accepted_wrong"] == 0
    assert family["quality_served"] == family["quality_teacher"] > 0.8
    assert family["minutes_to_promotion"] is None
    assert json.loads((tmp_path / "state" / "bench.json").read_text()) == found
    assert "desk_triage" in done.stderr and "traffic to learn from: 192 of 192" in done.stderr
