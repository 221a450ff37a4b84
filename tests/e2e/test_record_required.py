"""What a full spool means for callers, as the operator chose: answered and counted, or refused."""

import json
from pathlib import Path

import pytest

from tests.e2e.gateway_process import ECHO_REGISTRY, running_gateway
from tests.e2e.raw_http import exchange, json_of, request, status_of

FULL = {"JOURNEYMAN_SPOOL_MAX_BYTES": "1", "JOURNEYMAN_LOAD_RECORDS": "false"}


@pytest.mark.parametrize("required", [True, False])
def test_a_full_spool_refuses_or_counts(tmp_path: Path, required: bool) -> None:
    with running_gateway(tmp_path, ECHO_REGISTRY, **FULL, JOURNEYMAN_REQUIRE_RECORD=str(required)) as gateway:
        whole = exchange(gateway.url, request())
        streamed = exchange(
            gateway.url,
            request(
                json.dumps({"model": "auto", "stream": True, "messages": [{"role": "user", "content": "a"}]}).encode()
            ),
        )
        page = exchange(gateway.url, request(b"", path="/metrics", method="GET"))
    assert b'journeyman_records_total{fate="shed"}' in page and b"journeyman_calls_in_flight 0.0" in page
    if required:
        assert status_of(whole) == 503 and json_of(whole)["error"]["code"] == "storage_error"
        assert b"[DONE]" not in streamed and b'"code":"storage_error"' in streamed
    else:
        assert status_of(whole) == 200 and b"[DONE]" in streamed
