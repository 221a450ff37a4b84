"""What a caller sees of a stream when nobody comes behind a model whose answer is no good."""

import json

import pytest

REGISTRY = """
version: 1
defaults: {frontier: frontier}
backends:
  - {name: echo, kind: echo}
models:
  - {model_name: only, upstream_name: "echo:malformed", backend: echo, safety_grade: A, eval_scores: {"*": 0.95}}
  - {model_name: frontier, upstream_name: echo, backend: echo, safety_grade: C, eval_scores: {"*": 0.97}}
"""
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_will_not_be_given_is_not_streamed_either(make_client, stream) -> None:
    client = await make_client(REGISTRY)
    response = await client.post(
        "/v1/chat/completions",
        json={
            "model": "auto",
            "stream": stream,
            "messages": [{"role": "user", "content": "give me a"}],
            "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}},
            "routing": {"safety_level": "strict"},
        },
    )
    assert "verification_failed" in response.text
    if stream:
        chunks = [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: {")]
        assert not any(choice["delta"].get("content") for chunk in chunks for choice in chunk.get("choices", []))
