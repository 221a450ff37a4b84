import os
from collections.abc import Iterator

import pytest

from tests.e2e.gateway_process import GatewayProcess
from tests.vllm.fleet import running_fleet, specialist
from tests.vllm.trained_adapters import Adapter, trained_adapters
from tests.vllm.vllm_process import VllmServer, running_vllm


@pytest.fixture(scope="session")
def adapters() -> list[Adapter]:
    """Four trained adapters that answer the same words differently."""
    return trained_adapters()


@pytest.fixture(scope="session")
def vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    """The real server, shared by all tests of the session."""
    python = os.environ.get("JOURNEYMAN_VLLM_PYTHON")
    if not python:
        pytest.skip("$JOURNEYMAN_VLLM_PYTHON names no environment with vLLM; `make test-vllm` makes one")
    with running_vllm(python, tmp_path_factory.mktemp("vllm")) as server:
        yield server


@pytest.fixture(scope="session")
def fleet(
    adapters: list[Adapter], vllm: VllmServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayProcess]:
    """A gateway with the four adapters active, for the tests that leave it as it is."""
    with running_fleet(tmp_path_factory.mktemp("fleet"), vllm.base_url, list(map(specialist, adapters))) as gateway:
        yield gateway
