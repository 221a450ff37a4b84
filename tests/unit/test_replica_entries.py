"""Backends with several urls, as an operator writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from registry.entries import ReplicaEntry
from registry.findings import ConfigFileError
from registry.loading import Loaded, parse_catalog

REST = """
models:
  - {model_name: big, backend: far, prices: {output_usd_per_mtok: 8}}
defaults: {frontier: big}
"""


def backends(urls: str, **more: str) -> str:
    keys = {"name": "far", "kind": "vllm", "urls": urls} | more
    return "backends:\n  - {" + ", ".join(f"{key}: {value}" for key, value in keys.items()) + "}" + REST


def parse(text: str, **environ: str) -> Loaded:
    return parse_catalog(text, Path("registry.yaml"), environ)


def findings(text: str) -> list[str]:
    with pytest.raises(ConfigFileError) as caught:
        parse(text)
    return [finding.text() for finding in caught.value.findings]


def test_urls_may_be_plain_or_carry_a_drain_mark_and_take_variables() -> None:
    entry = parse(
        backends("['http://127.0.0.1:1/v1', '${SECOND:-http://127.0.0.1:2/v1}', {url: '${THIRD}', drain: true}]"),
        THIRD="http://127.0.0.1:3/v1",
    ).catalog.backends["far"]
    assert entry.replicas == (
        ReplicaEntry(url="http://127.0.0.1:1/v1"),
        ReplicaEntry(url="http://127.0.0.1:2/v1"),
        ReplicaEntry(url="http://127.0.0.1:3/v1", drain=True),
    )


def test_one_url_has_no_replicas() -> None:
    text = backends("[]", url="'http://127.0.0.1:1/v1'")
    assert parse(text).catalog.backends["far"].replicas == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            backends("['http://127.0.0.1:1/v1', 'http://127.0.0.1:1/v1/']"),
            "$.backends[0].urls[1]: 127.0.0.1:1 is there already, as urls[0]; each replica once",
        ),
        (
            backends("['http://127.0.0.1:1/v1', 'http://127.0.0.1:2']"),
            "$.backends[0].urls[1]: its path is '/', and that of urls[0] is '/v1'; "
            "replicas serve the same models under the same path",
        ),
        (
            backends("['http://127.0.0.1:1/v1']", url="'http://127.0.0.1:1/v1'"),
            "$.backends[0].urls: there is a url as well; write one of them: url for one server, urls for replicas",
        ),
        (
            backends("['ftp://127.0.0.1:1/v1']"),
            "$.backends[0].urls[0]: must be an http:// or https:// url with a host; e.g. http://127.0.0.1:8000/v1",
        ),
        (
            backends("['http://127.0.0.1:1/v1']", kind="echo"),
            "$.backends[0].urls: kind echo takes no urls; remove it, or use kind vllm or openai",
        ),
        (backends("[]"), "$.backends[0].url: kind vllm needs a url; e.g. url: http://127.0.0.1:8000/v1"),
        (
            backends("['${NOWHERE}']"),
            "$.backends[0].urls[0]: environment variable NOWHERE is not set; set it or write ${NOWHERE:-default}",
        ),
        (
            backends("[{url: 'http://127.0.0.1:1/v1', drian: true}]"),
            "$.backends[0].urls[0].drian: unknown key; did you mean drain?",
        ),
        (backends("[{drain: true}]"), "$.backends[0].urls[0].url: missing required key"),
        (backends("[[a]]"), "$.backends[0].urls[0]: expected text or a mapping of keys, got a list"),
        (
            backends("'http://127.0.0.1:1/v1'"),
            "$.backends[0].urls: expected a list, got 'http://127.0.0.1:1/v1'; "
            "write a list: [a, b], or one `- item` a line",
        ),
    ],
)
def test_what_cannot_be_is_named_with_its_place(text: str, said: str) -> None:
    assert said in findings(text)


def test_a_backend_that_drains_altogether_is_worth_a_warning() -> None:
    loaded = parse(backends("[{url: 'http://127.0.0.1:1/v1', drain: true}]"))
    assert [finding.message for finding in loaded.warnings] == ["every replica is draining, so nobody answers"]


def test_a_limit_on_loaded_adapters_of_the_engine_is_at_most_its_max_loras() -> None:
    def limit(kind: str, **more: str) -> int | None:
        text = f"backends:\n  - {{name: far, kind: {kind}, " + ", ".join(f"{k}: {v}" for k, v in more.items()) + "}"
        return parse(text + REST).catalog.backends["far"].resident_limit

    assert limit("embedded", model="m", max_loras="4") == 4
    assert limit("embedded", model="m", max_loras="4", max_cpu_loras="2") == 2
    assert limit("vllm", url="'http://127.0.0.1:1/v1'", max_loras="4") is None
    assert limit("vllm", url="'http://127.0.0.1:1/v1'", max_loras="4", max_cpu_loras="9") == 9
